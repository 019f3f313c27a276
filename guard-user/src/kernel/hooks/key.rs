//! The hook that stands before making keys.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// The hook of keys.
pub static KEY: [Hook; 1] = [Hook {
    hazard: "key",
    name: "key_alloc",
    program: "key_alloc",
    place: Place::Asked {
        lsm: "bpf_lsm_key_alloc",
        security: "security_key_alloc",
    },
    what: "making a key or a keyring, by add_key(2), request_key(2) or keyctl(2); one that was made before is used as ever",
    open: &["making keys"],
    actions: &[Action::KeyCreate],
    trial: make_a_key,
    ..BY_ITSELF
}];

/// `KEY_SPEC_PROCESS_KEYRING` (include/uapi/linux/keyctl.h): the child's own, which it does not have yet.
const PROCESS_KEYRING: i32 = -2;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn make_a_key() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: static texts, of which the third is as long as the call is told. What it makes goes with the child.
            came_of(unsafe {
                libc::syscall(
                    libc::SYS_add_key,
                    c"user".as_ptr(),
                    c"bulkhead".as_ptr(),
                    c"x".as_ptr(),
                    1,
                    PROCESS_KEYRING,
                )
            })
        },
    })
}
