//! Reading a log: files in the order they were written, and a line that is torn or no entry said, and passed over.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Kind, Record, Severity, Text};

/// Longest line that is looked at: the longest record is a tenth of it.
const LINE_MAX: u64 = 256 << 10;
/// Bytes at the end of a file that the last record is looked for in.
const TAIL: u64 = 2 * LINE_MAX;

/// Why nothing can be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is no log at {path}")]
    None {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What the lines of a log are.
pub trait Entry: Sized {
    /// Reads one line, its end included.
    ///
    /// # Errors
    /// It is something else.
    fn read(line: &[u8]) -> serde_json::Result<Self>;
}

impl Entry for Record {
    fn read(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }
}

/// One line of a file.
#[derive(Debug)]
pub enum Line<E> {
    /// An entry.
    Entry(Box<E>),
    /// Something else.
    Bad(Bad),
}

/// A line that is no entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    /// The file.
    pub file: PathBuf,
    /// Where the line begins, in bytes.
    pub offset: u64,
    /// What is wrong with it; it may name what stands there.
    pub reason: Text,
}

/// Which records are asked for; an empty field asks for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// Before.
    pub until: Option<DateTime<Utc>>,
    /// Beginning of a container's id.
    pub container: Option<String>,
    /// Names of rules.
    pub rules: Vec<String>,
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// At least this grave.
    pub severity: Option<Severity>,
    /// Of this boot.
    pub boot: Option<Text>,
}

impl Filter {
    /// Whether a record is one of those.
    #[must_use]
    pub fn accepts(&self, record: &Record) -> bool {
        let holds = |asked: Option<bool>| asked.unwrap_or(true);
        holds(
            self.since
                .map(|since| record.time.is_some_and(|time| time >= since)),
        ) && holds(
            self.until
                .map(|until| record.time.is_some_and(|time| time < until)),
        ) && holds(self.container.as_ref().map(|prefix| {
            let id = record.container_id.as_ref();
            id.is_some_and(|id| id.as_str().starts_with(prefix.as_str()))
        })) && (self.rules.is_empty()
            || record
                .rule
                .as_ref()
                .is_some_and(|rule| self.rules.iter().any(|asked| asked == rule.as_str())))
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && holds(
                self.severity
                    .map(|least| record.severity.is_some_and(|severity| severity >= least)),
            )
            && holds(self.boot.as_ref().map(|boot| record.boot_id == *boot))
    }
}

/// One open file of the log.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    reader: BufReader<File>,
    /// Where the next line begins.
    offset: u64,
}

impl Source {
    /// Opens one file at its beginning.
    ///
    /// # Errors
    /// What open(2) said.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ReadError::None {
                path: path.to_owned(),
            },
            _ => ReadError::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::new(file),
            offset: 0,
        })
    }

    /// The next line that is whole, or with `torn` also one that has no end. `None`: there is none yet.
    ///
    /// # Errors
    /// What read(2) said.
    pub fn next<E: Entry>(&mut self, torn: bool) -> Result<Option<Line<E>>, ReadError> {
        let path = &self.path;
        let wrong = |source| ReadError::Read {
            path: path.clone(),
            source,
        };
        let bad = |offset, reason: &str| {
            Line::Bad(Bad {
                file: path.clone(),
                offset,
                reason: reason.into(),
            })
        };
        loop {
            let mut line = Vec::new();
            let read = self
                .reader
                .by_ref()
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)
                .map_err(wrong)? as u64;
            let start = self.offset;
            if line.last() == Some(&b'\n') {
                self.offset += read;
                if line.len() == 1 {
                    continue;
                }
                return Ok(Some(match E::read(&line) {
                    Ok(entry) => Line::Entry(Box::new(entry)),
                    Err(error) => bad(
                        start,
                        &format!("not a record: {}", Text::from(error.to_string())),
                    ),
                }));
            }
            if read == LINE_MAX {
                self.offset += read + self.reader.skip_until(b'\n').map_err(wrong)? as u64;
                return Ok(Some(bad(start, "longer than any record")));
            }
            if read > 0 && torn {
                self.offset += read;
                return Ok(Some(bad(start, "torn: the line has no end")));
            }
            // The rest of it may be on its way, or it is taken back because the disk is full.
            self.reader.seek(SeekFrom::Start(start)).map_err(wrong)?;
            return Ok(None);
        }
    }

    /// Whether this is the file that now has this path.
    #[must_use]
    pub fn is(&self, path: &Path) -> bool {
        match (self.reader.get_ref().metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Goes back to the beginning, if somebody has emptied the file.
    ///
    /// # Errors
    /// What fstat(2) or lseek(2) said.
    pub fn catch_up(&mut self) -> io::Result<()> {
        if self.reader.get_ref().metadata()?.len() < self.offset {
            self.offset = 0;
            self.reader.seek(SeekFrom::Start(0))?;
        }
        Ok(())
    }
}

/// The files of a log, the oldest first: those that were rotated, and the one that is written to.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return vec![path.to_owned()];
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut numbers: Vec<u32> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?.file_name();
            let number = entry.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
            // `07` and `+7` are not names that rotation gives.
            number
                .parse()
                .ok()
                .filter(|parsed: &u32| parsed.to_string() == number)
        })
        .collect();
    numbers.sort_unstable_by(|left, right| right.cmp(left));
    let mut files: Vec<PathBuf> = numbers
        .into_iter()
        .map(|number| path.with_file_name(format!("{name}.{number}")))
        .collect();
    files.push(path.to_owned());
    files
}

/// Opens all files of a log, the oldest first, each once even if they are rotated meanwhile.
///
/// # Errors
/// [`ReadError::None`] if there is not one, and what open(2) said.
pub fn open(path: &Path) -> Result<VecDeque<Source>, ReadError> {
    let mut sources: VecDeque<Source> = VecDeque::new();
    // The newest first: a file that is rotated under our hands is met again, never missed.
    for file in files(path).iter().rev() {
        if sources.iter().any(|source| source.is(file)) {
            continue;
        }
        match Source::open(file) {
            Ok(source) => sources.push_front(source),
            Err(ReadError::None { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if sources.is_empty() {
        return Err(ReadError::None {
            path: path.to_owned(),
        });
    }
    Ok(sources)
}

/// The last record of a log, if it has one: when anybody last watched, and as what.
#[must_use]
pub fn last(path: &Path) -> Option<Record> {
    last_of(path)
}

/// Number of the last record of a log.
pub(super) fn last_seq(path: &Path) -> Option<u64> {
    /// All that must be understood of a record that a newer daemon wrote.
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    last_of(path).map(|numbered: Numbered| numbered.seq)
}

/// The last line of a log that is whole, as far as it is asked for.
pub(crate) fn last_of<T: DeserializeOwned>(path: &Path) -> Option<T> {
    files(path).iter().rev().find_map(|file| {
        let file = File::open(file).ok()?;
        let start = file.metadata().ok()?.len().saturating_sub(TAIL);
        let mut bytes = Vec::new();
        (&file).seek(SeekFrom::Start(start)).ok()?;
        file.take(TAIL).read_to_end(&mut bytes).ok()?;
        bytes
            .split(|byte| *byte == b'\n')
            .rev()
            .find_map(|line| serde_json::from_slice(line).ok())
    })
}

/// Time of the first line of a file, if that has one.
pub(super) fn first_time(file: &File) -> Option<DateTime<Utc>> {
    /// What the lines of all logs have.
    #[derive(Deserialize)]
    struct Timed {
        #[serde(with = "super::fields::time")]
        time: Option<DateTime<Utc>>,
    }
    let mut bytes = vec![0; 64 << 10];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let line = bytes[..length].split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice::<Timed>(line).ok()?.time
}

/// The last byte of a file of this length.
pub(super) fn last_byte(file: &File, length: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, length.saturating_sub(1))?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_the_record_at_its_edge_and_not_the_one_beyond() {
        let at = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
        let mut record = Record::new(Kind::BreachBegan)
            .severity(Severity::Medium)
            .rule("storm")
            .container(b"/docker/abcdef");
        record.time = Some(at("2026-01-02T00:00:00Z"));
        let with = |change: fn(&mut Filter, DateTime<Utc>), time: &str| {
            let mut filter = Filter::default();
            change(&mut filter, at(time));
            filter.accepts(&record)
        };
        assert!(with(
            |filter, _| *filter = Filter::default(),
            "2026-01-02T00:00:00Z"
        ));
        assert!(with(
            |filter, time| filter.since = Some(time),
            "2026-01-02T00:00:00Z"
        ));
        assert!(!with(
            |filter, time| filter.since = Some(time),
            "2026-01-02T00:00:01Z"
        ));
        assert!(!with(
            |filter, time| filter.until = Some(time),
            "2026-01-02T00:00:00Z"
        ));
        assert!(with(
            |filter, time| filter.until = Some(time),
            "2026-01-02T00:00:01Z"
        ));
        let any = "2026-01-02T00:00:00Z";
        assert!(with(|filter, _| filter.container = Some("abc".into()), any));
        assert!(!with(|filter, _| filter.container = Some("bc".into()), any));
        assert!(with(
            |filter, _| filter.rules = vec!["other".into(), "storm".into()],
            any
        ));
        assert!(!with(|filter, _| filter.rules = vec!["stor".into()], any));
        assert!(with(
            |filter, _| filter.severity = Some(Severity::Medium),
            any
        ));
        assert!(!with(
            |filter, _| filter.severity = Some(Severity::High),
            any
        ));
        assert!(!with(|filter, _| filter.kinds = vec![Kind::Step], any));
        assert!(!with(|filter, _| filter.boot = Some("other".into()), any));
    }

    #[test]
    fn a_line_longer_than_any_record_is_passed_over_whole() {
        let path = std::env::temp_dir().join(format!("bulkhead-{}-long", std::process::id()));
        let mut bytes = vec![b'x'; 3 * LINE_MAX as usize];
        bytes.extend_from_slice(b"\n{\"kind\":\"step\",\"seq\":5}\n{\"kind\":");
        fs::write(&path, bytes).unwrap();
        let mut source = Source::open(&path).unwrap();
        let mut next = |torn| source.next::<Record>(torn).unwrap();
        assert!(matches!(next(false), Some(Line::Bad(bad)) if bad.offset == 0));
        assert!(matches!(next(false), Some(Line::Entry(record)) if record.seq == 5));
        // A line that is being written is waited for, until nobody will write any more.
        assert!(next(false).is_none());
        assert!(
            matches!(next(true), Some(Line::Bad(bad)) if bad.reason.as_str().starts_with("torn"))
        );
        assert!(next(true).is_none());
        assert_eq!(last_seq(&path), Some(5));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn rotated_files_come_first_the_oldest_before_all_and_nothing_else_is_one() {
        let directory = std::env::temp_dir().join(format!("bulkhead-{}-files", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for name in [
            "a.jsonl",
            "a.jsonl.2",
            "a.jsonl.10",
            "a.jsonl.02",
            "a.jsonl.1.gz",
            "b.jsonl.1",
        ] {
            fs::write(directory.join(name), "").unwrap();
        }
        let names: Vec<_> = files(&directory.join("a.jsonl"))
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.jsonl.10", "a.jsonl.2", "a.jsonl"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
