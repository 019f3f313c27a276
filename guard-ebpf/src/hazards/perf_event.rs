//! Perf events: a container that would open one, with what counts and samples the whole machine, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, config::Field};

use crate::{
    gate::{self, Verdict},
    kernel::{apart, config, in_order},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `PERF_SECURITY_OPEN` (include/linux/perf_event.h).
const OPEN: u32 = 0;

// int security_perf_event_open(struct perf_event_attr *attr, int type)   5.10
// int security_perf_event_open(int type)                                 7.3
// First before what is asked for is looked at, and then once more for some of what can be asked for: once is enough.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(ctx: LsmContext) -> i32 {
    let kind: u32 = if config(Field::PerfArguments) == 2 {
        let kind = ctx.arg(1);
        // The compiler would make one load of the two, from an address that it reckons: 5.10 refuses that of a program's context.
        in_order();
        kind
    } else {
        ctx.arg(0)
    };
    if kind == OPEN && gate::ask(Action::PerfEventOpen) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}
