//! Undoing: every change that stands in the journal goes back to what it was, if it is still ours.

use std::path::Path;

use thiserror::Error;

use super::{
    cgroup::Cgroup,
    discards::{self, SYS},
    freeze::{self, FreezeError, Froze},
    journal::{Change, Journal, Kind},
    pids::{self, Applied, PidsError},
    remount::{self, RemountError},
    restrict,
    setting::SettingError,
};
use crate::identity::tree::Hierarchy;

/// What came of undoing one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It is as it was before us.
    Restored,
    /// Somebody else has changed it since: left as it is.
    NotOurs,
    /// The cgroup has vanished.
    Vanished,
}

/// A change could not be undone, and still stands in the journal; or it is undone, and that could not be written down.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// `pids.max`.
    #[error(transparent)]
    Pids(#[from] PidsError),
    /// The freezer.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// `kernel.dmesg_restrict`, or the queue of a device.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An option of a mount.
    #[error(transparent)]
    Remount(#[from] RemountError),
}

/// One change that was to be undone.
#[derive(Debug)]
pub struct Restored {
    /// The cgroup; [`super::journal::HOST`]: the host itself. Of [`Change::Discards`] the device's number.
    pub cgroup: u64,
    /// What had been changed.
    pub change: Change,
    /// What came of it.
    pub outcome: Result<Undone, RestoreError>,
}

/// Undoes all changes of the journal: thaws first, so that what runs again meets the limits it had.
pub fn restore_all(hierarchy: &Hierarchy, journal: &mut Journal) -> Vec<Restored> {
    let mut changes: Vec<(u64, Change)> = journal.changes().collect();
    changes.sort_by_key(|(id, change)| (change.kind() != Kind::Freeze, *id));
    changes
        .into_iter()
        .map(|(cgroup, change)| Restored {
            cgroup,
            change,
            outcome: restore(hierarchy, cgroup, change.kind(), journal),
        })
        .collect()
}

/// Undoes one change.
///
/// # Errors
/// [`RestoreError`].
pub fn restore(
    hierarchy: &Hierarchy,
    cgroup: u64,
    kind: Kind,
    journal: &mut Journal,
) -> Result<Undone, RestoreError> {
    match kind {
        Kind::Freeze => Ok(match freeze::thaw(hierarchy, cgroup, journal)? {
            Froze::Done | Froze::Pending => Undone::Restored,
            Froze::Absent => Undone::Vanished,
            Froze::Nothing | Froze::Others => Undone::NotOurs,
        }),
        Kind::PidsMax => {
            let applied = match Cgroup::open(hierarchy, cgroup).map_err(PidsError::from)? {
                Some(opened) => pids::restore(&opened, journal)?,
                None => {
                    journal.forget(cgroup, kind).map_err(PidsError::from)?;
                    Applied::Absent
                }
            };
            Ok(undone(applied))
        }
        Kind::DmesgRestrict => Ok(undone(restrict::restore(
            Path::new(restrict::FILE),
            journal,
        )?)),
        Kind::Discards => Ok(undone(discards::restore(
            Path::new(SYS),
            cgroup as u32,
            journal,
        )?)),
        Kind::MountDiscard => Ok(undone(remount::restore(cgroup as u32, journal)?)),
    }
}

const fn undone(applied: Applied) -> Undone {
    match applied {
        Applied::Done => Undone::Restored,
        Applied::Absent => Undone::Vanished,
        Applied::Nothing | Applied::Moved => Undone::NotOurs,
    }
}

/// Strikes off the changes of cgroups and devices that have vanished; gives how many there were.
///
/// # Errors
/// The journal cannot be written.
pub fn drop_vanished(
    hierarchy: &Hierarchy,
    journal: &mut Journal,
) -> Result<usize, super::journal::JournalError> {
    let changes: Vec<(u64, Change)> = journal.changes().collect();
    let mut dropped = 0;
    for (cgroup, change) in changes {
        let vanished = match change {
            // Only what is mounted is known by such a number: that is looked at when it is undone.
            Change::DmesgRestrict | Change::MountDiscard { .. } => false,
            Change::Discards { .. } => discards::is_gone(Path::new(SYS), cgroup as u32),
            Change::PidsMax { .. } | Change::Freeze { .. } => {
                matches!(Cgroup::open(hierarchy, cgroup), Ok(None))
            }
        };
        if vanished {
            journal.forget(cgroup, change.kind())?;
            dropped += 1;
        }
    }
    Ok(dropped)
}
