//! Freezing: a container that storms is stopped without being harmed, and only what we froze is thawed by us.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    cgroup::{Cgroup, CgroupError, Wrote, is_gone},
    journal::{Change, Journal, JournalError, Kind},
    membership::{self, Holds},
    subtree,
};
use crate::{
    decide::seen::Frozen,
    identity::tree::{Hierarchy, Version, id_of, open_below},
};

/// Processes that are asked where they are, when the freezer is a hierarchy of its own: each answer may have to wait behind
/// the storm (/proc/PID/cgroup takes the kernel's cgroup_mutex), and one runtime's processes are all in one place.
const ASKED: usize = 4;
/// Where the freezer's cgroup has another name nothing but its processes say whose it is: one with more is not frozen.
const ASKED_ALL: usize = 512;
/// How long processes are looked for.
const ASKING: Duration = Duration::from_millis(3);

/// A container could not be frozen or thawed.
#[derive(Debug, Error)]
pub enum FreezeError {
    /// A file.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// What cannot be written down is not done.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It must not.
    #[error("cgroup {id} is not frozen: it holds {holds}")]
    Protected {
        /// The cgroup.
        id: u64,
        /// What it holds.
        holds: Holds,
    },
    /// v1: there is no freezer.
    #[error("cgroup {id} cannot be frozen: no freezer is mounted (cgroup v1)")]
    NoFreezer {
        /// The cgroup.
        id: u64,
    },
    /// v1: what it would freeze is not just this container.
    #[error(
        "cgroup {id} cannot be frozen: its processes have no freezer cgroup of their own (they are in {found})"
    )]
    NotItsOwn {
        /// The cgroup.
        id: u64,
        /// Where one of them is, in the freezer's hierarchy.
        found: PathBuf,
    },
}

/// A freezer at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Freezing was asked for here.
    pub here: bool,
    /// It is frozen, or freezing, through an ancestor.
    pub above: bool,
    /// All its tasks stand still.
    pub complete: bool,
}

/// What came of freezing or thawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Froze {
    /// It is as asked.
    Done,
    /// It was asked for; tasks in the kernel take their time. To be looked at again with [`Freezer::state`].
    Pending,
    /// Somebody froze it before us: nothing was done.
    Others,
    /// The container has vanished.
    Absent,
    /// There was nothing of ours to undo.
    Nothing,
}

/// The cgroup whose freezer stops a container.
#[derive(Debug)]
pub struct Freezer {
    version: Version,
    cgroup: Cgroup,
}

impl Freezer {
    /// The freezer of a container; `None`: it has vanished. On v1 that is a cgroup of the same path in the freezer's
    /// hierarchy, or the one that its processes are in, if nobody else is.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn of(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Result<Option<Self>, FreezeError> {
        match hierarchy.version {
            Version::V2 => Self::by_id(hierarchy, cgroup.id),
            Version::V1 => Self::of_v1(hierarchy, cgroup),
        }
    }

    /// The freezer with this id, as it stands in the journal; `None`: it has vanished.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn by_id(hierarchy: &Hierarchy, id: u64) -> Result<Option<Self>, FreezeError> {
        let version = hierarchy.version;
        let cgroup = match version {
            Version::V2 => Cgroup::open(hierarchy, id)?,
            Version::V1 => {
                let mount = freezer_mount(hierarchy, id)?;
                let opened = File::open(mount).and_then(|root| open_below(root.as_fd(), id));
                match opened {
                    Ok(directory) => Some(Cgroup::from_directory(id, directory)),
                    Err(error) if is_gone(&error) => None,
                    Err(source) => return Err(CgroupError::Open { id, source }.into()),
                }
            }
        };
        Ok(cgroup.map(|cgroup| Self { version, cgroup }))
    }

    fn of_v1(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Result<Option<Self>, FreezeError> {
        let mount = freezer_mount(hierarchy, cgroup.id)?;
        let Some(path) = cgroup.path(hierarchy) else {
            return Ok(None);
        };
        let until = Instant::now() + ASKING;
        let at: Vec<PathBuf> = subtree::some(cgroup, ASKED, until)
            .into_iter()
            .filter_map(|pid| membership::of_freezer(pid.unsigned_abs()))
            .collect();
        // Runtimes use one name in all hierarchies; where they do not, the processes tell.
        let chosen = match at.iter().find(|at| !at.starts_with(&path)) {
            None => &path,
            Some(other) => other,
        };
        let not_its_own = || FreezeError::NotItsOwn {
            id: cgroup.id,
            found: chosen.clone(),
        };
        if chosen == Path::new("/") || at.iter().any(|at| !at.starts_with(chosen)) {
            return Err(not_its_own());
        }
        let below = chosen.strip_prefix("/").unwrap_or(chosen);
        let directory = match File::open(mount.join(below)) {
            Ok(directory) => OwnedFd::from(directory),
            Err(error) if is_gone(&error) && at.is_empty() => return Ok(None),
            Err(error) if is_gone(&error) => return Err(not_its_own()),
            Err(source) => {
                let id = cgroup.id;
                return Err(CgroupError::Open { id, source }.into());
            }
        };
        let id = id_of(Path::new(&format!(
            "/proc/self/fd/{}/.",
            directory.as_raw_fd()
        )))
        .map_err(|source| CgroupError::Open {
            id: cgroup.id,
            source,
        })?;
        let freezer = Self {
            version: Version::V1,
            cgroup: Cgroup::from_directory(id, directory),
        };
        let until = Instant::now() + ASKING;
        let there = if *chosen == path {
            Some(subtree::some(&freezer.cgroup, ASKED, until))
        } else {
            subtree::all(&freezer.cgroup, ASKED_ALL, until)
        };
        let foreign = |pid: i32| {
            membership::of_living(hierarchy, pid.unsigned_abs())
                .is_some_and(|at| !at.starts_with(&path))
        };
        if there.is_none_or(|there| there.into_iter().any(foreign)) {
            return Err(not_its_own());
        }
        Ok(Some(freezer))
    }

    /// Id of the cgroup that is frozen.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.cgroup.id
    }

    /// How it stands; `None`: it has vanished, or has no freezer.
    ///
    /// # Errors
    /// [`FreezeError::Cgroup`].
    pub fn state(&self) -> Result<Option<State>, FreezeError> {
        let flag = |file: &str| -> Result<Option<bool>, CgroupError> {
            Ok(self.cgroup.read(file)?.map(|text| text.trim() == "1"))
        };
        Ok(match self.version {
            // cgroup.freeze is what was asked for here, cgroup.events what came of it here and above (5.2).
            Version::V2 => flag("cgroup.freeze")?
                .zip(self.cgroup.value("cgroup.events", "frozen")?)
                .map(|(here, frozen)| State {
                    here,
                    above: !here && frozen == 1,
                    complete: frozen == 1,
                }),
            // Reading freezer.state is what completes it.
            Version::V1 => match self.cgroup.read("freezer.state")? {
                None => None,
                Some(text) => flag("freezer.self_freezing")?
                    .zip(flag("freezer.parent_freezing")?)
                    .map(|(here, above)| State {
                        here,
                        above,
                        complete: text.trim() == "FROZEN",
                    }),
            },
        })
    }

    fn ask(&self, frozen: bool) -> Result<Wrote, CgroupError> {
        match (self.version, frozen) {
            (Version::V2, true) => self.cgroup.write("cgroup.freeze", "1"),
            (Version::V2, false) => self.cgroup.write("cgroup.freeze", "0"),
            (Version::V1, true) => self.cgroup.write("freezer.state", "FROZEN"),
            (Version::V1, false) => self.cgroup.write("freezer.state", "THAWED"),
        }
    }
}

fn freezer_mount(hierarchy: &Hierarchy, id: u64) -> Result<&Path, FreezeError> {
    hierarchy
        .freezer
        .as_deref()
        .ok_or(FreezeError::NoFreezer { id })
}

/// Who froze a container. What we froze and somebody thawed is struck off the journal.
///
/// # Errors
/// [`FreezeError`].
pub fn frozen(
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
    journal: &mut Journal,
) -> Result<Frozen, FreezeError> {
    let ours = journal.freezer(cgroup.id);
    let freezer = match ours {
        Some(id) => Freezer::by_id(hierarchy, id)?,
        None => Freezer::of(hierarchy, cgroup)?,
    };
    let state = match freezer {
        Some(freezer) => freezer.state()?.unwrap_or_default(),
        None => State::default(),
    };
    if ours.is_some() && state.here {
        return Ok(Frozen::Ours);
    }
    if ours.is_some() {
        journal.forget(cgroup.id, Kind::Freeze)?;
    }
    Ok(if state.here || state.above {
        Frozen::Others
    } else {
        Frozen::No
    })
}

/// Freezes a container, unless somebody did before. It stands in the journal before it is done.
///
/// # Errors
/// [`FreezeError`]; then nothing was changed.
pub fn freeze(
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
    journal: &mut Journal,
) -> Result<Froze, FreezeError> {
    let id = cgroup.id;
    if let Some(holds) = membership::holds(hierarchy, cgroup) {
        return Err(FreezeError::Protected { id, holds });
    }
    let Some(freezer) = Freezer::of(hierarchy, cgroup)? else {
        return Ok(Froze::Absent);
    };
    let Some(before) = freezer.state()? else {
        return Ok(Froze::Absent);
    };
    let ours = journal.freezer(id) == Some(freezer.id());
    if (before.here && !ours) || before.above {
        return Ok(Froze::Others);
    }
    let change = Change::Freeze {
        freezer: freezer.id(),
    };
    journal.record(id, change)?;
    match freezer.ask(true) {
        Ok(Wrote::Done) => Ok(match freezer.state()? {
            Some(state) if state.complete => Froze::Done,
            Some(_) => Froze::Pending,
            None => Froze::Absent,
        }),
        Ok(Wrote::Absent) => {
            journal.forget(id, Kind::Freeze)?;
            Ok(Froze::Absent)
        }
        Err(error) => {
            journal.forget(id, Kind::Freeze)?;
            Err(error.into())
        }
    }
}

/// Thaws a container that we froze. What stands in the journal no more, or was thawed meanwhile, is left as it is.
///
/// # Errors
/// [`FreezeError`]; it still stands in the journal, unless only writing there failed.
pub fn thaw(hierarchy: &Hierarchy, id: u64, journal: &mut Journal) -> Result<Froze, FreezeError> {
    let Some(freezer) = journal.freezer(id) else {
        return Ok(Froze::Nothing);
    };
    let outcome = match Freezer::by_id(hierarchy, freezer)? {
        None => Froze::Absent,
        Some(freezer) => match freezer.state()? {
            None => Froze::Absent,
            Some(state) if !state.here => Froze::Nothing,
            Some(_) => match freezer.ask(false)? {
                Wrote::Done => Froze::Done,
                Wrote::Absent => Froze::Absent,
            },
        },
    };
    journal.forget(id, Kind::Freeze)?;
    Ok(outcome)
}
