//! Forks under way: whether they are counted, and what keeps the count true over a long time.

use std::{mem::offset_of, sync::atomic::Ordering};

use guard_common::host::Host;

use super::load::Kernel;

/// No fork takes so many ticks, of a second each: what is never less for so long was never counted down.
const WINDOW: u32 = 60;

/// How forks under way are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counting {
    /// All programs that it takes are attached.
    pub counts: bool,
    /// No program sees a refused fork fail.
    pub refusal_ends: bool,
}

impl Kernel {
    /// How they are counted at this time, by whatever load.
    pub(super) fn counting(&self) -> Counting {
        let host = self.host.get(0);
        Counting {
            counts: host.counts_forking != 0,
            refusal_ends: host.refusal_ends != 0,
        }
    }

    /// From now on they are counted so.
    pub(super) fn count_forking(&self, counting: Counting) {
        let store = |offset, value: bool| {
            self.host
                .word(0, offset)
                .store(value.into(), Ordering::Release);
        };
        store(offset_of!(Host, refusal_ends), counting.refusal_ends);
        store(offset_of!(Host, counts_forking), counting.counts);
        if !counting.counts {
            // What had begun is not seen to end.
            self.add_begun(self.host.get(0).forking().wrapping_neg());
        }
    }

    /// Takes out of the count what is known to be wrong with it. Once a tick.
    pub fn mend_forking(&mut self) {
        let forking = self.host.get(0).forking();
        let more = self.under_way.mends(forking);
        if more != 0 {
            self.add_begun(more);
        }
    }

    fn add_begun(&self, more: i64) {
        self.host
            .long(0, offset_of!(Host, forks_begun))
            .fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// A fork that began before it was counted ends one too many; a program that the kernel did not run, since it ran already on
/// that CPU, leaves one too few.
#[derive(Debug, Default)]
pub(super) struct Drift {
    /// The least of the window.
    least: i64,
    /// Ticks in it.
    ticks: u32,
}

impl Drift {
    /// What must be added to a count that reads so.
    fn mends(&mut self, forking: i64) -> i64 {
        if forking < 0 {
            *self = Self::default();
            return -forking;
        }
        self.least = if self.ticks == 0 {
            forking
        } else {
            self.least.min(forking)
        };
        self.ticks += 1;
        if self.ticks < WINDOW {
            return 0;
        }
        let least = self.least;
        *self = Self::default();
        -least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_below_zero_is_mended_at_once_and_one_that_stays_above_after_a_minute() {
        let mut drift = Drift::default();
        assert_eq!(drift.mends(-3), 3);
        for tick in 1..WINDOW {
            assert_eq!(drift.mends(5 + i64::from(tick % 3)), 0, "{tick}");
        }
        assert_eq!(drift.mends(9), -5);
        assert_eq!(drift.mends(9), 0, "a new window");
    }

    #[test]
    fn a_count_that_comes_to_zero_is_true() {
        let mut drift = Drift::default();
        for tick in 0..3 * WINDOW {
            let forking = if tick % WINDOW == 7 { 0 } else { 1000 };
            assert_eq!(drift.mends(forking), 0, "{tick}");
        }
    }
}
