//! Forks under way: whether they are counted, and what keeps the count true over a long time.

use std::{
    mem::offset_of,
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use guard_common::host::Host;

use super::{
    attach::{GOVERNOR, Link},
    load::Kernel,
    sys,
};

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
            // What had begun is not seen to end, and what there is room for is not known any more.
            self.add_begun(self.host.get(0).forking().wrapping_neg());
            self.host
                .long(0, offset_of!(Host, room_until))
                .store(0, Ordering::Release);
        }
    }

    /// Puts right what the kernel left out of the programs among `links`; how many forks were not judged, since the start.
    ///
    /// A program that is no security module's is not run while it runs already on that CPU, where a task can be preempted in
    /// it (5.12): a fork is then not judged and not counted, or its end is not.
    pub fn mend_forking(&self, links: &[Link]) -> u64 {
        let missed = |link: &Link| sys::misses(link.program.as_fd()).unwrap_or_default();
        let of = |side| {
            let links = links.iter().filter(move |link| side_of(link.name) == side);
            links.map(missed).sum::<u64>()
        };
        let unjudged = of(Some(Side::Begins));
        if !self.counting().counts {
            return unjudged;
        }
        self.mend_to(unjudged.wrapping_sub(of(Some(Side::Ends))));
        // One that began before it was counted has ended all the same.
        let host = self.host.get(0);
        let ended = host.forks_landed.wrapping_add(host.forks_failed);
        let begun = self.host.get(0).forks_begun;
        let forking = begun.wrapping_sub(ended) as i64;
        if forking < 0 {
            self.add_begun(forking.wrapping_neg());
        }
        unjudged
    }

    /// Puts right what the kernel left out of the programs of an earlier load, now that ours act in their place.
    pub(super) fn mend_forking_of(&self, generation: u32) {
        let Some(directory) = self.links_of(generation) else {
            return;
        };
        let total = [GOVERNOR, LANDED, FAILED, FREED]
            .into_iter()
            .filter_map(|name| {
                let program = sys::pinned_program(&directory.join(name)).ok()?;
                let missed = sys::misses(program.as_fd()).ok()?;
                Some(match side_of(name)? {
                    Side::Begins => missed,
                    Side::Ends => missed.wrapping_neg(),
                })
            })
            .fold(0, u64::wrapping_add);
        self.mend_to(total);
        self.mended().store(0, Ordering::Relaxed);
    }

    fn mend_to(&self, total: u64) {
        let before = self.mended().swap(total, Ordering::Relaxed);
        if total != before {
            self.add_begun(total.wrapping_sub(before) as i64);
        }
    }

    fn mended(&self) -> &AtomicU64 {
        self.host.long(0, offset_of!(Host, misses_mended))
    }

    fn add_begun(&self, more: i64) {
        self.host
            .long(0, offset_of!(Host, forks_begun))
            .fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// The program that counts forks that are done.
pub(super) const LANDED: &str = "fork_storm_landed";
/// The program that counts forks that failed.
pub(super) const FAILED: &str = "fork_storm_failed";
/// The same, where [`FAILED`] has no function to attach to.
pub(super) const FREED: &str = "fork_storm_freed";

/// What a program counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Begins,
    Ends,
}

fn side_of(program: &str) -> Option<Side> {
    match program {
        GOVERNOR => Some(Side::Begins),
        LANDED | FAILED | FREED => Some(Side::Ends),
        _ => None,
    }
}
