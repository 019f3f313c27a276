//! What the engine knows of one container, and how it goes on with it from one look to the next.

use std::time::Duration;

use guard_common::fork_storm::Reason;
use serde::{Deserialize, Serialize};

use super::{
    asked::Asked,
    breach::{Change, Open, observe},
    budget::Budget,
    ladder::{Climb, Moment},
    leak::{Room, Told, Watch},
    seen::{Frozen, HostSeen, Kind, Limits, Seen, Tally, What},
    settings::Setting,
};

/// What the engine knows of one container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) profile: u32,
    /// When it was last looked at.
    pub(super) seen: Duration,
    /// Refusals that were taken in, by [`Kind`].
    pub(super) counted: [Tally; 4],
    /// `pids.events` as last seen, whosever limit it was.
    pub(super) controller: u64,
    #[serde(default, skip_serializing_if = "is_closed")]
    pub(super) breaches: [Option<Box<Open>>; 4],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) climb: Option<Box<Climb>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) setting: Option<Box<Setting>>,
    #[serde(default, skip_serializing_if = "Asked::is_empty")]
    pub(super) asked: Asked,
    #[serde(skip)]
    pub(super) watch: Option<Box<Watch>>,
}

fn is_closed(breaches: &[Option<Box<Open>>; 4]) -> bool {
    breaches.iter().all(Option::is_none)
}

impl State {
    /// Whether forgetting it would lose anything.
    pub(super) fn matters(&self) -> bool {
        !is_closed(&self.breaches)
            || self.climb.is_some()
            || self.setting.is_some()
            || self.controller != 0
            || !self.asked.is_empty()
            || self.counted.iter().any(|tally| tally.sum() != 0)
    }

    /// Refusals since the container was last looked at, by [`Kind`].
    pub(super) fn growth(&mut self, seen: &Seen, limits: Option<&Limits>) -> [Tally; 4] {
        let all = |of: [u64; 3]| Tally {
            forks: of,
            controller: 0,
        };
        let reserve = |of: [u64; 3]| {
            let mut forks = [0; 3];
            forks[Reason::HostReserve as usize] = of[Reason::HostReserve as usize];
            all(forks)
        };
        let own = |of: [u64; 3]| {
            let mut forks = of;
            forks[Reason::HostReserve as usize] = 0;
            all(forks)
        };
        let now = [
            own(seen.refused),
            reserve(seen.refused),
            own(seen.audited),
            reserve(seen.audited),
        ];
        let mut growth = [Tally::default(); 4];
        for ((growth, counted), now) in growth.iter_mut().zip(&mut self.counted).zip(now) {
            for (reason, count) in now.forks.into_iter().enumerate() {
                growth.forks[reason] = count.saturating_sub(counted.forks[reason]);
            }
            *counted = now;
        }
        // A limit that a runtime set is its own affair: only at the cap that we wrote its refusals are ours.
        let ours = limits.is_some_and(|limits| limits.cap.is_some() && limits.cap == seen.cap);
        if ours && !seen.elsewhere {
            growth[Kind::Limit as usize].controller =
                seen.controller_refused.saturating_sub(self.controller);
        }
        // Less, when a cgroup below has gone with its count.
        self.controller = seen.controller_refused;
        growth
    }

    #[expect(clippy::too_many_arguments, reason = "split borrows of the engine")]
    pub(super) fn climb(
        &mut self,
        now: Duration,
        seen: &Seen,
        limits: Option<&Limits>,
        growth: [Tally; 4],
        cool_down: Duration,
        budget: &mut Budget,
        tell: &mut dyn FnMut(What),
    ) {
        let moment = Moment {
            now,
            seen,
            refused: growth[Kind::Limit as usize],
            cool_down,
        };
        let held = self.climb.as_ref().is_some_and(|climb| climb.holds());
        for kind in Kind::ALL {
            let index = kind as usize;
            let breach = &mut self.breaches[index];
            if breach.is_none() && growth[index].sum() == 0 {
                continue;
            }
            let held = held && kind == Kind::Limit;
            let climb = &mut self.climb;
            observe(
                breach,
                kind,
                now,
                self.seen,
                growth[index],
                held,
                &mut |change| {
                    if matches!(change, Change::Began(_))
                        && let Some(climb) = climb
                    {
                        climb.restart(kind.audited());
                    }
                    tell(match change {
                        Change::Began(breach) => What::Began(breach),
                        Change::Ended(breach) => What::Ended(breach),
                        Change::Missed(new, unwatched) => What::Missed {
                            kind,
                            new,
                            unwatched,
                        },
                    });
                },
            );
        }
        let open = |kind: Kind| self.breaches[kind as usize].is_some();
        if self.climb.is_some()
            || seen.frozen == Frozen::Ours
            || open(Kind::Limit)
            || open(Kind::LimitAudited)
        {
            self.step(&moment, limits, budget, tell);
        }
        for kind in Kind::ALL {
            if let Some(open) = &mut self.breaches[kind as usize]
                && let Some(breach) = open.tell_again(kind, now)
            {
                tell(What::GoesOn(breach));
            }
        }
    }

    fn step(
        &mut self,
        moment: &Moment<'_>,
        limits: Option<&Limits>,
        budget: &mut Budget,
        tell: &mut dyn FnMut(What),
    ) {
        let now = moment.now;
        let climb = self.climb.get_or_insert_default();
        if let Some(what) = climb.thaw(moment) {
            // The two windows that decide whether it is over are counted from the thaw.
            if let Some(open) = &mut self.breaches[Kind::Limit as usize] {
                open.last = now;
            }
            tell(what);
        } else if let Some(limits) = limits {
            if let Some(open) = &mut self.breaches[Kind::Limit as usize]
                && let Some(what) = climb.step(moment, open, &limits.ladder, budget)
            {
                tell(what);
            }
            if let Some(open) = &mut self.breaches[Kind::LimitAudited as usize]
                && !moment.seen.protected
                && let Some(what) = climb.would(now, open, &limits.audited_ladder)
            {
                tell(what);
            }
        }
        let open = |kind: Kind| self.breaches[kind as usize].is_some();
        if !open(Kind::Limit) && !open(Kind::LimitAudited) && climb.is_idle(now, moment.cool_down) {
            self.climb = None;
        }
    }

    pub(super) fn watch(
        &mut self,
        now: Duration,
        host: &HostSeen,
        seen: &Seen,
        limits: Option<&Limits>,
        tell: &mut dyn FnMut(What),
    ) {
        let Some((limits, threshold)) = limits.and_then(|limits| Some((limits, limits.leak?)))
        else {
            self.watch = None;
            return;
        };
        let Some(pids) = seen.pids else { return };
        let cap = match (seen.cap, limits.cap) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let room = Room {
            cap: cap.map(|cap| u64::from(cap).saturating_sub(pids)),
            reserve: host
                .ceiling
                .zip(host.pids)
                .map(|(ceiling, pids)| ceiling.saturating_sub(pids)),
        };
        let watch = self.watch.get_or_insert_default();
        match watch.see(now, pids, room, threshold) {
            Some(Told::Leak(leak)) => tell(What::Leak(leak)),
            Some(Told::Over(over)) => tell(What::LeakOver(over)),
            None => {}
        }
    }
}
