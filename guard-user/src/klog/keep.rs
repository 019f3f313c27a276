//! Keeping the host's copy of the kernel log: one thread reads and writes, and goes on where the copy ends.
//!
//! What cannot be written waits in the kernel's own buffer, and what is overwritten there meanwhile is counted by its
//! numbers: so a full disk loses no line without a word, and stalls nobody but this thread.

mod kept;

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use kept::{Kept, Went};

use super::{
    forward::Outlets,
    names::{By, Names},
    reader::{DEVICE, Reader, Why},
    watch::pacing::{Pacing, Told},
};
use crate::{
    policy::{model::Pattern, pattern::Chosen},
    record::{AuditError, Settings, Text},
};

/// Where the copy is, if no policy says otherwise.
pub const DEFAULT_FILE: &str = "/var/log/bulkhead/kernel.jsonl";

/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end goes on reading, at most: the log may be flooded.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How far a copy goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Position {
    /// The boot.
    boot: Text,
    /// The last record that it has, or says to be lost.
    seq: u64,
}

/// How the copy does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The file.
    pub file: PathBuf,
    /// Records that were written since the start.
    pub kept: u64,
    /// Records that were lost since the start, each told in the file.
    pub lost: u64,
    /// Number of the last record that the file accounts for; `None`: there is none of this boot.
    pub last_seq: Option<u64>,
    /// What is wrong now; `None`: it can be read and written.
    pub trouble: Option<String>,
}

/// Losses that nobody was told of but the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// How many records.
    pub count: u64,
    /// Why the last of them were.
    pub why: Why,
}

/// An alarm that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The pattern.
    pub pattern: Pattern,
    /// What it is about, and how many lines it stands for.
    pub told: Told,
    /// The line; `None`: it stands for lines that were only counted.
    pub line: Option<Said>,
    /// Somebody wrote the line into the log: the kernel did not say it.
    pub injected: bool,
}

/// A line that raised an alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it says.
    pub text: Text,
    /// Who printed it.
    pub by: By,
    /// When, by the host's clock.
    pub at: DateTime<Utc>,
}

/// So many records wait to be watched while the thread begins: more than any kernel's buffer holds.
const UNWATCHED: usize = 1 << 13;
/// So many alarms wait for whoever tells them; what comes on top is lost, which only a stopped daemon can bring about.
const WAITING: usize = 4096;

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    kept: AtomicU64,
    lost: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    position: Option<Position>,
    untold: Option<Losses>,
    patterns: Vec<Pattern>,
    pacing: Pacing,
    raised: Vec<Raised>,
    /// Why nothing is watched for.
    blind: Option<String>,
    reading: Option<String>,
    writing: Option<String>,
}

impl Shared {
    fn rest<T>(&self, with: impl FnOnce(&mut Rest) -> T) -> T {
        with(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A handle to the thread that keeps the copy. Without it the thread ends.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    settings: Settings,
    chosen: Chosen,
    /// Dropped to end it.
    stop: Option<io::PipeWriter>,
    ended: Receiver<()>,
}

impl Keeper {
    /// Starts the thread. It goes on behind the last line of the file or, if that has none of this boot, behind `from`.
    /// What is in the file goes to the outlets as well.
    ///
    /// # Errors
    /// Settings that no file can have, or no thread to be had. That nothing can be read or written is no error: it shows
    /// in [`Health`].
    pub fn start(
        settings: Settings,
        chosen: Chosen,
        names: Arc<Mutex<Names>>,
        outlets: Arc<Outlets>,
        from: Option<Position>,
    ) -> Result<Self, AuditError> {
        let wanted = settings.clone();
        let settings = settings.checked()?;
        let (stopped, stop) = io::pipe().map_err(AuditError::Thread)?;
        let (end, ended) = sync_channel(1);
        let shared = Arc::new(Shared {
            file: settings.file.clone(),
            kept: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            rest: Mutex::default(),
        });
        let thread = Thread {
            copy: Kept::new(settings, from, Arc::clone(&shared), names, outlets),
            chosen: chosen.clone(),
            stopped,
        };
        thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(move || {
                thread.run();
                // Who waited for it may be gone.
                let _ = end.try_send(());
            })
            .map_err(AuditError::Thread)?;
        Ok(Self {
            shared,
            settings: wanted,
            chosen,
            stop: Some(stop),
            ended,
        })
    }

    /// Where the copy is, and how much of it is kept, as it was asked for; `None`: it was stopped.
    #[must_use]
    pub fn settings(&self) -> Option<(&Settings, &Chosen)> {
        self.stop
            .is_some()
            .then_some((&self.settings, &self.chosen))
    }

    /// The alarms since this was asked last, at `now` of a clock that never goes back.
    #[must_use]
    pub fn take_alarms(&self, now: Duration) -> Vec<Raised> {
        self.shared.rest(|rest| {
            let mut raised = std::mem::take(&mut rest.raised);
            for told in rest.pacing.due(now) {
                let of = |pattern: &&Pattern| pattern.name == told.pattern;
                if let Some(pattern) = rest.patterns.iter().find(of).cloned() {
                    raised.push(Raised {
                        pattern,
                        injected: told.injected,
                        told,
                        line: None,
                    });
                }
            }
            raised
        })
    }

    /// Writes what can be read still, and ends; whether that was in time.
    pub fn stop(&mut self, within: Duration) -> bool {
        self.stop = None;
        self.ended.recv_timeout(within).is_ok()
    }

    /// How the copy does.
    #[must_use]
    pub fn health(&self) -> Health {
        // Without being told to, it ends by a mistake of ours alone.
        let gone = self.stop.is_some() && self.ended.try_recv() != Err(TryRecvError::Empty);
        self.shared.rest(|rest| Health {
            file: self.shared.file.clone(),
            kept: self.shared.kept.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            last_seq: rest.position.as_ref().map(|position| position.seq),
            trouble: gone
                .then(|| "its thread has ended: restart the daemon".to_owned())
                .or_else(|| rest.writing.clone())
                .or_else(|| rest.reading.clone())
                .or_else(|| rest.blind.clone()),
        })
    }

    /// How far the copy goes.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.shared.rest(|rest| rest.position.clone())
    }

    /// What was lost since this was asked last.
    #[must_use]
    pub fn take_losses(&self) -> Option<Losses> {
        self.shared.rest(|rest| rest.untold.take())
    }
}

struct Thread {
    copy: Kept,
    chosen: Chosen,
    stopped: io::PipeReader,
}

impl Thread {
    fn run(mut self) {
        let mut reader = loop {
            let error = match self.copy.open() {
                Ok(next) => match Reader::open(next) {
                    Ok(reader) => break reader,
                    Err(error) => format!("cannot open {DEVICE}: {error}"),
                },
                Err(error) => error.words(),
            };
            self.copy.shared.rest(|rest| rest.reading = Some(error));
            if self.wait(None, Some(AGAIN)) {
                return;
            }
        };
        self.copy.shared.rest(|rest| rest.reading = None);
        loop {
            let went = self.copy.go_on(&mut reader);
            let stop = match went {
                Went::End | Went::More if self.copy.is_to_watch(went) => {
                    // Here, since it takes its time, and no line waits in the kernel's buffer.
                    self.copy.watch_for(self.chosen.in_force());
                    self.wait(None, Some(Duration::ZERO))
                }
                Went::More => self.wait(None, Some(Duration::ZERO)),
                Went::End => self.wait(Some(reader.device()), self.copy.sync_in()),
                Went::Failed => self.wait(None, Some(AGAIN)),
            };
            if stop {
                break;
            }
        }
        let until = Instant::now() + LAST_LINES;
        while Instant::now() < until && matches!(self.copy.go_on(&mut reader), Went::More) {}
        self.copy.sync();
    }

    /// Waits until the device has something, for so long; whether we are to end.
    fn wait(&self, device: Option<&File>, within: Option<Duration>) -> bool {
        let timeout = within.map_or(PollTimeout::NONE, |within| {
            PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX)
        });
        // Nobody writes into the pipe: it is told that its other end is closed.
        let mut watched = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        watched.extend(device.map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, timeout) {
            Ok(_) => watched[0].any().unwrap_or(true),
            Err(nix::Error::EINTR) => false,
            Err(_) => {
                thread::sleep(AGAIN);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
