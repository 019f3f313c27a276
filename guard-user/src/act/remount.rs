//! Thin discard: what the host has mounted with `discard` is mounted anew without, on kernels where nothing else keeps its own threads
//! from discarding.
//!
//! By fspick(2) and fsconfig(2) (5.2), which change the one option and leave all others, and those of the mount, as they are.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    ptr,
};

use nix::{errno::Errno, libc};
use thiserror::Error;

use super::{
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
    let text = fs::read("/proc/self/mountinfo").map_err(RemountError::Read)?;
    Ok(mounts::all(&String::from_utf8_lossy(&text)))
}

/// Has a file system discard no more by itself. The journal has it before the kernel. Some file systems say yes and go on: look again.
///
/// # Errors
/// [`RemountError`].
pub fn stop_discarding(mounted: &Mounted, journal: &mut Journal) -> Result<(), RemountError> {
    let id = u64::from(mounted.number);
    journal.record(id, Change::MountDiscard)?;
    if let Err(error) = set(&mounted.at, "nodiscard") {
        journal.forget(id, Kind::MountDiscard)?;
        return Err(error);
    }
    Ok(())
}

/// Has it discard by itself again, if it is mounted still.
///
/// # Errors
/// [`RemountError`].
pub fn restore(number: u32, journal: &mut Journal) -> Result<Applied, RemountError> {
    let found = mounted()?.into_iter().find(|one| one.number == number);
    let applied = match found {
        None => Applied::Absent,
        Some(mounted) if mounted.discards => Applied::Moved,
        Some(mounted) => {
            set(&mounted.at, "discard")?;
            Applied::Done
        }
    };
    journal.forget(u64::from(number), Kind::MountDiscard)?;
    Ok(applied)
}

/// `FSCONFIG_SET_FLAG`, `FSCONFIG_CMD_RECONFIGURE`, `FSPICK_CLOEXEC`, `FSPICK_NO_AUTOMOUNT` (include/uapi/linux/mount.h).
const SET_FLAG: libc::c_long = 0;
const RECONFIGURE: libc::c_long = 7;
const CLOEXEC: libc::c_long = 1;
const NO_AUTOMOUNT: libc::c_long = 4;

fn set(at: &Path, option: &'static str) -> Result<(), RemountError> {
    reconfigure(at, option).map_err(|source| RemountError::Set {
        at: at.to_owned(),
        option,
        source,
    })
}

fn reconfigure(at: &Path, option: &str) -> io::Result<()> {
    let (at, option) = (
        CString::new(at.as_os_str().as_bytes())?,
        CString::new(option)?,
    );
    // SAFETY: a text that ends with a NUL.
    let picked = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            libc::AT_FDCWD,
            at.as_ptr(),
            CLOEXEC | NO_AUTOMOUNT,
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
    configure(SET_FLAG, option.as_ptr())?;
    configure(RECONFIGURE, ptr::null())?;
    Ok(())
}
