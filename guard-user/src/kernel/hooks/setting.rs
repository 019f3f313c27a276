//! The program that stands before the settings below /proc/sys.

use std::fs::OpenOptions;

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// Switches off every trampoline: `kernel.ftrace_enabled`.
pub const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";

/// The program of settings.
pub static SETTING: [Hook; 1] = [Hook {
    hazard: "setting",
    name: "cgroup_sysctl",
    program: "setting_sysctl",
    place: Place::Settings,
    what: "writing kernel.ftrace_enabled, which switches hooks off, kernel.printk*, and kernel.dmesg_restrict",
    open: &["kernel.ftrace_enabled, which switches hooks off, and kernel.printk*"],
    actions: &[
        Action::GuardDisable,
        Action::KernelLogConsole,
        Action::KernelLogRead,
    ],
    trial: write_what_it_is,
    ..BY_ITSELF
}];

/// Where nothing refuses it, nothing comes of it.
fn write_what_it_is() -> Result<Tool, String> {
    let file = (OpenOptions::new().read(true).write(true).open(SWITCH))
        .map_err(|error| format!("{SWITCH}: {error}"))?;
    Ok(Tool {
        file: Some(file.into()),
        run: |file| {
            let mut value = [0_u8; 2];
            // SAFETY: the buffer is as long as each call is told.
            unsafe {
                if libc::pread(file, value.as_mut_ptr().cast(), 2, 0) < 1 {
                    return super::UNTRIED;
                }
                came_of(libc::pwrite(file, value.as_ptr().cast(), 1, 0) as i64)
            }
        },
    })
}
