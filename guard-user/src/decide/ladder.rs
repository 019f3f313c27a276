//! The ladder: freeze, thaw, kill — only while it storms, one step at a time, never again within a cool-down.

use std::time::Duration;

use guard_common::fork_storm::Reason;
use serde::{Deserialize, Serialize};

use super::{
    breach::{Open, QUIET},
    budget::Budget,
    seen::{Frozen, Kind, Seen, Tally, Thaw, What, Why},
};

/// What a step does to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepAction {
    /// Stops it, and lets it run again.
    Freeze {
        /// How long it is stopped; serialised as `for`.
        r#for: Duration,
    },
    /// Kills all that is in it.
    Kill,
}

/// One step of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// How long a breach must have lasted.
    pub after: Duration,
    /// What is done then.
    pub act: StepAction,
    /// Name of the rule that says so.
    pub rule: String,
    /// Refusals by the fork rate are that rule's, and lead here.
    pub on_rate: bool,
    /// Refusals by the pids cap are.
    pub on_pids: bool,
}

impl Step {
    /// Whether these refusals lead here: another rule's do not.
    #[must_use]
    pub fn answers(&self, refused: &Tally) -> bool {
        (self.on_rate && refused.by(Reason::Rate) > 0)
            || (self.on_pids && (refused.by(Reason::PidsCap) > 0 || refused.controller > 0))
    }
}

/// A freeze of ours that is not seen this long after it was decided has failed, or was undone.
const SETTLES: Duration = QUIET;
/// A thaw that did not come about is asked for again this much later.
const THAW_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    step: Step,
    at: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    since: Duration,
    until: Duration,
    step: Step,
}

/// Where a container stands on its ladder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Climb {
    /// Steps of this breach that are behind us.
    next: usize,
    /// Steps that an audited breach would have had taken.
    would: usize,
    hold: Option<Hold>,
    thawed: Option<Duration>,
    taken: Vec<Taken>,
    withheld: Vec<(usize, Why)>,
}

/// What a ladder is climbed with.
pub struct Moment<'a> {
    /// Time since boot.
    pub now: Duration,
    /// The container.
    pub seen: &'a Seen,
    /// What it was refused since it was last looked at.
    pub refused: Tally,
    /// How long a step is not taken again.
    pub cool_down: Duration,
}

impl Climb {
    /// Whether we hold the container frozen.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// Whether nothing of it is worth keeping.
    #[must_use]
    pub fn is_idle(&self, now: Duration, cool_down: Duration) -> bool {
        self.hold.is_none()
            && self
                .taken
                .iter()
                .all(|taken| now.saturating_sub(taken.at) >= cool_down)
            && self
                .thawed
                .is_none_or(|at| now.saturating_sub(at) >= THAW_AGAIN)
    }

    /// A breach began: the ladder is climbed from its foot. What was taken before still cools down.
    pub fn restart(&mut self, audited: bool) {
        if audited {
            self.would = 0;
        } else {
            self.next = 0;
            self.withheld.clear();
        }
    }

    /// What becomes of a freeze: it is thawed when its time is over, and never if it is not ours.
    pub fn thaw(&mut self, at: &Moment<'_>) -> Option<What> {
        let Some(hold) = &self.hold else {
            let again = self
                .thawed
                .is_none_or(|last| at.now.saturating_sub(last) >= THAW_AGAIN);
            if at.seen.frozen != Frozen::Ours || !again {
                return None;
            }
            self.thawed = Some(at.now);
            return Some(What::Thaw {
                why: Thaw::Orphan,
                held: None,
            });
        };
        let held = at.now.saturating_sub(hold.since);
        let why = match at.seen.frozen {
            Frozen::Ours if at.seen.protected => Thaw::Protected,
            Frozen::Ours if at.now >= hold.until => Thaw::TimeOver,
            Frozen::Ours => return None,
            Frozen::No | Frozen::Others if held < SETTLES => return None,
            Frozen::No | Frozen::Others => {
                self.release(at.now);
                return Some(What::ThawedByOthers { held });
            }
        };
        self.release(at.now);
        Some(What::Thaw {
            why,
            held: Some(held),
        })
    }

    /// Lets go of a freeze. The step cools down from now on.
    pub fn release(&mut self, now: Duration) -> Option<Duration> {
        let hold = self.hold.take()?;
        self.took(&hold.step, now);
        self.thawed = Some(now);
        Some(now.saturating_sub(hold.since))
    }

    fn took(&mut self, step: &Step, now: Duration) {
        match self.taken.iter_mut().find(|taken| taken.step == *step) {
            Some(taken) => taken.at = now,
            None => self.taken.push(Taken {
                step: step.clone(),
                at: now,
            }),
        }
    }

    fn cools(&self, step: &Step, at: &Moment<'_>) -> bool {
        self.taken
            .iter()
            .any(|taken| taken.step == *step && at.now.saturating_sub(taken.at) < at.cool_down)
    }

    /// The step that is due. Steps are taken in their order; after the last one that one is due again, once it has cooled
    /// down. A step that cools down is passed over as soon as the one after it is due.
    pub fn step(
        &mut self,
        at: &Moment<'_>,
        breach: &mut Open,
        steps: &[Step],
        budget: &mut Budget,
    ) -> Option<What> {
        if at.refused.sum() == 0 || self.hold.is_some() || steps.is_empty() {
            return None;
        }
        self.taken
            .retain(|taken| at.now.saturating_sub(taken.at) < at.cool_down);
        let age = at.now.saturating_sub(breach.began);
        let due = |index: usize| steps.get(index).is_some_and(|step| age >= step.after);
        let mut index = self.next.min(steps.len() - 1);
        if !due(index) {
            return None;
        }
        let passed = |step: &Step| self.cools(step, at) || !step.answers(&at.refused);
        while passed(&steps[index]) && due(index + 1) {
            index += 1;
        }
        let step = &steps[index];
        if !step.answers(&at.refused) {
            return None;
        }
        let why = match at.seen.frozen {
            _ if at.seen.protected => Some(Why::Protected),
            Frozen::Others => Some(Why::FrozenByOthers),
            // Without a hold it is on its way to be thawed.
            Frozen::Ours => return None,
            Frozen::No if self.cools(step, at) => Some(Why::CoolingDown),
            Frozen::No if !budget.spend(at.now) => Some(Why::BudgetSpent),
            Frozen::No => None,
        };
        if let Some(why) = why {
            // A last step that merely waits for its turn to come again is nothing to tell.
            let waits = why == Why::CoolingDown && index < self.next;
            if waits || self.withheld.contains(&(index, why)) {
                return None;
            }
            self.withheld.push((index, why));
            return Some(What::Withheld {
                step: step.clone(),
                why,
            });
        }
        self.next = index + 1;
        self.took(step, at.now);
        match step.act {
            StepAction::Freeze { r#for } => {
                self.hold = Some(Hold {
                    since: at.now,
                    until: at.now.saturating_add(r#for),
                    step: step.clone(),
                });
            }
            StepAction::Kill => {}
        }
        Some(What::Act {
            step: step.clone(),
            breach: breach.tell(Kind::Limit, at.now),
        })
    }

    /// The step that an audited breach would have had taken.
    pub fn would(&mut self, now: Duration, breach: &mut Open, steps: &[Step]) -> Option<What> {
        let step = steps.get(self.would)?;
        if breach.last != now || now.saturating_sub(breach.began) < step.after {
            return None;
        }
        self.would += 1;
        Some(What::WouldAct {
            step: step.clone(),
            breach: breach.tell(Kind::LimitAudited, now),
        })
    }

    /// The step that was just taken did not succeed.
    pub fn failed(&mut self) {
        self.hold = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_one_rules_limit_does_not_climb_another_rules_ladder() {
        let second = Duration::from_secs(1);
        let steps = [Step {
            after: second,
            act: StepAction::Kill,
            rule: "cap".to_owned(),
            on_rate: false,
            on_pids: true,
        }];
        let mut open = Open {
            began: Duration::ZERO,
            last: 5 * second,
            told: Duration::ZERO,
            new: Tally::default(),
            total: Tally::default(),
        };
        let seen = Seen::default();
        let mut climb = Climb::default();
        let mut budget = Budget::new(1, second);
        let mut taken = |forks: [u64; 3]| {
            let at = Moment {
                now: 5 * second,
                seen: &seen,
                refused: Tally {
                    forks,
                    controller: 0,
                },
                cool_down: second,
            };
            climb.step(&at, &mut open, &steps, &mut budget).is_some()
        };
        assert!(!taken([9, 0, 0]));
        assert!(taken([9, 1, 0]));
    }
}
