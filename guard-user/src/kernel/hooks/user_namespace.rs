//! The hooks that stand before making user namespaces.

use guard_common::action::Action;
use nix::libc;

use super::{
    BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of,
    net_namespace::{TASK_ALLOC, try_clone},
};
use crate::kernel::attach::CREATE_USER_NS;

/// The hooks of user namespaces: one since 6.1, two before.
pub static USER_NAMESPACE: [Hook; 2] = [BY_ALL, CLONE];

/// Since 6.1.
const BY_ALL: Hook = Hook {
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
};

/// Before 6.1. The kernel takes what the hook says for a lack of memory.
static UNSHARE: Hook = Hook {
    hazard: "user_namespace",
    name: "cred_prepare",
    program: "user_namespace_unshare",
    place: Place::Asked {
        lsm: "bpf_lsm_cred_prepare",
        security: "security_prepare_creds",
    },
    what: "making a user namespace by unshare(2), which says ENOMEM then",
    open: &["making user namespaces by unshare(2)"],
    without: Some(CREATE_USER_NS),
    actions: &[Action::UserNamespaceCreate],
    trial: unshare_unsaid,
    ..BY_ITSELF
};

/// Before 6.1.
const CLONE: Hook = Hook {
    hazard: "user_namespace",
    name: "task_alloc",
    program: "user_namespace_task_alloc",
    place: TASK_ALLOC,
    what: "making a user namespace by clone(2) and clone3(2)",
    open: &["making user namespaces by clone(2)"],
    without: Some(CREATE_USER_NS),
    actions: &[Action::UserNamespaceCreate],
    trial: clone,
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

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn unshare_unsaid() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| match try_unshare() {
            libc::ENOMEM => libc::EPERM,
            came => came,
        },
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn clone() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| try_clone(libc::CLONE_NEWUSER),
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
