//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::Action,
    config::Field,
    kernel_log::{
        KMSG_DEVICE, PSTOREFS_MAGIC, TRACEFS_MAGIC, TTY_DEVICE, TTYPRINTK_DEVICE,
        actions_of_syslog, is_trace,
    },
};

use crate::{gate, kernel};

mod devices;
mod ending;
mod naming;

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// A file is about to be read, or written (include/linux/fs.h, the same on 5.10 to 7.3).
const MAY_WRITE: u32 = 2;
const MAY_READ: u32 = 4;

/// A character device, of the bits that say what a file is (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;

// int security_syslog(int type)   5.10 to 7.3
// At each syslog(2), at each open, read and poll of /proc/kmsg, and when /dev/kmsg is opened for reading.
#[lsm(hook = "syslog")]
pub fn kernel_log_syslog(ctx: LsmContext) -> i32 {
    let (first, second) = actions_of_syslog(ctx.arg(0));
    if refused(first) || refused(second) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

// int security_file_permission(struct file *file, int mask)   5.10 to 7.3
// At each read and write: /dev/kmsg asks nobody again once it is open, and a descriptor may have come from anywhere. So may one
// of the trace, into which whoever has tracefs can have the kernel put its log (events/printk).
#[lsm(hook = "file_permission")]
pub fn kernel_log_file_permission(ctx: LsmContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let mut mask: u32 = ctx.arg(1);
    // SAFETY: the hook's argument.
    match unsafe { kind_of(file) } {
        Some(Kind::Kmsg) => {}
        Some(Kind::Ttyprintk) => mask &= MAY_WRITE,
        Some(Kind::Terminal) if is_ttyprintk(file) == Some(true) => mask &= MAY_WRITE,
        // To write there clears the trace, not the log.
        Some(Kind::Tracefs) if holds_trace(file) => mask &= MAY_READ,
        Some(Kind::Terminal | Kind::Tracefs) | None => return ALLOW,
    }
    if mask & MAY_READ != 0 && refused(Some(Action::KernelLogRead)) {
        return kernel::apart(-EPERM);
    }
    if mask & MAY_WRITE != 0 && refused(Some(Action::KernelLogWrite)) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

// int security_sb_kern_mount(struct super_block *sb)   5.10 to 7.3
// When a file system is mounted, by mount(2) or by fsconfig(2): what pstore keeps is the log of a kernel that died.
#[lsm(hook = "sb_kern_mount")]
pub fn kernel_log_sb_kern_mount(ctx: LsmContext) -> i32 {
    let magic: Option<u64> = kernel::read(ctx.arg(0), Field::SuperBlockMagic);
    if magic == Some(PSTOREFS_MAGIC) && refused(Some(Action::KernelLogRead)) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn refused(action: Option<Action>) -> bool {
    action.is_some_and(gate::denies)
}

/// What a file is to the kernel log.
enum Kind {
    Kmsg,
    Ttyprintk,
    /// `/dev/tty`, of whichever.
    Terminal,
    Tracefs,
}

/// This is asked at every read and write of the whole host. `None`: neither, or this kernel lacks a field.
///
/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn kind_of(file: u64) -> Option<Kind> {
    // SAFETY: the caller's promise, and each pointer is a field of the type that the next field is of.
    unsafe {
        let inode: u64 = kernel::typed(file, Field::FileInode)?;
        // Hardly any file is of a device.
        let device = kernel::typed::<u32>(inode, Field::InodeDevice)?;
        if device != 0 {
            let mode: u16 = kernel::typed(inode, Field::InodeMode)?;
            return match device {
                _ if mode & S_IFMT != S_IFCHR => None,
                KMSG_DEVICE => Some(Kind::Kmsg),
                TTYPRINTK_DEVICE => Some(Kind::Ttyprintk),
                TTY_DEVICE => Some(Kind::Terminal),
                _ => None,
            };
        }
        let file_system: u64 = kernel::typed(inode, Field::InodeSuperBlock)?;
        let magic: u64 = kernel::typed(file_system, Field::SuperBlockMagic)?;
        (magic == TRACEFS_MAGIC).then_some(Kind::Tracefs)
    }
}

/// Whether the terminal behind `/dev/tty` is the one whose lines the kernel prints: who opens that first, for reading, has it so.
#[inline(always)]
fn is_ttyprintk(file: u64) -> Option<bool> {
    let own: u64 = kernel::read(file, Field::FilePrivate)?;
    let driver: u64 = kernel::read(kernel::read(own, Field::TerminalTty)?, Field::TtyDriver)?;
    let major: u32 = kernel::read(driver, Field::DriverMajor)?;
    let minor: u32 = kernel::read(driver, Field::DriverMinor)?;
    Some(major << 20 | minor == TTYPRINTK_DEVICE)
}

/// Whether a file of tracefs holds the trace, and not a setting of it. One whose name cannot be read does not.
#[inline(always)]
fn holds_trace(file: u64) -> bool {
    kernel::read::<u64>(file, Field::FileEntry)
        .and_then(|entry| kernel::read::<u64>(entry, Field::EntryName))
        .and_then(kernel::read_at::<[u8; 8]>)
        .is_some_and(is_trace)
}
