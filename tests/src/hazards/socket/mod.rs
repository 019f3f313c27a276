//! Sockets: a container that would make one of a family, type or protocol that a policy denies is refused.

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::{release, wait_for},
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "socket::what_a_rule_denies_is_refused_in_each_way_and_nothing_beside_it",
        needs: Needs::Refusing,
        run: refused,
    },
    Scenario {
        name: "socket::in_audit_mode_every_socket_is_made_and_counted",
        needs: Needs::Ordinary,
        run: audited,
    },
]];

const RULE: &str = "deny:
  - socket: {families: [vsock, alg, 29]}
  - bridge.create";
const PARTS: &str = "deny:
  - socket: {families: [inet, inet6], types: [raw]}";

/// mptcp is 262, of which the lower byte is tcp's number. Debian's 5.10 is built without.
const MPTCP: (&str, i32, i32) = ("mptcp", libc::SOCK_STREAM, libc::IPPROTO_MPTCP);
const UDPLITE: (&str, i32, i32) = ("udplite", libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
const ALL_PARTS: &str = "deny:
  - socket: {families: [inet], types: [raw], protocols: [icmp]}";

fn probe(family: i32, rest: &str) -> String {
    format!("bulkhead-probe socket --family {family} {rest}")
}

/// Families that are denied, as somebody makes a socket of them here.
fn denied() -> Vec<String> {
    let seqpacket = libc::SOCK_SEQPACKET;
    let mut all = vec![
        probe(libc::AF_ALG, &format!("--kind {seqpacket}")),
        probe(libc::AF_VSOCK, ""),
        probe(libc::AF_CAN, "--kind 3 --protocol 1"),
    ];
    if release() >= (5, 19) {
        let rest = format!("--kind {seqpacket} --way io-uring");
        all.push(probe(libc::AF_ALG, &rest));
    }
    all
}

/// Those that are not, and tools that make some.
fn others() -> Vec<String> {
    vec![
        probe(libc::AF_UNIX, ""),
        probe(libc::AF_UNIX, "--way pair"),
        probe(libc::AF_INET, ""),
        probe(libc::AF_PACKET, "--kind 3"),
        "ip link show lo".to_owned(),
    ]
}

fn refused() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    let us = Some(&container);
    for script in denied().iter().chain(&others()) {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce(RULE)?;
    let daemon = Daemon::start(&policy, &[])?;
    for script in denied() {
        ensure!(!may(us, &script)?, "the container may: {script}");
        ensure!(may(None, &script)?, "the host may not: {script}");
        ensure!(may(Some(&service), &script)?, "a service may not: {script}");
    }
    for script in others() {
        ensure!(may(us, &script)?, "the container may not: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, "socket", "refused")? == denied().len() as u64);
    ensure!(count(&seen, &container, "socket", "audited")? == 0);
    wait_for("the record", std::time::Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == "socket"
                && record["verdict"] == "deny"
                && record["argument"] == "alg seqpacket"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    enforcing(&seen, "socket", "socket_create")?;
    // Of what has two parts, only that to which both apply.
    policy.rewrite("enforce", PARTS, "reserve: {pids: 300}")?;
    daemon.reload()?;
    let raw = probe(libc::AF_INET, "--kind 3 --protocol 1");
    wait_for("the reload", std::time::Duration::from_secs(20), || {
        Ok(!may(us, &raw)?)
    })?;
    for script in [
        probe(libc::AF_INET6, "--kind 3 --protocol 58"),
        probe(libc::AF_INET, "--kind 3 --protocol 255"),
    ] {
        ensure!(!may(us, &script)?, "the container may: {script}");
    }
    for script in [
        probe(libc::AF_INET, "--kind 2"),
        probe(libc::AF_PACKET, "--kind 3"),
        probe(libc::AF_VSOCK, ""),
    ] {
        ensure!(may(us, &script)?, "the container may not: {script}");
    }
    protocols(&policy, &daemon, us)?;
    drop(daemon);
    ensure!(may(us, &raw)?, "nobody is there, and it is refused");
    Ok(())
}

/// By its protocol a socket is refused in each family and type that has it, or in those alone that are named with it.
fn protocols(policy: &Policy, daemon: &Daemon, us: Option<&Cgroup>) -> Result<()> {
    let (inet, inet6) = (libc::AF_INET, libc::AF_INET6);
    let (name, kind, number) = if release() < (5, 11) { UDPLITE } else { MPTCP };
    let by_number = |family| probe(family, &format!("--kind {kind} --protocol {number}"));
    let icmp = probe(inet, "--kind 3 --protocol 1");
    let refuses = |rule: &str, these: &[String], others: &[String]| -> Result<()> {
        policy.rewrite("enforce", rule, "reserve: {pids: 300}")?;
        daemon.reload()?;
        wait_for("the reload", std::time::Duration::from_secs(20), || {
            let all = these.iter().map(|script| may(us, script));
            Ok(!all.collect::<Result<Vec<_>>>()?.contains(&true))
        })?;
        for script in these {
            ensure!(may(None, script)?, "the host may not: {script}");
        }
        for script in others {
            ensure!(may(us, script)?, "the container may not: {script}");
        }
        Ok(())
    };
    let tcp = [probe(inet, "--protocol 6"), probe(inet, "--protocol 0")];
    refuses(
        &format!("deny: [{{socket: {{protocols: [{name}]}}}}]"),
        &[by_number(inet), by_number(inet6)],
        &[&tcp[..], std::slice::from_ref(&icmp)].concat(),
    )?;
    // Another protocol, another family and another type than those that are named together.
    let beside = [
        probe(inet, "--kind 3 --protocol 2"),
        probe(inet, "--kind 3 --protocol 255"),
        probe(inet6, "--kind 3 --protocol 58"),
        probe(libc::AF_PACKET, "--kind 3 --protocol 1"),
        by_number(inet),
    ];
    refuses(ALL_PARTS, &[icmp], &[&tcp[..], &beside].concat())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::write("audit", RULE, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in denied().iter().chain(&others()) {
        ensure!(may(Some(&container), script)?, "refused: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, "socket", "audited")? == denied().len() as u64);
    ensure!(count(&seen, &container, "socket", "refused")? == 0);
    Ok(())
}
