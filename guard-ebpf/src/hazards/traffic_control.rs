//! Traffic control: a container that would add or change a qdisc, class, filter, chain or action of a kind that a policy names is
//! refused.

use guard_common::{
    action::Action,
    rtnetlink::{Kind, OF_NO_KIND, TRAFFIC},
};

use super::rtnetlink::Made;
use crate::gate::{Case, Verdict};

/// From this bit on is remembered what the table `ARGUMENTS` says of the kinds.
pub const FATES: u32 = 16;

/// What becomes of what a message makes, as far as that is of traffic control; on record as of the kind `last`.
#[inline(always)]
pub fn judge(case: &Case, made: &Made, last: Kind) -> Verdict {
    if !made.has(TRAFFIC) {
        return Verdict::Allow;
    }
    let mut fates = case.fates(Action::TrafficControl);
    if made.has(OF_NO_KIND) {
        // What is there already may be of any kind.
        fates |= case.any_by_argument(Action::TrafficControl);
    }
    let whatever = made.sentence(case, fates, TRAFFIC);
    let sentence = whatever.and(made.sentence_of_kinds(FATES));
    case.close(Action::TrafficControl, last, sentence)
}
