//! The journal: what was changed on the host and what stood there before, so that a daemon that was killed can undo it.
//!
//! One JSON object a line, appended before the change is made; rewritten as a whole (temporary file, rename) when most of
//! it is history. It need survive kill -9, not a reboot: no change to a cgroup survives that either.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decide::settings::Max;

/// The file, in the directory that was given.
pub const FILE: &str = "changes.jsonl";
const VERSION: u32 = 1;
/// Lines of history that are kept before the file is rewritten, beside as many as there are changes.
const HISTORY: usize = 1024;
/// A longer file is not ours.
const LONGEST: u64 = 64 << 20;

/// The journal cannot be kept. What cannot be written down is not done.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Its directory.
    #[error("cannot make the journal's directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading it at the start.
    #[error("cannot read the journal {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing to it.
    #[error("cannot write to the journal {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong with the journal that was found. None of it keeps the daemon from starting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// Its changes are undone by the reboot that came between.
    #[error("the journal is of another boot: {changes} changes in it are undone already")]
    OtherBoot {
        /// How many.
        changes: usize,
    },
    /// What can be read of it still holds.
    #[error("the journal was damaged: {lines} lines of it cannot be read; it is kept as {aside}")]
    Damaged {
        /// Lines that cannot be read.
        lines: usize,
        /// Where it is now.
        aside: PathBuf,
    },
}

/// In place of a cgroup's id: a change to the host itself. No cgroup has it.
pub const HOST: u64 = 0;

/// A change to one cgroup, or to the host, with what stood there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Its `pids.max` was tightened.
    PidsMax {
        /// What stood there.
        old: Max,
        /// What we wrote.
        ours: Max,
    },
    /// It was frozen.
    Freeze {
        /// Id of the cgroup that was frozen for it: its own on v2, one in the freezer's hierarchy on v1.
        freezer: u64,
    },
    /// The host's `kernel.dmesg_restrict`, which was 0, was set to 1.
    DmesgRestrict,
    /// The queue of a block device, by its number, was told to take no discards.
    Discards {
        /// The most that it took, in bytes.
        old: u64,
        /// Its `diskseq` (5.15): another device may have the number next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<u64>,
    },
    /// The file system with this number, which discarded by itself, was mounted anew without that.
    MountDiscard {
        /// The number of its directory in sysfs: what is mounted from the same device later has another. `None`: it has none.
        instance: Option<u64>,
    },
}

/// The kinds of [`Change`]: a cgroup has at most one change of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Change::PidsMax`].
    PidsMax,
    /// [`Change::Freeze`].
    Freeze,
    /// [`Change::DmesgRestrict`].
    DmesgRestrict,
    /// [`Change::Discards`].
    Discards,
    /// [`Change::MountDiscard`].
    MountDiscard,
}

impl Change {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::PidsMax { .. } => Kind::PidsMax,
            Self::Freeze { .. } => Kind::Freeze,
            Self::DmesgRestrict => Kind::DmesgRestrict,
            Self::Discards { .. } => Kind::Discards,
            Self::MountDiscard { .. } => Kind::MountDiscard,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::PidsMax => "pids.max",
            Self::Freeze => "freeze",
            Self::DmesgRestrict => "kernel.dmesg_restrict",
            Self::Discards => "queue/discard_max_bytes",
            Self::MountDiscard => "mount option discard",
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Journal { version: u32, boot_id: String },
    Change { cgroup: u64, change: Change },
    Undone { cgroup: u64, kind: Kind },
}

type Changes = BTreeMap<(u64, Kind), Change>;

/// All changes that stand.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot_id: String,
    file: File,
    bytes: u64,
    lines: usize,
    /// The file says something that is not so any more.
    stale: bool,
    changes: Changes,
}

impl Journal {
    /// Takes over the journal in `directory`, which is made if it is missing. `boot_id` is the kernel's
    /// (/proc/sys/kernel/random/boot_id): ids of cgroups are unique within a boot only.
    ///
    /// # Errors
    /// [`JournalError`]; a journal that cannot be understood is none, but a [`Trouble`].
    pub fn open(directory: &Path, boot_id: &str) -> Result<(Self, Vec<Trouble>), JournalError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|source| JournalError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(FILE);
        let failed = |source| JournalError::Read {
            path: path.clone(),
            source,
        };
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let (of_boot, mut changes, damaged) = understand(&text);
        let mut troubles = Vec::new();
        if damaged > 0 {
            let aside = directory.join(format!("{FILE}.damaged"));
            fs::rename(&path, &aside).map_err(failed)?;
            troubles.push(Trouble::Damaged {
                lines: damaged,
                aside,
            });
        }
        // Without its first line nobody knows which cgroups the ids name.
        if of_boot.as_deref() != Some(boot_id) {
            if of_boot.is_some() && !changes.is_empty() {
                troubles.push(Trouble::OtherBoot {
                    changes: changes.len(),
                });
            }
            changes.clear();
        }
        let (file, bytes) = write_anew(&path, boot_id, &changes)?;
        let journal = Self {
            path,
            boot_id: boot_id.to_owned(),
            file,
            bytes,
            lines: changes.len() + 1,
            stale: false,
            changes,
        };
        Ok((journal, troubles))
    }

    /// Writes a change down, in place of one of the same kind. To be called before the change is made.
    ///
    /// # Errors
    /// [`JournalError::Write`]: the change must not be made.
    pub fn record(&mut self, cgroup: u64, change: Change) -> Result<(), JournalError> {
        if self.changes.get(&(cgroup, change.kind())) == Some(&change) {
            return Ok(());
        }
        self.compact()?;
        self.append(&Line::Change { cgroup, change })?;
        self.changes.insert((cgroup, change.kind()), change);
        Ok(())
    }

    /// Strikes a change off: it is undone, or its cgroup is gone, whether that can be written down or not.
    ///
    /// # Errors
    /// [`JournalError::Write`]: it still stands in the file, until something can be written there again.
    pub fn forget(&mut self, cgroup: u64, kind: Kind) -> Result<(), JournalError> {
        if self.changes.remove(&(cgroup, kind)).is_none() {
            return Ok(());
        }
        let written = self
            .compact()
            .and_then(|()| self.append(&Line::Undone { cgroup, kind }));
        self.stale |= written.is_err();
        written
    }

    /// What stood in a cgroup's `pids.max`, and what we wrote there.
    #[must_use]
    pub fn pids_max(&self, cgroup: u64) -> Option<(Max, Max)> {
        match self.changes.get(&(cgroup, Kind::PidsMax)) {
            Some(Change::PidsMax { old, ours }) => Some((*old, *ours)),
            _ => None,
        }
    }

    /// Id of the cgroup that we froze for this one.
    #[must_use]
    pub fn freezer(&self, cgroup: u64) -> Option<u64> {
        match self.changes.get(&(cgroup, Kind::Freeze)) {
            Some(Change::Freeze { freezer }) => Some(*freezer),
            _ => None,
        }
    }

    /// Whether we set `kernel.dmesg_restrict`.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.changes.contains_key(&(HOST, Kind::DmesgRestrict))
    }

    /// The most that a block device took in one discard before we switched them off.
    #[must_use]
    pub fn discards(&self, device: u64) -> Option<u64> {
        match self.changes.get(&(device, Kind::Discards)) {
            Some(Change::Discards { old, .. }) => Some(*old),
            _ => None,
        }
    }

    /// All changes that stand, by cgroup or device.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = (u64, Change)> {
        self.changes.iter().map(|((id, _), change)| (*id, *change))
    }

    #[cfg(test)]
    pub(super) fn write_to(&mut self, path: &str) {
        self.file = OpenOptions::new().append(true).open(path).unwrap();
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let mut text = serde_json::to_vec(line).map_err(|error| self.failed(error.into()))?;
        text.push(b'\n');
        if let Err(error) = self.file.write_all(&text) {
            // A full disk may have taken half of it: the next line must not be glued to that.
            let _ = self.file.set_len(self.bytes);
            return Err(self.failed(error));
        }
        self.bytes += text.len() as u64;
        self.lines += 1;
        Ok(())
    }

    /// Writes the file anew, if it has become long or says what is not so.
    fn compact(&mut self) -> Result<(), JournalError> {
        if !self.stale && self.lines < 2 * self.changes.len() + HISTORY {
            return Ok(());
        }
        let (file, bytes) = write_anew(&self.path, &self.boot_id, &self.changes)?;
        self.file = file;
        self.bytes = bytes;
        self.lines = self.changes.len() + 1;
        self.stale = false;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?
        .take(LONGEST)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// The boot it is of, the changes that stand, and the number of lines that cannot be read.
fn understand(text: &[u8]) -> (Option<String>, Changes, usize) {
    let (mut of_boot, mut changes, mut damaged) = (None, Changes::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // A line that does not end was cut off while it was written: its change was not made.
        match line.strip_suffix(b"\n").map(serde_json::from_slice) {
            Some(Ok(Line::Journal { version, boot_id })) if version == VERSION => {
                of_boot = Some(boot_id);
            }
            Some(Ok(Line::Change { cgroup, change })) => {
                changes.insert((cgroup, change.kind()), change);
            }
            Some(Ok(Line::Undone { cgroup, kind })) => {
                changes.remove(&(cgroup, kind));
            }
            Some(Ok(Line::Journal { .. }) | Err(_)) | None => damaged += 1,
        }
    }
    (of_boot, changes, damaged)
}

/// Replaces the file, atomically. Gives it open for appending, and its length.
fn write_anew(path: &Path, boot_id: &str, changes: &Changes) -> Result<(File, u64), JournalError> {
    let write = || {
        let mut text = serde_json::to_vec(&Line::Journal {
            version: VERSION,
            boot_id: boot_id.to_owned(),
        })?;
        text.push(b'\n');
        for ((cgroup, _), change) in changes {
            serde_json::to_writer(
                &mut text,
                &Line::Change {
                    cgroup: *cgroup,
                    change: *change,
                },
            )?;
            text.push(b'\n');
        }
        let temporary = path.with_extension("new");
        // What a daemon left that was killed here.
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&text)?;
        fs::rename(&temporary, path)?;
        Ok((file, text.len() as u64))
    };
    write().map_err(|source| JournalError::Write {
        path: path.to_owned(),
        source,
    })
}
