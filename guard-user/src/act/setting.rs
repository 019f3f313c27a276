//! One value of the host's in one file of the kernel's, as every change of such a one needs it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::journal::JournalError;

/// A setting could not be used.
#[derive(Debug, Error)]
pub enum SettingError {
    /// Reading.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What cannot be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl SettingError {
    /// Of reading a file.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), SettingError> {
    fs::write(path, value).map_err(|source| SettingError::Write {
        path: path.to_owned(),
        source,
    })
}
