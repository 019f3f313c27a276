//! The hooks that stand before mounting.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};
use crate::kernel::self_test::DONE;

/// The hooks of mounts.
pub static MOUNT: [Hook; 6] = [
    Hook {
        hazard: "mount",
        name: "sb_mount",
        program: "mount_mount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_mount",
            security: "security_sb_mount",
        },
        what: "mount(2), whatever it is to do, before anything is looked at",
        open: &["bind mounts, moves and changes of propagation by mount(2)"],
        actions: &[Action::Mount],
        trial: bind_nothing,
        ..BY_ITSELF
    },
    Hook {
        hazard: "mount",
        name: "fs_context_parse_param",
        program: "mount_parameter",
        place: Place::Asked {
            lsm: "bpf_lsm_fs_context_parse_param",
            security: "security_fs_context_parse_param",
        },
        what: "an option of a file system, by mount(2) or fsconfig(2), before the file system reads it",
        open: &["having a file system read options by fsconfig(2)"],
        actions: &[Action::Mount],
        trial: give_an_option,
        ..BY_ITSELF
    },
    Hook {
        hazard: "mount",
        name: "sb_kern_mount",
        program: "mount_kern_mount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_kern_mount",
            security: "security_sb_kern_mount",
        },
        what: "a file system that was read and is about to be mounted, by mount(2) or fsconfig(2)",
        open: &["mounting a file system that takes no options by fsconfig(2)"],
        actions: &[Action::Mount],
        trial: make_a_file_system,
        ..BY_ITSELF
    },
    Hook {
        hazard: "mount",
        name: "sb_remount",
        program: "mount_remount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_remount",
            security: "security_sb_remount",
        },
        what: "changing the options of what is mounted, by mount(2) or fsconfig(2)",
        open: &["changing the options of what is mounted"],
        actions: &[Action::Mount],
        trial: reconfigure_a_file_system,
        ..BY_ITSELF
    },
    Hook {
        hazard: "mount",
        name: "move_mount",
        program: "mount_move",
        place: Place::Asked {
            lsm: "bpf_lsm_move_mount",
            security: "security_move_mount",
        },
        what: "move_mount(2), by which what open_tree(2) or fsmount(2) gave comes to be seen",
        open: &["bind mounts and moves by open_tree(2) and move_mount(2)"],
        actions: &[Action::Mount],
        trial: move_the_root,
        ..BY_ITSELF
    },
    Hook {
        hazard: "mount",
        name: "sb_pivotroot",
        program: "mount_pivot",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_pivotroot",
            security: "security_sb_pivotroot",
        },
        what: "pivot_root(2)",
        open: &["pivot_root(2)"],
        actions: &[Action::Mount],
        trial: pivot_to_the_root,
        ..BY_ITSELF
    },
];

/// `FSCONFIG_SET_STRING`, `FSCONFIG_CMD_CREATE`, `FSCONFIG_CMD_RECONFIGURE`, `FSPICK_EMPTY_PATH` (include/uapi/linux/mount.h).
const SET_STRING: libc::c_long = 1;
const CREATE: libc::c_long = 6;
const RECONFIGURE: libc::c_long = 7;
const EMPTY_PATH: libc::c_long = 8;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn bind_nothing() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: a static text. Nothing cannot be mounted anywhere else: that is wrong, and changes nothing.
            let mounted = unsafe {
                libc::mount(
                    std::ptr::null(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_BIND,
                    std::ptr::null(),
                )
            };
            came_of(i64::from(mounted))
        },
    })
}

fn give_an_option() -> Result<Tool, String> {
    Ok(Tool {
        file: Some(context()?),
        run: |context| {
            // SAFETY: static texts; the file is a file system that is being set up, and goes with the daemon's descriptor.
            came_of(unsafe {
                libc::syscall(
                    libc::SYS_fsconfig,
                    context,
                    SET_STRING,
                    c"source".as_ptr(),
                    c"bulkhead".as_ptr(),
                    0,
                )
            })
        },
    })
}

fn make_a_file_system() -> Result<Tool, String> {
    Ok(Tool {
        file: Some(context()?),
        run: |context| configure(context, CREATE),
    })
}

fn reconfigure_a_file_system() -> Result<Tool, String> {
    let context = context()?;
    let made = configure(context.as_raw_fd(), CREATE);
    if made != DONE {
        let error = io::Error::from_raw_os_error(made);
        return Err(format!("there is no file system to try it on: {error}"));
    }
    // SAFETY: the descriptor is one of a file system that was made; what comes back is a new descriptor, of a mount that nothing
    // shows.
    let mounted =
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0) })?;
    // SAFETY: a static text, and a descriptor of a mount.
    let picked = descriptor(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            EMPTY_PATH,
        )
    })?;
    Ok(Tool {
        file: Some(picked),
        run: |context| configure(context, RECONFIGURE),
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn move_the_root() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: static texts. The root cannot be moved to itself: that is wrong, and changes nothing.
            came_of(unsafe {
                libc::syscall(
                    libc::SYS_move_mount,
                    libc::AT_FDCWD,
                    c"/".as_ptr(),
                    libc::AT_FDCWD,
                    c"/".as_ptr(),
                    0,
                )
            })
        },
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn pivot_to_the_root() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: static texts. The root cannot take its own place: that is wrong, and changes nothing.
            came_of(unsafe { libc::syscall(libc::SYS_pivot_root, c"/".as_ptr(), c"/".as_ptr()) })
        },
    })
}

/// A file system of the kind tmpfs that is being set up.
fn context() -> Result<OwnedFd, String> {
    // SAFETY: a static text; what comes back is a new descriptor.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) })
}

fn descriptor(made: libc::c_long) -> Result<OwnedFd, String> {
    if made < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("there is no file system to try it on: {error}"));
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

fn configure(context: i32, command: libc::c_long) -> i32 {
    // SAFETY: neither command takes an argument.
    came_of(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, 0, 0, 0) })
}
