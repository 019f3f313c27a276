//! bpf(2): a container that would call it although a policy denies it, or get at what is Bulkhead's own, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, bpf::opened_by_id};

use crate::{
    gate::{ANYWHERE, Case, NONE, Verdict},
    kernel::{apart, read_at},
    maps::OWN,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;
const ENOENT: i32 = 2;

// int security_bpf(int cmd, union bpf_attr *attr, unsigned int size)   5.10 to 6.12; 7.3 has a fourth, `bool kernel`
// At each bpf(2), when the kernel has its own copy of the argument.
#[lsm(hook = "bpf")]
pub fn bpf_command(ctx: LsmContext) -> i32 {
    let Some(case) = Case::of_current() else {
        return ALLOW;
    };
    let (any, own) = (Action::Bpf, Action::GuardDisable);
    if !case.is_about(any, ANYWHERE) && !case.is_about(own, ANYWHERE) {
        return ALLOW;
    }
    if case.close(any, NONE, case.sentence(case.fates(any), 0)) == Verdict::Deny {
        return apart(-EPERM);
    }
    if is_own(ctx.arg(0), ctx.arg(1))
        && case.close(own, NONE, case.sentence(case.fates(own), 0)) == Verdict::Deny
    {
        // As if it had gone: who looks at everything there is goes on with the next.
        return apart(-ENOENT);
    }
    ALLOW
}

/// Whether a descriptor of something of ours is asked for.
#[inline(always)]
fn is_own(command: u32, argument: u64) -> bool {
    let Some(kind) = opened_by_id(command) else {
        return false;
    };
    let Some(id) = read_at::<u32>(argument) else {
        return false;
    };
    // SAFETY: its values are never read.
    unsafe { OWN.get(&kind.own(id)) }.is_some()
}
