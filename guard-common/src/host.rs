//! The host's own numbers that every decision rests on: the panic switch, the pids that are left, what was lost.

/// The one value of the kernel table `HOST`, which the daemon maps into its memory.
///
/// The daemon stores the first block, the kernel side adds to the second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Everything is allowed until this `CLOCK_MONOTONIC` time in nanoseconds; `u64::MAX`: until it is switched on.
    pub off_until_ns: u64,
    /// The programs that act are those whose [`crate::config::Field::Generation`] this is.
    pub generation: u32,
    /// A container's fork is over the host's reserve when the host has this many pids; 0: no reserve.
    pub pid_ceiling: u32,
    /// Which of the two [`crate::identity::NameMatcher`]s recognises new containers.
    pub matcher: u32,
    /// The last slots of `CONTAINERS`, from this one on, are the daemon's to give; the kernel gives those below.
    pub slot_floor: u32,
    /// Slots that the kernel has ever given.
    pub slots_given: u32,
    /// Containers whose name an unprivileged user could have made.
    pub user_made: u32,

    /// Kernel address of `init_pid_ns`; 0 until the first fork of a container.
    pub init_pid_ns: u64,
    /// Cgroups inside containers that `SUBJECTS` has no entry for; while there are any, a miss walks the ancestors.
    pub unlisted: u64,
    /// How often the daemon has entered a cgroup in `SUBJECTS`, or found no room there: behind that it adds to this. What the kernel side
    /// enters is new, and nobody has asked about it.
    pub entered: u64,
    /// Refusals, of all containers that ever were.
    pub refused: u64,
    /// Audited forks, of all containers that ever were.
    pub audited: u64,
    /// New containers that could not be entered, because a table was full.
    pub unrecognised: u64,
    /// Events that found no room in the ring.
    pub events_lost: u64,
    /// Walks over a task's ancestors.
    pub walks: u64,
    /// Cgroups nested in containers that stand in `SUBJECTS`, of all containers.
    pub nested: u64,
    /// When the daemon last gave a sign of life, in nanoseconds of `CLOCK_MONOTONIC`; the daemon's to store.
    pub alive_ns: u64,
    /// Of `events_lost`, those that stand on record; the daemon's to store.
    pub lost_told: u64,
    /// Containers with a name that a user could have made that came or went untold, since there were too many of them.
    pub untold: u64,
    /// Start of the window in which they were last told, and how many were told in it.
    pub user_told_ns: u64,
    /// See `user_told_ns`.
    pub user_told: u64,
    /// Forks of the whole host that were judged, put right by what `misses_mended` says. With the two that follow, modulo 2^64: see [`Host::forking`].
    pub forks_begun: u64,
    /// Of these, those that are done: the kernel's own count has their pid. Where `total_forks_at` is not 0: what is to be added to what
    /// stands there.
    pub forks_landed: u64,
    /// Of these, those that failed, refused ones among them.
    pub forks_failed: u64,
    /// Kernel address of `total_forks`, the kernel's own count of forks that are done (kernel/fork.c); 0: a program counts them. The
    /// daemon's to store.
    pub total_forks_at: u64,
    /// What was added to `forks_begun`, modulo 2^64, for runs that the kernel left out of the programs that act; the daemon's.
    pub misses_mended: u64,
    /// While fewer forks than these have begun, the host has not reached `pid_ceiling`. Any CPU stores it when it has looked at
    /// the pids themselves; the daemon sets it back to 0 when the ceiling may be another.
    pub room_until: u64,
    /// Printed lines of which nobody was told who printed them, since the ring `PRINTED` was full.
    pub printed_lost: u64,
    /// Non-zero: forks under way are counted, since all programs that it takes are attached; the daemon's to store.
    pub counts_forking: u32,
    /// Non-zero: no program sees a refused fork fail, so that the governor counts it down itself; the daemon's to store.
    pub refusal_ends: u32,
    /// A [`crate::thin::OfTheHost`]; the daemon's to store.
    pub thin_discard: u32,
    /// How often the device mapper was told to make a device, modulo 2^32.
    pub thin_made: u32,
    /// As it stood when all that had been made by then was last looked at; the daemon's to store. While it is another, a device of the
    /// device mapper that is known may be another one with the same number.
    pub thin_looked: u32,
    /// The load whose programs are attached ahead of those that act and wait for their turn, or wait no longer while the others are still
    /// attached; 0: none. See [`WAITING`]. The daemon's to store.
    pub taking_over: u32,
    /// Tasks that were let be made straight in some cgroup (`CLONE_INTO_CGROUP`), whoever's, as far as a program sees that alone: it is
    /// proved by this.
    pub made_into: u64,
    /// What was ever counted in the kernel table `THIN`: when it moves, it is time to look there.
    pub thin_counted: u64,
    /// `user_made` by whose they are: by [`user_of`] the cgroup that all of a user's are below.
    pub user_made_by: [u32; USERS],
}
const _: () = assert!(size_of::<Host>() == 240 + 4 * USERS);

/// The kernel's own count of forks that are done (kernel/fork.c).
pub const TOTAL_FORKS: &str = "total_forks";

/// What the daemon asks the kernel's own count of forks by: the context of the program that says it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalForks {
    /// Kernel address of `total_forks`; 0: it is looked up, and stands here then.
    pub at: u64,
    /// Forks that were done since the kernel was booted; 0: it does not say.
    pub forks: u64,
}

/// Entries of the kernel table of the same name: by the last bits of a task's number, the task that the waiting programs of a hook have
/// let pass on to those that act.
pub const WAITING: u32 = 1024;
const _: () = assert!(WAITING.is_power_of_two());

/// What the programs of one load do that come to a hook while another takes over; those of both are attached then, the new ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// They judge what the task is about to do.
    pub judges: bool,
    /// The task is marked afterwards.
    pub marks: bool,
}

impl Turn {
    /// Whose turn it is is one word, which may be stored while a task is on its way from the new programs, which let it pass, to the old
    /// ones, whose turn it is no more. So the new ones mark the task as they let it pass, and wipe that off as they judge it; the old ones
    /// judge a marked task also when it is not their turn.
    #[must_use]
    pub const fn of(acts: bool, new: bool, marked: bool) -> Self {
        Self {
            judges: acts || !new && marked,
            marks: if new { !acts } else { marked },
        }
    }
}

impl Host {
    /// Forks under way: judged, and neither done nor failed. Below zero after one that began before it was counted. `total`: what stands at
    /// `total_forks_at`, or 0 where that is 0.
    #[must_use]
    pub const fn forking(&self, total: u64) -> i64 {
        self.forks_begun
            .wrapping_sub(self.forks_landed.wrapping_add(total))
            .wrapping_sub(self.forks_failed) as i64
    }

    /// What [`Host::forks_landed`] must be for no fork to be under way.
    #[must_use]
    pub const fn all_landed(&self, total: u64) -> u64 {
        self.forks_begun
            .wrapping_sub(self.forks_failed)
            .wrapping_sub(total)
    }
}

/// Entries of [`Host::user_made_by`]; users beyond that share one.
pub const USERS: usize = 32;
const _: () = assert!(USERS.is_power_of_two());

/// Depth of the cgroup that all of a user's cgroups are below: `/user.slice/user-1000.slice`.
pub const USER_LEVEL: u32 = 2;

/// Index into [`Host::user_made_by`] of the user whose cgroup at [`USER_LEVEL`] has this id.
#[must_use]
pub const fn user_of(id: u64) -> usize {
    // Fibonacci hashing: ids come in steps, and a remainder would put users who came one after the other together.
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - USERS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u32 = 7;
    const NEW: u32 = 8;

    /// How often each of three steps of one task is judged, if the turn goes to the new programs before so many of the six runs, and each
    /// program asks so often.
    fn judged(switch: usize, asks: usize) -> [usize; 3] {
        let (mut generation, mut marked) = (OLD, false);
        let mut judged = [0; 3];
        let runs = (0..3).flat_map(|step| [(step, NEW), (step, OLD)]);
        for (at, (step, load)) in runs.enumerate() {
            if at == switch {
                generation = NEW;
            }
            let answers = (0..asks).filter(|_| {
                let turn = Turn::of(load == generation, load == NEW, marked);
                marked = turn.marks;
                turn.judges
            });
            judged[step] += answers.count();
        }
        judged
    }

    #[test]
    fn whenever_the_turn_goes_over_each_step_is_judged_once() {
        for (switch, asks) in (0..=6).flat_map(|switch| [(switch, 1), (switch, 3)]) {
            assert_eq!(judged(switch, asks), [asks; 3], "{switch}, {asks}");
        }
    }

    #[test]
    fn forks_under_way_are_counted_from_whatever_the_kernel_has_counted_by_then() {
        for total in [0, 5, u64::MAX] {
            let mut host = Host {
                forks_begun: 100,
                forks_failed: 7,
                ..Host::default()
            };
            host.forks_landed = host.all_landed(total);
            assert_eq!(host.forking(total), 0);
            host.forks_begun += 3;
            assert_eq!(host.forking(total.wrapping_add(1)), 2);
            assert_eq!(host.forking(total.wrapping_add(4)), -1);
        }
    }

    #[test]
    fn without_new_programs_at_a_hook_the_old_ones_go_on() {
        assert!(Turn::of(false, false, true).judges);
        assert!(!Turn::of(false, false, false).judges);
    }
}
