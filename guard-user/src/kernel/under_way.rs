//! Forks under way: whether they are counted, and what keeps the count true over a long time.

use std::{
    fs,
    mem::offset_of,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use guard_common::host::{Host, TotalForks};

use super::{
    attach::{GOVERNOR, Link},
    load::Kernel,
    sys,
    tables::Plain,
};

/// How forks under way are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counting {
    /// All programs that it takes are attached.
    pub counts: bool,
    /// No program sees a refused fork fail.
    pub refusal_ends: bool,
    /// Where the kernel counts those that are done; 0: a program does.
    pub total_forks_at: u64,
}

/// The kernel's own count of forks that are done, `total_forks`, as a program of ours says it.
pub(super) struct Total {
    program: OwnedFd,
    /// Its address.
    pub at: u64,
}

impl Total {
    /// Asks where it is, unless that is known (not 0); `None`: the kernel does not say, or another number stands there than it tells
    /// everybody.
    pub fn asked(program: OwnedFd, known: u64) -> Option<Self> {
        let mut total = Self { program, at: known };
        let before = total.ask()?;
        if before.at == 0 {
            return None;
        }
        total.at = before.at;
        let told = forks_told(&fs::read_to_string(TOLD).ok()?)?;
        let right = (before.forks..=total.ask()?.forks).contains(&told);
        right.then_some(total)
    }

    fn ask(&self) -> Option<TotalForks> {
        let mut asked = Plain(TotalForks {
            at: self.at,
            forks: 0,
        });
        sys::run(self.program.as_fd(), &mut asked).ok()?;
        Some(asked.0)
    }
}

/// Where the kernel tells everybody, among much else (Documentation/filesystems/proc.rst).
const TOLD: &str = "/proc/stat";

/// The forks that it tells of there.
fn forks_told(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("processes ")?.parse().ok())
}

impl Kernel {
    /// How they are counted at this time, by the load that acts.
    pub(super) fn counting(&self) -> Counting {
        let host = self.host.get(0);
        Counting {
            // What a start that died before it acted has left counts nothing.
            counts: host.counts_forking != 0 && host.generation != 0,
            refusal_ends: host.refusal_ends != 0,
            total_forks_at: host.total_forks_at,
        }
    }

    /// What stands at [`Host::total_forks_at`], 0 where that is 0; `None`: nobody says it.
    pub(super) fn total(&self) -> Option<u64> {
        match self.counting().total_forks_at {
            0 => Some(0),
            _ => Some(self.total.as_ref()?.ask()?.forks),
        }
    }

    /// From now on they are counted so. As before, those under way are still known; otherwise none is. Where it cannot be known from
    /// where on to count they are not counted.
    pub(super) fn count_forking(&self, counting: Counting) {
        let before = self.counting();
        let store = |offset, value: bool| {
            self.host
                .word(0, offset)
                .store(value.into(), Ordering::Release);
        };
        store(offset_of!(Host, refusal_ends), counting.refusal_ends);
        let same = before.total_forks_at == counting.total_forks_at;
        if before.counts && counting.counts && same {
            return;
        }
        // Nobody goes by them while that changes.
        store(offset_of!(Host, counts_forking), false);
        let long = |offset, value| self.host.long(0, offset).store(value, Ordering::Release);
        long(offset_of!(Host, total_forks_at), counting.total_forks_at);
        long(offset_of!(Host, room_until), 0);
        let Some(total) = self.total() else {
            return;
        };
        let landed = self.host.get(0).all_landed(total);
        long(offset_of!(Host, forks_landed), landed);
        store(offset_of!(Host, counts_forking), counting.counts);
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
        self.mend_below_zero();
        unjudged
    }

    /// One that began before it was counted has ended all the same.
    pub(super) fn mend_below_zero(&self) {
        let Some(total) = self.total().filter(|_| self.counting().counts) else {
            return;
        };
        // Ends first: what begins meanwhile is more.
        let ended = self.host.get(0);
        let forking = Host {
            forks_begun: self.host.get(0).forks_begun,
            ..ended
        }
        .forking(total);
        if forking < 0 {
            self.add_begun(forking.wrapping_neg());
        }
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
/// The program that says how many the kernel itself has counted.
pub(super) const TOTAL: &str = "fork_storm_total";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_told_in_a_line_of_their_own() {
        let text = "cpu  1 2 3\nctxt 5\nbtime 7\nprocesses 4711\nprocs_running 1\n";
        assert_eq!(forks_told(text), Some(4711));
        assert_eq!(forks_told("processes x\n"), None);
        assert!(forks_told(&fs::read_to_string(TOLD).unwrap()) > Some(0));
    }
}
