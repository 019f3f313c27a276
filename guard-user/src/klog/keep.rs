//! Keeping the host's copy of the kernel log: one thread reads and writes, and goes on where the copy ends.
//!
//! What cannot be written waits in the kernel's own buffer, and what is overwritten there meanwhile is counted by its
//! numbers: so a full disk loses no line without a word, and stalls nobody but this thread.

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

use chrono::Utc;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use serde::Deserialize;

use super::{
    forward::Outlets,
    line::{Clocks, Line},
    names::{By, Names},
    reader::{DEVICE, Heard, Reader, Why},
    record::Record,
    watch::{
        Watch,
        pacing::{Pacing, Told},
    },
};
use crate::policy::{model::Pattern, pattern::Chosen};
use crate::record::{
    AuditError, Settings, Text,
    audit::boot_id,
    file::{FileError, LogFile},
    read,
};

/// Where the copy is, if no policy says otherwise.
pub const DEFAULT_FILE: &str = "/var/log/bulkhead/kernel.jsonl";

/// Bytes of lines that are written at once, about.
const BATCH: usize = 32 << 10;
/// How long what was written may wait for the disk: what a crash of the host can take.
const UNSYNCED: Duration = Duration::from_secs(1);
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
    /// The line, and who printed it; `None`: it stands for lines that were only counted.
    pub line: Option<(Text, By)>,
    /// Somebody wrote the line into the log: the kernel did not say it.
    pub injected: bool,
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
                        told,
                        line: None,
                        injected: false,
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

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// There may be more at once.
    More,
    /// All is written that there is.
    End,
    /// It could not be read or not be written.
    Failed,
}

/// The copy as the thread has it.
struct Kept {
    log: LogFile,
    from: Option<Position>,
    boot: Text,
    shared: Arc<Shared>,
    names: Arc<Mutex<Names>>,
    outlets: Arc<Outlets>,
    watch: Option<Watch>,
    /// Records that were read before there was anything to hold them against; `None`: there is now, or never will be.
    unwatched: Option<Vec<(Record, By)>>,
    /// Lines that are not in the file yet.
    batch: Batch,
    /// When the first line was written that the disk was not yet asked for.
    unsynced: Option<Instant>,
}

/// Lines that are written at once, and what they come to.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    /// The same, for the outlets.
    forward: Vec<Line>,
    /// Of the first line.
    time: Option<chrono::DateTime<Utc>>,
    kept: u64,
    losses: Option<Losses>,
    last: Option<u64>,
}

impl Kept {
    fn new(
        settings: Settings,
        from: Option<Position>,
        shared: Arc<Shared>,
        names: Arc<Mutex<Names>>,
        outlets: Arc<Outlets>,
    ) -> Self {
        Self {
            log: LogFile::new(settings),
            from,
            boot: boot_id(),
            shared,
            names,
            outlets,
            watch: None,
            unwatched: Some(Vec::new()),
            batch: Batch::default(),
            unsynced: None,
        }
    }

    /// Whether it is time to look at what was read so far.
    fn is_to_watch(&self, went: Went) -> bool {
        (self.unwatched.as_ref())
            .is_some_and(|waiting| went == Went::End || waiting.len() >= UNWATCHED)
    }

    fn watch_for(&mut self, patterns: Vec<Pattern>) {
        let unwatched = self.unwatched.take().unwrap_or_default();
        match Watch::new(&patterns) {
            Ok(watch) => {
                self.watch = Some(watch);
                self.shared.rest(|rest| rest.patterns = patterns);
                for (record, by) in &unwatched {
                    self.look(record, by);
                }
            }
            Err(error) => self
                .shared
                .rest(|rest| rest.blind = Some(format!("no line raises an alarm: {error}"))),
        }
    }

    /// Who printed a record; of what was lost nobody is asked.
    fn named(&self, heard: &Heard) -> By {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match heard {
            Heard::Record(record) => names.of(record),
            Heard::Lost { .. } => {
                names.lose();
                By::default()
            }
        }
    }

    fn look(&self, record: &Record, by: &By) {
        let Some(watch) = &self.watch else {
            return;
        };
        let text = String::from_utf8_lossy(&record.text);
        for alarm in watch.look(&text, !record.injected()) {
            self.shared.rest(|rest| {
                if let Some(told) = rest.pacing.hear(&alarm, clocks().since_boot())
                    && rest.raised.len() < WAITING
                {
                    rest.raised.push(Raised {
                        pattern: alarm.pattern.clone(),
                        told,
                        line: Some((Text::from_bytes(&record.text), by.clone())),
                        injected: alarm.injected,
                    });
                }
            });
        }
    }

    /// Opens the file; number of the record to go on with. Where the file is not yet to be had, as before a mount, its end
    /// is not known either, and nothing is read.
    fn open(&mut self) -> Result<u64, FileError> {
        self.log.open()?;
        let of_this_boot = |position: &Position| position.boot == self.boot;
        let position = read::last_of::<Position>(&self.shared.file)
            .filter(of_this_boot)
            .or_else(|| self.from.take().filter(of_this_boot));
        let next = position
            .as_ref()
            .map_or(0, |position| position.seq.saturating_add(1));
        self.shared.rest(|rest| rest.position = position);
        Ok(next)
    }

    /// Reads as much as is written at once, and writes it.
    fn go_on<D: io::Read + io::Seek>(&mut self, reader: &mut Reader<D>) -> Went {
        let mut went = Went::More;
        // Once for all that is read at once: in a flood a clock is a good part of a line's cost.
        let clocks = clocks();
        let forward = self.outlets.any();
        while self.batch.lines.len() < BATCH {
            match reader.step() {
                Ok(Some(heard)) => {
                    let by = self.named(&heard);
                    if let Heard::Record(record) = &heard {
                        match &mut self.unwatched {
                            Some(unwatched) if unwatched.len() < UNWATCHED => {
                                unwatched.push((record.clone(), by.clone()));
                            }
                            _ => self.look(record, &by),
                        }
                    }
                    let line = self.batch.add(&heard, by, &self.boot, clocks);
                    self.batch.forward.extend(forward.then_some(line));
                }
                Ok(None) => {
                    went = Went::End;
                    self.names
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .caught_up();
                    self.shared.rest(|rest| rest.reading = None);
                    break;
                }
                Err(error) => {
                    went = Went::Failed;
                    let words = format!("cannot read {DEVICE}: {error}");
                    self.shared.rest(|rest| rest.reading = Some(words));
                    break;
                }
            }
        }
        if !self.write() {
            return Went::Failed;
        }
        if self.sync_in() == Some(Duration::ZERO) {
            self.sync();
        }
        went
    }

    /// Writes what waits; whether it is in the file. If not it goes on waiting, and no more is read than makes a batch.
    fn write(&mut self) -> bool {
        let Some(last) = self.batch.last else {
            return true;
        };
        let lines = &self.batch.lines;
        let written = self
            .log
            .append(self.batch.time, Utc::now(), || Ok(lines.clone()));
        match written {
            Ok(not_rotated) => {
                let batch = std::mem::take(&mut self.batch);
                self.unsynced.get_or_insert_with(Instant::now);
                self.shared.kept.fetch_add(batch.kept, Ordering::Relaxed);
                if let Some(losses) = batch.losses {
                    self.shared.lost.fetch_add(losses.count, Ordering::Relaxed);
                }
                self.shared.rest(|rest| {
                    rest.writing = not_rotated.as_ref().map(FileError::words);
                    rest.untold = add(rest.untold, batch.losses);
                    rest.position = Some(Position {
                        boot: self.boot.clone(),
                        seq: last,
                    });
                });
                // Only now: what the next daemon reads again, this one has not forwarded.
                self.outlets.offer(batch.forward, clocks().since_boot());
                true
            }
            Err(error) => {
                self.shared.rest(|rest| rest.writing = Some(error.words()));
                false
            }
        }
    }

    /// When the disk is to be asked; `None`: it has everything.
    fn sync_in(&self) -> Option<Duration> {
        self.unsynced
            .map(|since| UNSYNCED.saturating_sub(since.elapsed()))
    }

    fn sync(&mut self) {
        if self.unsynced.take().is_some()
            && let Err(error) = self.log.sync()
        {
            self.shared.rest(|rest| rest.writing = Some(error.words()));
        }
    }
}

impl Batch {
    fn add(&mut self, heard: &Heard, by: By, boot: &Text, clocks: Clocks) -> Line {
        let mut line = match heard {
            Heard::Record(record) => {
                self.kept += 1;
                Line::of(record, boot, clocks)
            }
            Heard::Lost { count, last, why } => {
                let (count, why) = (*count, *why);
                self.losses = add(self.losses, Some(Losses { count, why }));
                Line::of_loss(count, *last, why, boot, clocks)
            }
        };
        line.by = by;
        self.time = self.time.or(line.time);
        self.last = Some(line.seq);
        // It has no key that is no text, which is all that JSON could refuse.
        let _ = line.write(&mut self.lines);
        line
    }
}

/// Both losses together.
fn add(one: Option<Losses>, other: Option<Losses>) -> Option<Losses> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Losses {
            count: one.count.saturating_add(other.count),
            why: other.why,
        }),
        (one, other) => other.or(one),
    }
}

fn clocks() -> Clocks {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    Clocks {
        now: Utc::now(),
        monotonic_us: u64::try_from(monotonic.as_micros()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests;
