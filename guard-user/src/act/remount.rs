//! Thin discard: what the host has mounted with `discard` is mounted anew without, on kernels where nothing else keeps its own threads
//! from discarding.
//!
//! By fspick(2) and fsconfig(2) (5.2), which leave the mount's own options as they are, and the file system's but for some that it takes
//! for its flags: those are asked for again.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    ptr,
};

use nix::{errno::Errno, libc};
use thiserror::Error;

use super::{
    discards::{self, SYS},
    journal::{Change, Journal, JournalError, Kind},
    pids::Applied,
};
use crate::thin::mounts::{self, Mounted};

/// An option of a file system could not be changed.
#[derive(Debug, Error)]
pub enum RemountError {
    /// What is mounted cannot be read.
    #[error("cannot read what is mounted")]
    Read(#[source] io::Error),
    /// The kernel, or the file system.
    #[error("{} cannot be mounted anew with {option}", at.display())]
    Set {
        /// Where it is mounted.
        at: PathBuf,
        /// The option.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What cannot be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What is mounted where the daemon is.
///
/// # Errors
/// [`RemountError::Read`].
pub fn mounted() -> Result<Vec<Mounted>, RemountError> {
    Ok(mounts::all(&mountinfo()?))
}

fn mountinfo() -> Result<String, RemountError> {
    let text = fs::read("/proc/self/mountinfo").map_err(RemountError::Read)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Has a file system discard no more by itself. The journal has it before the kernel. Some file systems say yes and go on: look again.
///
/// # Errors
/// [`RemountError`].
pub fn stop_discarding(mounted: &Mounted, journal: &mut Journal) -> Result<(), RemountError> {
    let id = u64::from(mounted.number);
    let instance = instance(Path::new(SYS), mounted);
    journal.record(id, Change::MountDiscard { instance })?;
    if let Err(error) = set(mounted, "nodiscard") {
        journal.forget(id, Kind::MountDiscard)?;
        return Err(error);
    }
    Ok(())
}

/// Has it discard by itself again, if it is still mounted as it was then: what is mounted from the same device by now may be without
/// discard since somebody wanted that.
///
/// # Errors
/// [`RemountError`].
pub fn restore(number: u32, journal: &mut Journal) -> Result<Applied, RemountError> {
    let id = u64::from(number);
    let known = (journal.changes()).find_map(|(of, change)| match change {
        Change::MountDiscard { instance } if of == id => instance,
        _ => None,
    });
    let found = mounted()?.into_iter().find(|one| {
        one.number == number && known.is_some() && instance(Path::new(SYS), one) == known
    });
    let applied = match found {
        None => Applied::Absent,
        // One that became read-only meanwhile would be mounted anew to be written.
        Some(mounted) if mounted.discards || !mounted.writable => Applied::Moved,
        Some(mounted) => {
            set(&mounted, "discard")?;
            Applied::Done
        }
    };
    journal.forget(id, Kind::MountDiscard)?;
    Ok(applied)
}

/// What no other mount of this boot has: a file system has a directory in sysfs while it is mounted, and kernfs gives no number twice
/// (`kernfs_new_node`, fs/kernfs/dir.c, from 5.5 on). `None`: it has none, or is on no device of its own, as btrfs.
fn instance(sys: &Path, mounted: &Mounted) -> Option<u64> {
    let device = fs::canonicalize(discards::directory(sys, mounted.number)).ok()?;
    let driver = match mounted.kind.as_str() {
        "ext2" | "ext3" => "ext4",
        kind => kind,
    };
    let directory = sys.join("fs").join(driver).join(device.file_name()?);
    fs::metadata(directory).ok().map(|found| found.ino())
}

/// `FSCONFIG_SET_FLAG`, `FSCONFIG_CMD_RECONFIGURE`, `FSPICK_CLOEXEC`, `FSPICK_NO_AUTOMOUNT`, `FSPICK_EMPTY_PATH` (include/uapi/linux/mount.h).
const SET_FLAG: libc::c_long = 0;
const RECONFIGURE: libc::c_long = 7;
const CLOEXEC: libc::c_long = 1;
const NO_AUTOMOUNT: libc::c_long = 4;
const EMPTY_PATH: libc::c_long = 8;

fn set(mounted: &Mounted, option: &'static str) -> Result<(), RemountError> {
    let failed = |source| RemountError::Set {
        at: mounted.at.clone(),
        option,
        source,
    };
    let all = mountinfo()?;
    let mut places = mounts::everywhere(&all).filter(|one| one.number == mounted.number);
    let covered = || io::Error::other("something else is mounted over each place where it is");
    let (place, now) = places
        .find_map(|place| Some((root_of(&place)?, place)))
        .ok_or_else(|| failed(covered()))?;
    if !now.writable {
        return Err(failed(Errno::EROFS.into()));
    }
    reconfigure(&place, option, &now.to_keep).map_err(failed)
}

/// Where a file system is mounted, unless another is mounted over it.
fn root_of(mounted: &Mounted) -> Option<OwnedFd> {
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(&mounted.at)
        .ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", place.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    (id.trim().parse() == Ok(mounted.id)).then(|| place.into())
}

fn reconfigure(place: &OwnedFd, option: &str, to_keep: &[&str]) -> io::Result<()> {
    // SAFETY: an empty text, and a descriptor that is open.
    let picked = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            place.as_raw_fd(),
            c"".as_ptr(),
            CLOEXEC | NO_AUTOMOUNT | EMPTY_PATH,
        )
    })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let context = unsafe { OwnedFd::from_raw_fd(picked as i32) };
    let configure = |command: libc::c_long, key: *const libc::c_char| {
        // SAFETY: a text that ends with a NUL, or none.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key,
                ptr::null::<u8>(),
                0,
            )
        })
    };
    for option in to_keep.iter().copied().chain([option]) {
        let option = CString::new(option)?;
        configure(SET_FLAG, option.as_ptr())?;
    }
    configure(RECONFIGURE, ptr::null())?;
    Ok(())
}
