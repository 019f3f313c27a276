//! Has a block device discard in ways that no tool of Debian's has.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use io_uring::{IoUring, opcode, types};

use super::compat;

/// Has the first bytes of a block device discarded.
#[derive(Args, Clone, Debug)]
pub struct Discard {
    /// How.
    #[arg(long, value_enum, default_value = "io-uring")]
    pub way: Way,
    /// The device.
    pub device: PathBuf,
    /// How many bytes.
    #[arg(long, default_value_t = 1 << 20)]
    pub bytes: u64,
}

/// How it is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Way {
    /// By io_uring, since 6.12.
    IoUring,
    /// By `BLKDISCARD` of a 32-bit program.
    Ioctl32,
}

/// `BLKDISCARD` (include/uapi/linux/fs.h): where it begins and how long it is, of 64 bits each.
const IOCTL: u64 = 0x1277;
/// `BLOCK_URING_CMD_DISCARD` (include/uapi/linux/blkdev.h, 6.12).
const DISCARD: u32 = 0x1200;

impl Discard {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(self) -> io::Result<()> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.device)?;
        match self.way {
            Way::IoUring => self.by_uring(&device),
            Way::Ioctl32 => {
                let range = [0_u64.to_ne_bytes(), self.bytes.to_ne_bytes()].concat();
                compat::ioctl(device.as_fd(), IOCTL, &range)
            }
        }
    }

    fn by_uring(&self, device: &File) -> io::Result<()> {
        let mut ring = IoUring::new(2)?;
        // Where the range begins stands in `addr`, and how long it is in `addr3` (block/ioctl.c, blkdev_uring_cmd): behind the
        // command's own sixteen bytes in the crate's order.
        let mut entry = opcode::UringCmd16::new(types::Fd(device.as_raw_fd()), DISCARD)
            .build()
            // By a worker, which may wait: devices of the device mapper say to who may not that they do not support it.
            .flags(io_uring::squeue::Flags::ASYNC);
        // SAFETY: an entry is 64 bytes of plain data (struct io_uring_sqe); `addr` is at 16 and `addr3` at 48.
        unsafe {
            let words = std::ptr::from_mut(&mut entry).cast::<u64>();
            words.add(2).write(0);
            words.add(6).write(self.bytes);
        }
        // SAFETY: the device lives until it is answered.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        let answer = ring
            .completion()
            .next()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        match answer.result() {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(()),
        }
    }
}
