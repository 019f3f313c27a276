//! The engine: knows no hazard, holds what each container has done so far, and says what is to be done and told now.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    breach::Open,
    budget::Budget,
    seen::{Decision, HostSeen, Kind, Limits, Seen, Tally, Thaw, What},
    settings::{Max, Next},
    state::State,
};

/// How the whole host is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rests {
    /// A step is not taken again on the same container for this long.
    pub cool_down: Duration,
    /// Freezes and kills of the whole host, but for those of containers that users could have made…
    pub actions: usize,
    /// …and of these, of all users together: who makes containers at will spends nothing of the others'…
    pub user_made: usize,
    /// …in any span of this length.
    pub per: Duration,
}

impl Default for Rests {
    fn default() -> Self {
        Self {
            cool_down: Duration::from_secs(60),
            actions: 10,
            user_made: 3,
            per: Duration::from_secs(60),
        }
    }
}

/// What survives a restart of the daemon: who is frozen by us since when, and where everybody stands on the ladder. Times
/// are since boot: it is of no use after another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    at: Duration,
    budget: Budget,
    /// The version before had none.
    #[serde(default)]
    budget_of_users: Budget,
    withheld: u64,
    containers: BTreeMap<u64, State>,
}

/// Decides on all containers of a host.
#[derive(Debug)]
pub struct Engine {
    rests: Rests,
    budget: Budget,
    /// For containers that users could have made.
    budget_of_users: Budget,
    containers: HashMap<u64, State>,
    ticked: Option<Duration>,
    withheld: u64,
    revision: u64,
}

impl Engine {
    /// An engine that remembers nothing: what was refused before its first tick is told as missed.
    #[must_use]
    pub fn new(rests: Rests) -> Self {
        Self {
            rests,
            budget: Budget::new(rests.actions, rests.per),
            budget_of_users: Budget::new(rests.user_made, rests.per),
            containers: HashMap::new(),
            ticked: None,
            withheld: 0,
            revision: 0,
        }
    }

    /// An engine that goes on where another one left off on this boot.
    #[must_use]
    pub fn restore(rests: Rests, saved: Saved) -> Self {
        Self {
            rests,
            budget: saved.budget.with_limits(rests.actions, rests.per),
            budget_of_users: saved
                .budget_of_users
                .with_limits(rests.user_made, rests.per),
            containers: saved.containers.into_iter().collect(),
            ticked: Some(saved.at),
            withheld: saved.withheld,
            revision: 0,
        }
    }

    /// What must survive a restart.
    #[must_use]
    pub fn save(&self) -> Saved {
        Saved {
            at: self.ticked.unwrap_or_default(),
            budget: self.budget.clone(),
            budget_of_users: self.budget_of_users.clone(),
            withheld: self.withheld,
            containers: self
                .containers
                .iter()
                .filter(|(_, state)| state.matters())
                .map(|(id, state)| (*id, state.clone()))
                .collect(),
        }
    }

    /// Changes whenever `save` would give something that it is worth writing down for.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Steps that were due and not taken, since the state was first made.
    #[must_use]
    pub const fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Breaches that are open, by container.
    pub fn open(&self) -> impl Iterator<Item = (u64, Kind, &Open)> {
        self.containers.iter().flat_map(|(id, state)| {
            Kind::ALL
                .into_iter()
                .filter_map(|kind| Some((*id, kind, state.breaches[kind as usize].as_deref()?)))
        })
    }

    /// Containers of which refused actions wait to be told.
    pub fn waiting(&self) -> impl Iterator<Item = u64> {
        self.containers
            .iter()
            .filter(|(_, state)| state.asked.waits())
            .map(|(id, _)| *id)
    }

    /// Whether a ladder holds this container frozen.
    #[must_use]
    pub fn holds(&self, container: u64) -> bool {
        self.containers
            .get(&container)
            .and_then(|state| state.climb.as_ref())
            .is_some_and(|climb| climb.holds())
    }

    /// Looks at containers, about once a second. One that is left out has the counters that it had the last time; its
    /// state stays as it was. `limits` gives what applies to a profile.
    pub fn tick<'l>(
        &mut self,
        now: Duration,
        host: &HostSeen,
        containers: &[Seen],
        limits: &dyn Fn(u32) -> Option<&'l Limits>,
    ) -> Vec<Decision> {
        let mut told = Vec::new();
        let before = self.ticked.unwrap_or_default();
        for seen in containers {
            let state = self.containers.entry(seen.id).or_insert_with(|| State {
                seen: before,
                ..State::default()
            });
            state.profile = seen.profile;
            // What was left out until now had not moved.
            state.seen = state.seen.max(before);
            let mut tell = |what| {
                told.push(Decision {
                    container: seen.id,
                    profile: seen.profile,
                    what,
                });
            };
            let limits = limits(seen.profile);
            let growth = state.growth(seen, limits);
            let budget = if seen.user_made {
                &mut self.budget_of_users
            } else {
                &mut self.budget
            };
            state.climb(
                now,
                seen,
                limits,
                growth,
                self.rests.cool_down,
                budget,
                &mut tell,
            );
            state.watch(now, host, seen, limits, &mut tell);
            for new in state.asked.see(now, &seen.actions) {
                tell(What::Asked(new));
            }
            state.seen = now;
        }
        self.ticked = Some(now);
        self.note(told)
    }

    /// A container is gone. `last`: its counters as the kernel last knew them.
    pub fn gone(&mut self, now: Duration, container: u64, last: Option<&Seen>) -> Vec<Decision> {
        let mut state = match (self.containers.remove(&container), last) {
            (Some(state), _) => state,
            // It came and went between two looks.
            (None, Some(last)) => State {
                profile: last.profile,
                seen: self.ticked.unwrap_or(now),
                ..State::default()
            },
            (None, None) => return Vec::new(),
        };
        let mut told = Vec::new();
        let growth = last.map_or([Tally::default(); 4], |last| state.growth(last, None));
        let profile = state.profile;
        let mut tell = |what| {
            told.push(Decision {
                container,
                profile,
                what,
            });
        };
        for kind in Kind::ALL {
            let growth = growth[kind as usize];
            match state.breaches[kind as usize].take() {
                Some(mut open) => {
                    open.new.add(&growth);
                    open.total.add(&growth);
                    if growth.sum() > 0 {
                        open.last = now;
                    }
                    tell(What::Ended(open.end(kind)));
                }
                None if growth.sum() > 0 => tell(What::Missed {
                    kind,
                    new: growth,
                    unwatched: now.saturating_sub(state.seen),
                }),
                None => {}
            }
        }
        if let Some(last) = last {
            for new in state.asked.last(&last.actions) {
                tell(What::Asked(new));
            }
        }
        // Its file entry is out of date in any case.
        self.revision += 1;
        self.note(told)
    }

    /// The step that was decided on could not be taken, or somebody froze the container before us. It still cools down, so that it is not tried in every second.
    pub fn failed(&mut self, container: u64) {
        if let Some(state) = self.containers.get_mut(&container)
            && let Some(climb) = &mut state.climb
        {
            climb.failed();
            self.revision += 1;
        }
    }

    /// Lets go of every container that a ladder holds: for the panic switch and a stop that releases.
    pub fn release(&mut self, now: Duration) -> Vec<Decision> {
        let mut told = Vec::new();
        for (id, state) in &mut self.containers {
            if let Some(climb) = &mut state.climb
                && let Some(held) = climb.release(now)
            {
                told.push(Decision {
                    container: *id,
                    profile: state.profile,
                    what: What::Thaw {
                        why: Thaw::Released,
                        held: Some(held),
                    },
                });
            }
        }
        told.sort_by_key(|decision| decision.container);
        self.note(told)
    }

    /// What is to be done about a container's `pids.max`, where `present` stands now and at most `ours` is wanted; see
    /// [`Setting::next`]. To be asked whenever `pids.max` was read.
    pub fn pids_max(
        &mut self,
        container: u64,
        present: Max,
        wrote: Option<(Max, Max)>,
        ours: Option<u32>,
    ) -> Next {
        let state = self.containers.entry(container).or_default();
        let setting = state.setting.get_or_insert_default();
        let next = setting.next(present, wrote, ours);
        if ours.is_none() {
            state.setting = None;
        }
        if next != Next::Leave {
            self.revision += 1;
        }
        next
    }

    /// What was to be done about a container's `pids.max` was not done.
    pub fn pids_max_not_done(&mut self, container: u64, next: Next) {
        if let Some(state) = self.containers.get_mut(&container)
            && let Some(setting) = &mut state.setting
        {
            setting.not_done(next);
        }
    }

    fn note(&mut self, told: Vec<Decision>) -> Vec<Decision> {
        for decision in &told {
            match &decision.what {
                What::Withheld { .. } => self.withheld += 1,
                What::Leak(_) | What::LeakOver(_) => continue,
                _ => {}
            }
            self.revision += 1;
        }
        told
    }
}
