//! Who may make which links, where, by every way there is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::ways::{BRIDGES, Came, Netns, Way, go};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, status},
    hazards::{Needs, Scenario, kernel_log::refusing::count},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "net_link::a_bridge_in_a_nested_namespace_is_refused_by_every_way_and_in_the_hosts_by_none",
        needs: Needs::RefusingOnV2,
        run: nested,
    },
    Scenario {
        name: "net_link::without_when_a_bridge_is_refused_wherever_it_would_be",
        needs: Needs::Ordinary,
        run: everywhere,
    },
    Scenario {
        name: "net_link::in_audit_mode_every_bridge_is_made_and_counted",
        needs: Needs::Ends,
        run: audited,
    },
    Scenario {
        name: "net_link::of_the_kinds_that_a_policy_names_each_is_refused_and_no_other",
        needs: Needs::Ordinary,
        run: kinds,
    },
    Scenario {
        name: "net_link::a_message_too_long_to_be_read_is_refused_wherever_it_is_sent",
        needs: Needs::Ordinary,
        run: too_long,
    },
];

const WHEN_NESTED: &str = "deny: [bridge.create]\nwhen: {netns: nested}";

/// The ways that make a bridge in a container on this machine without Bulkhead.
fn open_ways(container: &Cgroup) -> Result<Vec<&'static Way>> {
    let mut open = Vec::new();
    for way in BRIDGES {
        match way.go(Some(container), Netns::Nested) {
            Ok(Came::Done) => open.push(way),
            other => println!("    not here: {}: {other:?}", way.script),
        }
    }
    // A kernel may run no 32-bit programs.
    ensure!(
        open.len() + 2 >= BRIDGES.len(),
        "only {} of {} ways make a bridge without Bulkhead",
        open.len(),
        BRIDGES.len()
    );
    Ok(open)
}

fn nested() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    let open = open_ways(&container)?;
    let policy = Policy::enforce(WHEN_NESTED)?;
    let daemon = Daemon::start(&policy, &[])?;
    for way in &open {
        let in_hosts = if way.names_one {
            Came::Refused
        } else {
            Came::Done
        };
        let us = Some(&container);
        expect(way, "the container", us, Netns::Nested, Came::Refused)?;
        expect(way, "the container", us, Netns::Host, in_hosts)?;
        expect(way, "the host", None, Netns::Nested, Came::Done)?;
    }
    let (first, us) = (open[0], Some(&service));
    expect(
        first,
        "a service of the host",
        us,
        Netns::Nested,
        Came::Done,
    )?;
    let seen = status()?;
    for hook in seen["hooks"].as_array().context("no hooks")? {
        println!(
            "    {} {} on {}: {}",
            hook["hook"], hook["state"], hook["rung"], hook["reason"]
        );
    }
    ensure!(count(&seen, &container, "bridge.create", "refused")? >= open.len() as u64);
    ensure!(count(&seen, &container, "bridge.create", "audited")? == 0);
    told(&policy, &container, "bridge.create", "enforced")?;
    println!(
        "    {} ways refused to a container in a nested namespace",
        open.len()
    );
    // Other links, and a bridge that is only looked at, are none of its business.
    for (script, name) in [
        ("ip link add probe0 type dummy", "probe0"),
        ("ip link add probe0 type veth peer name probe1", "probe0"),
        (
            "bulkhead-probe link --way harmless && ip link add probe0 type dummy",
            "probe0",
        ),
        (
            "ip route add blackhole 192.0.2.1 && ip link show > /dev/null",
            "lo",
        ),
    ] {
        ensure!(
            go(Some(&container), Netns::Nested, script, name)? == Came::Done,
            "refused: {script}"
        );
    }
    drop(daemon);
    let us = Some(&container);
    expect(first, "nobody is there", us, Netns::Nested, Came::Done)
}

/// Ways of which each is judged at another place.
fn some_ways() -> impl Iterator<Item = &'static Way> {
    let some = ["ip link add probe0 type bridge", "brctl", "by-pid", "by-fd"];
    let is_one = move |way: &&Way| some.iter().any(|word| way.script.contains(word));
    BRIDGES.iter().filter(is_one)
}

fn everywhere() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce("deny: [bridge.create]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for way in some_ways() {
        for netns in [Netns::Nested, Netns::Host] {
            let us = Some(&container);
            expect(way, "the container", us, netns, Came::Refused)?;
        }
    }
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let open = open_ways(&container)?;
    let policy = Policy::write("audit", WHEN_NESTED, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let us = Some(&container);
    let mut counted = 0;
    for way in open {
        expect(way, "the container", us, Netns::Nested, Came::Done)?;
        let now = count(&status()?, &container, "bridge.create", "audited")?;
        ensure!(
            now == counted + 1,
            "{}: counted {counted}, then {now}",
            way.script
        );
        counted = now;
    }
    // In the host's namespace only those that name one count, and of each the same.
    for way in some_ways() {
        expect(way, "the container", us, Netns::Host, Came::Done)?;
        counted += u64::from(way.names_one);
        let now = count(&status()?, &container, "bridge.create", "audited")?;
        ensure!(now == counted, "{}: {now}, not {counted}", way.script);
    }
    ensure!(count(&status()?, &container, "bridge.create", "refused")? == 0);
    told(&policy, &container, "bridge.create", "audited")
}

fn kinds() -> Result<()> {
    let container = Cgroup::container()?;
    let policy =
        Policy::enforce("deny: [{net_link.create: {kinds: [bridge, veth, dumm, macvlan]}}]")?;
    let daemon = Daemon::start(&policy, &[])?;
    let tries = |expected: &[(&str, Came)]| -> Result<()> {
        for (script, came) in expected {
            for (who, cgroup, came) in [
                ("the container", Some(&container), *came),
                ("the host", None, Came::Done),
            ] {
                let seen = go(cgroup, Netns::Nested, script, "probe0")?;
                ensure!(seen == came, "{who}: {script}: {seen:?}");
            }
        }
        Ok(())
    };
    tries(&[
        ("ip link add probe0 type bridge", Came::Refused),
        ("brctl addbr probe0", Came::Refused),
        (
            "ip link add probe0 type veth peer name probe1",
            Came::Refused,
        ),
        ("bulkhead-probe link --way veth-peer", Came::Refused),
        // A kind of which the policy names only the beginning.
        ("ip link add probe0 type dummy", Came::Done),
        (
            "ip link add probe0 type vlan id 5 link lo || ip link add probe0 type ifb",
            Came::Done,
        ),
    ])?;
    told(&policy, &container, "net_link.create", "enforced")?;
    let records = policy.records()?;
    ensure!(
        records
            .iter()
            .any(|record| record["argument"] == "bridge" || record["argument"] == "veth"),
        "no record says what kind of link"
    );
    // A reload takes out what is denied no more, and puts in what is new.
    policy.rewrite(
        "enforce",
        "deny: [{net_link.create: {kinds: [dummy]}}]",
        "reserve: {pids: 300}",
    )?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || {
        Ok(go(
            Some(&container),
            Netns::Nested,
            "ip link add probe0 type dummy",
            "probe0",
        )? == Came::Refused)
    })?;
    tries(&[
        ("ip link add probe0 type bridge", Came::Done),
        ("ip link add probe0 type dummy", Came::Refused),
    ])?;
    // By where its other end would be, from the host's own namespace (CVE-2026-31692).
    policy.rewrite(
        "enforce",
        "deny: [{net_link.create: {kinds: [veth]}}]\nwhen: {netns: nested}",
        "reserve: {pids: 300}",
    )?;
    daemon.reload()?;
    let (near, far) = (
        "ip link add probe0 type veth peer name probe1",
        "bulkhead-probe link --way veth-peer",
    );
    let us = Some(&container);
    wait_for("the reload", Duration::from_secs(20), || {
        Ok(go(us, Netns::Host, far, "probe0")? == Came::Refused)
    })?;
    for (who, script, expected) in [
        (us, near, Came::Done),
        (us, far, Came::Refused),
        (None, near, Came::Done),
        (None, far, Came::Done),
    ] {
        let seen = go(who, Netns::Host, script, "probe0")?;
        ensure!(
            seen == expected,
            "in the host's namespace: {script}: {seen:?}"
        );
    }
    Ok(())
}

/// Steps of the reader that one link takes besides its attributes that mean nothing: its message, its name, its nest, its kind,
/// the ends of both, and the end of all.
const OTHER_STEPS: u32 = 7;

fn too_long() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce(WHEN_NESTED)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let dummy = |attributes: u32| {
        format!("bulkhead-probe link --way long --kind dummy --count {attributes}")
    };
    let fits = guard_common::rtnetlink::STEPS - OTHER_STEPS;
    for (attributes, netns, expected) in [
        (fits, Netns::Nested, Came::Done),
        (fits + 1, Netns::Nested, Came::Refused),
        (fits, Netns::Host, Came::Done),
        // Behind what is read it may name any namespace.
        (fits + 1, Netns::Host, Came::Refused),
        (20_000, Netns::Nested, Came::Refused),
    ] {
        let came = go(Some(&container), netns, &dummy(attributes), "probe0")?;
        ensure!(
            came == expected,
            "{attributes} attributes, {netns:?}: {came:?}"
        );
        let host = go(None, netns, &dummy(attributes), "probe0")?;
        ensure!(
            host == Came::Done,
            "the host: {attributes} attributes, {netns:?}"
        );
    }
    let seen = status()?;
    ensure!(count(&seen, &container, "bridge.create", "refused")? == 3);
    ensure!(count(&seen, &container, "bridge.create", "audited")? == 0);
    Ok(())
}

fn expect(
    way: &Way,
    who: &'static str,
    cgroup: Option<&Cgroup>,
    netns: Netns,
    expected: Came,
) -> Result<()> {
    let came = way.go(cgroup, netns).context(who)?;
    ensure!(
        came == expected,
        "{who}, {netns:?}: {}: {came:?}",
        way.script
    );
    Ok(())
}

/// The audit log tells of the action.
fn told(policy: &Policy, container: &Cgroup, action: &str, outcome: &str) -> Result<()> {
    let (verdict, mode) = match outcome {
        "enforced" => ("deny", "enforce"),
        _ => ("audit", "audit"),
    };
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == action
                && record["cgroup"].as_str() == Some(&container.path)
                && record["verdict"] == verdict
                && record["mode"] == mode
                && record["rule"] == "fork-storm"
        }))
    })
}
