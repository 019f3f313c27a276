//! Devices: a container that would open one that a policy names, whatever its node is called, or tell the device mapper to do
//! something, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument},
    config::Field,
    device::Device,
};

use crate::{
    gate::{self, Case, Verdict},
    kernel::{self, apart},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// Of the bits that say what a file is: a character and a block device (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFBLK: u16 = 0o060_000;

/// `/dev/mapper/control`, as a `dev_t`: misc, `MAPPER_CTRL_MINOR` (include/linux/miscdevice.h).
const MAPPER: Argument = Device::of(false, 10 << 20 | 236).argument();
/// `DM_IOCTL`, the type of all its commands (include/uapi/linux/dm-ioctl.h).
const MAPPERS: u32 = 0xfd;

// int security_file_open(struct file *file)   5.10 to 7.3
// At each file that is opened, by whatever name.
#[lsm(hook = "file_open")]
pub fn device_open(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's argument.
    let device = unsafe { device_of(ctx.arg(0)) };
    if device.map(judge) == Some(Some(Verdict::Deny)) {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
#[lsm(hook = "file_ioctl")]
pub fn device_mapper_ioctl(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's arguments.
    unsafe { mapper(ctx.arg(0), ctx.arg(1)) }
}

// int security_file_ioctl_compat(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
// The same from a 32-bit program.
#[lsm(hook = "file_ioctl_compat")]
pub fn device_mapper_ioctl_compat(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's arguments.
    unsafe { mapper(ctx.arg(0), ctx.arg(1)) }
}

/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn mapper(file: u64, command: u32) -> i32 {
    // SAFETY: the caller's promise.
    if command >> 8 & 0xff == MAPPERS
        && unsafe { device_of(file) }.map(Device::argument) == Some(MAPPER)
        && gate::ask(Action::DeviceMapperControl) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}

/// The device that an open file is; `None`: it is none, as hardly any is.
///
/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn device_of(file: u64) -> Option<Device> {
    // SAFETY: the caller's promise, and each pointer is a field of the type that the next field is of.
    unsafe {
        let inode: u64 = kernel::typed(file, Field::FileInode)?;
        let number: u32 = kernel::typed(inode, Field::InodeDevice)?;
        if number == 0 {
            return None;
        }
        match kernel::typed::<u16>(inode, Field::InodeMode)? & S_IFMT {
            S_IFCHR => Some(Device::of(false, number)),
            S_IFBLK => Some(Device::of(true, number)),
            _ => None,
        }
    }
}

#[inline(always)]
fn judge(device: Device) -> Option<Verdict> {
    let action = Action::DeviceOpen;
    let case = Case::of_current()?;
    if !gate::is_asked(&case, action) {
        return None;
    }
    let mut fates = case.fates(action);
    for which in 0..Device::GENERALITIES {
        fates |= case.fates_by_argument(action, device.open(which).argument());
    }
    Some(case.close(action, device.argument(), case.sentence(fates, 0)))
}
