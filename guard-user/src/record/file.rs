//! The file of a log: lines whole or not at all, and none kept for ever.
//!
//! Renaming and removing old files is `file-rotate`'s work. It would not tell of a file that it could not open, and it
//! panics where somebody else moves the files at the same moment: so it is called for the rotation alone, and every
//! file is opened, written and looked after here.

use std::{
    error::Error as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use nix::libc;
use thiserror::Error;

use super::{audit::Settings, read};

/// Who may read the file.
const FILE_MODE: u32 = 0o600;
/// Who may look into a directory that was made for it.
const DIRECTORY_MODE: u32 = 0o700;

/// Why a line is not in the file, or the file was not rotated.
#[derive(Debug, Error)]
pub enum FileError {
    /// Its directory.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file itself.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A device, a pipe, a directory.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// What it should have been.
        path: PathBuf,
    },
    /// A line.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Lines that were written.
    #[error("cannot sync {path}")]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is too large or too old.
    #[error("cannot rotate {path}, which goes on growing")]
    Rotate {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that JSON has no line for.
    #[error("cannot write a record as JSON")]
    Json(#[from] serde_json::Error),
}

impl FileError {
    /// In words, with what the system said.
    pub fn words(&self) -> String {
        let source = self.source().map(|source| format!(": {source}"));
        format!("{self}{}", source.unwrap_or_default())
    }
}

/// The file that is written to, and where it stands.
pub struct LogFile {
    settings: Settings,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Bytes up to the end of the last whole line.
    length: u64,
    /// Time of its first line.
    began: Option<DateTime<Utc>>,
    /// A piece of a line stands at its end: the next begins with a line of its own.
    torn: bool,
}

impl LogFile {
    /// The file of these settings; nothing is opened before there is something to write.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: None,
        }
    }

    /// Opens it, to see whether that can be done.
    pub fn open(&mut self) -> Result<(), FileError> {
        self.open = Some(self.take_open()?);
        Ok(())
    }

    /// Adds what `lines` gives, whole lines of which the first is of this `time`; it is asked once the file is open, and may
    /// look into it. An error in the middle is that the file should have been rotated, and was not.
    pub fn append(
        &mut self,
        time: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        lines: impl FnOnce() -> Result<Vec<u8>, FileError>,
    ) -> Result<Option<FileError>, FileError> {
        let mut open = self.take_open()?;
        let lines = lines()?;
        let mut not_rotated = None;
        if open.is_due(&self.settings, lines.len(), now) {
            // What stands in it is nobody's to sync once it is closed; an error shows at the next record.
            let _ = open.file.sync_data();
            drop(open);
            not_rotated = self.rotate().err();
            open = self.take_open()?;
        }
        let result = open.append(&lines, time);
        self.open = Some(open);
        result
            .map(|()| not_rotated)
            .map_err(|source| FileError::Write {
                path: self.settings.file.clone(),
                source,
            })
    }

    /// Brings to the disk what was written.
    pub fn sync(&mut self) -> Result<(), FileError> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        open.file.sync_data().map_err(|source| FileError::Sync {
            path: self.settings.file.clone(),
            source,
        })
    }

    /// The open file, if it is still the one of that name; else that one. Somebody may have moved or removed ours.
    fn take_open(&mut self) -> Result<Open, FileError> {
        let path = &self.settings.file;
        if let Some(open) = self.open.take()
            && let (Ok(ours), Ok(there)) = (open.file.metadata(), fs::symlink_metadata(path))
            && (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        {
            return Ok(open);
        }
        Open::new(path)
    }

    fn rotate(&self) -> Result<(), FileError> {
        let Settings { file, keep, .. } = &self.settings;
        let wrong = |source| FileError::Rotate {
            path: file.clone(),
            source,
        };
        // What would make it panic is looked for first; the rest is a race with somebody who moves files about.
        let in_the_way = read::files(file)
            .into_iter()
            .find(|path| fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()));
        if let Some(path) = in_the_way {
            let what = format!("{} is in the way", path.display());
            return Err(wrong(io::Error::new(io::ErrorKind::AlreadyExists, what)));
        }
        catch_unwind(AssertUnwindSafe(|| {
            FileRotate::new(
                file,
                AppendCount::new(*keep),
                ContentLimit::None,
                Compression::None,
                Some(options()),
            )
            .rotate()
        }))
        .unwrap_or_else(|_| {
            Err(io::Error::other(
                "the files were moved by somebody else at the same time",
            ))
        })
        .map_err(wrong)
    }
}

impl Open {
    fn new(path: &Path) -> Result<Self, FileError> {
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(parent)
                .map_err(|source| FileError::Directory {
                    path: parent.to_owned(),
                    source,
                })?;
        }
        let wrong = |source| FileError::Open {
            path: path.to_owned(),
            source,
        };
        let file = options().open(path).map_err(wrong)?;
        let metadata = file.metadata().map_err(wrong)?;
        if !metadata.is_file() {
            return Err(FileError::NotAFile {
                path: path.to_owned(),
            });
        }
        if metadata.mode() & 0o7777 != FILE_MODE {
            file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
                .map_err(wrong)?;
        }
        let length = metadata.len();
        let began = read::first_time(&file).or_else(|| {
            let changed = (length > 0).then(|| metadata.modified().ok()).flatten();
            changed.map(DateTime::from)
        });
        let torn = length > 0 && read::last_byte(&file, length).map_err(wrong)? != b'\n';
        Ok(Self {
            file,
            length,
            began,
            torn,
        })
    }

    fn is_due(&self, settings: &Settings, more: usize, now: DateTime<Utc>) -> bool {
        let too_large = self.length > 0 && self.length + more as u64 > settings.rotate_bytes;
        let age = TimeDelta::from_std(settings.rotate_age).unwrap_or(TimeDelta::MAX);
        too_large || self.began.is_some_and(|began| now - began >= age)
    }

    fn append(&mut self, line: &[u8], time: Option<DateTime<Utc>>) -> io::Result<()> {
        let mut whole;
        let bytes = if self.torn {
            whole = Vec::with_capacity(line.len() + 1);
            whole.push(b'\n');
            whole.extend_from_slice(line);
            &whole
        } else {
            line
        };
        if let Err(error) = self.file.write_all(bytes) {
            // What was written of it goes again, so that the next line finds room or a clean end.
            if !self.torn {
                self.torn = self.file.set_len(self.length).is_err();
            }
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.torn = false;
        self.began = self.began.or(time);
        Ok(())
    }
}

/// How every file of a log is opened. A pipe that nobody reads is an error, not a wait for ever.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}
