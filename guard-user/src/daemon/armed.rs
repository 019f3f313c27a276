//! What `kernel: affected` comes to here, on record: nobody takes a rule for a protection that it is not.

use super::{Daemon, plan::Plan};
use crate::{
    policy::model,
    record::{Kind, Mode, Record, Severity},
};

/// What the trouble is about.
const ABOUT: &str = "advisories";

impl Daemon {
    /// A record for each thing that a rule with `kernel: affected` denies.
    pub(super) fn say_armed(&mut self) {
        for record in records(&self.plan) {
            self.say(record);
        }
    }

    /// Whether it is known what this kernel has, where a rule asks for that.
    pub(super) fn note_advisories(&mut self) {
        match words(&self.plan) {
            Some(words) => self.trouble(ABOUT, words),
            None => self.settled(ABOUT),
        }
    }
}

/// The same at the start, when there is no daemon yet that could tell it.
pub(super) fn note(plan: &Plan, notes: &mut super::notes::Notes) {
    if let Some(words) = words(plan) {
        notes.stand(ABOUT, words);
    }
}

fn words(plan: &Plan) -> Option<String> {
    let why = plan.unjudged.as_ref()?;
    Some(format!(
        "rules with `kernel: affected` are armed as on a kernel with every bug: {why}"
    ))
}

fn records(plan: &Plan) -> Vec<Record> {
    let mut records = Vec::new();
    for rule in &plan.rules {
        let mode = match rule.mode {
            model::Mode::Audit => Mode::Audit,
            model::Mode::Enforce => Mode::Enforce,
        };
        records.extend(rule.armed.iter().map(|told| {
            Record::new(Kind::RuleArmed)
                .severity(Severity::Info)
                .rule(rule.name.as_str())
                .mode(mode)
                .action(told.action)
                .outcome(told.says.as_str())
        }));
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        advisory::{
            arm::{ArmError, Bugs, arm},
            kernel::Kernel,
            set::{Set, embedded},
        },
        policy::load,
    };

    const POLICY: &str = "version: 1\nmode: enforce\nsubjects: {s: {cgroups: [\"/x/*\"]}}\nrules: [{name: patch, subjects: [s], kernel: affected, deny: [bpf]}]\nhost: {thin: {discard: leave}}\n";

    fn plan(bugs: Result<&Bugs, &ArmError>) -> Plan {
        let mut policy = load::from_bytes("x", POLICY.as_bytes()).unwrap();
        arm(&mut policy, bugs);
        Plan::of(policy, None).unwrap()
    }

    fn on(kernel: &str) -> Plan {
        let set = Set {
            advisories: embedded().unwrap(),
            from: Vec::new(),
        };
        let kernel = Kernel::parse(kernel).unwrap();
        plan(Ok(&Bugs::of(&set, &kernel, &|_| false)))
    }

    #[test]
    fn a_load_tells_of_each_denial_and_hooks_are_needed_for_those_that_are_armed() {
        let bpf = [guard_common::action::Action::Bpf];
        let (old, new) = (on("5.11.10"), on("999.0"));
        assert!(old.judges(&bpf) && !new.judges(&bpf));
        let outcome = |plan: &Plan| {
            let all = records(plan);
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].kind, Kind::RuleArmed);
            all[0].outcome.clone().unwrap().to_string()
        };
        assert!(outcome(&old).starts_with("bpf: armed by CVE-2021-3490"));
        assert!(outcome(&new).starts_with("bpf: not armed: this kernel (999.0)"));
        assert!(old.rules[0].limits_anything && !new.rules[0].limits_anything);
        assert_eq!(old.rules[0].limits, "s: no bpf");
        let none = "s: none of what it denies is armed on this kernel";
        assert_eq!(new.rules[0].limits, none);
        assert_eq!(words(&old), None);
    }

    #[test]
    fn what_could_not_be_judged_is_armed_and_a_trouble() {
        let why = ArmError::Set("x.yaml:1:1: wrong".to_owned());
        let mut plan = plan(Err(&why));
        plan.unjudged = Some(why.to_string());
        assert!(plan.judges(&[guard_common::action::Action::Bpf]));
        let words = words(&plan).unwrap();
        assert!(words.ends_with("x.yaml:1:1: wrong"), "{words}");
    }
}
