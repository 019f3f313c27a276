//! The hook that stands before making sockets.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// The hook of sockets.
pub static SOCKET: [Hook; 1] = [Hook {
    hazard: "socket",
    name: "socket_create",
    program: "socket_socket_create",
    place: Place::Asked {
        lsm: "bpf_lsm_socket_create",
        security: "security_socket_create",
    },
    what: "making a socket by socket(2), socketpair(2) or io_uring; one that was made before, or that another made and sent, is used as ever",
    open: &["making sockets of any family"],
    actions: &[Action::Socket],
    trial: make_a_socket,
    ..BY_ITSELF
}];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn make_a_socket() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: no preconditions; what it makes goes with the child.
            let made = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
            came_of(i64::from(made))
        },
    })
}
