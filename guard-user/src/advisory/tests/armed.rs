//! `kernel: affected`: armed on a kernel that has the bug, and in no table of the kernel's on one that has not.

use guard_common::action::{Action, Fates};

use crate::{
    advisory::{
        arm::{ArmError, Bugs, arm},
        kernel::Kernel,
        set::{Set, embedded, parse},
    },
    policy::{
        armed::{self, Armed},
        compile::{Treatment, compile},
        describe, load,
        model::{Mode, Policy},
        problem::Source,
    },
};

/// Has every bug of [`set`].
const AFFECTED: &str = "6.1.50";
/// Has none.
const FIXED: &str = "6.2";

/// Advisories of which each has these triggers; all begin with 5.10 and end with 6.2.
fn set(all: &[(&str, &str)]) -> Set {
    let sources = all.iter().map(|(id, triggers)| Source {
        file: format!("{id}.yaml"),
        text: format!(
            "id: {id}\ntitle: a bug\nhappens: Nothing.\nharm: crash\nreach: any\nupstream: {{introduced: [\"5.10\"], fixed: [\"6.2\"]}}\n{triggers}\nchecked: {{on: \"2026-11-28\", how: made up}}\n"
        ),
    });
    let advisories = parse(sources.collect(), true).unwrap_or_else(|problems| panic!("{problems}"));
    Set {
        advisories,
        from: Vec::new(),
    }
}

fn triggers(all: &str) -> String {
    format!("triggers: [{all}]")
}

fn bugs(set: &Set, kernel: &str) -> Bugs {
    Bugs::of(set, &Kernel::parse(kernel).unwrap(), &|_| false)
}

/// An enforced policy of one rule, without a reserve.
fn rule(rule: &str) -> Policy {
    let text = format!(
        "version: 1\nmode: enforce\nsubjects: {{s: {{cgroups: [\"/x/*\"]}}}}\nrules: [{{name: r, subjects: [s], kernel: affected, {rule}}}]\nhost: {{reserve: off}}\n"
    );
    load::from_bytes("x", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The same, armed for a kernel.
fn armed(set: &Set, kernel: &str, deny: &str) -> Policy {
    let mut policy = rule(deny);
    arm(&mut policy, Ok(&bugs(set, kernel)));
    policy
}

/// How the rule's first denial is told.
fn says(policy: &Policy) -> String {
    armed::of(&policy.rules[0]).remove(0).says
}

fn treatment(policy: &Policy) -> Treatment {
    compile(policy, None).unwrap().treatments.remove(1)
}

fn denied(policy: &Policy) -> Vec<Action> {
    let refused = treatment(policy).refused;
    refused.iter().map(|one| one.limit.action).collect()
}

#[test]
fn what_an_affected_kernel_arms_a_fixed_one_does_not_put_into_the_kernel() {
    let vsock = triggers("{action: socket, families: [vsock]}");
    let set = set(&[("one", vsock.as_str())]);
    let deny = "deny: [{socket: {families: [vsock]}}]";
    let policy = armed(&set, AFFECTED, deny);
    assert_eq!(says(&policy), "socket of vsock: armed by one");
    assert_eq!(denied(&policy), [Action::Socket, Action::GuardDisable]);
    // What it is about, and how general that is.
    assert_eq!(treatment(&policy).arguments.len(), 2);

    let policy = armed(&set, FIXED, deny);
    assert_eq!(
        says(&policy),
        "socket of vsock: not armed: this kernel (6.2) has none of the bugs that it triggers"
    );
    // Nor is anybody kept from switching off what refuses nothing.
    let treatment = treatment(&policy);
    assert!(treatment.refused.is_empty() && treatment.audited.is_empty());
    assert!(treatment.arguments.is_empty());
    assert_eq!(treatment.limits.fates, Fates::default());
    let line = describe::rules(&policy, None).remove(0);
    assert_eq!(line.mode, Mode::Enforce.name());
    assert_eq!(
        line.says,
        "s: refuses nothing on this kernel: none of what it denies is armed"
    );
    assert!(!line.armed[0].armed && line.armed[0].by.is_empty());
}

#[test]
fn each_denial_is_judged_by_itself_and_the_limits_of_the_rule_hold_everywhere() {
    let bpf = triggers("{action: bpf}");
    let set = set(&[
        ("one", bpf.as_str()),
        ("two", "coverable: no\nbecause: it is ordinary"),
    ]);
    let deny = "deny: [bpf, user_namespace.create], pids: {max: 9, leak: off}";
    let policy = armed(&set, AFFECTED, deny);
    assert_eq!(denied(&policy), [Action::Bpf, Action::GuardDisable]);
    let line = describe::rules(&policy, None).remove(0);
    assert_eq!(line.says, "s: refuses forks beyond 9 pids, and bpf");
    let policy = armed(&set, FIXED, deny);
    assert_eq!(denied(&policy), [Action::GuardDisable]);
    let line = describe::rules(&policy, None).remove(0);
    assert_eq!(line.says, "s: refuses forks beyond 9 pids");
    assert_eq!(treatment(&policy).limits.pids_enforced, 9);
}

#[test]
fn of_several_names_one_that_is_a_triggers_arms_them_all_and_none_does_not() {
    let module = triggers("{action: module.autoload, names: [net-pf-40, net-pf-41]}");
    let set = set(&[("one", module.as_str())]);
    let of = |names: &str| {
        let deny = format!("deny: [{{module.autoload: {{names: [{names}]}}}}]");
        says(&armed(&set, AFFECTED, &deny))
    };
    assert!(of("net_pf_40, net-pf-41, fs-afs").ends_with(": armed by one"));
    assert!(of("fs-afs, net_pf_40").ends_with(": armed by one (not covered)"));
    assert!(of("fs-afs, net-pf-4").contains(": not armed: no advisory"));
}

#[test]
fn what_refuses_some_of_a_trigger_is_armed_and_said_not_to_cover_it() {
    let all = [
        "{action: netlink, families: [nf_tables]}",
        "{action: netlink}",
        "{action: socket, families: [vsock]}",
    ];
    let all = all.map(triggers);
    let of = |trigger: &str, deny: &str| {
        let policy = armed(&set(&[("one", trigger)]), AFFECTED, deny);
        policy.rules[0].deny[0].armed.clone()
    };
    let partly = |armed: Armed| match armed {
        Armed::By(bugs) => Some(bugs[0].partly),
        _ => None,
    };
    let nested = "deny: [{netlink: {families: [nf_tables]}}], when: {netns: nested}";
    assert_eq!(partly(of(&all[0], nested)), Some(true));
    assert_eq!(
        partly(of(&all[0], "deny: [{netlink: {families: [netfilter]}}]")),
        Some(false)
    );
    assert_eq!(
        partly(of(&all[0], "deny: [{netlink: {families: [route]}}]")),
        None
    );
    // Which families are not told: it may be this one.
    assert_eq!(
        partly(of(&all[1], "deny: [{netlink: {families: [route]}}]")),
        Some(true)
    );
    let some = "deny: [{socket: {families: [vsock], types: [stream]}}]";
    assert_eq!(partly(of(&all[2], some)), Some(true));
    assert_eq!(
        partly(of(&all[2], "deny: [{socket: {types: [stream]}}]")),
        None
    );
}

#[test]
fn a_kernel_that_may_have_the_bug_arms_and_many_bugs_are_counted() {
    let bpf = triggers("{action: bpf}");
    let ids = ["a", "b", "c", "d", "e", "f"];
    let all: Vec<(&str, &str)> = ids.iter().map(|id| (*id, bpf.as_str())).collect();
    // A vendor that nobody knows may have fixed it without a new version.
    let policy = armed(&set(&all), "6.1.50-ours", "deny: [bpf]");
    assert_eq!(
        says(&policy),
        "bpf: armed by a (unsure), b (unsure), c (unsure), d (unsure), 2 more"
    );
    assert_eq!(armed::of(&policy.rules[0])[0].by, ids);
    assert!(!armed(&set(&all), "6.2-ours", "deny: [bpf]").rules[0].limits_anything());
}

#[test]
fn what_is_not_known_is_armed_and_said() {
    let mut policy = rule("deny: [bpf]");
    // Before anybody has asked.
    assert_eq!(says(&policy), "bpf: armed where the kernel is affected");
    assert!(policy.rules[0].limits_anything());
    let unread = ArmError::Set("x.yaml:1:1: wrong".to_owned());
    arm(&mut policy, Err(&unread));
    assert_eq!(denied(&policy), [Action::Bpf, Action::GuardDisable]);
    let words = "bpf: armed as on a kernel with every bug: the advisories cannot be read, see `bulkhead advisories`: x.yaml:1:1: wrong";
    assert_eq!(says(&policy), words);
    let notes = describe::notes(&policy, &compile(&policy, None).unwrap());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("x.yaml:1:1: wrong"), "{notes:?}");
    // What can be read again is judged again.
    let bpf = triggers("{action: bpf}");
    arm(
        &mut policy,
        Ok(&bugs(&set(&[("one", bpf.as_str())]), FIXED)),
    );
    assert_eq!(denied(&policy), []);
}

#[test]
fn what_no_advisory_speaks_of_has_a_note_and_what_one_does_has_none() {
    let old = format!(
        "historical: it is old\n{}",
        triggers("{action: bridge.create}")
    );
    let bpf = triggers("{action: bpf}");
    let set = set(&[("one", bpf.as_str()), ("two", old.as_str())]);
    let notes = |deny: &str, kernel: &str| {
        let policy = armed(&set, kernel, deny);
        describe::notes(&policy, &compile(&policy, None).unwrap())
    };
    assert_eq!(notes("deny: [bpf]", AFFECTED), Vec::<String>::new());
    assert_eq!(notes("deny: [bpf]", FIXED), Vec::<String>::new());
    let alone = notes("deny: [bridge.create]", FIXED);
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert!(
        alone[0].contains("denies nothing on any kernel") && alone[0].contains("bridge.create"),
        "{alone:?}"
    );
    let beside = notes("deny: [bpf, module.load]", FIXED);
    assert_eq!(beside.len(), 1, "{beside:?}");
    assert!(
        beside[0].contains("speaks of module.load, ") && beside[0].contains("a rule without"),
        "{beside:?}"
    );
}

#[test]
fn the_example_of_virtual_patches_is_armed_on_old_kernels_and_not_on_new_ones() {
    let example = include_bytes!("../../../../policies/examples/virtual-patches.yaml");
    let set = Set {
        advisories: embedded().unwrap(),
        from: Vec::new(),
    };
    let mut found = 0;
    for (kernel, holds) in [("5.11.10", true), ("999.0", false)] {
        let mut policy = load::from_bytes("virtual-patches.yaml", example).unwrap();
        arm(&mut policy, Ok(&bugs(&set, kernel)));
        for rule in &policy.rules {
            assert_eq!(armed::notes(rule), Vec::<String>::new());
            // No kernel that runs this has its bug.
            assert!(rule.name != "nested-bridge" || armed::of(rule).is_empty());
            for told in armed::of(rule) {
                assert_eq!(told.armed, holds, "{kernel}: {}", told.says);
                found += 1;
            }
        }
    }
    assert_eq!(found, 20);
}

#[test]
fn bugs_that_it_covers_are_named_before_those_that_it_does_not() {
    let (some, all) = (
        triggers("{action: netlink, families: [nf_tables, xfrm]}"),
        triggers("{action: netlink, families: [xfrm]}"),
    );
    let set = set(&[("a", some.as_str()), ("b", all.as_str())]);
    let policy = armed(&set, AFFECTED, "deny: [{netlink: {families: [xfrm]}}]");
    assert_eq!(
        says(&policy),
        "netlink of xfrm: armed by b, a (not covered)"
    );
}

#[test]
fn a_denial_of_more_devices_is_armed_by_one_of_them() {
    let one = triggers("{action: device.open, devices: [\"char 10:229\"]}");
    let set = set(&[("a", one.as_str())]);
    for (devices, holds) in [
        ("char 10:229", true),
        ("char 10:*", true),
        ("char *", true),
        ("char 10:228", false),
        ("block *", false),
    ] {
        let rule = format!("deny: [{{device.open: {{devices: [\"{devices}\"]}}}}]");
        let policy = armed(&set, AFFECTED, &rule);
        assert_eq!(says(&policy).contains(": armed by a"), holds, "{devices}");
    }
}

#[test]
fn a_policy_that_does_not_ask_is_left_as_it_is() {
    let text = "version: 1\nsubjects: {s: {cgroups: [\"/x/*\"]}}\nrules: [{name: r, subjects: [s], deny: [bpf]}]\nhost: {thin: {discard: leave}}\n";
    let mut policy = load::from_bytes("x", text.as_bytes()).unwrap();
    let before = policy.clone();
    assert!(!policy.asks_for_the_kernel());
    arm(&mut policy, Ok(&bugs(&set(&[]), FIXED)));
    assert_eq!(policy, before);
    assert!(armed::of(&policy.rules[0]).is_empty());
}
