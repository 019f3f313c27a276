//! User namespaces: a container that would make one although a policy denies it is refused, and with it the capabilities by which
//! it would reach code that only root was meant to.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, config::Field, setup::CLONE_NEWUSER};

use crate::{
    call::Call,
    gate::{self, Verdict},
    kernel::{apart, config},
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

/// Whether a fork with these flags would make a user namespace of which nobody asks but at forks (before 6.1).
#[inline(always)]
pub fn is_asked_at_fork(flags: u64) -> bool {
    config(Field::UserNamespacesUnasked) == 1 && flags & CLONE_NEWUSER != 0
}
