//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::Action,
    config::{Field, MISSING},
    kernel_log::{KMSG_DEVICE, PSTOREFS_MAGIC, actions_of_syslog},
};

use crate::{
    gate::{self, Verdict},
    kernel,
};

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
// At each read and write: /dev/kmsg asks nobody again once it is open, and a descriptor may have come from anywhere.
#[lsm(hook = "file_permission")]
pub fn kernel_log_file_permission(ctx: LsmContext) -> i32 {
    if !is_kmsg(ctx.arg(0)) {
        return ALLOW;
    }
    let mask: u32 = ctx.arg(1);
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
    action.and_then(gate::ask) == Some(Verdict::Deny)
}

/// Whether a file is the kernel log's device. This is asked at every read and write of the whole host.
#[inline(always)]
fn is_kmsg(file: u64) -> bool {
    if config_is_missing() {
        return false;
    }
    // SAFETY: `file` is the hook's argument, and the fields are those of its type and of what it points to.
    unsafe {
        let inode: u64 = kernel::typed(file, Field::FileInode);
        let device: u32 = kernel::typed(inode, Field::InodeDevice);
        device == KMSG_DEVICE && kernel::typed::<u16>(inode, Field::InodeMode) & S_IFMT == S_IFCHR
    }
}

#[inline(always)]
fn config_is_missing() -> bool {
    [Field::FileInode, Field::InodeDevice, Field::InodeMode]
        .into_iter()
        .any(|field| kernel::config(field) == MISSING)
}
