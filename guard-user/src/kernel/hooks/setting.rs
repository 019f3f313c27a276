//! The program that stands before the settings below /proc/sys.

use std::{ffi::CStr, fs, fs::OpenOptions};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of, device::FILE_OPEN};

/// Switches off every trampoline: `kernel.ftrace_enabled`.
pub const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";

/// The hooks of settings.
pub static SETTING: [Hook; 3] = [
    Hook {
        hazard: "setting",
        name: "cgroup_sysctl",
        program: "setting_sysctl",
        place: Place::Settings,
        what: "writing kernel.ftrace_enabled, which switches hooks off, kernel.printk*, kernel.dmesg_restrict, and kernel.sysrq",
        open: &["kernel.ftrace_enabled, which switches hooks off, kernel.printk* and kernel.sysrq"],
        actions: &[
            Action::GuardDisable,
            Action::KernelLogConsole,
            Action::KernelLogRead,
            Action::Sysrq,
        ],
        trial: write_what_it_is,
        ..BY_ITSELF
    },
    Hook {
        hazard: "setting",
        name: "file_open",
        program: "setting_sysrq",
        place: FILE_OPEN,
        what: "opening /proc/sysrq-trigger to write it, by whatever mount; one that was opened before, or that another opened and sent, is written as ever",
        open: &["/proc/sysrq-trigger"],
        actions: &[Action::Sysrq],
        trial: open_the_trigger,
        ..BY_ITSELF
    },
    Hook {
        hazard: "setting",
        name: "file_open",
        program: "setting_file",
        place: FILE_OPEN,
        what: "opening a file of the kernel's own file systems to write it, by whatever mount; one that was opened before, or that another opened and sent, is written as ever",
        open: &["files of the kernel's own file systems"],
        actions: &[Action::KernelSettingWrite],
        trial: open_a_setting,
        ..BY_ITSELF
    },
];

fn open_the_trigger() -> Result<Tool, String> {
    const TRIGGER: &str = "/proc/sysrq-trigger";
    fs::metadata(TRIGGER).map_err(|error| format!("{TRIGGER}: {error}"))?;
    Ok(Tool {
        file: None,
        // Nothing is written.
        run: |_| open_to_write(c"/proc/sysrq-trigger"),
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn open_a_setting() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        // Nothing is written; and it is the child's own.
        run: |_| open_to_write(c"/proc/self/oom_score_adj"),
    })
}

fn open_to_write(path: &CStr) -> i32 {
    // SAFETY: a text that ends with a NUL. What it opens goes with the child.
    came_of(i64::from(unsafe {
        libc::open(path.as_ptr(), libc::O_WRONLY)
    }))
}

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
