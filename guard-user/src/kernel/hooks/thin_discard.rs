//! The hooks that stand before asking for discards. Each is tried with a question that discards nothing, whoever answers it.

use std::{
    fs::File,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use guard_common::action::Action;
use nix::{
    libc,
    sys::memfd::{MFdFlags, memfd_create},
};

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of, device::FILE_OPEN};
use crate::kernel::self_test;

const ACTIONS: &[Action] = &[Action::Discard];

/// The hooks of discards.
pub static THIN_DISCARD: [Hook; 8] = [
    Hook {
        hazard: "thin_discard",
        name: "file_ioctl",
        program: "thin_discard_ioctl",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl",
            security: "security_file_ioctl",
        },
        what: "discards by ioctl(2): of a block device, and of what a file system does not use (fstrim)",
        open: &["discards by ioctl(2), as blkdiscard, mkfs and fstrim ask for them"],
        actions: ACTIONS,
        trial: trim_memory,
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "file_ioctl_compat",
        program: "thin_discard_ioctl_compat",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl_compat",
            security: "security_file_ioctl_compat",
        },
        what: "the same from a 32-bit program",
        open: &["the same by a 32-bit program"],
        actions: ACTIONS,
        trial: || Err("it takes a 32-bit program".to_owned()),
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "uring_cmd",
        program: "thin_discard_uring",
        place: Place::Asked {
            lsm: "bpf_lsm_uring_cmd",
            security: "security_uring_cmd",
        },
        what: "discards of a block device by io_uring",
        open: &["discards by io_uring"],
        with: Some("blkdev_uring_cmd"),
        actions: ACTIONS,
        trial: command_null,
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "file_open",
        program: "thin_discard_swapon",
        place: FILE_OPEN,
        what: "swapon(2) with discards",
        open: &["swapon(2) with discards, to who has CAP_SYS_ADMIN"],
        actions: ACTIONS,
        trial: swap_to_null,
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "fs_context_parse_param",
        program: "thin_discard_parameter",
        place: Place::Asked {
            lsm: "bpf_lsm_fs_context_parse_param",
            security: "security_fs_context_parse_param",
        },
        what: "by an option, a file system that will discard by itself; the three that follow refuse it to containers",
        open: &["mounting with `discard`"],
        entries: &[("thin_discard_put_context", "put_fs_context")],
        actions: ACTIONS,
        trial: mount_with_discard,
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "cgroup_device",
        program: "thin_discard_device",
        place: Place::Devices { plain: None },
        what: "opening what is to be mounted with `discard`, before a journal on it is replayed, in a container",
        open: &["what replaying a journal discards at a mount with `discard` that is refused then"],
        actions: ACTIONS,
        trial: || Err("it takes a file system on a device".to_owned()),
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "sb_kern_mount",
        program: "thin_discard_kern_mount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_kern_mount",
            security: "security_sb_kern_mount",
        },
        what: "mounting a file system with `discard`, in a container; the host's are mounted anew without",
        open: &["mounting with `discard`"],
        entries: &[("thin_discard_get_tree", "vfs_get_tree")],
        exits: &[("thin_discard_got_tree", "vfs_get_tree")],
        actions: ACTIONS,
        trial: mount_with_discard,
        ..BY_ITSELF
    },
    Hook {
        hazard: "thin_discard",
        name: "sb_remount",
        program: "thin_discard_remount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_remount",
            security: "security_sb_remount",
        },
        what: "the same of what is mounted already",
        open: &["mounting anew with `discard`"],
        entries: &[("thin_discard_reconfigure", "reconfigure_super")],
        exits: &[("thin_discard_reconfigured", "reconfigure_super")],
        actions: ACTIONS,
        trial: remount_with_discard,
        ..BY_ITSELF
    },
];

/// `FITRIM` (include/uapi/linux/fs.h). Memory has nothing to trim, and there is no range behind the null pointer.
const FITRIM: libc::c_ulong = 0xc018_5879;

fn trim_memory() -> Result<Tool, String> {
    let file = memfd_create(c"bulkhead-self-test", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| error.to_string())?;
    Ok(Tool {
        file: Some(file),
        run: |file| {
            // SAFETY: the kernel reads through the pointer by means that fail on a null one.
            came_of(i64::from(unsafe {
                libc::ioctl(file, FITRIM, ptr::null_mut::<u64>())
            }))
        },
    })
}

/// `SWAP_FLAG_DISCARD` (include/linux/swap.h).
const SWAP_FLAG_DISCARD: libc::c_int = 0x1_0000;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn swap_to_null() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: a static text. Nobody can swap to a character device.
            came_of(i64::from(unsafe {
                libc::swapon(c"/dev/null".as_ptr(), SWAP_FLAG_DISCARD)
            }))
        },
    })
}

/// `FSCONFIG_SET_FLAG`, `FSCONFIG_CMD_CREATE`, `FSCONFIG_CMD_RECONFIGURE` (include/uapi/linux/mount.h).
const SET_FLAG: libc::c_long = 0;
const CREATE: libc::c_long = 6;
const RECONFIGURE: libc::c_long = 7;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn mount_with_discard() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            let context = new_context();
            if context < 0 {
                return came_of(context);
            }
            set_discard(context);
            came_of(configure(context, CREATE))
        },
    })
}

/// A file system in memory, which nobody can see; it goes with the child.
fn new_context() -> libc::c_long {
    // SAFETY: a static text.
    unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0) }
}

/// Memory has no such option, and says so; that it was asked for is what counts.
fn set_discard(context: libc::c_long) {
    let (flag, nothing) = (c"discard".as_ptr(), ptr::null::<u8>());
    // SAFETY: a static text.
    unsafe { libc::syscall(libc::SYS_fsconfig, context, SET_FLAG, flag, nothing, 0) };
}

fn configure(context: libc::c_long, command: libc::c_long) -> libc::c_long {
    let nothing = ptr::null::<u8>();
    // SAFETY: these take no texts.
    unsafe { libc::syscall(libc::SYS_fsconfig, context, command, nothing, nothing, 0) }
}

/// `FSPICK_EMPTY_PATH` (include/uapi/linux/mount.h).
const EMPTY_PATH: libc::c_long = 8;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn remount_with_discard() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            let context = new_context();
            if context < 0 {
                return came_of(context);
            }
            let created = configure(context, CREATE);
            if created < 0 {
                return came_of(created);
            }
            // SAFETY: no texts but an empty one, and descriptors of our own, which go with the child.
            let picked = unsafe {
                let mount = libc::syscall(libc::SYS_fsmount, context, 0, 0);
                libc::syscall(libc::SYS_fspick, mount, c"".as_ptr(), EMPTY_PATH)
            };
            if picked < 0 {
                return came_of(picked);
            }
            set_discard(picked);
            came_of(configure(picked, RECONFIGURE))
        },
    })
}

/// `BLOCK_URING_CMD_DISCARD` (include/uapi/linux/blkdev.h). To `/dev/null` every command is as good as none (6.0).
const URING_DISCARD: u32 = 0x1200;

fn command_null() -> Result<Tool, String> {
    let null = File::open("/dev/null").map_err(|error| error.to_string())?;
    Ok(Tool {
        file: Some(null.into()),
        run: command_by_a_ring,
    })
}

/// A page, of which the rings of one entry need a part.
const PAGE: usize = 4096;
/// `IORING_OFF_SQES`, `IORING_OP_URING_CMD`, `IORING_ENTER_GETEVENTS` (include/uapi/linux/io_uring.h).
const ENTRIES: libc::off_t = 0x1000_0000;
const URING_CMD: u32 = 46;
const GETEVENTS: u32 = 1;
/// Words of a `struct io_uring_params`, and where in it is said where in the rings are: the tail of what is asked, its list of
/// entries, and what is answered.
const PARAMETERS: usize = 30;
const TAIL: usize = 11;
const LIST: usize = 16;
const ANSWERS: usize = 25;

/// By system calls alone: in a child of a process with threads nothing else is safe.
fn command_by_a_ring(file: i32) -> i32 {
    let mut parameters = [0_u32; PARAMETERS];
    // SAFETY: the kernel fills in a structure of this length.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let Ok(ring) = i32::try_from(ring) else {
        return UNTRIED;
    };
    if ring < 0 {
        // Switched off, or refused by a filter of system calls.
        return UNTRIED;
    }
    // SAFETY: it was just made, and nobody else has it.
    let _ring = unsafe { OwnedFd::from_raw_fd(ring) };
    let map = |offset| {
        // SAFETY: fresh memory at an address of the kernel's choice; it goes with the child.
        unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                ring,
                offset,
            )
        }
    };
    let (rings, entries) = (map(0), map(ENTRIES));
    if rings == libc::MAP_FAILED || entries == libc::MAP_FAILED {
        return UNTRIED;
    }
    let rings = rings.cast::<u8>();
    let at = |which: usize| parameters[which] as usize;
    // SAFETY: the kernel says where in the page these words are, aligned; the one entry is 64 bytes of zeros before it is filled.
    unsafe {
        let entry = entries.cast::<u32>();
        entry.write(URING_CMD);
        entry.add(1).write(file as u32);
        entry.add(2).write(URING_DISCARD);
        rings.add(at(LIST)).cast::<u32>().write(0);
        (*rings.add(at(TAIL)).cast::<AtomicU32>()).store(1, Ordering::Release);
        let entered = libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            1,
            1,
            GETEVENTS,
            ptr::null::<u8>(),
            0,
        );
        if entered < 0 {
            return came_of(entered);
        }
        match rings.add(at(ANSWERS)).cast::<i32>().add(2).read_volatile() {
            error @ ..0 => -error,
            _ => self_test::DONE,
        }
    }
}
