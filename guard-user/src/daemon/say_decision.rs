//! What the engine decided, on record: breaches, the ladder's steps, leaks.

use guard_common::{action::Action, fork_storm::Reason};

use super::{Daemon, say::millis};
use crate::{
    control::status::HostPids,
    decide::{
        asked::New,
        ladder::StepAction,
        seen::{Breach, Decision, Kind as Of, Tally, Thaw, What, Why},
    },
    kernel::install::number_of,
    record::{Kind, Measure, Mode, Record, Severity, Verdict},
};

impl Daemon {
    pub(super) fn say_decision(
        &mut self,
        decision: &Decision,
        outcome: Option<Result<&'static str, String>>,
    ) {
        let id = decision.container;
        let outcome = outcome.map(|outcome| match outcome {
            Ok(words) => words.to_owned(),
            Err(error) => format!("failed: {error}"),
        });
        let record = match &decision.what {
            What::Began(breach) => self.breach(Kind::BreachBegan, decision, breach),
            What::GoesOn(breach) => self.breach(Kind::Refusals, decision, breach),
            What::Ended(breach) => self.breach(Kind::BreachEnded, decision, breach),
            What::Missed {
                kind,
                new,
                unwatched,
            } => {
                let millis = millis(*unwatched);
                let record = self.refusals(Kind::Refusals, decision, *kind, new);
                record
                    .reason("they came while nobody watched")
                    .measured(Measure::GapMs, millis)
            }
            What::Act { step, breach } => {
                let record = self
                    .breach(Kind::Step, decision, breach)
                    .rule(step.rule.as_str())
                    .mode(Mode::Enforce);
                step_words(record, step.act, step.after)
            }
            What::WouldAct { step, breach } => {
                let record = self
                    .breach(Kind::Step, decision, breach)
                    .rule(step.rule.as_str())
                    .mode(Mode::Audit)
                    .outcome("not done: the rule is audited");
                step_words(record, step.act, step.after)
            }
            What::Withheld { step, why } => {
                let words = match why {
                    Why::CoolingDown => "not done: it was done to this container not long ago",
                    Why::BudgetSpent if self.is_user_made(id) => {
                        "not done: the budget of actions on containers that users could have made is spent"
                    }
                    Why::BudgetSpent => "not done: the host's budget of actions is spent",
                    Why::Protected => {
                        "not done: the container is protected (it holds pid 1 or the daemon, or is exempt)"
                    }
                    Why::FrozenByOthers => "not done: somebody else froze it",
                };
                let record = self
                    .of(Kind::Step, id)
                    .severity(Severity::High)
                    .rule(step.rule.as_str())
                    .mode(Mode::Enforce)
                    .outcome(words);
                step_words(record, step.act, step.after)
            }
            What::Thaw { why, held } => {
                let words = match why {
                    Thaw::TimeOver => "its time is over",
                    Thaw::Orphan => "frozen by a daemon that is gone, and on no ladder",
                    Thaw::Protected => "it is not to be acted on any more",
                    Thaw::Released => "everything is released",
                };
                let record = self
                    .of(Kind::Step, id)
                    .severity(Severity::Info)
                    .step("thaw")
                    .reason(words);
                match held {
                    Some(held) => record.measured(Measure::ForMs, millis(*held)),
                    None => record,
                }
            }
            What::ThawedByOthers { held } => self
                .of(Kind::Step, id)
                .severity(Severity::Medium)
                .step("thaw")
                .reason("somebody else thawed it, or it could not be frozen")
                .measured(Measure::ForMs, millis(*held)),
            What::Leak(leak) => {
                let mut record = self
                    .of(Kind::LeakAlarm, id)
                    .severity(Severity::High)
                    .measured(Measure::Pids, leak.pids)
                    .reason(format!("pids rise by {} a minute", leak.per_minute));
                for (measure, left) in [
                    (Measure::CapMs, leak.time_to_cap),
                    (Measure::ReserveMs, leak.time_to_reserve),
                ] {
                    if let Some(left) = left {
                        record = record.measured(measure, millis(left));
                    }
                }
                record
            }
            What::Asked(new) => self.asked(decision, new),
            What::LeakOver(_) => self
                .of(Kind::LeakAlarm, id)
                .severity(Severity::Info)
                .outcome("over: pids rise no more"),
        };
        match outcome {
            // What was done is always told: actions have budgets themselves.
            Some(outcome) => self.say(record.outcome(outcome)),
            None => self.say_about(self.is_user_made(id), record),
        }
    }

    fn breach(&self, kind: Kind, decision: &Decision, breach: &Breach) -> Record {
        let tally = match kind {
            Kind::BreachEnded => &breach.total,
            _ => &breach.new,
        };
        let mut record = self
            .refusals(kind, decision, breach.kind, tally)
            .measured(Measure::BreachMs, millis(breach.lasted));
        // The whole of a breach that is over has been told, but for what came since.
        if kind == Kind::BreachEnded && breach.new.sum() > 0 {
            record = record.suppressed(breach.new.sum());
        }
        record = self.done_by(record, decision.container, None);
        if let Some(pids) = self
            .looked
            .get(&decision.container)
            .and_then(|looked| looked.pids)
            // Who was refused a fork had a pid: it has ended since, and the count tells nothing of the breach.
            .filter(|pids| *pids > 0)
        {
            record = record.measured(Measure::Pids, pids);
        }
        // As the host stands while it refuses; of a breach that is over that tells nothing.
        if tally.by(Reason::HostReserve) > 0 && kind != Kind::BreachEnded {
            let HostPids { limit, tasks, .. } = self.pids;
            record = record
                .measured(Measure::HostPids, tasks)
                .measured(Measure::HostPidsFree, limit.saturating_sub(tasks));
        }
        record
    }

    /// The task that did it, as far as it is known.
    fn done_by(&self, record: Record, container: u64, action: Option<Action>) -> Record {
        match self.culprits.get(&container).and_then(|by| by.get(&action)) {
            Some(culprit) => {
                let record = record.process(culprit.tgid, &culprit.comm);
                match action {
                    Some(action) => record.argument(action, &culprit.told),
                    None => record,
                }
            }
            None => record,
        }
    }

    /// An action that was refused, or would have been.
    fn asked(&self, decision: &Decision, new: &New) -> Record {
        let record = self
            .of(Kind::Action, decision.container)
            .action(new.action.name())
            .rung(self.rung_of(new.action))
            .verdict(if new.audited {
                Verdict::Audit
            } else {
                Verdict::Deny
            })
            .mode(if new.audited {
                Mode::Audit
            } else {
                Mode::Enforce
            })
            .count(new.count);
        let record = match number_of(decision.profile)
            .and_then(|number| self.plan.rule_of_action(number, new.action, new.audited))
        {
            Some(rule) => record.rule(rule.rule).severity(rule.severity),
            None => record.severity(Severity::Medium),
        };
        self.done_by(record, decision.container, Some(new.action))
    }

    /// What was refused, or would have been, and by which rule.
    fn refusals(&self, kind: Kind, decision: &Decision, of: Of, tally: &Tally) -> Record {
        let audited = of.audited();
        let most = Reason::ALL
            .into_iter()
            .max_by_key(|reason| tally.by(*reason))
            .filter(|reason| tally.by(*reason) > 0);
        let rule = number_of(decision.profile).and_then(|number| {
            self.plan
                .rule_of(number, most.unwrap_or(Reason::PidsCap), audited)
        });
        // The rung that only watches refuses nothing, whatever the rule says.
        let refuses = !audited && (self.rung.refuses() || tally.controller > 0);
        let mut record = self
            .of(kind, decision.container)
            .action("fork")
            .verdict(if refuses {
                Verdict::Deny
            } else {
                Verdict::Audit
            })
            .mode(if audited { Mode::Audit } else { Mode::Enforce })
            .count(tally.sum());
        record = match rule {
            Some(rule) => {
                if kind == Kind::BreachBegan {
                    for (measure, number) in rule.allows {
                        record = record.measured(measure, number);
                    }
                }
                record.rule(rule.rule).severity(rule.severity)
            }
            None => record.severity(Severity::Medium),
        };
        if most.is_none() && tally.controller > 0 {
            record =
                record.reason("more pids than the rule allows, by the pids controller's count");
        }
        if let Some(most) = most {
            record = record.reason(match most {
                Reason::Rate => "forks faster than the rule allows",
                Reason::PidsCap => "more pids than the rule allows",
                Reason::HostReserve => "the host has only its reserve of pids left",
            });
        }
        let names = if audited {
            [
                Measure::AuditedRate,
                Measure::AuditedPidsCap,
                Measure::AuditedHostReserve,
            ]
        } else {
            [
                Measure::RefusedRate,
                Measure::RefusedPidsCap,
                Measure::RefusedHostReserve,
            ]
        };
        for (measure, reason) in names.into_iter().zip(Reason::ALL) {
            if tally.by(reason) > 0 {
                record = record.measured(measure, tally.by(reason));
            }
        }
        if tally.controller > 0 {
            record = record.measured(Measure::RefusedKernel, tally.controller);
        }
        record
    }
}

fn step_words(record: Record, act: StepAction, after: std::time::Duration) -> Record {
    let record = record.measured(Measure::AfterMs, millis(after));
    match act {
        StepAction::Freeze { r#for } => record
            .step("freeze")
            .measured(Measure::ForMs, millis(r#for)),
        StepAction::Kill => record.step("kill"),
    }
}
