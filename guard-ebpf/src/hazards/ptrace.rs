//! Ptrace: a container that would take hold of a process, its memory or its descriptors is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::action::Action;

use crate::{
    gate::{self, Verdict},
    kernel::apart,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h). Without it somebody only looks, as ps does.
const ATTACH: u32 = 2;

// int security_ptrace_access_check(struct task_struct *child, unsigned int mode)   5.10 to 7.3
// At ptrace(2), process_vm_readv(2) and its sister, pidfd_getfd(2), and opening what of /proc/PID holds memory.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(1) & ATTACH != 0 {
        return refused();
    }
    ALLOW
}

// int security_ptrace_traceme(struct task_struct *parent)   5.10 to 7.3
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(_ctx: LsmContext) -> i32 {
    refused()
}

#[inline(always)]
fn refused() -> i32 {
    if gate::ask(Action::Ptrace) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}
