//! The copy as its thread has it: reads as much as is written at once, and writes it whole or not at all.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::Utc;
use nix::time::{ClockId, clock_gettime};

use super::{Losses, Position, Raised, Said, Shared, UNWATCHED, WAITING};
use crate::{
    klog::{
        forward::Outlets,
        line::{Clocks, Line},
        names::{By, Names},
        reader::{DEVICE, Heard, Reader},
        record::Record,
        watch::Watch,
    },
    policy::model::Pattern,
    record::{
        Settings, Text,
        audit::boot_id,
        file::{FileError, LogFile},
        read,
    },
};

/// Bytes of lines that are written at once, about.
const BATCH: usize = 32 << 10;
/// How long what was written may wait for the disk: what a crash of the host can take.
const UNSYNCED: Duration = Duration::from_secs(1);

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// There may be more at once.
    More,
    /// All is written that there is.
    End,
    /// It could not be read or not be written.
    Failed,
}

/// The copy as the thread has it.
pub(super) struct Kept {
    log: LogFile,
    from: Option<Position>,
    boot: Text,
    pub shared: Arc<Shared>,
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
    pub fn new(
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
    pub fn is_to_watch(&self, went: Went) -> bool {
        (self.unwatched.as_ref())
            .is_some_and(|waiting| went == Went::End || waiting.len() >= UNWATCHED)
    }

    pub fn watch_for(&mut self, patterns: Vec<Pattern>) {
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
        // The rest of a line may begin with a name that a container chose.
        for alarm in watch.look(&text, !record.injected() && !record.fragment) {
            // Not once for each line: few raise an alarm.
            let clocks = clocks();
            self.shared.rest(|rest| {
                if let Some(told) = rest.pacing.hear(&alarm, clocks.since_boot())
                    && rest.raised.len() < WAITING
                {
                    rest.raised.push(Raised {
                        pattern: alarm.pattern.clone(),
                        told,
                        line: Some(Said {
                            text: Text::from_bytes(&record.text),
                            by: by.clone(),
                            at: clocks.at(record.time_us),
                        }),
                        injected: alarm.injected,
                    });
                }
            });
        }
    }

    /// Opens the file; number of the record to go on with. Where the file is not yet to be had, as before a mount, its end
    /// is not known either, and nothing is read.
    pub fn open(&mut self) -> Result<u64, FileError> {
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
    pub fn go_on<D: io::Read + io::Seek>(&mut self, reader: &mut Reader<D>) -> Went {
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
    pub fn sync_in(&self) -> Option<Duration> {
        self.unsynced
            .map(|since| UNSYNCED.saturating_sub(since.elapsed()))
    }

    pub fn sync(&mut self) {
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
