//! The policy as the daemon uses it: what goes into the kernel, what the engine asks, and where it came from.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use guard_common::{action::Action, fork_storm::Reason, thin::OfTheHost};
use thiserror::Error;

use crate::{
    advisory::arm::arm_by_this_host,
    decide::{
        ladder::{Step, StepAction},
        seen::Limits,
    },
    identity::names::Names,
    kernel::{install::Treated, mapper::Mapper},
    policy::{
        armed::{self, Armed, Arming},
        compile::{self, Applied, Compiled, ModeOverride, ReserveRule, Treatment, effective},
        denial, load,
        model::{
            Act, Denial, Forks, LogSettings, Mode, Outlet, Policy, PoolAlarm, RESERVE, Rule,
            Severity, THIN,
        },
        pattern::Chosen,
    },
    record::{self, Measure},
    thin::discard::{self, Asked},
};

/// Why there is no plan: the policy's mistakes, ready to be shown.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct PlanError(String);

/// A policy, compiled.
pub struct Plan {
    /// Whose a cgroup is.
    pub names: Arc<Names>,
    /// What each profile is; 0 is nobody's.
    pub treatments: Vec<Treatment>,
    /// The same for the engine.
    pub limits: Vec<Limits>,
    /// Each rule, and the host's reserve, in words.
    pub rules: Vec<Line>,
    /// Why it is not known what the kernel has, where a rule asks for that: all is armed then.
    pub unjudged: Option<String>,
    /// Where the audit log goes.
    pub audit: record::Settings,
    /// Where the copy of the kernel log goes; `None`: none is kept.
    pub kernel_log: Option<record::Settings>,
    /// Who else gets its lines.
    pub forward: Vec<Outlet>,
    /// What is watched for in it.
    pub patterns: Chosen,
    /// `kernel.dmesg_restrict` is to be set.
    pub dmesg_restrict: bool,
    /// What becomes of discards on dm-thin that anybody asks for.
    pub thin_discard: OfTheHost,
    /// That depends on the kernel, which is asked when there is a device mapper.
    pub waits_for_mapper: bool,
    /// When a thin pool is told of; `None`: pools are not watched.
    pub pool_alarm: Option<PoolAlarm>,
    /// Everything is audited, and why.
    pub audited_altogether: bool,
    /// The policy is the one that is built in.
    pub embedded: bool,
    reserve: Option<ReserveRule>,
    sources: Vec<String>,
}

/// A rule in words.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Whether it refuses, or only records.
    pub mode: Mode,
    /// What it limits on this kernel.
    pub limits: String,
    /// Whether there is anything.
    pub limits_anything: bool,
    /// Of a rule with `kernel: affected`, what is armed and what is not.
    pub armed: Vec<Arming>,
}

/// A rule as a record names it.
pub(super) struct Named<'p> {
    pub rule: &'p str,
    pub severity: record::Severity,
    /// What its limit allows.
    pub allows: Vec<(Measure, u64)>,
}

impl<'p> Named<'p> {
    fn rate(applied: &'p Applied<Forks>) -> Self {
        let Forks { rate, burst, .. } = applied.limit;
        let a_second = u64::from(rate.forks.div_ceil(rate.seconds));
        Self::by(
            applied,
            vec![
                (Measure::Rate, a_second),
                (Measure::Burst, u64::from(burst)),
            ],
        )
    }

    fn cap(applied: &'p Applied<u32>) -> Self {
        Self::by(applied, vec![(Measure::PidsMax, u64::from(applied.limit))])
    }

    fn by<L>(applied: &'p Applied<L>, allows: Vec<(Measure, u64)>) -> Self {
        Self {
            rule: applied.rule.as_str(),
            severity: grave(applied.severity),
            allows,
        }
    }
}

impl Plan {
    /// Reads and compiles the policy: `file` alone, or what stands below `/etc`, or the embedded one.
    pub(super) fn read(file: Option<&Path>, mode: Option<ModeOverride>) -> Result<Self, PlanError> {
        let mut policy = load::in_force(file).map_err(|error| PlanError(error.to_string()))?;
        // To find out what the kernel has takes longer than the rest of a start.
        let waiting = match Mapper::is_there() {
            true => None,
            false => (policy.thin_discard).take_if(|denial| denial.armed.asks()),
        };
        let asked = discard::asked();
        match asked {
            Some(Asked::Off) => policy.thin_discard = Some(Denial::of_thin_discards(Armed::Always)),
            Some(Asked::On) => policy.thin_discard = None,
            None => {}
        }
        let unjudged = arm_by_this_host(&mut policy, None).err();
        let mut plan = Self::of(policy, mode)?;
        plan.unjudged = unjudged.map(|error| error.to_string());
        plan.waits_for_mapper = waiting.is_some() && asked.is_none();
        if asked == Some(Asked::Off) {
            // Whoever says so at this moment means it, whatever mode the policy is in.
            plan.thin_discard = OfTheHost::Refused;
            let line = plan.rules.iter_mut().find(|rule| rule.name == THIN);
            if let Some(line) = line {
                line.mode = Mode::Enforce;
                line.limits.push_str(", by `bulkhead thin discard off`");
            }
        }
        Ok(plan)
    }

    /// Reads the policy anew, to take this one's place.
    pub(super) fn read_again(
        &self,
        file: Option<&Path>,
        mode: Option<ModeOverride>,
    ) -> Result<Self, PlanError> {
        self.replaced_by(Self::read(file, mode)?)
    }

    /// `new`, unless no file is left of this one: what is embedded only audits, and a file that was lost by mistake must
    /// not end what is enforced.
    fn replaced_by(&self, new: Self) -> Result<Self, PlanError> {
        if new.embedded && !self.embedded {
            return Err(PlanError(load::gone(&self.sources).to_string()));
        }
        Ok(new)
    }

    pub(super) fn of(policy: Policy, mode: Option<ModeOverride>) -> Result<Self, PlanError> {
        let compiled = compile::compile(&policy, mode).map_err(|error| {
            PlanError(match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })
        })?;
        let call = mode.or(policy.embedded.then_some(ModeOverride::Audit));
        let limits = compiled.treatments.iter().map(limits).collect();
        let mut rules: Vec<Line> = (policy.rules.iter())
            .map(|rule| Line {
                name: rule.name.clone(),
                mode: effective(call, policy.mode, rule.mode),
                limits: words(rule),
                limits_anything: rule.limits_anything(),
                armed: armed::of(rule),
            })
            .collect();
        let everywhere = effective(call, policy.mode, None);
        let thin_discard = match &policy.thin_discard {
            Some(denial) if denial.armed.holds() => match everywhere {
                Mode::Audit => OfTheHost::Audited,
                Mode::Enforce => OfTheHost::Refused,
            },
            Some(_) | None => OfTheHost::Left,
        };
        if let Some(denial) = &policy.thin_discard {
            rules.push(Line {
                name: THIN.to_owned(),
                mode: everywhere,
                limits: "no discard of what stands on dm-thin, whoever asks for it".to_owned(),
                limits_anything: denial.armed.holds(),
                armed: armed::of_one(denial),
            });
        }
        if let Some(reserve) = compiled.reserve {
            rules.push(Line {
                name: RESERVE.to_owned(),
                mode: reserve.mode,
                limits: format!("{} pids for the host alone", reserve.pids),
                limits_anything: true,
                armed: Vec::new(),
            });
        }
        let Compiled {
            names,
            treatments,
            reserve,
            audit,
            kernel_log,
            audited_altogether,
            ..
        } = compiled;
        Ok(Self {
            names: Arc::new(names),
            treatments,
            limits,
            rules,
            unjudged: None,
            thin_discard,
            waits_for_mapper: false,
            pool_alarm: policy.pool_alarm,
            audit: settings(&audit),
            kernel_log: kernel_log.as_ref().map(settings),
            // Audit mode changes nothing on a host.
            dmesg_restrict: policy.dmesg_restrict && everywhere == Mode::Enforce,
            audited_altogether,
            // Without a copy there are no lines.
            forward: if kernel_log.is_some() {
                policy.forward.clone()
            } else {
                Vec::new()
            },
            patterns: Chosen::of(&policy),
            embedded: policy.embedded,
            reserve,
            sources: policy.files,
        })
    }

    /// What goes into the kernel, by profile number.
    pub(super) fn profiles(&self) -> Vec<Treated<'_>> {
        self.treatments
            .iter()
            .map(|treatment| Treated {
                profile: treatment.limits,
                arguments: &treatment.arguments,
            })
            .collect()
    }

    /// Pids that only the host may use, of so many; `None`: no reserve.
    pub(super) fn reserve_of(&self, limit: u64) -> Option<u64> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.reserve
            .map(|reserve| u64::from(reserve.pids.of(limit)))
    }

    /// The files, or what stands in for them.
    pub(super) fn names_of_sources(&self) -> Vec<String> {
        self.sources.clone()
    }

    /// Where the audit log goes by the policy that a daemon would load, or by default.
    #[must_use]
    pub fn audit_settings() -> record::Settings {
        load::in_force(None).map_or_else(
            |_| record::Settings::default(),
            |policy| settings(&policy.audit),
        )
    }

    /// Where the copy of the kernel log goes, as [`Self::audit_settings`]; `None`: none is kept.
    #[must_use]
    pub fn kernel_log_settings() -> Option<record::Settings> {
        let by_default = || Some(LogSettings::kernel_log());
        load::in_force(None)
            .map_or_else(|_| by_default(), |policy| policy.kernel_log)
            .as_ref()
            .map(settings)
    }

    /// The rule by which a profile's forks are refused, or audited, for a reason.
    pub(super) fn rule_of(&self, profile: u32, reason: Reason, audited: bool) -> Option<Named<'_>> {
        let treatment = self.treatments.get(profile as usize)?;
        match (reason, audited) {
            (Reason::Rate, false) => treatment.rate_enforced.as_ref().map(Named::rate),
            (Reason::Rate, true) => treatment.rate_audited.as_ref().map(Named::rate),
            (Reason::PidsCap, false) => treatment.pids_enforced.as_ref().map(Named::cap),
            (Reason::PidsCap, true) => treatment.pids_audited.as_ref().map(Named::cap),
            (Reason::HostReserve, _) => treatment.reserve.map(|_| Named {
                rule: RESERVE,
                severity: record::Severity::Critical,
                allows: Vec::new(),
            }),
        }
    }

    /// The rule by which a profile is refused an action, or audited.
    pub(super) fn rule_of_action(
        &self,
        profile: u32,
        action: Action,
        audited: bool,
    ) -> Option<Named<'_>> {
        let treatment = self.treatments.get(profile as usize)?;
        let applied = if audited {
            &treatment.audited
        } else {
            &treatment.refused
        };
        applied
            .iter()
            .find(|applied| applied.limit.action == action)
            .map(|applied| Named::by(applied, Vec::new()))
    }

    /// Whether any rule is about one of these actions: only then do their hooks cost anything.
    pub(super) fn judges(&self, actions: &[Action]) -> bool {
        self.thin_discard != OfTheHost::Left && actions.contains(&Action::Discard)
            || self.treatments.iter().any(|treatment| {
                let applied = treatment.refused.iter().chain(&treatment.audited);
                applied
                    .into_iter()
                    .any(|applied| actions.contains(&applied.limit.action))
            })
    }

    /// Whether any rule refuses one of these actions.
    pub(super) fn refuses(&self, actions: &[Action]) -> bool {
        let mut refused = self.treatments.iter().flat_map(|one| &one.refused);
        refused.any(|applied| actions.contains(&applied.limit.action))
    }

    /// Whether a limit of a profile is enforced.
    pub(super) fn enforces(&self, profile: u32, reason: Reason) -> bool {
        self.treatments
            .get(profile as usize)
            .is_some_and(|treatment| match reason {
                Reason::Rate => treatment.rate_enforced.is_some(),
                Reason::PidsCap => treatment.pids_enforced.is_some(),
                Reason::HostReserve => treatment.reserve == Some(Mode::Enforce),
            })
    }
}

/// What the engine asks of a treatment.
fn limits(treatment: &Treatment) -> Limits {
    let steps = |steps: &[compile::Step]| {
        steps
            .iter()
            .map(|step| Step {
                after: step.after,
                act: act(step.act),
                rule: step.rule.clone(),
                on_rate: step.on_rate,
                on_pids: step.on_pids,
            })
            .collect()
    };
    let (ladder, audited_ladder) = (steps(&treatment.ladder), steps(&treatment.ladder_audited));
    Limits {
        ladder,
        audited_ladder,
        leak: treatment.leak.as_ref().map(|applied| applied.limit),
        cap: treatment
            .pids_enforced
            .as_ref()
            .map(|applied| applied.limit),
    }
}

const fn act(act: Act) -> StepAction {
    match act {
        Act::Freeze { time } => StepAction::Freeze { r#for: time },
        Act::Kill => StepAction::Kill,
    }
}

pub(super) const fn grave(severity: Severity) -> record::Severity {
    match severity {
        Severity::Low => record::Severity::Low,
        Severity::Medium => record::Severity::Medium,
        Severity::High => record::Severity::High,
        Severity::Critical => record::Severity::Critical,
    }
}

fn settings(log: &LogSettings) -> record::Settings {
    record::Settings {
        file: PathBuf::from(&log.file),
        rotate_bytes: log.size,
        rotate_age: log.age,
        keep: log.keep as usize,
    }
}

fn words(rule: &Rule) -> String {
    let mut words = rule.subjects.join(", ");
    if let Some(forks) = rule.forks {
        let _ = write!(words, ": forks {forks}");
    }
    if let Some(pids) = rule.pids {
        let _ = write!(words, ": pids at most {pids}");
    }
    if rule.in_force().next().is_some() {
        let _ = write!(words, ": no {}", denial::words(rule.in_force()));
    } else if !rule.deny.is_empty() {
        words.push_str(": none of what it denies is armed on this kernel");
    }
    for step in &rule.escalate {
        let (name, after) = match step.act {
            Act::Freeze { .. } => ("freeze", step.after),
            Act::Kill => ("kill", step.after),
        };
        let _ = write!(words, ", {name} after {} s", after.as_secs());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file() -> Plan {
        let policy = load::from_bytes("policy.yaml", load::EMBEDDED.as_bytes()).unwrap();
        Plan::of(policy, None).unwrap()
    }

    fn built_in() -> Plan {
        Plan::of(load::embedded().unwrap(), None).unwrap()
    }

    #[test]
    fn files_that_are_gone_do_not_give_way_to_the_embedded_policy() {
        let refused = of_file().replaced_by(built_in()).err().unwrap().to_string();
        assert!(refused.starts_with("policy.yaml:1:1: "), "{refused}");
        assert!(refused.contains("restart"), "{refused}");
    }

    #[test]
    fn what_refuses_is_told_from_what_only_audits() {
        let (clear, bridge) = (Action::KernelLogClear, Action::BridgeCreate);
        for (plan, refuses) in [(of_file(), true), (built_in(), false)] {
            assert!(plan.judges(&[clear]) && plan.judges(&[bridge]));
            assert_eq!(plan.refuses(&[bridge, clear]), refuses);
            assert!(!plan.refuses(&[bridge]));
        }
    }

    #[test]
    fn a_rule_is_named_with_what_its_limit_allows() {
        let text = "version: 1\nmode: enforce\nsubjects: {all: {cgroups: [\"/docker/*\"]}}\nrules:\n  \
                    - {name: slow, subjects: [all], forks: {rate: 90/m, burst: 7}}\n  \
                    - {name: few, subjects: [all], mode: audit, pids: {max: 9}}\n";
        let plan = Plan::of(
            load::from_bytes("policy.yaml", text.as_bytes()).unwrap(),
            None,
        )
        .unwrap();
        let named = |reason, audited| {
            plan.rule_of(1, reason, audited)
                .map(|named| (named.rule, named.allows))
        };
        let slow = ("slow", vec![(Measure::Rate, 2), (Measure::Burst, 7)]);
        assert_eq!(named(Reason::Rate, false), Some(slow));
        let few = ("few", vec![(Measure::PidsMax, 9)]);
        assert_eq!(named(Reason::PidsCap, true), Some(few));
        assert_eq!(named(Reason::PidsCap, false), None);
    }

    #[test]
    fn every_other_policy_takes_the_place_of_the_last() {
        for (last, new) in [
            (of_file(), of_file()),
            (built_in(), of_file()),
            (built_in(), built_in()),
        ] {
            assert!(last.replaced_by(new).is_ok());
        }
    }
}
