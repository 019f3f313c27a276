//! What is behind loop devices, and one that goes with whoever made it.
//!
//! Structures and numbers: include/uapi/linux/loop.h.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::libc;

use super::mapper::decoded;

/// Where a free one is asked for.
const CONTROL: &str = "/dev/loop-control";
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
/// From 5.8 on.
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
/// `LO_FLAGS_READ_ONLY`, and `LO_FLAGS_AUTOCLEAR`: its last user takes it away.
const FLAGS: u32 = 1 | 4;
/// Words of a `struct loop_info64`, and of a `struct loop_config`, which has one behind its first, and where that has its flags.
const INFO: usize = 29;
const CONFIG: usize = 38;
const CONFIG_FLAGS: usize = 60;
/// So often another may take the free one first.
const TRIES: usize = 64;

/// What is behind a loop device, whatever its name is by now, and in whichever mount namespace it had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The number of the device that the file is on.
    pub on: u32,
    /// Its inode.
    pub inode: u64,
    /// The number of the device that it is, if it is one.
    pub is: Option<u32>,
}

/// What is behind a loop device; `None`: nothing.
///
/// # Errors
/// It cannot be asked.
pub fn behind_loop(node: &Path) -> io::Result<Option<Behind>> {
    let file = File::open(node)?;
    let mut info = [0_u64; INFO];
    // SAFETY: the kernel fills in a structure of this length.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_GET_STATUS64, info.as_mut_ptr()) };
    if result != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            _ => Err(error),
        };
    }
    let [on, inode, is, ..] = info;
    Ok(Some(Behind {
        on: decoded(on as u32),
        inode,
        is: (is != 0).then(|| decoded(is as u32)),
    }))
}

/// The number of the device that a loop device's file is, or is on; `None`: it has none.
///
/// # Errors
/// As [`behind_loop`].
pub fn below_loop(node: &Path) -> io::Result<Option<u32>> {
    Ok(behind_loop(node)?.map(|behind| behind.is.unwrap_or(behind.on)))
}

/// A read-only loop device over a file. It goes with the last that has it open, this among them, however that ends.
#[derive(Debug)]
pub struct Loop {
    node: PathBuf,
    /// What keeps it.
    _held: File,
}

impl Loop {
    /// Makes one over what was opened.
    ///
    /// # Errors
    /// There is no loop driver, or it refuses.
    pub fn over(file: &File) -> io::Result<Self> {
        let control = File::open(CONTROL)?;
        for _ in 0..TRIES {
            // SAFETY: it takes no argument.
            let free = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if free < 0 {
                return Err(io::Error::last_os_error());
            }
            let node = PathBuf::from(format!("/dev/loop{free}"));
            let held = File::open(&node)?;
            let mut config = [0_u8; CONFIG * 8];
            config[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
            config[CONFIG_FLAGS..CONFIG_FLAGS + 4].copy_from_slice(&FLAGS.to_ne_bytes());
            // SAFETY: the kernel reads a structure of this length, and takes its own reference to the file.
            let made = unsafe { libc::ioctl(held.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) };
            if made == 0 {
                return Ok(Self { node, _held: held });
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread::sleep, time::Duration};

    use super::*;

    #[test]
    fn a_loop_device_is_read_only_and_goes_with_the_last_that_has_it_open() {
        let path = std::env::temp_dir().join(format!("bulkhead-loops-{}", std::process::id()));
        fs::write(&path, vec![7; 1 << 16]).unwrap();
        let made = Loop::over(&File::open(&path).unwrap());
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                println!("skipping: a loop device: none can be made here: {error}");
                return;
            }
        };
        let node = made.node().to_owned();
        let is_there = || matches!(behind_loop(&node), Ok(Some(behind)) if behind.inode == inode);
        assert!(is_there());
        assert!(fs::read(&node).unwrap() == vec![7; 1 << 16]);
        let sys = Path::new("/sys/block").join(node.file_name().unwrap());
        assert_eq!(fs::read_to_string(sys.join("ro")).unwrap(), "1\n");
        // As the mapped device does.
        let other = File::open(&node).unwrap();
        drop(made);
        assert!(is_there());
        drop(other);
        let gone = (0..100).any(|_| {
            sleep(Duration::from_millis(20));
            !is_there()
        });
        assert!(gone);
    }
}
