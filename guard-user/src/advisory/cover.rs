//! Whether the policy refuses what triggers a bug. Nothing here says that a hook works: `bulkhead doctor` proves that.

use guard_common::action::Action;

use super::model::{Advisory, Cover, Trigger};
use crate::policy::{
    denial::{Denial, action},
    model::{Mode, Policy, Rule},
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
    /// Subjects of the policy whose containers it leaves alone.
    pub not_for: Vec<String>,
    /// Whether the rule denies it on the kernel that the policy was armed for.
    pub armed: bool,
}

/// What stands between a container and a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Nothing can, and why.
    Impossible(String),
    /// These rules, at least one.
    By(Vec<Covering>),
    /// No rule.
    NoRule {
        /// It could be about one of these actions.
        actions: Vec<&'static str>,
        /// Rules that refuse some of a trigger and leave the rest.
        partly: Vec<String>,
    },
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
            known.iter().filter_map(|(trigger, action)| {
                let covers =
                    |denial: &&Denial| denial.covers(*action, &trigger.kinds, trigger.nested);
                rule.deny.iter().find(covers).map(|denial| Covering {
                    rule: rule.name.clone(),
                    mode: mode(policy, rule.mode),
                    action: action.name(),
                    leaves: trigger.leaves.clone(),
                    not_for: not_for(policy, rule),
                    armed: denial.armed.holds(),
                })
            })
        })
        .collect();
    if by.is_empty() {
        let mut names: Vec<&'static str> = known.iter().map(|(_, action)| action.name()).collect();
        names.dedup();
        let meets = |rule: &&Rule| {
            let mut all = rule.in_force();
            all.any(|denial| {
                let mut triggers = known.iter();
                triggers.any(|(trigger, action)| denial.meets(*action, &trigger.kinds))
            })
        };
        let partly = policy.rules.iter().filter(meets);
        Coverage::NoRule {
            actions: names,
            partly: partly.map(|rule| rule.name.clone()).collect(),
        }
    } else {
        Coverage::By(by)
    }
}

/// In the policy's order. What no subject names is no container to the policy.
fn not_for(policy: &Policy, rule: &Rule) -> Vec<String> {
    let names = policy.subjects.iter().map(|subject| &subject.name);
    names
        .filter(|name| !rule.subjects.contains(name) || rule.except.contains(name))
        .cloned()
        .collect()
}

/// The built-in policy is audited altogether, unless `run --enforce` says otherwise.
fn mode(policy: &Policy, own: Option<Mode>) -> Mode {
    if policy.embedded {
        Mode::Audit
    } else {
        own.unwrap_or(policy.mode)
    }
}
