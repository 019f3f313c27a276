//! Lines that wait for a receiver: bounded, and what finds no room is counted and stands as a gap where it would have been.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    super::line::Line,
    said::{Gap, Why},
};

/// Lines that wait at most.
pub const LINES: usize = 16_384;
/// Bytes of text that wait at most.
pub const BYTES: usize = 8 << 20;
/// Bytes that a line takes beside its text, about.
const BESIDE: usize = 512;

/// What waits.
#[derive(Clone, Debug)]
pub enum Item {
    /// A line.
    Line(Arc<Line>),
    /// Lines that are not there.
    Gap(Gap),
    /// The receiver was gone; number of the last line that it was sent before.
    Broken(u64),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => BESIDE + line.text.as_ref().map_or(0, |text| text.as_str().len()),
            Self::Gap(_) | Self::Broken(_) => BESIDE,
        }
    }
}

/// What [`Queue::take`] brought.
#[derive(Debug)]
pub enum Taken {
    /// The next.
    Item(Item),
    /// There was none for so long.
    Nothing,
    /// There is none, and will be none.
    End,
}

/// The queue of one outlet.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    news: Condvar,
    lines: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    /// What found no room behind the last item.
    gap: Option<Gap>,
    /// No more is taken in, and what is there is worth waiting for until then.
    until: Option<Instant>,
}

impl Inner {
    fn push(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.items.push_back(item);
    }
}

impl Queue {
    /// With room for so many lines and bytes.
    pub fn new(lines: usize, bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            news: Condvar::new(),
            lines,
            bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line; false: there is no room for it.
    pub fn offer(&self, line: &Arc<Line>) -> bool {
        let mut inner = self.lock();
        if inner.until.is_some() {
            return true;
        }
        let item = Item::Line(Arc::clone(line));
        let waits = inner.items.len() + usize::from(inner.gap.is_some());
        if waits >= self.lines || inner.bytes + item.bytes() > self.bytes {
            let one = Gap::of(line.seq, Why::Receiver);
            inner.gap = Some(inner.gap.map_or(one, |gap| gap.and(one)));
            return false;
        }
        if let Some(gap) = inner.gap.take() {
            inner.push(Item::Gap(gap));
        }
        inner.push(item);
        drop(inner);
        self.news.notify_one();
        true
    }

    /// Adds a gap that is none of this queue's.
    pub fn tell(&self, gap: Gap) {
        let mut inner = self.lock();
        if inner.until.is_none() && inner.items.len() < self.lines {
            inner.push(Item::Gap(gap));
            drop(inner);
            self.news.notify_one();
        }
    }

    /// The next, within so long.
    pub fn take(&self, within: Duration) -> Taken {
        let mut inner = self.lock();
        let until = Instant::now() + within;
        loop {
            if let Some(item) = inner.items.pop_front() {
                inner.bytes -= item.bytes();
                return Taken::Item(item);
            }
            if let Some(gap) = inner.gap.take() {
                return Taken::Item(Item::Gap(gap));
            }
            if inner.until.is_some() {
                return Taken::End;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Taken::Nothing;
            }
            inner = self
                .news
                .wait_timeout(inner, left)
                .map_or_else(|error| error.into_inner().0, |(inner, _)| inner);
        }
    }

    /// Takes nothing in any more; what is there may still go for so long.
    pub fn close(&self, within: Duration) {
        self.lock().until = Some(Instant::now() + within);
        self.news.notify_all();
    }

    /// It is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().until.is_some()
    }

    /// It is closed, and the time is over.
    pub fn is_over(&self) -> bool {
        self.lock()
            .until
            .is_some_and(|until| until <= Instant::now())
    }

    /// Waits for so long, or until it is closed.
    pub fn pause(&self, time: Duration) {
        let inner = self.lock();
        let closed = |inner: &mut Inner| inner.until.is_none();
        // Only the time that passes counts.
        let _ = self.news.wait_timeout_while(inner, time, closed);
    }

    /// How many lines wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Throws away what waits; how many lines that were.
    pub fn clear(&self) -> u64 {
        let mut inner = self.lock();
        inner.bytes = 0;
        let items = std::mem::take(&mut inner.items);
        items
            .iter()
            .filter(|item| matches!(item, Item::Line(_)))
            .count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::klog::forward::said::tests::line;

    fn numbered(seq: u64) -> Arc<Line> {
        Arc::new(line(format!("6,{seq},1,-;text\n").as_bytes()))
    }

    fn all(queue: &Queue) -> Vec<String> {
        let mut told = Vec::new();
        while let Taken::Item(item) = queue.take(Duration::ZERO) {
            told.push(match item {
                Item::Line(line) => line.seq.to_string(),
                Item::Gap(gap) => format!("{}-{}:{}", gap.first, gap.last, gap.count),
                Item::Broken(last) => format!("broken {last}"),
            });
        }
        told
    }

    #[test]
    fn all_lines_up_to_the_bound_wait_and_one_more_is_a_gap_at_its_place() {
        let queue = Queue::new(3, BYTES);
        for seq in 0..3 {
            assert!(queue.offer(&numbered(seq)), "{seq}");
        }
        assert_eq!(all(&queue), ["0", "1", "2"]);
        for seq in 0..5 {
            assert_eq!(queue.offer(&numbered(seq)), seq < 3);
        }
        assert_eq!(queue.len(), 3);
        let Taken::Item(Item::Line(first)) = queue.take(Duration::ZERO) else {
            panic!("no line");
        };
        assert_eq!(first.seq, 0);
        // The gap takes the room of one line: this one has none yet.
        assert!(!queue.offer(&numbered(5)));
        let _ = queue.take(Duration::ZERO);
        assert!(queue.offer(&numbered(6)));
        assert_eq!(all(&queue), ["2", "3-5:3", "6"]);
        assert_eq!(all(&queue), Vec::<String>::new());
    }

    #[test]
    fn a_gap_at_the_end_is_told_without_a_line_behind_it() {
        let queue = Queue::new(1, BYTES);
        assert!(queue.offer(&numbered(0)));
        assert!(!queue.offer(&numbered(1)));
        assert_eq!(all(&queue), ["0", "1-1:1"]);
    }

    #[test]
    fn lines_wait_up_to_so_many_bytes() {
        let bytes = 3 * (BESIDE + "text".len());
        for (room, fits) in [(bytes, true), (bytes - 1, false)] {
            let queue = Queue::new(LINES, room);
            assert!(queue.offer(&numbered(0)) && queue.offer(&numbered(1)));
            assert_eq!(queue.offer(&numbered(2)), fits);
            all(&queue);
            // What was taken makes room again.
            assert!(queue.offer(&numbered(3)));
        }
    }

    #[test]
    fn what_is_closed_gives_what_it_has_and_then_ends() {
        let queue = Queue::new(3, BYTES);
        queue.offer(&numbered(0));
        queue.close(Duration::from_secs(60));
        assert!(queue.offer(&numbered(1)));
        assert!(queue.is_closed() && !queue.is_over());
        assert!(matches!(queue.take(Duration::ZERO), Taken::Item(_)));
        assert!(matches!(queue.take(Duration::from_secs(60)), Taken::End));
        queue.close(Duration::ZERO);
        assert!(queue.is_over());
        // Nobody sleeps on what is closed.
        queue.pause(Duration::from_secs(60));
    }
}
