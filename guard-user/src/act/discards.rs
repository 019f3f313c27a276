//! Thin discard: a device whose queue takes none hands no discard on, whoever asks for it, a file system's own thread included.
//!
//! From 5.19 on: before, the kernel looks at another flag, which nobody can take back, and what stands here changes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    journal::{Change, Journal, Kind},
    pids::Applied,
    setting::{self, SettingError},
};
use crate::kernel::mapper::Mapper;

/// Where sysfs is.
pub const SYS: &str = "/sys";

/// The directory of the device with this number.
#[must_use]
pub fn directory(sys: &Path, number: u32) -> PathBuf {
    sys.join(format!("dev/block/{}:{}", number >> 20, number & 0xf_ffff))
}

/// Whether the device with this number is gone: others are listed, and it is not. A sysfs that lists none says nothing.
#[must_use]
pub fn is_gone(sys: &Path, number: u32) -> bool {
    let any = fs::read_dir(sys.join("dev/block")).is_ok_and(|mut all| all.next().is_some());
    any && directory(sys, number).symlink_metadata().is_err()
}

fn file(sys: &Path, number: u32) -> PathBuf {
    directory(sys, number).join("queue/discard_max_bytes")
}

/// The most that the device takes in one discard, in bytes; 0: it takes none. `None`: it has no queue of its own, or is gone.
///
/// # Errors
/// [`SettingError::Read`].
pub fn most(sys: &Path, number: u32) -> Result<Option<u64>, SettingError> {
    let path = file(sys, number);
    let failed = SettingError::read(&path);
    match fs::read_to_string(&path) {
        Ok(text) => (text.trim().parse().map(Some))
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Switches them off. The journal has it before the kernel.
///
/// # Errors
/// [`SettingError`].
pub fn switch_off(sys: &Path, number: u32, journal: &mut Journal) -> Result<Applied, SettingError> {
    let old = match most(sys, number)? {
        None => return Ok(Applied::Absent),
        Some(0) => return Ok(Applied::Nothing),
        Some(old) => old,
    };
    let id = u64::from(number);
    let known = known(id, journal);
    let disk = disk(sys, number);
    journal.record(id, Change::Discards { old, disk })?;
    if let Err(error) = write(sys, number, 0) {
        match known {
            Some(known) => journal.record(id, known)?,
            None => journal.forget(id, Kind::Discards)?,
        }
        return Err(error);
    }
    Ok(Applied::Done)
}

/// Switches them on again, if it was us who switched them off and they still are.
///
/// # Errors
/// [`SettingError`].
pub fn restore(sys: &Path, number: u32, journal: &mut Journal) -> Result<Applied, SettingError> {
    let id = u64::from(number);
    let Some(Change::Discards { old, disk: of }) = known(id, journal) else {
        return Ok(Applied::Nothing);
    };
    if !directory(sys, number).exists() && !is_gone(sys, number) {
        let blind = io::Error::new(io::ErrorKind::NotFound, "sysfs does not list devices");
        return Err(SettingError::read(&file(sys, number))(blind));
    }
    let is_another = of.is_some_and(|of| disk(sys, number) != Some(of));
    let applied = match most(sys, number)? {
        _ if is_another => Applied::Absent,
        None => Applied::Absent,
        Some(0) => {
            write(sys, number, old).or_else(|error| with_a_table(error, number))?;
            Applied::Done
        }
        Some(_) => Applied::Moved,
    };
    journal.forget(id, Kind::Discards)?;
    Ok(applied)
}

fn known(id: u64, journal: &Journal) -> Option<Change> {
    let mut all = journal.changes();
    let (_, change) =
        all.find(|(known, change)| *known == id && change.kind() == Kind::Discards)?;
    Some(change)
}

/// What no other device of this boot has; `None`: before 5.15.
fn disk(sys: &Path, number: u32) -> Option<u64> {
    let text = fs::read_to_string(directory(sys, number).join("diskseq")).ok()?;
    text.trim().parse().ok()
}

/// From 6.9 on or so (seen on 6.12 and 7.3) a queue that takes none has forgotten in what units it took them, and refuses all but 0.
fn with_a_table(error: SettingError, number: u32) -> Result<(), SettingError> {
    let renewed = Mapper::open().and_then(|mapper| mapper.renew(number));
    renewed.map_err(|_| error)
}

fn write(sys: &Path, number: u32, value: u64) -> Result<(), SettingError> {
    setting::write(&file(sys, number), &value.to_string())
}
