//! Network namespaces: a container that would make one, in which it may do what it may not in its own, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, setup::CLONE_NEWNET};

use super::{fork_storm, user_namespace::unshares};
use crate::{
    gate::{self, Verdict},
    kernel::apart,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `CAP_SYS_ADMIN` (include/uapi/linux/capability.h).
pub const SYS_ADMIN: u32 = 21;

// int security_capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)   5.10 to 7.3
// unshare(2) asks for this capability once before it makes any of the namespaces but a user namespace
// (`unshare_nsproxy_namespaces`, kernel/nsproxy.c).
#[lsm(hook = "capable")]
pub fn net_namespace_capable(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) == SYS_ADMIN
        && unshares(CLONE_NEWNET) == Some(true)
        && gate::ask(Action::NetNamespaceCreate) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_task_alloc(struct task_struct *task, unsigned long clone_flags)   5.10
// int security_task_alloc(struct task_struct *task, u64 clone_flags)             7.3
// Of clone(2) and clone3(2), which has its flags where they can change. It runs ahead of the governor of forks, attached after it
// on the same rung.
#[lsm(hook = "task_alloc")]
pub fn net_namespace_task_alloc(ctx: LsmContext) -> i32 {
    if ctx.arg::<u64>(1) & CLONE_NEWNET != 0
        && gate::ask(Action::NetNamespaceCreate) == Some(Verdict::Deny)
    {
        return fork_storm::refused_ahead();
    }
    ALLOW
}
