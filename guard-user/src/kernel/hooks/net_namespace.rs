//! The hooks that stand before making network namespaces.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};
use crate::kernel::{attach::SECURITY_TASK_ALLOC, self_test::DONE};

/// The hooks of network namespaces.
pub static NET_NAMESPACE: [Hook; 2] = [
    Hook {
        hazard: "net_namespace",
        name: "capable",
        program: "net_namespace_capable",
        place: CAPABLE,
        what: "making a network namespace by unshare(2); one that was made before is used as ever",
        open: &["making network namespaces by unshare(2)"],
        actions: &[Action::NetNamespaceCreate],
        trial: unshare,
        ..BY_ITSELF
    },
    Hook {
        hazard: "net_namespace",
        name: "task_alloc",
        program: "net_namespace_task_alloc",
        place: TASK_ALLOC,
        what: "making a network namespace by clone(2) and clone3(2)",
        open: &["making network namespaces by clone(2)"],
        actions: &[Action::NetNamespaceCreate],
        trial: clone,
        ..BY_ITSELF
    },
];

/// Where the kernel asks for a capability.
pub(super) const CAPABLE: Place = Place::Asked {
    lsm: "bpf_lsm_capable",
    security: "security_capable",
};

/// Where it asks before a fork.
pub(super) const TASK_ALLOC: Place = Place::Asked {
    lsm: "bpf_lsm_task_alloc",
    security: SECURITY_TASK_ALLOC,
};

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn clone() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| try_clone(libc::CLONE_NEWNET),
    })
}

/// A child that has such a namespace, and ends.
pub(super) fn try_clone(namespace: i32) -> i32 {
    let flags = namespace | libc::SIGCHLD;
    // SAFETY: the child is a copy of this process, which has one thread, on a copy of its stack, and ends at once.
    unsafe {
        match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
            0 => libc::_exit(0),
            child if child > 0 => {
                libc::waitpid(child as libc::pid_t, std::ptr::null_mut(), 0);
                DONE
            }
            refused => match came_of(refused) {
                // As below.
                libc::ENOSPC | libc::EINVAL => UNTRIED,
                came => came,
            },
        }
    }
}

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
