//! The writer of the record: one thread and a bounded queue, so that no disk that is full, slow or broken slows the guard.
//!
//! A record that finds no room in the queue or on the disk is lost, counted, and told in the next one that is written.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use chrono::Utc;
use serde::Serialize;
use thiserror::Error;

use super::{
    Kind, Record, Text,
    file::{FileError, LogFile},
    read, readable,
};

/// Where the audit log is, if no policy says otherwise.
pub const DEFAULT_FILE: &str = "/var/log/bulkhead/audit.jsonl";

/// Records that wait for the disk, at most.
const QUEUE: usize = 1024;
/// Lines that wait for a terminal, at most; it may be stopped with control-S for as long as somebody likes.
const TERMINAL_QUEUE: usize = 256;
/// A full queue is asked again this much later, by those that wait for it.
const AGAIN: Duration = Duration::from_millis(5);

/// Where a log is, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file that is written to; those rotated before it stand beside it, `.1` the latest.
    pub file: PathBuf,
    /// A file that would grow beyond these bytes is rotated first.
    pub rotate_bytes: u64,
    /// A file whose first record is this old is rotated before the next is written.
    pub rotate_age: Duration,
    /// Rotated files that are kept.
    pub keep: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            file: PathBuf::from(DEFAULT_FILE),
            rotate_bytes: 64 << 20,
            rotate_age: Duration::from_secs(7 * 24 * 60 * 60),
            keep: 8,
        }
    }
}

impl Settings {
    /// The same with an absolute path, if a file can have them.
    ///
    /// # Errors
    /// A setting of nothing, or a path that is no file's.
    pub fn checked(mut self) -> Result<Self, AuditError> {
        for (zero, setting) in [
            (self.rotate_bytes == 0, "size"),
            (self.rotate_age.is_zero(), "age"),
            (self.keep == 0, "number of files"),
        ] {
            if zero {
                return Err(AuditError::Zero { setting });
            }
        }
        // The rotation takes names apart as text.
        self.file = match std::path::absolute(&self.file) {
            Ok(path) if path.to_str().is_some() && path.file_name().is_some() => path,
            _ => return Err(AuditError::Path { path: self.file }),
        };
        Ok(self)
    }
}

/// Why there is no writer. A file that cannot be written is no such reason: it shows in [`Health`].
#[derive(Debug, Error)]
pub enum AuditError {
    /// The path.
    #[error("{path} cannot be a log: it needs a file name, in UTF-8")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// A setting of nothing.
    #[error("a log's {setting} cannot be zero")]
    Zero {
        /// Which.
        setting: &'static str,
    },
    /// A thread.
    #[error("cannot start a log's thread")]
    Thread(#[source] std::io::Error),
}

/// How the audit log does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The file.
    pub file: PathBuf,
    /// Records that were written since the start.
    pub written: u64,
    /// Records that were lost since the start.
    pub lost: u64,
    /// Those of them that no record in the file tells of yet.
    pub unreported: u64,
    /// What is wrong now; `None`: the last record was written.
    pub trouble: Option<String>,
}

/// A terminal or a journal that gets lines as well, from a thread of its own: it may be as slow as it likes.
pub struct Shown {
    /// What the lines are written to.
    pub to: Box<dyn Write + Send>,
    /// Records of which kinds.
    pub which: fn(Kind) -> bool,
}

/// A handle to the one writer. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Message {
    Record(Box<Record>),
    Flush(SyncSender<()>),
    Stop(SyncSender<()>),
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    written: AtomicU64,
    lost: AtomicU64,
    unreported: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }

    fn set_trouble(&self, error: Option<&FileError>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error.map(FileError::words);
    }
}

impl Writer {
    /// Starts the thread that writes. `shown`, if there is one, gets a readable line of records as well.
    ///
    /// # Errors
    /// Settings that no file can have, or no thread to be had.
    pub fn start(settings: Settings, shown: Option<Shown>) -> Result<Self, AuditError> {
        let (writer, thread, messages) = Self::prepare(settings, shown, QUEUE)?;
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || thread.run(&messages))
            .map_err(AuditError::Thread)?;
        Ok(writer)
    }

    fn prepare(
        settings: Settings,
        shown: Option<Shown>,
        room: usize,
    ) -> Result<(Self, Thread, Receiver<Message>), AuditError> {
        let settings = settings.checked()?;
        let shared = Arc::new(Shared {
            file: settings.file.clone(),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            trouble: Mutex::new(None),
        });
        let (queue, messages) = sync_channel(room);
        let thread = Thread {
            log: LogFile::new(settings),
            seq: None,
            boot_id: boot_id(),
            shared: Arc::clone(&shared),
            shown: match shown {
                Some(shown) => Some(Showing {
                    lines: start_showing(shown.to)?,
                    which: shown.which,
                }),
                None => None,
            },
            unsynced: false,
        };
        Ok((Self { queue, shared }, thread, messages))
    }

    /// Hands a record over, and never waits. Its time is now, if it has none.
    pub fn write(&self, mut record: Record) {
        record.time.get_or_insert_with(Utc::now);
        match self.queue.try_send(Message::Record(Box::new(record))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.shared.lose(),
        }
    }

    /// Waits until what was handed over before is on the disk or lost; whether that was in time.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        self.ask(Message::Flush, within)
    }

    /// As [`Self::flush`], and ends the writing: what comes after is lost, and counted.
    pub fn stop(&self, within: Duration) -> bool {
        self.ask(Message::Stop, within)
    }

    /// How the audit log does.
    #[must_use]
    pub fn health(&self) -> Health {
        let Shared {
            file,
            written,
            lost,
            unreported,
            trouble,
        } = &*self.shared;
        Health {
            file: file.clone(),
            written: written.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            unreported: unreported.load(Ordering::Relaxed),
            trouble: trouble
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    fn ask(&self, message: fn(SyncSender<()>) -> Message, within: Duration) -> bool {
        let until = Instant::now() + within;
        let (done, is_done) = sync_channel(1);
        let mut message = message(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return true,
                Err(TrySendError::Full(_)) if Instant::now() >= until => return false,
                Err(TrySendError::Full(again)) => message = again,
            }
            thread::sleep(AGAIN);
        }
        is_done
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .is_ok()
    }
}

struct Showing {
    lines: SyncSender<String>,
    which: fn(Kind) -> bool,
}

struct Thread {
    log: LogFile,
    /// Number of the last record; `None` until a file could be looked into.
    seq: Option<u64>,
    boot_id: Text,
    shared: Arc<Shared>,
    shown: Option<Showing>,
    unsynced: bool,
}

impl Thread {
    fn run(mut self, messages: &Receiver<Message>) {
        let done = self.write_until_stopped(messages);
        if self.shared.unreported.load(Ordering::Relaxed) > 0 {
            let mut last = Record::new(Kind::Lost).reason("nothing was written after these");
            last.time = Some(Utc::now());
            self.append(last);
        }
        self.sync();
        if let Some(done) = done {
            // Who asked may have waited long enough, here and below.
            let _ = done.try_send(());
        }
        // As long as somebody can still hand a record over, it is counted.
        for message in messages {
            match message {
                Message::Record(_) => self.shared.lose(),
                Message::Flush(done) | Message::Stop(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    }

    /// Who asked it to stop; `None`: all handles are gone.
    fn write_until_stopped(&mut self, messages: &Receiver<Message>) -> Option<SyncSender<()>> {
        loop {
            // The disk is asked for certainty once nothing waits: one record costs one sync, a flood few.
            let next = match messages.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.sync();
                    messages.recv()
                }
                Ok(message) => Ok(message),
                Err(TryRecvError::Disconnected) => Err(RecvError),
            };
            match next {
                Ok(Message::Record(record)) => self.append(*record),
                Ok(Message::Flush(done)) => {
                    self.sync();
                    let _ = done.try_send(());
                }
                Ok(Message::Stop(done)) => return Some(done),
                Err(RecvError) => return None,
            }
        }
    }

    fn append(&mut self, mut record: Record) {
        record.boot_id.clone_from(&self.boot_id);
        let lost = self.shared.unreported.swap(0, Ordering::Relaxed);
        record.lost = (lost > 0).then_some(lost);
        let (last, file) = (&mut self.seq, &self.shared.file);
        let appended = self.log.append(record.time, Utc::now(), || {
            let last = *last.get_or_insert_with(|| read::last_seq(file).unwrap_or(0));
            record.seq = last.saturating_add(1);
            Ok(record.line()?)
        });
        match appended {
            Ok(not_rotated) => {
                self.seq = Some(record.seq);
                self.unsynced = true;
                self.shared.written.fetch_add(1, Ordering::Relaxed);
                self.shared.set_trouble(not_rotated.as_ref());
            }
            Err(error) => {
                self.shared.unreported.fetch_add(lost, Ordering::Relaxed);
                self.shared.lose();
                self.shared.set_trouble(Some(&error));
            }
        }
        if let Some(Showing { lines, which }) = &self.shown
            && which(record.kind)
        {
            // A terminal that is too slow misses a line; the file has it.
            let _ = lines.try_send(readable(&record));
        }
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.unsynced)
            && let Err(error) = self.log.sync()
        {
            self.shared.set_trouble(Some(&error));
        }
    }
}

fn start_showing(mut to: Box<dyn Write + Send>) -> Result<SyncSender<String>, AuditError> {
    let (lines, waiting) = sync_channel::<String>(TERMINAL_QUEUE);
    thread::Builder::new()
        .name("audit-shown".to_owned())
        .spawn(move || {
            for line in waiting {
                // A terminal that is gone is gone; the file has it all.
                if writeln!(to, "{line}").and_then(|()| to.flush()).is_err() {
                    break;
                }
            }
        })
        .map_err(AuditError::Thread)?;
    Ok(lines)
}

/// The kernel's random id of this boot; empty where /proc has none.
#[must_use]
pub fn boot_id() -> Text {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))
        .map(|id| Text::from(id.trim()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
