//! The hook that stands before making network namespaces. Of clone(2) the governor of forks asks.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};

/// The hook of network namespaces.
pub static NET_NAMESPACE: [Hook; 1] = [Hook {
    hazard: "net_namespace",
    name: "capable",
    program: "net_namespace_capable",
    place: CAPABLE,
    what: "making a network namespace by unshare(2) and, at task_alloc, by clone(2) and clone3(2); one that was made before is used as ever",
    open: &["making network namespaces"],
    actions: &[Action::NetNamespaceCreate],
    trial: unshare,
    ..BY_ITSELF
}];

/// Where the kernel asks for a capability.
pub(super) const CAPABLE: Place = Place::Asked {
    lsm: "bpf_lsm_capable",
    security: "security_capable",
};

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn unshare() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: no preconditions; the child that calls it has one thread and ends soon.
            match came_of(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNET) })) {
                // `user.max_net_namespaces` is 0, or the kernel has none.
                libc::ENOSPC | libc::EINVAL => UNTRIED,
                came => came,
            }
        },
    })
}
