//! How far the kernel side's clock is ahead of the log's.

use std::collections::VecDeque;

/// So many lines are looked at, the newest.
const LINES: usize = 15;
/// Those of so long ago tell nothing any more: one clock is steered, the other is not. At most 500 parts in a million, so
/// that in this time they part by less than [`super::APART_NS`].
const RECENT_US: u64 = 400_000;

/// Nanoseconds that `CLOCK_MONOTONIC` is ahead of the log's clock, from lines of which it is known when they were told of.
///
/// A record has its time before it is told of, and whoever prints it may be held up between the two for as long as a processor
/// is taken away from it. So no line by itself says how the clocks stand; the one in the middle does.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Time of a line by the log's clock in microseconds, and how far the other was ahead.
    lines: VecDeque<(u64, i64)>,
    /// The one in the middle.
    middle: Option<i64>,
}

impl Ahead {
    /// `None`: not known yet.
    pub fn ns(&self) -> Option<i64> {
        self.middle
    }

    /// A line of this time by the log's clock was told of at that time by the kernel side's.
    pub fn learn(&mut self, time_us: u64, told_ns: u64) {
        self.lines
            .push_back((time_us, told_ns as i64 - time_us as i64 * 1000));
        // The newest stays, however long ago it was.
        while let Some((first, _)) = self.lines.front()
            && self.lines.len() > 1
            && (self.lines.len() > LINES || time_us.saturating_sub(*first) > RECENT_US)
        {
            self.lines.pop_front();
        }
        let mut all: Vec<i64> = self.lines.iter().map(|(_, ahead)| *ahead).collect();
        all.sort_unstable();
        // Of an even number the lower: what is wrong is wrong upwards.
        self.middle = all.get((all.len() - 1) / 2).copied();
    }
}
