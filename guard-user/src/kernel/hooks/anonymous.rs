//! The hooks that stand before making rings of io_uring and descriptors of userfaultfd.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

const BY_NAME: Place = Place::Asked {
    lsm: "bpf_lsm_inode_init_security_anon",
    security: "security_inode_init_security_anon",
};
const BY_FILE: Place = Place::Asked {
    lsm: "bpf_lsm_file_alloc_security",
    security: "security_file_alloc",
};

/// The hook of io_uring.
pub static IO_URING: [Hook; 1] = [Hook {
    hazard: "io_uring",
    name: "inode_init_security_anon",
    program: "io_uring_anonymous",
    place: BY_NAME,
    what: "making a ring by io_uring_setup(2); one that was made before, or that another made and sent, is used as ever",
    open: &["making rings of io_uring"],
    lower: Some(&IO_URING_FILE),
    actions: &[Action::IoUring],
    trial: make_a_ring,
    ..BY_ITSELF
}];

/// Before 5.16, when its file was made without asking.
static IO_URING_FILE: Hook = Hook {
    hazard: "io_uring",
    name: "file_alloc_security",
    program: "io_uring_file",
    place: BY_FILE,
    what: "making a ring by io_uring_setup(2), seen where its file is made; one that was made before is used as ever",
    open: &["making rings of io_uring"],
    actions: &[Action::IoUring],
    trial: make_a_ring,
    ..BY_ITSELF
};

/// The hook of userfaultfd.
pub static USERFAULTFD: [Hook; 1] = [Hook {
    hazard: "userfaultfd",
    name: "inode_init_security_anon",
    program: "userfaultfd_anonymous",
    place: BY_NAME,
    what: "userfaultfd(2), and the same by /dev/userfaultfd; one that was made before is used as ever",
    open: &["userfaultfd(2)"],
    lower: Some(&USERFAULTFD_FILE),
    actions: &[Action::Userfaultfd],
    trial: || Ok(handle_faults(USER_MODE_ONLY)),
    ..BY_ITSELF
}];

/// Before 5.12.
static USERFAULTFD_FILE: Hook = Hook {
    hazard: "userfaultfd",
    name: "file_alloc_security",
    program: "userfaultfd_file",
    place: BY_FILE,
    what: "userfaultfd(2), seen where its file is made; one that was made before is used as ever",
    open: &["userfaultfd(2)"],
    actions: &[Action::Userfaultfd],
    trial: || Ok(handle_faults(0)),
    ..BY_ITSELF
};

/// `UFFD_USER_MODE_ONLY` (include/uapi/linux/userfaultfd.h, 5.11): nobody needs a capability for it.
const USER_MODE_ONLY: i32 = 1;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn make_a_ring() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // A `struct io_uring_params`.
            let mut parameters = [0_u64; 15];
            // SAFETY: the parameters are as long as the kernel takes them to be. What it makes goes with the child.
            came_of(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
        },
    })
}

fn handle_faults(flags: i32) -> Tool {
    Tool {
        file: None,
        run: match flags {
            USER_MODE_ONLY => |_| userfaultfd(USER_MODE_ONLY),
            _ => |_| userfaultfd(0),
        },
    }
}

fn userfaultfd(flags: i32) -> i32 {
    // SAFETY: no preconditions. What it makes goes with the child.
    came_of(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}
