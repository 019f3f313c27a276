//! A limit that is written into the host is only ever tightened, and never fought over.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A value of `pids.max`. `Unlimited` is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Max {
    /// So many tasks.
    Number(u64),
    /// `max`.
    Unlimited,
}

impl fmt::Display for Max {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Unlimited => out.write_str("max"),
        }
    }
}

impl FromStr for Max {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "max" => Ok(Self::Unlimited),
            number => number.parse().map(Self::Number),
        }
    }
}

impl Serialize for Max {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Max {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What is to be done about a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is as tight as we want it, or left alone.
    Leave,
    /// Write this; `old` is what to restore one day.
    Write {
        /// The value.
        value: Max,
        /// What stood there and is not ours.
        old: Max,
        /// Somebody had rewritten what we wrote: this is the once more.
        again: bool,
    },
    /// Ours is not wanted any more, and what stood there before goes back; or somebody else's stands there and is tight
    /// enough, and ours is only struck off.
    Restore {
        /// What others want.
        old: Max,
    },
    /// Somebody rewrote it a second time. It is left alone from now on; told once.
    Contested {
        /// What stands there now.
        present: Max,
    },
}

/// How long a container's own limit may be on its way: a runtime makes the cgroup first, and writes it a moment later.
const SETTLING: Duration = Duration::from_secs(5);

/// Whether `pids.max` is still to be left to the runtime, in a container that has been known for so long. Written before
/// its limit, ours would be taken for it, and `max` would go back one day. `held`: the kernel side holds the cap meanwhile.
#[must_use]
pub fn is_settling(held: bool, known: Duration) -> bool {
    held && known < SETTLING
}

/// One container's `pids.max`, as we know it. What we wrote there stands in the journal alone: whoever undoes it there, a
/// daemon or `bulkhead off` without one, leaves nothing here that would take that for somebody else's doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What we want it to be at most.
    ours: Option<u32>,
    /// How often somebody rewrote it.
    rewritten: u8,
}

impl Setting {
    /// What to do, now that `present` stands there and `ours` is wanted. `wrote`: what had stood there, and what we wrote,
    /// as the journal says. An answer that was not carried out is to be [taken back](Self::not_done).
    pub fn next(&mut self, present: Max, wrote: Option<(Max, Max)>, ours: Option<u32>) -> Next {
        if self.ours != ours {
            // Another limit is another matter.
            self.ours = ours;
            self.rewritten = 0;
        }
        let standing = wrote.filter(|(_, value)| *value == present);
        // What others want: it stands there, or stood there before us.
        let old = standing.map_or(present, |(old, _)| old);
        let value = old.min(ours.map_or(Max::Unlimited, |ours| Max::Number(ours.into())));
        if value == old {
            // Theirs is tight enough.
            return if wrote.is_some() {
                Next::Restore { old }
            } else {
                Next::Leave
            };
        }
        if self.is_contested() || value == present {
            return Next::Leave;
        }
        let again = wrote.is_some() && standing.is_none();
        if again {
            self.rewritten += 1;
            if self.is_contested() {
                return Next::Contested { present };
            }
        }
        Next::Write { value, old, again }
    }

    /// The last answer was not carried out: the once more is still to come.
    pub fn not_done(&mut self, next: Next) {
        if matches!(next, Next::Write { again: true, .. }) {
            self.rewritten = self.rewritten.saturating_sub(1);
        }
    }

    /// Whether it is left alone because somebody else kept rewriting it.
    #[must_use]
    pub const fn is_contested(&self) -> bool {
        self.rewritten >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::{Max::*, *};

    fn write(value: u64, old: Max, again: bool) -> Next {
        Next::Write {
            value: Number(value),
            old,
            again,
        }
    }

    /// A `pids.max`, what the journal says of it, and what is decided on them.
    struct Host {
        setting: Setting,
        stands: Max,
        wrote: Option<(Max, Max)>,
    }

    impl Host {
        fn new(stands: Max) -> Self {
            Self {
                setting: Setting::default(),
                stands,
                wrote: None,
            }
        }

        fn decide(&mut self, ours: Option<u32>) -> Next {
            self.setting.next(self.stands, self.wrote, ours)
        }

        /// Decides, and does it.
        fn next(&mut self, ours: Option<u32>) -> Next {
            let next = self.decide(ours);
            match next {
                Next::Leave => {}
                Next::Contested { .. } => self.wrote = None,
                Next::Write { value, old, .. } => {
                    self.wrote = Some((old, value));
                    self.stands = value;
                }
                Next::Restore { old } => {
                    self.wrote = None;
                    self.stands = old;
                }
            }
            next
        }

        /// Decides, and cannot do it.
        fn fail(&mut self, ours: Option<u32>) -> Next {
            let next = self.decide(ours);
            self.setting.not_done(next);
            next
        }

        /// `off`, or a stop that releases.
        fn release(&mut self) {
            if let Some((old, value)) = self.wrote.take()
                && value == self.stands
            {
                self.stands = old;
            }
        }
    }

    #[test]
    fn a_limit_is_only_ever_tightened() {
        for stands in [100, 4096] {
            let mut host = Host::new(Number(stands));
            assert_eq!(host.next(Some(4096)), Next::Leave);
        }
        let mut host = Host::new(Number(4097));
        assert_eq!(host.next(Some(4096)), write(4096, Number(4097), false));
        assert_eq!(host.next(Some(4096)), Next::Leave);
    }

    #[test]
    fn what_is_rewritten_is_applied_once_more_and_then_left_alone() {
        let mut host = Host::new(Unlimited);
        assert_eq!(host.next(Some(10)), write(10, Unlimited, false));
        assert_eq!(host.next(Some(10)), Next::Leave);
        host.stands = Number(500);
        assert_eq!(host.next(Some(10)), write(10, Number(500), true));
        assert_eq!(host.next(Some(10)), Next::Leave);
        host.stands = Number(500);
        let present = host.stands;
        assert_eq!(host.next(Some(10)), Next::Contested { present });
        assert!(host.setting.is_contested());
        for theirs in [Number(500), Unlimited, Number(10)] {
            host.stands = theirs;
            assert_eq!(host.next(Some(10)), Next::Leave);
            host.release();
            assert_eq!(host.stands, theirs);
        }
        // Another limit is another matter.
        assert_eq!(host.next(Some(9)), write(9, Number(10), false));
    }

    #[test]
    fn what_we_set_back_ourselves_is_not_taken_for_somebody_elses_doing() {
        let mut host = Host::new(Unlimited);
        for _ in 0..3 {
            assert_eq!(host.next(Some(10)), write(10, Unlimited, false));
            assert_eq!(host.next(Some(10)), Next::Leave);
            host.release();
            assert_eq!(host.stands, Unlimited);
        }
        // Nor by a daemon that has the memory of the last.
        let text = serde_json::to_string(&host.setting).unwrap();
        host.setting = serde_json::from_str(&text).unwrap();
        assert_eq!(host.next(Some(10)), write(10, Unlimited, false));
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_and_blamed_on_nobody() {
        let mut host = Host::new(Unlimited);
        for _ in 0..3 {
            assert_eq!(host.fail(Some(10)), write(10, Unlimited, false));
        }
        assert_eq!(host.next(Some(10)), write(10, Unlimited, false));
        // Nor is the once more used up by it.
        host.stands = Number(500);
        for _ in 0..3 {
            assert_eq!(host.fail(Some(10)), write(10, Number(500), true));
        }
        assert_eq!(host.next(Some(10)), write(10, Number(500), true));
        host.stands = Number(500);
        let present = host.stands;
        assert_eq!(host.next(Some(10)), Next::Contested { present });
    }

    #[test]
    fn what_a_daemon_wrote_before_it_died_is_ours_to_give_back() {
        let mut host = Host::new(Number(10));
        host.wrote = Some((Unlimited, Number(10)));
        assert_eq!(host.next(Some(10)), Next::Leave);
        assert_eq!(host.next(None), Next::Restore { old: Unlimited });
        let mut host = Host::new(Number(20));
        host.wrote = Some((Unlimited, Number(10)));
        assert_eq!(host.next(Some(10)), write(10, Number(20), true));
    }

    #[test]
    fn a_limit_that_another_made_tighter_is_theirs() {
        let mut host = Host::new(Unlimited);
        assert_eq!(host.next(Some(10)), write(10, Unlimited, false));
        host.stands = Number(5);
        assert_eq!(host.next(Some(10)), Next::Restore { old: Number(5) });
        assert_eq!(host.next(Some(10)), Next::Leave);
        assert_eq!(host.next(None), Next::Leave);
        // Also when it becomes what ours was.
        host.stands = Number(10);
        assert_eq!(host.next(Some(10)), Next::Leave);
        host.release();
        assert_eq!(host.stands, Number(10));
    }

    #[test]
    fn a_looser_policy_loosens_only_what_is_ours_and_never_beyond_what_stood_there() {
        let mut host = Host::new(Number(100));
        assert_eq!(host.next(Some(10)), write(10, Number(100), false));
        assert_eq!(host.next(Some(50)), write(50, Number(100), false));
        assert_eq!(host.next(Some(4096)), Next::Restore { old: Number(100) });
        assert_eq!(host.next(Some(4096)), Next::Leave);
        assert_eq!(host.next(Some(20)), write(20, Number(100), false));
        assert_eq!(host.next(None), Next::Restore { old: Number(100) });
    }

    #[test]
    fn a_runtime_has_five_seconds_for_its_own_limit_where_the_cap_is_held_without() {
        let almost = Duration::from_millis(4999);
        assert!(is_settling(true, Duration::ZERO) && is_settling(true, almost));
        assert!(!is_settling(true, Duration::from_secs(5)));
        assert!(!is_settling(false, Duration::ZERO));
    }
}
