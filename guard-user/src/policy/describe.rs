//! A policy in one readable line for each thing that it would do, so that a surprise comes before it is in force.

use serde::Serialize;

use super::{
    armed::{self, Arming},
    compile::{Compiled, ModeOverride, effective},
    denial,
    model::{Act, Mode, Policy, RESERVE, Rule, THIN},
    units::{Pids, write_duration},
};

/// What a rule, or the reserve, would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub rule: String,
    /// `audit`, `enforce`, or `off` for a reserve that there is not.
    pub mode: &'static str,
    /// The rest of the sentence.
    pub says: String,
    /// Of a rule with `kernel: affected`: what is armed here, and what is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub armed: Vec<Arming>,
}

/// Fewer pids than this are no reserve: to log in takes some dozens.
const FEW_PIDS: u32 = 100;
/// What other languages of patterns use, and no runtime has in a cgroup's name.
const NO_WILDCARDS: [char; 3] = ['[', '?', '{'];

/// What each rule would do, the reserve last.
#[must_use]
pub fn rules(policy: &Policy, call: Option<ModeOverride>) -> Vec<Line> {
    let call = call.or(policy.embedded.then_some(ModeOverride::Audit));
    let mut lines: Vec<Line> = (policy.rules.iter())
        .map(|rule| {
            let mode = effective(call, policy.mode, rule.mode);
            Line {
                rule: rule.name.clone(),
                mode: mode.name(),
                says: sentence(rule, mode),
                armed: armed::of(rule),
            }
        })
        .collect();
    let everywhere = effective(call, policy.mode, None);
    lines.push(match &policy.thin_discard {
        None => Line {
            rule: THIN.to_owned(),
            mode: "off",
            says: "discards of what stands on dm-thin are left on".to_owned(),
            armed: Vec::new(),
        },
        Some(denial) => Line {
            rule: THIN.to_owned(),
            mode: everywhere.name(),
            says: format!(
                "{} discards of what stands on dm-thin, whoever asks for them",
                verb(everywhere)
            ),
            armed: armed::of_one(denial),
        },
    });
    lines.push(match policy.reserve {
        None => Line {
            rule: RESERVE.to_owned(),
            mode: "off",
            says: "no pids are kept for the host".to_owned(),
            armed: Vec::new(),
        },
        Some(reserve) => {
            let mode = effective(call, policy.mode, reserve.mode);
            let does = verb(mode);
            Line {
                rule: RESERVE.to_owned(),
                mode: mode.name(),
                says: format!(
                    "{does} any container's fork into {}",
                    match reserve.pids {
                        Pids::Absolute(pids) => format!("the last {pids} pids of the host"),
                        Pids::Share { .. } =>
                            format!("the last {} of the host's pids", reserve.pids),
                    }
                ),
                armed: Vec::new(),
            }
        }
    });
    lines
}

const fn verb(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "refuses",
        Mode::Audit => "records, and allows,",
    }
}

fn sentence(rule: &Rule, mode: Mode) -> String {
    let mut parts = Vec::new();
    if let Some(forks) = rule.forks {
        parts.push(format!(
            "forks beyond {} (burst {})",
            forks.rate, forks.burst
        ));
    }
    if let Some(max) = rule.pids {
        parts.push(format!("forks beyond {max} pids"));
    }
    if rule.in_force().next().is_some() {
        parts.push(denial::words(rule.in_force()));
    }
    let mut subjects = rule.subjects.join(", ");
    if !rule.except.is_empty() {
        subjects.push_str(&format!(" except {}", rule.except.join(", ")));
    }
    let mut text = if parts.is_empty() {
        let here = if rule.deny.is_empty() {
            ""
        } else {
            " on this kernel: none of what it denies is armed"
        };
        format!("{subjects}: refuses nothing{here}")
    } else {
        format!("{subjects}: {} {}", verb(mode), parts.join(", and "))
    };
    if let Some(leak) = rule.leak {
        text.push_str(&format!(
            "; alarm when less than {} is left",
            write_duration(leak)
        ));
    }
    let steps: Vec<String> = (rule.escalate.iter())
        .map(|step| {
            let after = write_duration(step.after);
            match step.act {
                Act::Freeze { time } => {
                    format!("freeze for {} after {after}", write_duration(time))
                }
                Act::Kill => format!("kill after {after}"),
            }
        })
        .collect();
    if !steps.is_empty() {
        let does = match mode {
            Mode::Enforce => "; then ",
            Mode::Audit => "; would then, and only records, ",
        };
        text.push_str(does);
        text.push_str(&steps.join(", "));
    }
    text
}

/// What is allowed and may still not be what was meant.
#[must_use]
pub fn notes(policy: &Policy, compiled: &Compiled) -> Vec<String> {
    let mut notes = Vec::new();
    for rule in &policy.rules {
        notes.extend(armed::notes(rule));
        let treatments = (compiled.treatments.iter())
            .filter(|treatment| !treatment.exempt)
            .filter(|treatment| {
                let is_one =
                    |names: &[String]| names.iter().any(|name| treatment.subjects.contains(name));
                is_one(&rule.subjects) && !is_one(&rule.except)
            });
        let (mut any, mut rate, mut pids) = (false, rule.forks.is_none(), rule.pids.is_none());
        let mut denied = rule.in_force().next().is_none();
        for treatment in treatments {
            any = true;
            let rates = [&treatment.rate_enforced, &treatment.rate_audited];
            rate |= rates
                .into_iter()
                .flatten()
                .any(|applied| applied.rule == rule.name);
            let caps = [&treatment.pids_enforced, &treatment.pids_audited];
            pids |= caps
                .into_iter()
                .flatten()
                .any(|applied| applied.rule == rule.name);
            let actions = treatment.refused.iter().chain(&treatment.audited);
            denied |= actions.into_iter().any(|applied| applied.rule == rule.name);
        }
        if !any {
            notes.push(format!(
                "rule `{}` applies to no container: every pattern of its subjects is taken out by `except` or `exempt`",
                rule.name
            ));
            continue;
        }
        if !denied {
            notes.push(format!(
                "rule `{}`: its `deny` has no effect, since other rules refuse as much wherever it applies",
                rule.name
            ));
        }
        for (holds, what) in [(rate, "fork rate"), (pids, "pids cap")] {
            if !holds {
                notes.push(format!(
                    "rule `{}`: its {what} has no effect, since another rule's is smaller wherever it applies; its `escalate` does not follow from it",
                    rule.name
                ));
            }
        }
    }
    if let Some(Pids::Absolute(pids)) = policy.reserve.map(|reserve| reserve.pids)
        && pids < FEW_PIDS
    {
        let meant = if pids <= 90 {
            format!(": did you mean `{pids}%`?")
        } else {
            String::new()
        };
        notes.push(format!(
            "a reserve of {pids} pids is too small to log in and to act with{meant}"
        ));
    }
    let patterns = (policy.subjects.iter())
        .flat_map(|subject| subject.cgroups.iter().chain(&subject.except))
        .chain(&policy.exempt);
    for pattern in patterns {
        if let Some(letter) = pattern.chars().find(|letter| NO_WILDCARDS.contains(letter)) {
            notes.push(format!(
                "pattern `{pattern}`: `{letter}` stands for itself, so it matches no cgroup that a runtime makes; write `*` \
                 or `**`"
            ));
        }
    }
    for subject in &policy.subjects {
        // One that rules leave out is there for that, and its containers may be another subject's too.
        let names = |rule: &Rule| {
            rule.subjects.contains(&subject.name) || rule.except.contains(&subject.name)
        };
        if !policy.rules.iter().any(names) {
            notes.push(match policy.reserve {
                Some(_) => format!(
                    "no rule is about subject `{}`: only the host's reserve holds for it",
                    subject.name
                ),
                None => format!(
                    "no rule is about subject `{}`, and there is no reserve: it is not governed",
                    subject.name
                ),
            });
        }
    }
    notes
}
