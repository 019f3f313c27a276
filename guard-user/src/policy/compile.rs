//! Policy to kernel tables: of all rules that apply to a container, one set of limits, and where each came from.

use std::time::Duration;

use guard_common::{
    action,
    fork_storm::{MODE_AUDIT, MODE_ENFORCE, MODE_OFF, Profile},
};
use thiserror::Error;

use super::{
    denied::{self, ByArgument, Denied},
    model::{Act, Forks, LogSettings, Mode, Policy, Rule, Severity},
    units::Pids,
};
use crate::identity::names::{Matched, Names, NamesError, Role};

/// Highest profile number.
pub const LAST_PROFILE: usize = crate::kernel::install::PROFILES_OF_A_POLICY;

/// What the call says of the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeOverride {
    /// Everything is audited, whatever a rule says.
    Audit,
    /// Replaces the policy's own mode; a rule's own stays.
    Enforce,
}

/// A limit, and the rule that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<T> {
    /// The rule's name.
    pub rule: String,
    /// The rule's severity.
    pub severity: Severity,
    /// The limit as the policy has it.
    pub limit: T,
}

/// A step of a container's ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the start of the breach.
    pub after: Duration,
    /// What is done then.
    pub act: Act,
    /// The rule that says so.
    pub rule: String,
    /// The container's fork rate is this rule's: its refusals lead here.
    pub on_rate: bool,
    /// The container's pids cap is this rule's: its refusals lead here.
    pub on_pids: bool,
}

/// How one kind of container is treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Names of the subjects that it belongs to; empty for number 0, which is no container's.
    pub subjects: Vec<String>,
    /// Refused nothing; all limits are empty.
    pub exempt: bool,
    /// What goes into the kernel.
    pub limits: Profile,
    /// The fork rate that is enforced.
    pub rate_enforced: Option<Applied<Forks>>,
    /// The fork rate that is audited.
    pub rate_audited: Option<Applied<Forks>>,
    /// The pids cap that is enforced.
    pub pids_enforced: Option<Applied<u32>>,
    /// The pids cap that is audited.
    pub pids_audited: Option<Applied<u32>>,
    /// Actions that are refused, each by the first rule that says so.
    pub refused: Vec<Applied<Denied>>,
    /// Actions that are counted and allowed.
    pub audited: Vec<Applied<Denied>>,
    /// What goes into the kernel of those that depend on what they are done to.
    pub arguments: Vec<ByArgument>,
    /// What the host's reserve does to it; `None`: nothing.
    pub reserve: Option<Mode>,
    /// The ladders of the rules whose limits are enforced, in order of time.
    pub ladder: Vec<Step>,
    /// The ladders of the rules whose limits are audited, in order of time: recorded, never done.
    pub ladder_audited: Vec<Step>,
    /// Alarm when pids rise so fast that less than this is left; the rule that says so.
    pub leak: Option<Applied<Duration>>,
}

/// The host's reserve as it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveRule {
    /// How many pids only the host may use.
    pub pids: Pids,
    /// Whether a container's fork into it is refused.
    pub mode: Mode,
}

/// Why a policy that was read cannot be put into the kernel.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The patterns.
    #[error("cannot compile the policy")]
    Names(#[from] NamesError),
    /// The kinds.
    #[error(
        "the policy names too many kinds of links: {found} for all kinds of containers together, and the kernel's table holds {most}"
    )]
    TooManyArguments {
        /// So many.
        found: usize,
        /// At most.
        most: usize,
    },
}

/// Entries of the kernel table `ARGUMENTS` that one policy may fill.
const ARGUMENTS: usize = action::ARGUMENTS as usize / 2;

/// A policy as the daemon uses it.
pub struct Compiled {
    /// The automaton; its labels are indices into `treatments`, 1 to [`LAST_PROFILE`].
    pub names: Names,
    /// By profile number; number 0 is an empty placeholder.
    pub treatments: Vec<Treatment>,
    /// The host's reserve; `None`: there is none.
    pub reserve: Option<ReserveRule>,
    /// The audit log.
    pub audit: LogSettings,
    /// The host's copy of the kernel log; `None`: none is kept.
    pub kernel_log: Option<LogSettings>,
    /// Number of cgroup patterns.
    pub patterns: usize,
    /// Nothing is refused, since the call or the lack of a policy says so.
    pub audited_altogether: bool,
}

/// Compiles `policy`. Where the policy is the embedded one and the call says nothing, all of it is audited.
///
/// # Errors
/// The patterns do not fit the kernel's tables.
pub fn compile(policy: &Policy, mode: Option<ModeOverride>) -> Result<Compiled, CompileError> {
    let mode = mode.or(policy.embedded.then_some(ModeOverride::Audit));
    let reserve = policy.reserve.map(|reserve| ReserveRule {
        pids: reserve.pids,
        mode: effective(mode, policy.mode, reserve.mode),
    });
    let patterns = patterns(policy);
    let mut treatments = vec![Treatment::default()];
    let names = Names::compile(&patterns, &mut |matched| {
        let treatment = treat(policy, mode, reserve, matched);
        let number = match treatments.iter().position(|known| *known == treatment) {
            Some(number) => number,
            None => {
                treatments.push(treatment);
                treatments.len() - 1
            }
        };
        if number > LAST_PROFILE {
            return Err(NamesError::TooManyProfiles(LAST_PROFILE));
        }
        Ok(number as u16)
    })?;
    let found = treatments.iter().map(|of| of.arguments.len()).sum();
    if found > ARGUMENTS {
        return Err(CompileError::TooManyArguments {
            found,
            most: ARGUMENTS,
        });
    }
    Ok(Compiled {
        names,
        treatments,
        reserve,
        audit: policy.audit.clone(),
        kernel_log: policy.kernel_log.clone(),
        patterns: patterns.len(),
        audited_altogether: mode == Some(ModeOverride::Audit),
    })
}

/// The mode of something whose own is `own`.
#[must_use]
pub fn effective(call: Option<ModeOverride>, policy: Mode, own: Option<Mode>) -> Mode {
    match call {
        Some(ModeOverride::Audit) => Mode::Audit,
        Some(ModeOverride::Enforce) => own.unwrap_or(Mode::Enforce),
        None => own.unwrap_or(policy),
    }
}

fn patterns(policy: &Policy) -> Vec<(String, Role)> {
    let mut patterns = Vec::new();
    for (number, subject) in (0_u8..).zip(&policy.subjects) {
        let with = |role: Role| move |pattern: &String| (pattern.clone(), role);
        patterns.extend(subject.cgroups.iter().map(with(Role::Subject(number))));
        patterns.extend(subject.except.iter().map(with(Role::Except(number))));
    }
    let exempt = policy.exempt.iter();
    patterns.extend(exempt.map(|pattern| (pattern.clone(), Role::Exempt)));
    patterns
}

/// What holds for containers of one kind.
fn treat(
    policy: &Policy,
    call: Option<ModeOverride>,
    reserve: Option<ReserveRule>,
    matched: &Matched,
) -> Treatment {
    let subjects: Vec<String> = (policy.subjects.iter().enumerate())
        .filter(|(number, _)| matched.subjects >> number & 1 == 1)
        .map(|(_, subject)| subject.name.clone())
        .collect();
    if matched.exempt {
        return Treatment {
            subjects,
            exempt: true,
            ..Treatment::default()
        };
    }
    let rules: Vec<(&Rule, Mode)> = (policy.rules.iter())
        .filter(|rule| rule.subjects.iter().any(|name| subjects.contains(name)))
        // A name that a user could have made takes nothing out.
        .filter(|rule| matched.user_made || !rule.except.iter().any(|name| subjects.contains(name)))
        .map(|rule| (rule, effective(call, policy.mode, rule.mode)))
        .collect();
    let rate = |mode| smallest(&rules, mode, |rule| rule.forks, slowest);
    let pids = |mode| smallest(&rules, mode, |rule| rule.pids, |pids| *pids);
    let rate_enforced = rate(Mode::Enforce);
    let pids_enforced = pids(Mode::Enforce);
    // What enforcing refuses anyway need not be audited.
    let rate_audited = rate(Mode::Audit).filter(|audited| {
        (rate_enforced.as_ref()).is_none_or(|enforced| tighter(&audited.limit, &enforced.limit))
    });
    let pids_audited = pids(Mode::Audit).filter(|audited| {
        (pids_enforced.as_ref()).is_none_or(|enforced| audited.limit < enforced.limit)
    });

    let reserve_mode = reserve.map(|reserve| reserve.mode);
    let refused = denied::with_the_guard_itself(
        denied::denied(&rules, Mode::Enforce),
        &rules,
        (reserve_mode == Some(Mode::Enforce)).then_some(Mode::Enforce),
    );
    let would = denied::would_be_denied(denied::denied(&rules, Mode::Audit), &refused);
    let (fates, arguments) = denied::fates(&refused, &would);

    let ladder = |of: Mode, rate: &Option<Applied<Forks>>, pids: &Option<Applied<u32>>| {
        let mut ladder: Vec<Step> = Vec::new();
        for (rule, _) in rules.iter().filter(|(_, mode)| *mode == of) {
            let (on_rate, on_pids) = (gave(rate, rule), gave(pids, rule));
            if on_rate || on_pids {
                ladder.extend(rule.escalate.iter().map(|step| Step {
                    after: step.after,
                    act: step.act,
                    rule: rule.name.clone(),
                    on_rate,
                    on_pids,
                }));
            }
        }
        ladder.sort_by_key(|step| (step.after, step.act == Act::Kill));
        ladder
    };
    let ladder_enforced = ladder(Mode::Enforce, &rate_enforced, &pids_enforced);
    let ladder_audited = ladder(Mode::Audit, &rate_audited, &pids_audited);

    let leak = (rules.iter())
        .filter_map(|(rule, _)| applied(rule, rule.leak?))
        .reduce(|one, other| if other.limit > one.limit { other } else { one });
    let fork_limits = |applied: &Option<Applied<Forks>>| {
        (applied.as_ref()).map_or_else(Default::default, |applied| applied.limit.limits)
    };
    let cap = |applied: &Option<Applied<u32>>| applied.as_ref().map_or(0, |applied| applied.limit);
    Treatment {
        limits: Profile {
            enforced: fork_limits(&rate_enforced),
            audited: fork_limits(&rate_audited),
            pids_enforced: cap(&pids_enforced),
            pids_audited: cap(&pids_audited),
            reserve: match reserve_mode {
                None => MODE_OFF,
                Some(Mode::Audit) => MODE_AUDIT,
                Some(Mode::Enforce) => MODE_ENFORCE,
            },
            self_test: 0,
            fates,
        },
        subjects,
        exempt: false,
        rate_enforced,
        rate_audited,
        pids_enforced,
        pids_audited,
        refused,
        audited: would,
        arguments,
        reserve: reserve_mode,
        ladder: ladder_enforced,
        ladder_audited,
        leak,
    }
}

pub(super) fn applied<T>(rule: &Rule, limit: T) -> Option<Applied<T>> {
    Some(Applied {
        rule: rule.name.clone(),
        severity: rule.severity,
        limit,
    })
}

fn gave<T>(limit: &Option<Applied<T>>, rule: &Rule) -> bool {
    (limit.as_ref()).is_some_and(|limit| limit.rule == rule.name)
}

/// The smallest limit of the rules in `mode`; of equal ones the first rule's.
fn smallest<T, Key: Ord>(
    rules: &[(&Rule, Mode)],
    mode: Mode,
    limit: impl Fn(&Rule) -> Option<T>,
    key: impl Fn(&T) -> Key,
) -> Option<Applied<T>> {
    (rules.iter())
        .filter(|(_, of_rule)| *of_rule == mode)
        .filter_map(|(rule, _)| applied(rule, limit(rule)?))
        .min_by_key(|applied| key(&applied.limit))
}

/// The slower rate is the smaller limit; of equal rates the smaller burst.
fn slowest(forks: &Forks) -> (std::cmp::Reverse<u64>, u64) {
    (
        std::cmp::Reverse(forks.limits.interval_ns),
        forks.limits.burst_ns,
    )
}

/// Whether `one` refuses anything that `other` allows.
fn tighter(one: &Forks, other: &Forks) -> bool {
    one.limits.interval_ns > other.limits.interval_ns || one.burst < other.burst
}
