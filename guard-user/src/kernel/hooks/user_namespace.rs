//! The hooks that stand before making user namespaces.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};
use crate::kernel::{attach::CREATE_USER_NS, self_test::DONE};

/// The hook of user namespaces, since 6.1.
pub static USER_NAMESPACE: [Hook; 1] = [Hook {
    hazard: "user_namespace",
    name: "userns_create",
    program: "user_namespace_create",
    place: Place::Asked {
        lsm: "bpf_lsm_userns_create",
        security: "security_create_user_ns",
    },
    what: "making a user namespace by clone(2), clone3(2) or unshare(2); one that was made before is used as ever",
    open: &["making user namespaces"],
    lower: Some(&UNSHARE),
    actions: &[Action::UserNamespaceCreate],
    trial: unshare,
    ..BY_ITSELF
}];

/// Before 6.1. Of clone(2) the governor of forks asks.
static UNSHARE: Hook = Hook {
    hazard: "user_namespace",
    name: "cred_prepare",
    program: "user_namespace_unshare",
    place: Place::Asked {
        lsm: "bpf_lsm_cred_prepare",
        security: "security_prepare_creds",
    },
    what: "making a user namespace by unshare(2), which says ENOMEM then, and, at task_alloc, by clone(2) and clone3(2)",
    open: &["making user namespaces"],
    without: Some(CREATE_USER_NS),
    actions: &[Action::UserNamespaceCreate],
    trial: both_ways,
    ..BY_ITSELF
};

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn unshare() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| try_unshare(),
    })
}

/// The kernel takes what the hook says for a lack of memory. Of clone(2) another program is asked.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn both_ways() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| match try_unshare() {
            libc::ENOMEM => try_clone(),
            came => came,
        },
    })
}

fn try_unshare() -> i32 {
    // SAFETY: no preconditions; the child that calls it has one thread and ends soon.
    match came_of(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER) })) {
        // `user.max_user_namespaces` is 0: nobody makes any, and no hook is asked.
        libc::ENOSPC => UNTRIED,
        came => came,
    }
}

fn try_clone() -> i32 {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: the child is a copy of this process, which has one thread, on a copy of its stack, and ends at once.
    unsafe {
        match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
            0 => libc::_exit(0),
            child if child > 0 => {
                libc::waitpid(child as libc::pid_t, std::ptr::null_mut(), 0);
                DONE
            }
            refused => match came_of(refused) {
                // As above; unshare(2) was refused all the same, and that is counted.
                libc::ENOSPC => libc::EPERM,
                came => came,
            },
        }
    }
}
