//! A breach: a refusal in each one-second window. Two quiet windows end it; what nobody watched neither begins nor keeps one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::seen::{Breach, Kind, Tally};

/// One window.
pub const WINDOW: Duration = Duration::from_secs(1);
/// Two quiet windows end a breach.
pub const QUIET: Duration = Duration::from_secs(2);
/// A breach that goes on is told of after this long, and then whenever its age has doubled.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// But at least this often.
const TELL_AT_LEAST: Duration = Duration::from_secs(3600);

/// A breach that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// When its first refusal was seen.
    pub began: Duration,
    /// When refusals were last seen, or the container was thawed.
    pub last: Duration,
    /// When it was last told of.
    pub told: Duration,
    /// Refusals that were not told yet.
    pub new: Tally,
    /// All its refusals.
    pub total: Tally,
}

/// What an observation makes of a breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began.
    Began(Breach),
    /// It is over.
    Ended(Breach),
    /// Refusals that nobody watched.
    Missed(Tally, Duration),
}

impl Open {
    fn begin(now: Duration, growth: Tally) -> Self {
        Self {
            began: now,
            last: now,
            told: now,
            new: growth,
            total: growth,
        }
    }

    /// The breach as it stands; what is told in it is not told again.
    pub fn tell(&mut self, kind: Kind, now: Duration) -> Breach {
        let new = std::mem::take(&mut self.new);
        self.told = now;
        Breach {
            kind,
            began: self.began,
            lasted: now.saturating_sub(self.began),
            new,
            total: self.total,
        }
    }

    /// The breach, if it is time to tell that it goes on.
    pub fn tell_again(&mut self, kind: Kind, now: Duration) -> Option<Breach> {
        let age = self.told.saturating_sub(self.began);
        let due = now.saturating_sub(self.told) >= age.clamp(TELL_AGAIN, TELL_AT_LEAST);
        (due && self.new.sum() > 0).then(|| self.tell(kind, now))
    }

    /// As `tell`, for the last time: the breach lasted until its last refusal.
    pub fn end(mut self, kind: Kind) -> Breach {
        self.tell(kind, self.last)
    }
}

/// Takes in the refusals since `since`, when the container was last looked at. A breach that is `held` (its container is
/// frozen by us) is not ended by quiet.
pub fn observe(
    breach: &mut Option<Box<Open>>,
    kind: Kind,
    now: Duration,
    since: Duration,
    growth: Tally,
    held: bool,
    tell: &mut dyn FnMut(Change),
) {
    let unwatched = now.saturating_sub(since);
    let grew = growth.sum();
    // Looked at too seldom to see two quiet windows: only as many refusals as windows make it likely that there were none.
    let blind = unwatched > QUIET + WINDOW;
    let dense = grew >= unwatched.as_secs();
    if grew == 0 {
        if let Some(open) = breach
            && !held
            && now.saturating_sub(open.last) >= QUIET
            && let Some(open) = breach.take()
        {
            tell(Change::Ended(open.end(kind)));
        }
    } else if blind && !held && !(dense && breach.is_some()) {
        if let Some(open) = breach.take() {
            tell(Change::Ended(open.end(kind)));
        }
        tell(Change::Missed(growth, unwatched));
    } else if let Some(open) = breach {
        open.last = now;
        open.new.add(&growth);
        open.total.add(&growth);
    } else {
        let mut open = Open::begin(now, growth);
        tell(Change::Began(open.tell(kind, now)));
        *breach = Some(Box::new(open));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Said {
        Change(Change),
        Again(Breach),
    }
    use Said::{Again, Change as Changed};

    /// Refusals seen at each tick, in milliseconds; gives what was told, with the time.
    fn run(ticks: &[(u64, u64)]) -> Vec<(u64, Said)> {
        let (mut breach, mut told, mut since) = (None::<Box<Open>>, Vec::new(), Duration::ZERO);
        for (at, refusals) in ticks {
            let now = Duration::from_millis(*at);
            let growth = Tally {
                forks: [*refusals, 0, 0],
                controller: 0,
            };
            observe(
                &mut breach,
                Kind::Limit,
                now,
                since,
                growth,
                false,
                &mut |change| told.push((*at, Changed(change))),
            );
            if let Some(open) = &mut breach {
                let again = open.tell_again(Kind::Limit, now);
                told.extend(again.map(|breach| (*at, Again(breach))));
            }
            since = now;
        }
        told
    }

    #[test]
    fn one_quiet_window_does_not_end_a_breach_and_two_do() {
        let told = run(&[(1000, 5), (2000, 0), (2999, 0), (3000, 1), (4000, 0)]);
        assert!(
            matches!(told[..], [(1000, Changed(Change::Began(_)))]),
            "{told:?}"
        );
        let told = run(&[(1000, 5), (2000, 0), (3000, 0), (4000, 1)]);
        let [
            _,
            (3000, Changed(Change::Ended(ended))),
            (4000, Changed(Change::Began(_))),
        ] = told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((ended.total.sum(), ended.new.sum()), (5, 0));
        assert_eq!(ended.lasted, Duration::ZERO);
    }

    #[test]
    fn what_nobody_watched_begins_no_breach_and_is_still_accounted_for() {
        let told = run(&[(1000, 0), (60_000, 9), (61_000, 0)]);
        assert!(
            matches!(told[..], [(60_000, Changed(Change::Missed(tally, _)))] if tally.sum() == 9),
            "{told:?}"
        );
    }

    #[test]
    fn a_breach_outlives_a_time_of_blindness_only_if_every_window_can_have_had_a_refusal() {
        let told = run(&[(1000, 1), (21_000, 20), (22_000, 1)]);
        assert!(
            matches!(told[..], [(_, Changed(Change::Began(_))), (21_000, Again(b))] if b.lasted.as_secs() == 20),
            "{told:?}"
        );
        let told = run(&[(1000, 1), (21_000, 19)]);
        assert!(
            matches!(
                told[..],
                [
                    (_, Changed(Change::Began(_))),
                    (_, Changed(Change::Ended(_))),
                    (_, Changed(Change::Missed(..)))
                ]
            ),
            "{told:?}"
        );
    }

    #[test]
    fn a_bomb_of_an_hour_is_told_in_a_handful_of_records_that_account_for_all() {
        let ticks: Vec<(u64, u64)> = (1..=3600)
            .map(|second| (second * 1000, 28))
            .chain([(3_601_000, 0), (3_602_000, 0)])
            .collect();
        let told = run(&ticks);
        assert!(told.len() < 14, "{} records", told.len());
        let sum: u64 = told
            .iter()
            .map(|(_, said)| match said {
                Changed(Change::Began(b) | Change::Ended(b)) | Again(b) => b.new.sum(),
                Changed(Change::Missed(tally, _)) => tally.sum(),
            })
            .sum();
        assert_eq!(sum, 3600 * 28);
    }
}
