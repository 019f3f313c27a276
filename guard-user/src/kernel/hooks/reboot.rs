//! The hook that stands before restarting the host.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Tool, came_of, net_namespace::CAPABLE};

/// The hook of reboots.
pub static REBOOT: [Hook; 1] = [Hook {
    hazard: "reboot",
    name: "capable",
    program: "reboot_capable",
    place: CAPABLE,
    what: "reboot(2) in the host's pid namespace, kexec_load(2) and kexec_file_load(2)",
    open: &["restarting the host, to who has CAP_SYS_BOOT"],
    actions: &[Action::Reboot],
    trial: reboot_wrongly,
    ..BY_ITSELF
}];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn reboot_wrongly() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: without the two numbers that it is to begin with it does nothing.
            came_of(unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) })
        },
    })
}
