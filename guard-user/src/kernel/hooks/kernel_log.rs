//! The hooks that stand before the kernel log.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};
use crate::kernel::self_test;

/// A way to the kernel log.
const TRACE: &str = "the trace in tracefs and debugfs, into which the kernel log can be led";

/// The hooks of the kernel log.
pub static KERNEL_LOG: [Hook; 3] = [
    Hook {
        hazard: "kernel_log",
        name: "syslog",
        program: "kernel_log_syslog",
        place: Place::Asked {
            lsm: "bpf_lsm_syslog",
            security: "security_syslog",
        },
        what: "syslog(2), /proc/kmsg, and opening /dev/kmsg for reading",
        open: &["syslog(2) of every type, and /proc/kmsg, to who has CAP_SYSLOG"],
        actions: &[
            Action::KernelLogRead,
            Action::KernelLogClear,
            Action::KernelLogConsole,
            Action::KernelLogConsume,
        ],
        trial: ask_the_size,
        ..BY_ITSELF
    },
    Hook {
        hazard: "kernel_log",
        name: "file_permission",
        program: "kernel_log_file_permission",
        place: Place::Asked {
            lsm: "bpf_lsm_file_permission",
            security: "security_file_permission",
        },
        what: "reading and writing /dev/kmsg and reading the trace, by whatever name or descriptor",
        open: &["/dev/kmsg, and nodes of it by whatever name", TRACE],
        lower: Some(&KERNEL_LOG_DEVICES),
        actions: &[Action::KernelLogRead, Action::KernelLogWrite],
        trial: read_inherited,
        ..BY_ITSELF
    },
    Hook {
        hazard: "kernel_log",
        name: "sb_kern_mount",
        program: "kernel_log_sb_kern_mount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_kern_mount",
            security: "security_sb_kern_mount",
        },
        what: "mounting pstore, which keeps the log of a kernel that died",
        open: &["mounting pstore"],
        actions: &[Action::KernelLogRead],
        trial: mount_pstore,
        ..BY_ITSELF
    },
];

/// In place of `file_permission`.
pub static KERNEL_LOG_DEVICES: Hook = Hook {
    hazard: "kernel_log",
    name: "cgroup_device",
    program: "kernel_log_device",
    place: Place::Devices {
        plain: Some("kernel_log_device_plain"),
    },
    what: "opening /dev/kmsg, by whatever name",
    open: &[
        "descriptors of /dev/kmsg that are open already, inherited or handed over",
        TRACE,
    ],
    partial: true,
    // Opening to read is the syslog hook's as well: the trial writes.
    actions: &[Action::KernelLogWrite, Action::KernelLogRead],
    trial: open_to_write,
    ..BY_ITSELF
};

/// `SYSLOG_ACTION_SIZE_BUFFER` (include/linux/syslog.h).
const SIZE_BUFFER: i32 = 10;
/// `FSCONFIG_CMD_CREATE` (include/uapi/linux/mount.h).
const CMD_CREATE: u32 = 6;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn ask_the_size() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        // SAFETY: asks for a number; no pointer is followed.
        run: |_| came_of(unsafe { libc::syscall(libc::SYS_syslog, SIZE_BUFFER, 0, 0) }),
    })
}

fn read_inherited() -> Result<Tool, String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    Ok(Tool {
        file: Some(file.into()),
        run: |file| {
            let mut byte = [0_u8; 1];
            // SAFETY: room for the one byte that is asked for. A record that does not fit is skipped, in this descriptor.
            let read = unsafe { libc::read(file, byte.as_mut_ptr().cast(), 1) };
            match came_of(read as i64) {
                // Too small for a record, or none there: it was allowed to read.
                libc::EINVAL | libc::EAGAIN | libc::EPIPE => self_test::DONE,
                came => came,
            }
        },
    })
}

fn open_to_write() -> Result<Tool, String> {
    // Without being let at it: what the node is, is all that matters.
    let node = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    Ok(Tool {
        file: Some(node.into()),
        run: |_| {
            // SAFETY: a static path. Nothing is written, and the descriptor is closed with the child.
            came_of(i64::from(unsafe {
                libc::open(c"/dev/kmsg".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)
            }))
        },
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn mount_pstore() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: static strings; the descriptor is closed with the child. What is made is mounted nowhere.
            unsafe {
                let context = libc::syscall(libc::SYS_fsopen, c"pstore".as_ptr(), 0);
                if context < 0 {
                    return UNTRIED;
                }
                came_of(libc::syscall(
                    libc::SYS_fsconfig,
                    context,
                    CMD_CREATE,
                    0,
                    0,
                    0,
                ))
            }
        },
    })
}
