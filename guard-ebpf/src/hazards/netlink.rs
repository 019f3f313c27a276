//! Netlink: a container that would ask something of a family that a policy denies is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument},
    config::Field,
    netlink::{Family, Head, MESSAGES, NETFILTER, message},
};

use super::rtnetlink::{ALL_FATES, is_nested};
use crate::{
    gate::{Case, Verdict},
    kernel,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// Bytes of a `struct nlmsghdr`.
const HEADER: u32 = 16;

// int security_netlink_send(struct sock *sk, struct sk_buff *skb)   5.10 to 7.3
// At each send on a netlink socket, by whatever call. The message is the kernel's own copy, in one piece.
#[lsm(hook = "netlink_send")]
pub fn netlink_netlink_send(ctx: LsmContext) -> i32 {
    if judge(ctx.arg(0), ctx.arg(1)) == Some(Verdict::Deny) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn judge(socket: u64, sent: u64) -> Option<Verdict> {
    let case = Case::of_current()?;
    if !case.is_about(Action::Netlink, ALL_FATES) {
        return None;
    }
    // SAFETY: the hook's argument, and a field of its type.
    let protocol: u16 = unsafe { kernel::typed(socket, Field::SockProtocol)? };
    let whole = Family::whole(protocol).argument();
    let mut found = Found {
        fates: case.fates(Action::Netlink) | case.fates_by_argument(Action::Netlink, whole),
        argument: whole,
    };
    if protocol == NETFILTER {
        behind_netfilter(&case, sent, &mut found);
    }
    let sentence = case.sentence(found.fates, is_nested(socket));
    Some(case.close(Action::Netlink, found.argument, sentence))
}

/// What becomes of it, and what it is on record as.
struct Found {
    fates: u32,
    argument: Argument,
}

/// Looks at each message of what is sent.
#[inline(always)]
fn behind_netfilter(case: &Case, sent: u64, found: &mut Found) {
    let (Some(data), Some(length)) = (
        kernel::read::<u64>(sent, Field::SkbData),
        kernel::read::<u32>(sent, Field::SkbLength),
    ) else {
        return;
    };
    let mut at = 0_u32;
    for number in 0..MESSAGES {
        let Some(head) = kernel::read_at::<Head>(data + u64::from(at)) else {
            return;
        };
        let one = message(&head, number == 0);
        let argument = Family::behind_netfilter(one.subsystem).argument();
        let fates = case.fates_by_argument(Action::Netlink, argument);
        if fates != 0 {
            found.argument = argument;
        }
        found.fates |= fates;
        at = at.wrapping_add(one.next);
        // What is too short for a message is none.
        if one.next == 0 || length.saturating_sub(at) < HEADER {
            return;
        }
    }
    // There are more: what is behind them is refused if anything would be.
    found.fates |= case.any_by_argument(Action::Netlink);
}
