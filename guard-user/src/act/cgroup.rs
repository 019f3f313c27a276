//! One cgroup's directory, opened by its id: what stands at a path may be another container by now.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};
use thiserror::Error;

use crate::identity::tree::Hierarchy;

/// Longest file that is read: a `cgroup.procs` of more processes is read in part.
const LONGEST: u64 = 1 << 20;

/// A file of a cgroup could not be used. A cgroup that has vanished is no error.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// Its directory.
    #[error("cannot open cgroup {id}")]
    Open {
        /// The cgroup.
        id: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Reading.
    #[error("cannot read {file} of cgroup {id}")]
    Read {
        /// The file.
        file: String,
        /// The cgroup.
        id: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Writing.
    #[error("cannot write {value} to {file} of cgroup {id}")]
    Write {
        /// The file.
        file: String,
        /// What was to be written.
        value: String,
        /// The cgroup.
        id: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel's text is not what it should be.
    #[error("{file} of cgroup {id} cannot be understood: {text:?}")]
    Text {
        /// The file.
        file: &'static str,
        /// The cgroup.
        id: u64,
        /// Its text.
        text: String,
    },
}

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// Its id.
    pub id: u64,
    directory: OwnedFd,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// It was taken.
    Done,
    /// The cgroup has vanished, or has no such file.
    Absent,
}

impl Cgroup {
    /// Opens a cgroup; `None`: it has vanished.
    ///
    /// # Errors
    /// [`CgroupError::Open`]: another reason, as a lack of privilege or of descriptors.
    pub fn open(hierarchy: &Hierarchy, id: u64) -> Result<Option<Self>, CgroupError> {
        match hierarchy.open(id) {
            Ok(directory) => Ok(Some(Self { id, directory })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(CgroupError::Open { id, source }),
        }
    }

    /// A cgroup that was opened otherwise.
    pub(super) const fn from_directory(id: u64, directory: OwnedFd) -> Self {
        Self { id, directory }
    }

    /// Its directory.
    #[must_use]
    pub const fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Its path from the hierarchy's root; `None`: it has vanished.
    #[must_use]
    pub fn path(&self, hierarchy: &Hierarchy) -> Option<PathBuf> {
        hierarchy.path_of(self.directory.as_fd())
    }

    /// A file's text; `None`: the cgroup has vanished, or has no such file.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn read(&self, file: &str) -> Result<Option<String>, CgroupError> {
        let mut text = String::new();
        let result = self
            .file(Path::new(file), OFlag::O_RDONLY)
            .and_then(|opened| opened.take(LONGEST).read_to_string(&mut text));
        match result {
            Ok(_) => Ok(Some(text)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(CgroupError::Read {
                file: file.to_owned(),
                id: self.id,
                source,
            }),
        }
    }

    /// Writes a file of the kernel's.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn write(&self, file: &str, value: &str) -> Result<Wrote, CgroupError> {
        let result = self
            .file(Path::new(file), OFlag::O_WRONLY)
            .and_then(|mut opened| opened.write_all(value.as_bytes()));
        match result {
            Ok(()) => Ok(Wrote::Done),
            Err(error) if is_gone(&error) => Ok(Wrote::Absent),
            Err(source) => Err(CgroupError::Write {
                file: file.to_owned(),
                value: value.to_owned(),
                id: self.id,
                source,
            }),
        }
    }

    pub(super) fn file(&self, file: &Path, how: OFlag) -> io::Result<File> {
        let how = how | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(nix::fcntl::openat(&self.directory, file, how, Mode::empty())?.into())
    }

    /// The value of a key in a flat keyed file, as `populated` in `cgroup.events`.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn value(&self, file: &str, key: &str) -> Result<Option<u64>, CgroupError> {
        Ok(self.read(file)?.and_then(|text| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(' ')?;
                (name == key).then(|| value.trim().parse().ok())?
            })
        }))
    }
}

/// Whether an error only says that the cgroup has vanished (kernfs gives ENODEV for a file that was open) or that it has
/// no such file.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ESTALE | Errno::ENOENT | Errno::ENODEV)
    )
}
