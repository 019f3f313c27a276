//! A limit that is written into the host is only ever tightened, and never fought over.

use std::{fmt, str::FromStr};

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
    /// Our limit is not wanted any more: what stood there before goes back.
    Restore {
        /// What stood there.
        old: Max,
    },
    /// Somebody rewrote it a second time. It is left alone from now on; told once.
    Contested {
        /// What stands there now.
        present: Max,
    },
}

/// One container's `pids.max`, as we know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What we want it to be at most.
    ours: Option<u32>,
    /// What we wrote, and what had stood there.
    wrote: Option<(Max, Max)>,
    /// How often somebody rewrote it.
    rewritten: u8,
}

impl Setting {
    /// One that is ours already: `old` stood there before `wrote`.
    #[must_use]
    pub const fn adopted(wrote: Max, old: Max) -> Self {
        Self {
            ours: None,
            wrote: Some((wrote, old)),
            rewritten: 0,
        }
    }

    /// What to do, now that `present` stands there and `ours` is wanted. The answer is taken to be carried out: what came
    /// of it is seen the next time.
    pub fn next(&mut self, present: Max, ours: Option<u32>) -> Next {
        if self.ours != ours {
            // Another limit is another matter.
            self.ours = ours;
            self.rewritten = 0;
        }
        let wrote = self.wrote.take();
        let standing = wrote.filter(|(value, _)| *value == present);
        // What others want: it stands there, or stood there before us.
        let old = standing.map_or(present, |(_, old)| old);
        let value = old.min(ours.map_or(Max::Unlimited, |ours| Max::Number(ours.into())));
        if value == old {
            // Theirs is tight enough.
            return if standing.is_some() {
                Next::Restore { old }
            } else {
                Next::Leave
            };
        }
        if self.is_contested() {
            return Next::Leave;
        }
        if value == present {
            self.wrote = standing;
            return Next::Leave;
        }
        let again = wrote.is_some() && standing.is_none();
        if again {
            self.rewritten += 1;
            if self.is_contested() {
                return Next::Contested { present };
            }
        }
        self.wrote = Some((value, old));
        Next::Write { value, old, again }
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

    #[test]
    fn a_limit_is_only_ever_tightened() {
        let mut setting = Setting::default();
        assert_eq!(setting.next(Number(100), Some(4096)), Next::Leave);
        assert_eq!(setting.next(Number(4096), Some(4096)), Next::Leave);
        assert_eq!(
            setting.next(Number(4097), Some(4096)),
            write(4096, Number(4097), false)
        );
        assert_eq!(setting.next(Number(4096), Some(4096)), Next::Leave);
    }

    #[test]
    fn what_is_rewritten_is_applied_once_more_and_then_left_alone() {
        let mut setting = Setting::default();
        assert_eq!(
            setting.next(Unlimited, Some(10)),
            write(10, Unlimited, false)
        );
        assert_eq!(setting.next(Number(10), Some(10)), Next::Leave);
        assert_eq!(
            setting.next(Number(500), Some(10)),
            write(10, Number(500), true)
        );
        assert_eq!(setting.next(Number(10), Some(10)), Next::Leave);
        let present = Number(500);
        assert_eq!(setting.next(present, Some(10)), Next::Contested { present });
        assert!(setting.is_contested());
        assert_eq!(setting.next(present, Some(10)), Next::Leave);
        assert_eq!(setting.next(Unlimited, Some(10)), Next::Leave);
        // Another limit is another matter.
        assert_eq!(setting.next(present, Some(9)), write(9, present, false));
    }

    #[test]
    fn what_a_daemon_wrote_before_it_died_is_ours_to_give_back() {
        let mut setting = Setting::adopted(Number(10), Unlimited);
        assert_eq!(setting.next(Number(10), Some(10)), Next::Leave);
        assert_eq!(
            setting.next(Number(10), None),
            Next::Restore { old: Unlimited }
        );
        let mut setting = Setting::adopted(Number(10), Unlimited);
        assert_eq!(
            setting.next(Number(20), Some(10)),
            write(10, Number(20), true)
        );
    }

    #[test]
    fn a_limit_that_another_made_tighter_is_theirs() {
        let mut setting = Setting::default();
        assert_eq!(
            setting.next(Unlimited, Some(10)),
            write(10, Unlimited, false)
        );
        assert_eq!(setting.next(Number(5), Some(10)), Next::Leave);
        assert_eq!(setting.next(Number(5), None), Next::Leave);
    }

    #[test]
    fn a_looser_policy_loosens_only_what_is_ours_and_never_beyond_what_stood_there() {
        let mut setting = Setting::default();
        assert_eq!(
            setting.next(Number(100), Some(10)),
            write(10, Number(100), false)
        );
        assert_eq!(
            setting.next(Number(10), Some(50)),
            write(50, Number(100), false)
        );
        assert_eq!(
            setting.next(Number(50), Some(4096)),
            Next::Restore { old: Number(100) }
        );
        assert_eq!(setting.next(Number(100), Some(4096)), Next::Leave);
        assert_eq!(
            setting.next(Number(100), Some(20)),
            write(20, Number(100), false)
        );
        assert_eq!(
            setting.next(Number(20), None),
            Next::Restore { old: Number(100) }
        );
    }
}
