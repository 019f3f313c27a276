//! One outlet: a thread that sends what waits, in order, and begins again as often as the receiver goes away.
//!
//! A line goes out at most once. What may be lost without being counted is what a receiver took and did not keep: the
//! lines' numbers show it.

use std::{
    collections::VecDeque,
    fs, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use chrono::Utc;

use super::{
    super::line::Line,
    journald,
    link::{Link, Way, is_busy},
    queue::{self, Item, Queue, Taken},
    said::{Gap, Said, Why},
    syslog,
};
use crate::policy::model::{Outlet, Syslog};

/// A receiver that is gone is tried again after so long, and each time twice as long up to the second.
const AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];
/// How long nothing to send is nothing wrong.
const IDLE: Duration = Duration::from_secs(1);
/// How long a socket without room is left alone.
const BUSY: Duration = Duration::from_millis(50);
/// Lines that are lost over a long time are told so often.
const TOLD: Duration = Duration::from_secs(60);

/// How an outlet does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What it is, as `tcp:logs.example.net:601`.
    pub to: String,
    /// Lines that were sent.
    pub sent: u64,
    /// Lines that wait.
    pub waiting: u64,
    /// Lines that were not forwarded.
    pub dropped: u64,
    /// What is wrong now; `None`: the last line was sent.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    queue: Queue,
    sent: AtomicU64,
    dropped: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn trouble(&self, words: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    fn in_trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone()
    }

    fn lose(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

/// A handle to an outlet's thread.
#[derive(Debug)]
pub struct Handle {
    name: String,
    shared: Arc<Shared>,
    ended: Receiver<()>,
    /// How many of the dropped were told, and when.
    told: (u64, Option<Instant>),
}

impl Handle {
    /// Starts the thread.
    pub fn start(outlet: &Outlet) -> io::Result<Self> {
        let queue = Queue::new(queue::LINES, queue::BYTES);
        Self::with(outlet.to_string(), outlet.into(), queue)
    }

    fn with(name: String, way: Way, queue: Queue) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue,
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            trouble: Mutex::default(),
        });
        let (end, ended) = sync_channel(1);
        let sender = Sender {
            way,
            shared: Arc::clone(&shared),
            unsent: VecDeque::new(),
            again: AGAIN[0],
            last: None,
        };
        thread::Builder::new()
            .name("kernel-log-out".to_owned())
            .spawn(move || {
                sender.run();
                // Who waited for it may be gone.
                let _ = end.try_send(());
            })?;
        Ok(Self {
            name,
            shared,
            ended,
            told: (0, None),
        })
    }

    /// What it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it a line. Never waits.
    pub fn offer(&self, line: &Arc<Line>) {
        if !self.shared.queue.offer(line) {
            self.shared.lose(1);
        }
    }

    /// Lets it tell of lines that none of the outlets got.
    pub fn tell(&self, gap: Gap) {
        self.shared.queue.tell(gap);
    }

    /// How it does.
    pub fn health(&self) -> Health {
        // Without being told to, it ends by a mistake of ours alone.
        let gone = !self.shared.queue.is_closed() && self.has_ended();
        Health {
            to: self.name.clone(),
            sent: self.shared.sent.load(Ordering::Relaxed),
            waiting: self.shared.queue.len() as u64,
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            trouble: gone
                .then(|| "its thread has ended: restart the daemon".to_owned())
                .or_else(|| self.shared.in_trouble()),
        }
    }

    /// Lines that were dropped and nobody was told of: once it goes well again, or after a while.
    pub fn take_losses(&mut self, now: Instant) -> Option<u64> {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let (told, at) = self.told;
        let lasts = self.shared.in_trouble().is_some() && !self.has_ended();
        let late = at.is_none_or(|at| now.duration_since(at) >= TOLD);
        if dropped == told || (lasts && !late) {
            return None;
        }
        self.told = (dropped, Some(now));
        Some(dropped - told)
    }

    /// Takes no more lines, and sends those that wait if that can be done within so long.
    pub fn close(&self, within: Duration) {
        self.shared.queue.close(within);
    }

    /// The thread is gone, and all is counted.
    pub fn has_ended(&self) -> bool {
        self.ended.try_recv() != Err(TryRecvError::Empty)
    }

    /// Waits for its end; whether that was in time.
    pub fn wait(&self, within: Duration) -> bool {
        self.ended.recv_timeout(within) != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
    }
}

/// The thread.
struct Sender {
    way: Way,
    shared: Arc<Shared>,
    /// What was taken from the queue and is not sent yet.
    unsent: VecDeque<Item>,
    again: Duration,
    /// Number of the last line that was sent.
    last: Option<u64>,
}

impl Sender {
    fn run(mut self) {
        while !self.is_over() {
            let went = Link::open(&self.way).and_then(|link| self.feed(link));
            let Err(error) = went else {
                break;
            };
            self.shared.trouble(Some(error.to_string()));
            self.shared.queue.pause(self.again);
            self.again = (2 * self.again).min(AGAIN[1]);
        }
        let lines = (self.unsent.iter()).filter(|item| matches!(item, Item::Line(_)));
        let lines = lines.count() as u64 + self.shared.queue.clear();
        self.shared.lose(lines);
    }

    /// It is to end: what cannot be sent now is not waited for.
    fn is_over(&self) -> bool {
        let queue = &self.shared.queue;
        queue.is_over() || (queue.is_closed() && self.shared.in_trouble().is_some())
    }

    /// Sends until the end, or until the receiver goes away.
    fn feed(&mut self, mut link: Link) -> io::Result<()> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = syslog::host_name(&host);
        loop {
            let item = match self.unsent.pop_front() {
                Some(item) => item,
                None => match self.shared.queue.take(IDLE) {
                    Taken::Item(item) => item,
                    Taken::Nothing => {
                        link.check()?;
                        self.shared.trouble(None);
                        continue;
                    }
                    Taken::End => return Ok(()),
                },
            };
            let message = match self.write(&item, host.as_deref()) {
                Ok(message) => message,
                Err(_) => {
                    self.shared.lose(1);
                    continue;
                }
            };
            match self.send(&mut link, &message) {
                Ok(true) => {}
                Ok(false) => {
                    self.unsent.push_front(item);
                    return Ok(());
                }
                // No other socket would take it either.
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                    self.shared.lose(1);
                    continue;
                }
                Err(error) => {
                    self.unsent.push_front(item);
                    self.note_break(&link);
                    return Err(error);
                }
            }
            self.shared.trouble(None);
            self.again = AGAIN[0];
            if let Item::Line(line) = item {
                self.shared.sent.fetch_add(1, Ordering::Relaxed);
                self.last = Some(line.seq);
            }
        }
    }

    /// Sends a message whole. False: we are to end, and it is not.
    fn send(&self, link: &mut Link, message: &[u8]) -> io::Result<bool> {
        link.check()?;
        let mut rest = message;
        while !rest.is_empty() {
            match link.send(rest) {
                Ok(sent) => rest = &rest[sent.min(rest.len())..],
                Err(error) if is_busy(&error) => {
                    if self.is_over() {
                        return Ok(false);
                    }
                    self.shared.trouble(Some("it takes nothing in".to_owned()));
                    // Not every way to be busy waits by itself.
                    thread::sleep(BUSY);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next connection begins with that there was another.
    fn note_break(&mut self, link: &Link) {
        let Some(last) = self.last.take() else {
            return;
        };
        if link.refuses_late() {
            // It is the one before that was refused.
            self.shared.lose(1);
            self.shared.sent.fetch_sub(1, Ordering::Relaxed);
            self.unsent
                .push_front(Item::Gap(Gap::of(last, Why::Receiver)));
        }
        self.unsent.push_front(Item::Broken(last));
    }

    fn write(&self, item: &Item, host: Option<&str>) -> io::Result<Vec<u8>> {
        let now = Utc::now();
        let said = match item {
            Item::Line(line) => Said::line(line, now),
            Item::Gap(gap) => Said::gap(gap, now),
            Item::Broken(last) => Said::broken(*last, now),
        };
        let mut out = Vec::new();
        match &self.way {
            Way::Journal(_) => journald::write(&mut out, &said),
            Way::Syslog(to) => {
                syslog::write(&mut out, &said, host)?;
                if matches!(to, Syslog::Tcp(_)) {
                    out = syslog::counted(&out);
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
