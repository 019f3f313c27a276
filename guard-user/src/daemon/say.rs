//! Every word that the daemon puts on record.

use guard_common::{
    event::{Event, Gone},
    fork_storm::Reason,
};

use super::{Daemon, start::unwatched, switch};
use crate::{
    act::{
        cgroup::Cgroup,
        journal::Change,
        kill::{How, Killed},
        pids::Applied,
        restore::{Restored, Undone},
    },
    decide::{
        ladder::StepAction,
        seen::{Breach, Decision, Kind as Of, Tally, Thaw, What, Why},
        settings::Next,
    },
    identity::roster::Entered,
    kernel::{install::number_of, rungs::Rung},
    record::{Kind, Measure, Mode, Record, Severity, Verdict},
};

/// What a daemon that takes over finds.
pub(super) struct Gap {
    /// The last sign of life, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

impl Daemon {
    fn say(&mut self, record: Record) {
        self.audit.write(record);
    }

    /// A record of a container, if its path is known still.
    fn of(&self, kind: Kind, id: u64) -> Record {
        let record = Record::new(kind).rung(self.rung);
        match self.roster.get(id) {
            Some(known) => {
                use std::os::unix::ffi::OsStrExt;
                record.container(known.path.as_os_str().as_bytes())
            }
            None => record.reason(format!("cgroup id {id}")),
        }
    }

    pub(super) fn say_started(&mut self, gap: Option<Gap>, entered: &Entered) {
        let took = if gap.is_some() {
            "took over what the last daemon left in force"
        } else {
            "nothing was in force before"
        };
        self.say(
            Record::new(Kind::DaemonStart)
                .severity(Severity::Info)
                .rung(self.rung)
                .outcome(took)
                .measured(Measure::Containers, entered.containers as u64)
                .measured(Measure::Rules, self.plan.rules.len() as u64),
        );
        let tried: Vec<String> = self
            .tried
            .iter()
            .map(|tried| format!("{}: {}", tried.rung, tried.reason))
            .collect();
        let severity = match self.rung {
            Rung::Lsm | Rung::FmodRet => Severity::Info,
            Rung::Observe | Rung::Setting => Severity::High,
        };
        self.say(
            Record::new(Kind::RungChosen)
                .severity(severity)
                .rung(self.rung)
                .reason(if tried.is_empty() {
                    "no program was tried".to_owned()
                } else {
                    tried.join("; ")
                }),
        );
        if let Some(gap) = gap {
            self.say(
                Record::new(Kind::DaemonGap)
                    .severity(Severity::Low)
                    .reason("nobody watched; what was enforced stayed so, and was counted")
                    .measured(Measure::GapMs, millis(unwatched(gap.since_ns))),
            );
        }
        self.say_loaded("start");
        for words in self.notes.words() {
            self.say_degraded(&words);
        }
    }

    pub(super) fn say_mounted(&mut self) {
        for (kind, at) in self.options.mounted.clone() {
            self.say(
                Record::new(Kind::SettingChanged)
                    .severity(Severity::Info)
                    .setting("mount", "", at)
                    .outcome(format!("mounted {kind}, which was missing")),
            );
        }
    }

    pub(super) fn say_loaded(&mut self, why: &str) {
        self.say(
            Record::new(Kind::PolicyLoaded)
                .severity(Severity::Info)
                .policy(self.plan.names_of_sources().join(", "))
                .reason(why)
                .measured(Measure::Rules, self.plan.rules.len() as u64)
                .measured(Measure::Containers, self.roster.len() as u64),
        );
    }

    pub(super) fn say_refused(&mut self, why: &str, mistakes: &str) {
        self.say(
            Record::new(Kind::PolicyRefused)
                .severity(Severity::High)
                .reason(mistakes)
                .outcome(format!("{why}: the old policy is still in force")),
        );
    }

    pub(super) fn say_degraded(&mut self, words: &str) {
        self.say(
            Record::new(Kind::Degraded)
                .severity(Severity::Medium)
                .reason(words),
        );
    }

    pub(super) fn say_no_longer_degraded(&mut self, words: &str) {
        self.say(
            Record::new(Kind::Degraded)
                .severity(Severity::Info)
                .reason(words)
                .outcome("over"),
        );
    }

    pub(super) fn say_events_lost(&mut self, count: u64) {
        self.say(
            Record::new(Kind::Lost)
                .severity(Severity::Low)
                .count(count)
                .reason("messages of the kernel side; what they told stands in the counters"),
        );
    }

    pub(super) fn say_made(&mut self, id: u64) {
        let record = self.of(Kind::ContainerMade, id).severity(Severity::Info);
        self.say(record);
    }

    pub(super) fn say_gone(&mut self, gone: &Gone) {
        let mut record = self
            .of(Kind::ContainerGone, gone.event.container)
            .severity(Severity::Info)
            .measured(Measure::Allowed, gone.allowed);
        let refused = [
            Measure::RefusedRate,
            Measure::RefusedPidsCap,
            Measure::RefusedHostReserve,
        ];
        let audited = [
            Measure::AuditedRate,
            Measure::AuditedPidsCap,
            Measure::AuditedHostReserve,
        ];
        for (measures, counts) in [(refused, gone.refused), (audited, gone.audited)] {
            for (measure, count) in measures.into_iter().zip(counts) {
                if count > 0 {
                    record = record.measured(measure, count);
                }
            }
        }
        self.say(record);
    }

    pub(super) fn say_moved_out(&mut self, event: &Event) {
        if event.other == 0 {
            let record = self
                .of(Kind::MovedOut, event.container)
                .severity(Severity::Info)
                .action("cgroup.leave")
                .verdict(Verdict::Allow)
                .process(event.tgid, &event.comm)
                .reason(
                    "made a child straight in a cgroup of its choice (CLONE_INTO_CGROUP), in the container or not",
                );
            return self.say(record);
        }
        let to = Cgroup::open(&self.hierarchy, event.other)
            .ok()
            .flatten()
            .and_then(|cgroup| cgroup.path(&self.hierarchy))
            .map_or_else(
                || format!("cgroup id {}", event.other),
                |path| path.display().to_string(),
            );
        let count = self.kernel.containers.get(event.slot as usize).moved_out;
        let record = self
            .of(Kind::MovedOut, event.container)
            .count(count)
            .severity(Severity::High)
            .action("cgroup.leave")
            .verdict(Verdict::Allow)
            .process(event.tgid, &event.comm)
            .reason(format!("moved a task to {to}"));
        self.say(record);
    }

    pub(super) fn say_switched(&mut self, on: bool, done: &[String]) {
        let kind = if on { Kind::SwitchOn } else { Kind::SwitchOff };
        self.say(
            Record::new(kind)
                .severity(Severity::High)
                .outcome(done.join("; ")),
        );
    }

    pub(super) fn say_restored(&mut self, one: &Restored) {
        let words = switch::words_of(one, self.roster.get(one.cgroup).map(|known| &known.path));
        let (setting, old, new) = match one.change {
            Change::PidsMax { old, ours } => ("pids.max", ours.to_string(), old.to_string()),
            // The step that froze it has its own record of the thaw.
            Change::Freeze { .. } => ("cgroup.freeze", "1".to_owned(), "0".to_owned()),
        };
        if matches!(one.outcome, Ok(Undone::Vanished)) {
            return;
        }
        let record = self
            .of(Kind::SettingRestored, one.cgroup)
            .severity(Severity::Info)
            .setting(setting, old, new)
            .outcome(words);
        self.say(record);
    }

    pub(super) fn say_stopped(&mut self, signal: &str, kept: bool) {
        let outcome = if kept {
            "enforcement stays, and the next daemon takes it over"
        } else {
            "everything is released"
        };
        self.say(
            Record::new(Kind::DaemonStop)
                .severity(Severity::Info)
                .reason(signal)
                .outcome(outcome),
        );
    }

    pub(super) fn say_cap(&mut self, id: u64, next: Next, applied: Applied) {
        if !Self::cap_is_news(next, applied) {
            return;
        }
        let record = match next {
            Next::Leave => return,
            Next::Write { value, old, again } => self
                .of(Kind::SettingChanged, id)
                .severity(Severity::Info)
                .setting("pids.max", old.to_string(), value.to_string())
                .outcome(if again {
                    "somebody else had rewritten it: applied once more"
                } else {
                    "the cap of the policy"
                }),
            Next::Restore { old } => self
                .of(Kind::SettingRestored, id)
                .severity(Severity::Info)
                .setting("pids.max", "", old.to_string())
                .outcome("no rule wants the cap any more"),
            Next::Contested { present } => self
                .of(Kind::SettingContested, id)
                .severity(Severity::Medium)
                .setting("pids.max", "", present.to_string())
                .reason("somebody else rewrites pids.max: it is left alone; the kernel side still refuses at the cap"),
        };
        self.say(record);
    }

    pub(super) fn say_killed(&mut self, id: u64, killed: Result<&Killed, &str>) {
        let record = self
            .of(Kind::Step, id)
            .severity(Severity::High)
            .step("kill");
        let record = match killed {
            Ok(killed) => {
                let how = match killed.how {
                    How::CgroupKill => "killed by cgroup.kill",
                    How::Frozen => "frozen, killed one by one, thawed",
                    How::Running => "killed one by one while it ran: it could not be frozen",
                };
                let left = if killed.left { "; some are left" } else { "" };
                record
                    .outcome(format!("{how}{left}"))
                    .measured(Measure::Killed, killed.signalled)
            }
            Err(error) => record.outcome(format!("failed: {error}")),
        };
        self.say(record);
    }

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
        let mut record = match &decision.what {
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
            What::LeakOver(_) => self
                .of(Kind::LeakAlarm, id)
                .severity(Severity::Info)
                .outcome("over: pids rise no more"),
        };
        if let Some(outcome) = outcome {
            record = record.outcome(outcome);
        }
        self.say(record);
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
        if let Some(culprit) = self.culprits.get(&decision.container) {
            record = record.process(culprit.tgid, &culprit.comm);
        }
        if let Some(pids) = self
            .looked
            .get(&decision.container)
            .and_then(|looked| looked.pids)
        {
            record = record.measured(Measure::Pids, pids);
        }
        record
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
            Some(rule) => record.rule(rule.rule).severity(rule.severity),
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

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
