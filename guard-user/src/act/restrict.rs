//! Kernel log: who has no capability is kept from reading it by `kernel.dmesg_restrict`, as long as the policy asks for that.
//!
//! It is the whole host's: users outside of containers lose `dmesg` as well. So it is thrown only on request.

use std::{fs, path::Path};

use super::{
    journal::{Change, HOST, Journal, Kind},
    pids::Applied,
    setting::{self, SettingError},
};
use crate::decide::restrict::Step;

/// The switch.
pub const FILE: &str = "/proc/sys/kernel/dmesg_restrict";

/// Whether it is thrown.
///
/// # Errors
/// [`SettingError::Read`].
pub fn thrown(file: &Path) -> Result<bool, SettingError> {
    let text = fs::read_to_string(file).map_err(SettingError::read(file))?;
    Ok(text.trim() != "0")
}

/// Carries out what was decided. The journal has it before the kernel.
///
/// # Errors
/// [`SettingError`]; then nothing was changed.
pub fn apply(file: &Path, step: Step, journal: &mut Journal) -> Result<Applied, SettingError> {
    match step {
        Step::Leave => Ok(Applied::Nothing),
        Step::Contested => {
            journal.forget(HOST, Kind::DmesgRestrict)?;
            Ok(Applied::Nothing)
        }
        Step::Throw { .. } => {
            let known = journal.is_restricted();
            journal.record(HOST, Change::DmesgRestrict)?;
            if let Err(error) = setting::write(file, "1") {
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
/// [`SettingError`].
pub fn restore(file: &Path, journal: &mut Journal) -> Result<Applied, SettingError> {
    if !journal.is_restricted() {
        return Ok(Applied::Nothing);
    }
    let applied = if thrown(file)? {
        setting::write(file, "0")?;
        Applied::Done
    } else {
        Applied::Moved
    };
    journal.forget(HOST, Kind::DmesgRestrict)?;
    Ok(applied)
}
