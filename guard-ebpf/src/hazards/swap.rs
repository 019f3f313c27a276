//! Swap: a container that would have the host swap to what it chose, or to nothing any more, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::action::Action;

use super::net_namespace::SYS_ADMIN;
use crate::{
    call::Call,
    gate::{self, Verdict},
    kernel::apart,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// swapon(2).
pub const SWAPON: Call = Call(167, 87);
const SWAPOFF: Call = Call(168, 115);

// int security_capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)   5.10 to 7.3
// Both calls ask for this capability before anything else (mm/swapfile.c).
#[lsm(hook = "capable")]
pub fn swap_capable(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) == SYS_ADMIN
        && Call::is_any([SWAPON, SWAPOFF])
        && gate::ask(Action::Swap) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}
