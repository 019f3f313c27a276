//! What comes of several rules, modes and patterns together.

use std::time::Duration;

use guard_common::{
    action::{Action, Fate, Fates},
    fork_storm::{ForkLimits, MODE_AUDIT, MODE_ENFORCE, MODE_OFF},
    rtnetlink,
};

use super::policy;
use crate::policy::{
    compile::{Compiled, ModeOverride, Treatment, compile},
    load,
    model::{Act, Mode},
};

/// How the container with this path is treated.
fn treatment<'c>(compiled: &'c Compiled, path: &str) -> &'c Treatment {
    let (_, label) = compiled.names.container(path.as_bytes()).unwrap();
    &compiled.treatments[usize::from(label & 0xff)]
}

/// The actions that have this fate, whatever they are done to.
fn with(fates: &Fates, fate: Fate) -> Vec<Action> {
    let has = |action: &Action| fates.of(*action) & fate.bit() != 0;
    Action::ALL.into_iter().filter(has).collect()
}

/// These fates and no others: whatever an action is done to, and by what.
fn fates(whatever: &[(Action, Fate)], by_argument: &[(Action, Fate)]) -> Fates {
    let mut fates = Fates::default();
    for (action, fate) in whatever {
        fates.add(*action, *fate);
    }
    for (action, fate) in by_argument {
        fates.add_by_argument(*action, *fate);
    }
    fates
}

fn docker(more: &str, call: Option<ModeOverride>) -> Treatment {
    let compiled = compile(&policy(more), call).unwrap();
    treatment(&compiled, "/docker/a").clone()
}

const RULES: &str = "mode: enforce
rules:
  - {name: own, subjects: [containers], mode: audit, pids: {max: 10}}
  - {name: plain, subjects: [containers], forks: {rate: 10/s}}
";

#[test]
fn a_rules_own_mode_beats_the_policys_and_the_call_to_audit_beats_both() {
    let limits = docker(RULES, None).limits;
    assert_eq!((limits.pids_audited, limits.pids_enforced), (10, 0));
    assert_eq!(
        limits.enforced,
        ForkLimits::new(10, 1_000_000_000, 20).unwrap()
    );
    assert_eq!(limits.reserve, MODE_ENFORCE);

    let limits = docker(RULES, Some(ModeOverride::Audit)).limits;
    assert_eq!((limits.pids_audited, limits.pids_enforced), (10, 0));
    assert_eq!(limits.enforced, ForkLimits::default());
    assert_eq!(
        limits.audited,
        ForkLimits::new(10, 1_000_000_000, 20).unwrap()
    );
    assert_eq!(limits.reserve, MODE_AUDIT);

    let audited = RULES.replace("mode: enforce", "mode: audit");
    let limits = docker(&audited, Some(ModeOverride::Enforce)).limits;
    assert_eq!((limits.pids_audited, limits.pids_enforced), (10, 0));
    assert_ne!(limits.enforced, ForkLimits::default());
    assert_eq!(limits.reserve, MODE_ENFORCE);
}

#[test]
fn the_reserve_has_a_mode_of_its_own_and_can_be_off() {
    let rules = "mode: audit\nhost: {reserve: {pids: 5%, mode: enforce}}\n";
    assert_eq!(docker(rules, None).limits.reserve, MODE_ENFORCE);
    for off in [
        "host: {reserve: off}",
        "host: {reserve: false}",
        "host: {reserve: {pids: off}}",
        "host: {reserve: {pids: false}}",
        "host: {reserve: \"off\"}",
    ] {
        let compiled = compile(&policy(off), None).unwrap();
        assert_eq!(compiled.reserve, None, "{off}");
        assert_eq!(
            treatment(&compiled, "/docker/a").limits.reserve,
            MODE_OFF,
            "{off}"
        );
    }
}

#[test]
fn the_smallest_limit_holds_and_an_audited_one_only_below_the_enforced() {
    let treatment = docker(
        "mode: enforce
rules:
  - {name: wide, subjects: [containers], forks: {rate: 500/s}, pids: {max: 4096}}
  - {name: narrow, subjects: [containers], forks: {rate: 6000/m, burst: 7}, pids: {max: 100}}
  - {name: watched, subjects: [containers], mode: audit, forks: {rate: 50/s}, pids: {max: 100}}
",
        None,
    );
    assert_eq!(treatment.rate_enforced.unwrap().rule, "narrow");
    assert_eq!(treatment.pids_enforced.unwrap().rule, "narrow");
    assert_eq!(treatment.rate_audited.unwrap().rule, "watched");
    assert_eq!(treatment.pids_audited, None);
    assert_eq!(treatment.limits.pids_audited, 0);
    assert_eq!(treatment.limits.pids_enforced, 100);
}

#[test]
fn only_enforced_limits_that_hold_have_a_ladder_and_steps_come_in_order_of_time() {
    let rules = "mode: enforce
rules:
  - {name: a, subjects: [containers], pids: {max: 10}, escalate: [{after: 20s, do: freeze}, {after: 60s, do: kill}]}
  - {name: b, subjects: [containers], forks: {rate: 1/s}, escalate: [{after: 30s, do: freeze, for: 5s}]}
  - {name: c, subjects: [containers], pids: {max: 11}, escalate: [{after: 1s, do: kill}]}
  - {name: d, subjects: [containers], mode: audit, pids: {max: 9}, escalate: [{after: 1s, do: kill}]}
";
    let ladder = docker(rules, None).ladder;
    let steps: Vec<_> = (ladder.iter())
        .map(|step| {
            (
                step.after.as_secs(),
                step.rule.as_str(),
                step.on_rate,
                step.on_pids,
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            (20, "a", false, true),
            (30, "b", true, false),
            (60, "a", false, true)
        ]
    );
    assert_eq!(
        ladder[1].act,
        Act::Freeze {
            time: Duration::from_secs(5)
        }
    );
    assert_eq!(
        ladder[0].act,
        Act::Freeze {
            time: Duration::from_secs(10)
        }
    );
    let audited = docker(rules, None).ladder_audited;
    assert_eq!((audited.len(), audited[0].rule.as_str()), (1, "d"));
    let audited = docker(rules, Some(ModeOverride::Audit));
    assert_eq!(audited.ladder, []);
    let rules: Vec<&str> = (audited.ladder_audited.iter())
        .map(|step| step.rule.as_str())
        .collect();
    // Of four audited rules two have limits that hold: the smallest cap, and the only rate.
    assert_eq!(rules, ["d", "b"]);
}

#[test]
fn the_earliest_alarm_holds_and_off_is_off() {
    let leak = |leak: &str| {
        let rules =
            format!("rules:\n  - {{name: a, subjects: [containers], pids: {{max: 10{leak}}}}}\n");
        docker(&rules, None).leak.map(|leak| leak.limit.as_secs())
    };
    assert_eq!(leak(""), Some(1800));
    assert_eq!(leak(", leak: 1h"), Some(3600));
    assert_eq!(leak(", leak: off"), None);
    assert_eq!(leak(", leak: false"), None);
}

#[test]
fn an_exempt_container_has_no_limits_unless_a_user_could_have_made_its_name() {
    let policy = load::from_bytes(
        "test.yaml",
        b"version: 1
mode: enforce
subjects: {all: {cgroups: [\"/**/docker-*\"]}}
exempt: {cgroups: [\"/**/docker-trusted\"]}
rules: [{name: cap, subjects: [all], pids: {max: 10}}]
",
    )
    .unwrap();
    let compiled = compile(&policy, None).unwrap();
    let trusted = treatment(&compiled, "/docker-trusted");
    assert!(trusted.exempt);
    assert_eq!(trusted.limits, Default::default());
    let claimed = treatment(
        &compiled,
        "/user.slice/user-1000.slice/user@1000.service/docker-trusted",
    );
    assert!(!claimed.exempt);
    assert_eq!(claimed.limits.pids_enforced, 10);
}

#[test]
fn what_is_denied_and_to_whom() {
    let policy = load::from_bytes(
        "test.yaml",
        b"version: 1
mode: enforce
subjects: {all: {cgroups: [\"/**/docker-*\"]}, monitors: {cgroups: [\"/**/docker-monitor\"]}}
rules:
  - {name: keep, subjects: [all], deny: [kernel_log.clear]}
  - {name: alone, subjects: [all], except: [monitors], deny: [kernel_log.read, kernel_log.clear]}
  - {name: look, subjects: [all], mode: audit, deny: [kernel_log.write, kernel_log.read]}
",
    )
    .unwrap();
    let compiled = compile(&policy, None).unwrap();
    // Who may not read may not take lines out either.
    let read = [Action::KernelLogRead, Action::KernelLogConsume];
    let clear = [Action::KernelLogClear];
    // Who may not write may not set the console's level either.
    let write = [Action::KernelLogWrite, Action::KernelLogConsole];
    let all = |actions: &[&[Action]]| {
        let mut all = actions.concat();
        all.sort();
        all
    };
    let judged = |path| {
        let fates = &treatment(&compiled, path).limits.fates;
        let mut refused = with(fates, Fate::Refused);
        // Whoever is refused anything may not switch that off.
        let guard = refused.iter().position(|one| *one == Action::GuardDisable);
        refused.remove(guard.unwrap());
        (refused, with(fates, Fate::Audited))
    };
    assert_eq!(judged("/docker-a"), (all(&[&read, &clear]), all(&[&write])));
    let monitor = (all(&[&clear]), all(&[&read, &write]));
    assert_eq!(judged("/docker-monitor"), monitor);
    // A name that a user could have made takes nothing out.
    let claimed = "/user.slice/user-1000.slice/user@1000.service/docker-monitor";
    assert_eq!(judged(claimed), (all(&[&read, &clear]), all(&[&write])));
    // The first rule that refuses it is the one that is named.
    let refused = &treatment(&compiled, "/docker-a").refused;
    let named = |action| {
        refused
            .iter()
            .find(|one| one.limit.action == action)
            .unwrap()
    };
    assert_eq!(named(Action::KernelLogClear).rule, "keep");
    assert_eq!(named(Action::KernelLogRead).rule, "alone");
}

#[test]
fn what_is_denied_of_some_kinds_or_in_some_place_is_so_and_no_more() {
    let policy = load::from_bytes(
        "test.yaml",
        b"version: 1
mode: enforce
subjects: {all: {cgroups: [\"/docker-*\"]}, build: {cgroups: [\"/docker-build\"]}}
rules:
  - {name: nested, subjects: [all], deny: [bridge.create, net_link.create: {kinds: [vxcan, veth]}], when: {netns: nested}}
  - {name: look, subjects: [all], mode: audit, deny: [bridge.create, net_link.create: {kinds: [veth, vxcan]}]}
  - {name: more, subjects: [build], deny: [net_link.create: {kinds: [vxcan]}]}
",
    )
    .unwrap();
    let compiled = compile(&policy, None).unwrap();
    let (bridge, link) = (Action::BridgeCreate, Action::NetLinkCreate);
    let all = treatment(&compiled, "/docker-a");
    // Refused in a nested namespace, and audited elsewhere.
    let elsewhere = |action| [(action, Fate::RefusedNested), (action, Fate::Audited)];
    let [nested, audited] = elsewhere(bridge);
    let guard = (Action::GuardDisable, Fate::Refused);
    let expected = fates(&[guard, nested, audited], &elsewhere(link));
    assert_eq!(all.limits.fates, expected);
    let fates = |path: &str, name: &str| {
        let of = rtnetlink::kind(name).unwrap();
        let mut all = treatment(&compiled, path).arguments.iter();
        all.find(|one| one.argument == of)
            .map_or(0, |one| one.fates)
    };
    let both = Fate::RefusedNested.bit() | Fate::Audited.bit();
    assert_eq!(fates("/docker-a", "veth"), both);
    assert_eq!(fates("/docker-a", "dummy"), 0);
    // What is refused everywhere need not be audited anywhere.
    assert_eq!(
        fates("/docker-build", "vxcan"),
        Fate::Refused.bit() | Fate::RefusedNested.bit()
    );
    assert_eq!(fates("/docker-build", "veth"), both);
}

#[test]
fn kinds_of_links_and_of_traffic_control_of_the_same_name_are_told_apart() {
    let policy = load::from_bytes(
        "test.yaml",
        b"version: 1
mode: enforce
subjects: {all: {cgroups: [\"/docker-*\"]}}
rules:
  - {name: link, subjects: [all], deny: [net_link.create: {kinds: [red]}]}
  - {name: traffic, subjects: [all], deny: [traffic_control: {kinds: [red, fw]}], when: {netns: nested}}
",
    )
    .unwrap();
    let compiled = compile(&policy, None).unwrap();
    let all = treatment(&compiled, "/docker-a");
    let guard = [(Action::GuardDisable, Fate::Refused)];
    let by_kind = [
        (Action::NetLinkCreate, Fate::Refused),
        (Action::TrafficControl, Fate::RefusedNested),
    ];
    assert_eq!(all.limits.fates, fates(&guard, &by_kind));
    let fates = |action, name: &str| {
        let of = rtnetlink::kind(name).unwrap();
        let mut all = all.arguments.iter();
        all.find(|one| one.argument == of && one.action == action)
            .map_or(0, |one| one.fates)
    };
    let everywhere = Fate::Refused.bit();
    assert_eq!(fates(Action::NetLinkCreate, "red"), everywhere);
    assert_eq!(fates(Action::NetLinkCreate, "fw"), 0);
    for kind in ["red", "fw"] {
        assert_eq!(
            fates(Action::TrafficControl, kind),
            Fate::RefusedNested.bit()
        );
    }
}

#[test]
fn a_container_of_two_subjects_has_the_limits_of_both() {
    let policy = load::from_bytes(
        "test.yaml",
        b"version: 1
subjects: {all: {cgroups: [\"/docker/*\"]}, build: {cgroups: [\"/docker/build-*\"]}}
rules:
  - {name: cap, subjects: [all], pids: {max: 10}}
  - {name: rate, subjects: [build], forks: {rate: 5/m}}
",
    )
    .unwrap();
    let compiled = compile(&policy, None).unwrap();
    assert_eq!(compiled.treatments.len(), 3);
    let both = treatment(&compiled, "/docker/build-1");
    assert_eq!(both.subjects, ["all", "build"]);
    assert_eq!(both.limits.pids_audited, 10);
    assert_eq!(both.limits.audited.interval_ns, 12_000_000_000);
    assert_eq!(treatment(&compiled, "/docker/x").rate_audited, None);
}

#[test]
fn the_embedded_policy_is_audited_unless_the_call_says_enforce_and_then_kills_nothing() {
    let policy = load::embedded().unwrap();
    let audited = compile(&policy, None).unwrap();
    assert!(audited.audited_altogether);
    assert_eq!(audited.reserve.unwrap().mode, Mode::Audit);
    let enforced = compile(&policy, Some(ModeOverride::Enforce)).unwrap();
    let treatment = treatment(&enforced, "/docker/a");
    assert_eq!(treatment.limits.reserve, MODE_ENFORCE);
    assert_eq!(treatment.rate_enforced, None);
    assert_eq!(treatment.pids_enforced, None);
    assert_eq!(treatment.ladder, []);
}

#[test]
fn more_kinds_of_containers_than_profiles_are_refused() {
    let mut text = String::from("version: 1\nsubjects:\n");
    for number in 0..8 {
        // Every subset of eight letters makes a kind of its own.
        text.push_str(&format!(
            "  s{number}: {{cgroups: [\"/docker/*{number}*\"]}}\n"
        ));
    }
    let policy = load::from_bytes("test.yaml", text.as_bytes()).unwrap();
    let error = compile(&policy, None).err().unwrap();
    assert!(
        format!("{:?}", error).contains("TooManyProfiles"),
        "{error:?}"
    );
}

#[test]
fn who_is_refused_anything_may_not_switch_that_off() {
    let refuses = |mode: &str, reserve: &str| {
        let policy = load::from_bytes(
            "x",
            format!(
                "version: 1\nmode: {mode}\nsubjects: {{all: {{cgroups: [/docker-*]}}}}\nrules: [{{name: r, subjects: [all], pids: {{max: 9}}}}]\nhost: {{reserve: {{pids: {reserve}, mode: {mode}}}}}"
            )
            .as_bytes(),
        )
        .unwrap();
        let compiled = compile(&policy, None).unwrap();
        treatment(&compiled, "/docker-a").limits.fates
    };
    let guard = [(Action::GuardDisable, Fate::Refused)];
    assert_eq!(refuses("enforce", "300"), fates(&guard, &[]));
    // Auditing refuses nothing, this neither.
    assert_eq!(refuses("audit", "300"), Fates::default());
}
