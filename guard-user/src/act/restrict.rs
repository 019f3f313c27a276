//! Kernel log: who has no capability is kept from reading it by `kernel.dmesg_restrict`, as long as the policy asks for that.
//!
//! It is the whole host's: users outside of containers lose `dmesg` as well. So it is thrown only on request.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    journal::{Change, HOST, Journal, JournalError, Kind},
    pids::Applied,
};
use crate::decide::restrict::Step;

/// The switch.
pub const FILE: &str = "/proc/sys/kernel/dmesg_restrict";

/// The switch could not be used.
#[derive(Debug, Error)]
pub enum RestrictError {
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

/// Whether it is thrown.
///
/// # Errors
/// [`RestrictError::Read`].
pub fn thrown(file: &Path) -> Result<bool, RestrictError> {
    let text = fs::read_to_string(file).map_err(|source| RestrictError::Read {
        path: file.to_owned(),
        source,
    })?;
    Ok(text.trim() != "0")
}

/// Carries out what was decided. The journal has it before the kernel.
///
/// # Errors
/// [`RestrictError`]; then nothing was changed.
pub fn apply(file: &Path, step: Step, journal: &mut Journal) -> Result<Applied, RestrictError> {
    match step {
        Step::Leave => Ok(Applied::Nothing),
        Step::Contested => {
            journal.forget(HOST, Kind::DmesgRestrict)?;
            Ok(Applied::Nothing)
        }
        Step::Throw { .. } => {
            let known = journal.is_restricted();
            journal.record(HOST, Change::DmesgRestrict)?;
            if let Err(error) = write(file, "1") {
                if !known {
                    journal.forget(HOST, Kind::DmesgRestrict)?;
                }
                return Err(error);
            }
            Ok(Applied::Done)
        }
        Step::Restore => restore(file, journal),
    }
}

/// Throws it back, if it was us who threw it and it still is.
///
/// # Errors
/// [`RestrictError`].
pub fn restore(file: &Path, journal: &mut Journal) -> Result<Applied, RestrictError> {
    if !journal.is_restricted() {
        return Ok(Applied::Nothing);
    }
    let applied = if thrown(file)? {
        write(file, "0")?;
        Applied::Done
    } else {
        Applied::Moved
    };
    journal.forget(HOST, Kind::DmesgRestrict)?;
    Ok(applied)
}

fn write(file: &Path, value: &str) -> Result<(), RestrictError> {
    fs::write(file, value).map_err(|source| RestrictError::Write {
        path: file.to_owned(),
        source,
    })
}
