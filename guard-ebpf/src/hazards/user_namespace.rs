//! User namespaces: a container that would make one although a policy denies it is refused, and with it the capabilities by which
//! it would reach code that only root was meant to.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, setup::CLONE_NEWUSER};

use super::fork_storm;
use crate::{
    call::Call,
    gate::{self, Verdict},
    kernel::apart,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// unshare(2).
pub const UNSHARE: Call = Call(272, 310);

// int security_create_user_ns(const struct cred *cred)   6.1 to 7.3
// At clone(2), clone3(2) and unshare(2), by whatever task.
#[lsm(hook = "userns_create")]
pub fn user_namespace_create(_ctx: LsmContext) -> i32 {
    if gate::ask(Action::UserNamespaceCreate) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_prepare_creds(struct cred *new, const struct cred *old, gfp_t gfp)   5.10 to 7.3
// At each change of credentials; unshare(2) prepares new ones for the user namespace before it makes that (`unshare_userns`,
// kernel/user_namespace.c), takes any refusal for a lack of memory, and returns ENOMEM.
#[lsm(hook = "cred_prepare")]
pub fn user_namespace_unshare(_ctx: LsmContext) -> i32 {
    if unshares(CLONE_NEWUSER) == Some(true)
        && gate::ask(Action::UserNamespaceCreate) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}

/// Whether the running task is in unshare(2), and asks for such a namespace.
#[inline(always)]
pub fn unshares(namespace: u64) -> Option<bool> {
    Some(u64::from(UNSHARE.running()?.first()?) & namespace != 0)
}

// int security_task_alloc(struct task_struct *task, unsigned long clone_flags)   5.10
// Before 6.1 nobody asks at clone(2) and clone3(2) but here; as `net_namespace_task_alloc`.
#[lsm(hook = "task_alloc")]
pub fn user_namespace_task_alloc(ctx: LsmContext) -> i32 {
    if ctx.arg::<u64>(1) & CLONE_NEWUSER != 0
        && gate::ask(Action::UserNamespaceCreate) == Some(Verdict::Deny)
    {
        return fork_storm::refused_ahead();
    }
    ALLOW
}
