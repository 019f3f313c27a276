//! Traffic control: a container that would add or change a qdisc, class, filter, chain or action of a kind that a policy names is
//! refused.

use std::time::Duration;

use anyhow::{Result, ensure};
use guard_common::rtnetlink::STEPS;

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "traffic_control::what_a_rule_denies_is_refused_where_it_says_and_nothing_beside_it",
        needs: Needs::RefusingOnV2,
        run: refused,
    },
    Scenario {
        name: "traffic_control::messages_as_no_tool_writes_them_are_refused_by_every_way",
        needs: Needs::Ordinary,
        run: by_hand,
    },
    Scenario {
        name: "traffic_control::without_kinds_and_when_all_of_it_is_refused_wherever_and_looking_at_it_is_not",
        needs: Needs::Ordinary,
        run: whatever,
    },
    Scenario {
        name: "traffic_control::in_audit_mode_everything_is_done_and_counted",
        needs: Needs::Ends,
        run: audited,
    },
    Scenario {
        name: "traffic_control::a_message_too_long_to_be_read_is_refused_wherever_it_is_sent",
        needs: Needs::Ordinary,
        run: too_long,
    },
]];

const NESTED: &str = "deny: [traffic_control: {kinds: [sfq, qfq, hfsc, route, fw, flower, pedit, police]}]\nwhen: {netns: nested}";

/// In a network namespace of its own; each leaves nothing behind.
fn nested(script: &str) -> String {
    format!("unshare --net sh -ec '{script}'")
}

/// What the rule denies, with the tool that people use.
const DENIED: [&str; 11] = [
    "tc qdisc add dev lo root sfq",
    "tc qdisc replace dev lo root handle 1: qfq",
    "tc qdisc add dev lo root handle 1: prio; tc qdisc add dev lo parent 1:1 sfq perturb 10",
    "tc qdisc add dev lo root handle 1: prio
        tc filter add dev lo parent 1: protocol ip prio 1 route from 1 classid 1:1",
    "tc qdisc add dev lo root handle 1: prio
        tc filter add dev lo parent 1: protocol ip prio 1 handle 1 fw classid 1:1",
    "tc qdisc add dev lo root handle 1: prio
        tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip src 192.0.2.1/32 action pedit munge offset 0 u8 set 10",
    "tc qdisc add dev lo clsact
        tc filter add dev lo ingress matchall action gact continue action pedit munge offset 0 u8 set 10",
    "tc qdisc add dev lo clsact
        tc filter add dev lo ingress matchall action police rate 1mbit burst 10k",
    "tc qdisc add dev lo clsact; tc chain add dev lo ingress protocol ip chain 3 flower dst_ip 192.0.2.0/24",
    "tc actions add action pedit munge offset 0 u8 set 10",
    "(seq -f \"actions add action gact drop index %g\" 1 49; echo actions add action pedit munge offset 0 u8 set 10) | tc -batch -",
];

/// What it does not.
const OTHERS: [&str; 7] = [
    "tc qdisc add dev lo root pfifo; tc qdisc change dev lo root pfifo limit 7; tc qdisc del dev lo root",
    "tc qdisc add dev lo root handle 1: htb default 1; tc class add dev lo parent 1: classid 1:1 htb rate 1mbit
        tc filter add dev lo parent 1: protocol ip prio 1 u32 match ip src 192.0.2.1/32 action drop",
    "tc qdisc add dev lo clsact; tc chain add dev lo ingress chain 3
        tc filter add dev lo ingress matchall action mirred egress redirect dev lo; tc filter show dev lo ingress; tc filter del dev lo ingress",
    "tc qdisc add dev lo clsact; for action in \"csum ip\" \"vlan pop\" \"nat ingress 192.0.2.1 192.0.2.2\"
        do tc filter add dev lo ingress protocol ip matchall action $action; done",
    "tc actions add action gact drop; tc actions list action gact",
    "seq -f \"actions add action gact drop index %g\" 1 50 | tc -batch -",
    "ip link add probe0 type dummy; ip link set probe0 up; ip route show; tc -s qdisc show",
];

/// A device of the host's own namespace.
const IN_HOSTS: &str = "ip link add probe-tc type dummy && { tc qdisc add dev probe-tc root sfq; code=$?; ip link del probe-tc; exit $code; }";

fn refused() -> Result<()> {
    let container = Cgroup::container()?;
    let neighbour = Cgroup::container()?;
    let service = Cgroup::service()?;
    let us = Some(&container);
    for script in DENIED.into_iter().chain(OTHERS) {
        ensure!(may(us, &nested(script))?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce(NESTED)?;
    let daemon = Daemon::start(&policy, &[])?;
    for script in DENIED {
        let nested = nested(script);
        ensure!(!may(us, &nested)?, "the container may: {script}");
        ensure!(may(None, &nested)?, "the host may not: {script}");
        ensure!(may(Some(&service), &nested)?, "a service may not: {script}");
    }
    for script in OTHERS {
        let nested = nested(script);
        ensure!(may(us, &nested)?, "the container may not: {script}");
        ensure!(
            may(Some(&neighbour), &nested)?,
            "its neighbour may not: {script}"
        );
    }
    ensure!(may(us, IN_HOSTS)?, "in the host's namespace");
    a_class(us)?;
    let seen = status()?;
    ensure!(count(&seen, &container, "traffic_control", "refused")? > DENIED.len() as u64);
    ensure!(count(&seen, &neighbour, "traffic_control", "refused")? == 0);
    enforcing(&seen, "rtnetlink", "netlink_send")?;
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == "traffic_control"
                && record["verdict"] == "deny"
                && record["argument"] == "sfq"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    // A reload takes out what is denied no more, and puts in what is new.
    policy.rewrite(
        "enforce",
        "deny: [traffic_control: {kinds: [pfifo]}]",
        "reserve: {pids: 300}",
    )?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || {
        Ok(!may(us, &nested(OTHERS[0]))?)
    })?;
    ensure!(may(us, &nested(DENIED[0]))?, "what is denied no more");
    drop(daemon);
    ensure!(may(us, &nested(OTHERS[0]))?, "nobody is there");
    Ok(())
}

/// A class of a qdisc that the host made.
fn a_class(us: Option<&Cgroup>) -> Result<()> {
    let class = "tc -n probe class add dev lo parent 1: classid 1:1 hfsc sc rate 1mbit";
    ensure!(may(
        None,
        "ip netns add probe && tc -n probe qdisc add dev lo root handle 1: hfsc default 1"
    )?);
    let came = (may(us, class)?, may(None, class)?);
    ensure!(may(None, "ip netns del probe")?);
    ensure!(came == (false, true), "a class: {came:?}");
    Ok(())
}

/// Ways of the probe; those that want a qdisc begin with one.
const WAYS: [&str; 12] = [
    "plain",
    "twice",
    "unterminated",
    "flagged",
    "second",
    "sendmmsg",
    "write",
    "io-uring",
    "io-uring-async",
    "untold",
    "old-police",
    "backwards",
];

fn way(name: &str) -> String {
    let first = match name {
        "untold" => "tc qdisc add dev lo root handle 1: pfifo limit 5; ",
        "old-police" | "backwards" => "tc qdisc add dev lo root handle 1: prio; ",
        _ => "",
    };
    // What is done is there, and what is not is not.
    let there = match name {
        "untold" => "qdisc show dev lo | grep -q 77p",
        "old-police" => "filter show dev lo | grep -q police",
        "backwards" => "filter show dev lo | grep -q pedit",
        _ => "qdisc show dev lo | grep -q sfq",
    };
    nested(&format!(
        "{first}if bulkhead-probe traffic --way {name}; then tc {there}; else ! tc {there} || exit 9; exit 1; fi"
    ))
}

fn by_hand() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    for name in WAYS {
        ensure!(may(us, &way(name))?, "without Bulkhead: {name}");
    }
    // The filters that hold an action are of a kind that is not denied.
    let kinds = "deny: [traffic_control: {kinds: [sfq, pedit, police]}]";
    let policy = Policy::enforce(kinds)?;
    let daemon = Daemon::start(&policy, &[])?;
    for name in WAYS {
        ensure!(!may(us, &way(name))?, "the container may: {name}");
        ensure!(may(None, &way(name))?, "the host may not: {name}");
    }
    // The same of another kind; taking one away; and another filter of the kind that held the denied action.
    for script in [
        "bulkhead-probe traffic --way plain --kind pfifo; bulkhead-probe traffic --way remove",
        "bulkhead-probe traffic --way second --kind pfifo",
        "tc qdisc add dev lo root handle 1: prio
            tc filter add dev lo parent 1: protocol ip prio 1 handle 1 fw classid 1:1 action gact continue",
    ] {
        ensure!(may(us, &nested(script))?, "the container may not: {script}");
    }
    drop(daemon);
    ensure!(may(us, &way("plain"))?, "nobody is there");
    Ok(())
}

fn whatever() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::enforce("deny: [traffic_control]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in [
        "tc qdisc add dev lo root pfifo",
        "tc qdisc add dev lo root sfq",
        "tc actions add action gact drop",
        "tc qdisc add dev lo clsact",
    ] {
        ensure!(!may(us, &nested(script))?, "the container may: {script}");
        ensure!(may(None, &nested(script))?, "the host may not: {script}");
    }
    ensure!(!may(us, IN_HOSTS)?, "in the host's namespace");
    ensure!(may(None, IN_HOSTS)?, "the host, in its namespace");
    ensure!(may(us, &nested(OTHERS[6]))?, "links and looking");
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::write("audit", NESTED, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let counted = |which| count(&status()?, &container, "traffic_control", which);
    for (script, counts) in (DENIED.map(|script| (script, true)).into_iter())
        .chain(OTHERS.map(|script| (script, false)))
    {
        let before = counted("audited")?;
        ensure!(may(us, &nested(script))?, "refused in audit mode: {script}");
        let is_counted = counted("audited")? > before;
        ensure!(is_counted == counts, "{script}: counted: {is_counted}");
    }
    let before = counted("audited")?;
    ensure!(may(us, IN_HOSTS)?, "in the host's namespace");
    ensure!(counted("audited")? == before, "the host's namespace counts");
    ensure!(counted("refused")? == 0);
    Ok(())
}

/// Steps of the reader that one qdisc takes besides its attributes that mean nothing: its message, its kind, its end, and the end of
/// all.
const OTHER_STEPS: u32 = 4;

fn too_long() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let long = |count: u32| {
        nested(&format!(
            "bulkhead-probe traffic --way long --kind pfifo --count {count}"
        ))
    };
    let fits = STEPS - OTHER_STEPS;
    let policy = Policy::enforce(NESTED)?;
    let daemon = Daemon::start(&policy, &[])?;
    for (count, expected) in [(fits, true), (fits + 1, false), (15_000, false)] {
        ensure!(may(us, &long(count))? == expected, "{count} attributes");
        ensure!(may(None, &long(count))?, "the host: {count} attributes");
    }
    // In the host's namespace what can be read is allowed, and taken away again.
    let in_hosts = |count: u32| {
        format!(
            "bulkhead-probe traffic --way long --kind pfifo --count {count} && bulkhead-probe traffic --way remove"
        )
    };
    ensure!(may(us, &in_hosts(fits))?, "in the host's namespace");
    ensure!(
        !may(us, &in_hosts(fits + 1))?,
        "in the host's namespace, too long"
    );
    ensure!(may(None, &in_hosts(fits + 1))?, "the host, in its own");
    let counted = |action| count(&status()?, &container, action, "refused");
    ensure!(counted("traffic_control")? == 3);
    // A rule about links alone does not look at it.
    policy.rewrite("enforce", "deny: [bridge.create]", "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || {
        may(us, &long(fits + 1))
    })?;
    ensure!(counted("bridge.create")? == 0);
    Ok(())
}
