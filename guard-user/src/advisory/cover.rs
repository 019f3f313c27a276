//! Whether the policy refuses what triggers a bug. Nothing here says that a hook works: `bulkhead doctor` proves that.

use guard_common::action::Action;

use super::model::{Advisory, Cover, Trigger};
use crate::policy::{
    denial::action,
    model::{Mode, Policy},
};

/// A rule that refuses a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covering {
    /// The rule's name.
    pub rule: String,
    /// Whether it refuses, or only records.
    pub mode: Mode,
    /// The action.
    pub action: &'static str,
    /// What stays open.
    pub leaves: Option<String>,
}

/// What stands between a container and a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Nothing can, and why.
    Impossible(String),
    /// These rules, at least one.
    By(Vec<Covering>),
    /// No rule; it could be about one of these actions.
    NoRule(Vec<&'static str>),
    /// No rule can: this version refuses none of the triggers.
    NoAction,
}

/// What `policy` has against `advisory`.
#[must_use]
pub fn coverage(advisory: &Advisory, policy: &Policy) -> Coverage {
    let triggers = match &advisory.cover {
        Cover::Nothing(because) => return Coverage::Impossible(because.clone()),
        Cover::By(triggers) => triggers,
    };
    let known: Vec<(&Trigger, Action)> = (triggers.iter())
        .filter_map(|trigger| Some((trigger, action(&trigger.action)?)))
        .collect();
    if known.is_empty() {
        return Coverage::NoAction;
    }
    let by: Vec<Covering> = (policy.rules.iter())
        .flat_map(|rule| {
            let refused = known.iter().filter(|(trigger, action)| {
                (rule.deny.iter())
                    .any(|denial| denial.covers(*action, &trigger.kinds, trigger.nested))
            });
            refused.map(|(trigger, action)| Covering {
                rule: rule.name.clone(),
                mode: mode(policy, rule.mode),
                action: action.name(),
                leaves: trigger.leaves.clone(),
            })
        })
        .collect();
    if by.is_empty() {
        let mut names: Vec<&'static str> = known.iter().map(|(_, action)| action.name()).collect();
        names.dedup();
        Coverage::NoRule(names)
    } else {
        Coverage::By(by)
    }
}

/// The built-in policy is audited altogether, unless `run --enforce` says otherwise.
fn mode(policy: &Policy, own: Option<Mode>) -> Mode {
    if policy.embedded {
        Mode::Audit
    } else {
        own.unwrap_or(policy.mode)
    }
}
