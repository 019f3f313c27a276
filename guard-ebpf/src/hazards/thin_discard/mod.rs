//! Thin discard: a discard that reaches a dm-thin device, on which kernels have died, is refused to whoever asks for it.

pub mod arrivals;
pub mod mounts;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::lsm,
    programs::LsmContext,
};
use guard_common::{
    action::Action,
    config::Field,
    device,
    host::Host,
    thin::{Class, DM_THIN, Device, NO_DEVICE, OfTheHost, all_of},
};

use super::swap::SWAPON;
use crate::{
    gate::{self, Case, Verdict},
    kernel::{add, add32, apart, current_name, is_kernel_thread, read},
    maps::THIN,
    subject,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;
/// What programs take for "this device has no discards", and go on without.
const EOPNOTSUPP: i32 = 95;

/// Of the bits that say what a file is: a block device (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFBLK: u16 = 0o060_000;
/// See [`S_IFBLK`].
const S_IFCHR: u16 = 0o020_000;

/// `BLKDISCARD` and `BLKSECDISCARD` (include/uapi/linux/fs.h).
const BLKDISCARD: u32 = 0x1277;
/// See [`BLKDISCARD`].
const BLKSECDISCARD: u32 = 0x127d;
/// `FITRIM`, which every file system that can trims by (include/uapi/linux/fs.h); of 32 bits the same.
const FITRIM: u32 = 0xc018_5879;
/// `F2FS_IOC_SEC_TRIM_FILE` (include/uapi/linux/f2fs.h, 5.9).
const SEC_TRIM_FILE: u32 = 0x4018_f514;
/// `EXT4_IOC_CHECKPOINT` (fs/ext4/ext4.h, 5.14), which may be told to discard the journal. By a flag that its caller's other threads
/// can change meanwhile: so with and without it.
const CHECKPOINT: u32 = 0x4004_662b;
/// `DM_DEV_CREATE` and `DM_DEV_SUSPEND`, which has a device take the table that was loaded for it (include/uapi/linux/dm-ioctl.h).
const DM_DEV_CREATE: u32 = 0xc138_fd03;
/// See [`DM_DEV_CREATE`].
const DM_DEV_SUSPEND: u32 = 0xc138_fd06;
/// Where the device mapper is told: a character device of `MISC_MAJOR` and `MAPPER_CTRL_MINOR` (include/uapi/linux/major.h,
/// include/linux/miscdevice.h).
const MAPPER_CONTROL: u32 = 10 << 20 | 236;
/// `BLOCK_URING_CMD_DISCARD` (include/uapi/linux/blkdev.h, 6.12).
const URING_DISCARD: u32 = 0x1200;
/// `SWAP_FLAG_DISCARD` (include/linux/swap.h).
const SWAP_FLAG_DISCARD: u32 = 0x1_0000;

// int security_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
#[lsm(hook = "file_ioctl")]
pub fn thin_discard_ioctl(ctx: LsmContext) -> i32 {
    asked(ctx.arg(0), ctx.arg(1))
}

// int security_file_ioctl_compat(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
// The same from a 32-bit program.
#[lsm(hook = "file_ioctl_compat")]
pub fn thin_discard_ioctl_compat(ctx: LsmContext) -> i32 {
    asked(ctx.arg(0), ctx.arg(1))
}

// int security_uring_cmd(struct io_uring_cmd *ioucmd)   6.0 to 7.3; block devices take commands from 6.12 on
#[lsm(hook = "uring_cmd")]
pub fn thin_discard_uring(ctx: LsmContext) -> i32 {
    let command: u64 = ctx.arg(0);
    if read(command, Field::UringCommand) != Some(URING_DISCARD) {
        return ALLOW;
    }
    refused(read(command, Field::UringFile).and_then(device_of))
}

// int security_file_open(struct file *file)   5.10 to 7.3
// swapon(2) opens what it is to swap to before it looks at it, and with the flag discards all of that at once.
#[lsm(hook = "file_open")]
pub fn thin_discard_swapon(ctx: LsmContext) -> i32 {
    let Some(flags) = SWAPON.running().and_then(|registers| registers.second()) else {
        return ALLOW;
    };
    if flags & SWAP_FLAG_DISCARD == 0 {
        return ALLOW;
    }
    refused(device_of(ctx.arg(0)))
}

#[inline(always)]
fn asked(file: u64, command: u32) -> i32 {
    match command {
        BLKDISCARD | BLKSECDISCARD | FITRIM | SEC_TRIM_FILE | CHECKPOINT => {
            refused(device_of(file))
        }
        DM_DEV_CREATE | DM_DEV_SUSPEND if is_mapper_control(file) => {
            made();
            ALLOW
        }
        _ => ALLOW,
    }
}

/// Whether it is the device mapper that is told: to any other file that number is as good as none.
#[inline(always)]
fn is_mapper_control(file: u64) -> bool {
    let Some(inode) = read::<u64>(file, Field::FileInode) else {
        return false;
    };
    read::<u16>(inode, Field::InodeMode).is_some_and(|mode| mode & S_IFMT == S_IFCHR)
        && read(inode, Field::InodeDevice) == Some(MAPPER_CONTROL)
}

/// A device is about to be made, which may get the number of one that is gone, or to take another table. Counted whether or not it does.
#[inline(always)]
fn made() {
    if let Some(host) = subject::host() {
        // SAFETY: a live map value; the counter is only added to.
        unsafe { add32(&raw mut (*host).thin_made, 1) };
    }
}

/// The number of the device that an open file is or, if it is none, that its file system is on.
#[inline(always)]
fn device_of(file: u64) -> Option<u32> {
    let inode: u64 = read(file, Field::FileInode)?;
    if read::<u16>(inode, Field::InodeMode)? & S_IFMT == S_IFBLK {
        return read(inode, Field::InodeDevice);
    }
    number_of(read(inode, Field::InodeSuperBlock)?)
}

/// The number of the device that a file system is on.
#[inline(always)]
fn number_of(super_block: u64) -> Option<u32> {
    let device: u64 = read(super_block, Field::SuperBlockDevice)?;
    if device == 0 {
        // Of btrfs, which is on several, its own number is in the table when the daemon has seen it.
        let own: u32 = read(super_block, Field::SuperBlockNumber)?;
        let known = THIN.get_ptr(&own).is_some();
        return Some(if known { own } else { NO_DEVICE });
    }
    read(device, Field::BlockDeviceNumber)
}

/// What the kernel is told of a discard on the device with this number.
#[inline(always)]
fn refused(number: Option<u32>) -> i32 {
    let Some(number) = number else {
        return ALLOW;
    };
    let thin = thin(number);
    let case = Case::of_current();
    if let Some(case) = &case
        && judge(case, number, thin.is_some()) == Verdict::Deny
    {
        return apart(-EPERM);
    }
    // What hands a request on to another file system serves who would get round something.
    if number != NO_DEVICE && thin.is_some_and(is_off) {
        if case.is_some() {
            return apart(-EPERM);
        }
        return apart(-EOPNOTSUPP);
    }
    ALLOW
}

/// What a container's rules say; the host is allowed. `thin`: it counts as on dm-thin, whatever is known of it.
#[inline(always)]
fn judge_container(number: u32, thin: bool) -> Verdict {
    match Case::of_current() {
        Some(case) => judge(&case, number, thin || self::thin(number).is_some()),
        None => Verdict::Allow,
    }
}

/// What is known of a device that stands on dm-thin, or may.
#[inline(always)]
fn thin(number: u32) -> Option<*mut Device> {
    let of_all = THIN.get_ptr_mut(&all_of(number));
    let own = THIN.get_ptr_mut(&number);
    // Since the daemon last looked another device may have got the number.
    if let Some(of_all) = of_all
        && (own.is_none() || subject::host_of_all().is_some_and(is_outdated))
    {
        return Some(of_all);
    }
    let device = own?;
    // SAFETY: a live map value; the daemon replaces it whole.
    let class = unsafe { (&raw const (*device).class).read_volatile() };
    (class != Class::Other as u32).then_some(device)
}

#[inline(always)]
fn is_outdated(host: *mut Host) -> bool {
    // SAFETY: a live map value; words are stored whole.
    unsafe {
        (&raw const (*host).thin_made).read_volatile()
            != (&raw const (*host).thin_looked).read_volatile()
    }
}

#[inline(always)]
fn judge(case: &Case, number: u32, thin: bool) -> Verdict {
    let action = Action::Discard;
    if !gate::is_asked(case, action) {
        return Verdict::Allow;
    }
    let mut fates = case.fates(action);
    if thin {
        fates |= case.fates_by_argument(action, DM_THIN);
    }
    let told = device::Device::of(true, number).argument();
    case.close(action, told, case.sentence(fates, 0))
}

/// Whether discards are switched off on a device, whoever asks. Counts.
#[inline(always)]
fn is_off(device: *mut Device) -> bool {
    let Some(host) = subject::host() else {
        return false;
    };
    // SAFETY: a live map value; the daemon stores words whole.
    let (what, off_until) = unsafe {
        (
            (&raw const (*host).thin_discard).read_volatile(),
            (&raw const (*host).off_until_ns).read_volatile(),
        )
    };
    if what == OfTheHost::Left as u32 || is_kernel_thread() {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    if off_until > unsafe { bpf_ktime_get_ns() } {
        return false;
    }
    let refuses = what == OfTheHost::Refused as u32;
    // SAFETY: live map values; counters are only added to, and of two who write their names at once either may stand there.
    unsafe {
        if refuses {
            add(&raw mut (*device).refused, 1);
        } else {
            add(&raw mut (*device).audited, 1);
        }
        add(&raw mut (*host).thin_counted, 1);
        (*device).process = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*device).name = current_name();
    }
    refuses
}
