//! Network namespaces: a container that would make one, in which it may do what it may not in its own, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, setup::CLONE_NEWNET};

use super::user_namespace::{self, unshares};
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

/// Whether a fork with these flags would make a namespace that is denied; of clone(2) and clone3(2), which has them where they can
/// change.
#[inline(always)]
pub fn is_denied_at_fork(flags: u64) -> bool {
    let (user, net) = (
        user_namespace::is_asked_at_fork(flags),
        flags & CLONE_NEWNET != 0,
    );
    (user || net) && namespaces_denied(u64::from(user), u64::from(net)) != 0
}

/// 1: one of the two is refused to the running task. A function by itself: forks that make none are not to pay for it.
#[unsafe(no_mangle)]
#[inline(never)]
fn namespaces_denied(user: u64, net: u64) -> u64 {
    u64::from(
        user != 0 && gate::denies(Action::UserNamespaceCreate)
            || net != 0 && gate::denies(Action::NetNamespaceCreate),
    )
}
