//! The pids controller: what a container has, what it may have, and the cap that we tighten.

use thiserror::Error;

use super::{
    cgroup::{Cgroup, CgroupError, Wrote},
    journal::{Change, Journal, JournalError, Kind},
    subtree,
};
use crate::decide::settings::{Max, Next};

/// The file of the limit.
pub const MAX: &str = "pids.max";

/// The pids controller of one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pids {
    /// `pids.current`: tasks in it and below it, zombies included.
    pub current: u64,
    /// `pids.max`.
    pub max: Max,
    /// Forks refused: from 6.11, on v2, those at this cgroup's limit (`max` in `pids.events.local`). Before, and on v1,
    /// `pids.events` counts a cgroup's own tasks at anybody's limit: then those of all tasks below as well, while the
    /// cgroup is near its limit.
    pub refused: u64,
    /// What grew in `refused` was at another's limit: there is room below this cgroup's own.
    pub elsewhere: bool,
}

/// Cgroups below one whose `pids.events` are added up.
const BELOW: usize = 64;

/// A cap could not be applied.
#[derive(Debug, Error)]
pub enum PidsError {
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// What cannot be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What came of a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There was nothing to do.
    Nothing,
    /// It stands.
    Done,
    /// The cgroup has vanished, or has no pids controller.
    Absent,
    /// Somebody wrote at the same time: nothing was done, and it is decided anew.
    Moved,
}

/// Reads a cgroup's pids controller; `None`: it has none, or has vanished.
///
/// # Errors
/// [`CgroupError`].
pub fn read(cgroup: &Cgroup) -> Result<Option<Pids>, CgroupError> {
    let Some(max) = read_max(cgroup)? else {
        return Ok(None);
    };
    let Some(current) = current(cgroup)? else {
        return Ok(None);
    };
    let (refused, elsewhere) = match cgroup.value("pids.events.local", "max")? {
        Some(at_this_limit) => (at_this_limit, false),
        // A bomb that is held at its limit is not always seen right at it.
        None if max <= Max::Number(current.saturating_add(current / 3)) => {
            (refused_below(cgroup)?, false)
        }
        None => (cgroup.value("pids.events", "max")?.unwrap_or(0), true),
    };
    Ok(Some(Pids {
        current,
        max,
        refused,
        elsewhere,
    }))
}

fn refused_below(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    let mut sum = 0_u64;
    for path in subtree::cgroups(cgroup, BELOW) {
        let file = path.join("pids.events");
        let count = cgroup.value(&file.to_string_lossy(), "max")?;
        sum = sum.saturating_add(count.unwrap_or(0));
    }
    Ok(sum)
}

/// `pids.current` alone: one file, for those who look often.
///
/// # Errors
/// [`CgroupError`].
pub fn current(cgroup: &Cgroup) -> Result<Option<u64>, CgroupError> {
    parsed(cgroup, "pids.current")
}

/// `pids.max` alone.
///
/// # Errors
/// [`CgroupError`].
pub fn read_max(cgroup: &Cgroup) -> Result<Option<Max>, CgroupError> {
    parsed(cgroup, MAX)
}

fn parsed<T: std::str::FromStr>(
    cgroup: &Cgroup,
    file: &'static str,
) -> Result<Option<T>, CgroupError> {
    let Some(text) = cgroup.read(file)? else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(CgroupError::Text {
            file,
            id: cgroup.id,
            text,
        }),
    }
}

/// Carries out what was decided about `pids.max`. The old value is in the journal before the new one is in the kernel.
///
/// # Errors
/// [`PidsError`]; then nothing was changed.
pub fn apply(cgroup: &Cgroup, next: Next, journal: &mut Journal) -> Result<Applied, PidsError> {
    match next {
        Next::Leave => Ok(Applied::Nothing),
        Next::Contested { .. } => {
            journal.forget(cgroup.id, Kind::PidsMax)?;
            Ok(Applied::Nothing)
        }
        Next::Write { value, old, .. } => {
            let Some(present) = read_max(cgroup)? else {
                return Ok(Applied::Absent);
            };
            let ours = journal.pids_max(cgroup.id).map(|(_, ours)| ours);
            if present != old && Some(present) != ours {
                return Ok(Applied::Moved);
            }
            journal.record(cgroup.id, Change::PidsMax { old, ours: value })?;
            match cgroup.write(MAX, &value.to_string())? {
                Wrote::Done => Ok(Applied::Done),
                Wrote::Absent => {
                    journal.forget(cgroup.id, Kind::PidsMax)?;
                    Ok(Applied::Absent)
                }
            }
        }
        Next::Restore { .. } => restore(cgroup, journal),
    }
}

/// Gives back the value that stood in `pids.max` before us, if what stands there now is still ours.
///
/// # Errors
/// [`PidsError`].
pub fn restore(cgroup: &Cgroup, journal: &mut Journal) -> Result<Applied, PidsError> {
    let Some((old, ours)) = journal.pids_max(cgroup.id) else {
        return Ok(Applied::Nothing);
    };
    let applied = match read_max(cgroup)? {
        None => Applied::Absent,
        Some(present) if present != ours => Applied::Moved,
        Some(_) => match cgroup.write(MAX, &old.to_string())? {
            Wrote::Done => Applied::Done,
            Wrote::Absent => Applied::Absent,
        },
    };
    journal.forget(cgroup.id, Kind::PidsMax)?;
    Ok(applied)
}
