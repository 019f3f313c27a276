//! bpf(2): a container that would call it although a policy denies it, or get at what is Bulkhead's own, is refused.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::{may, output},
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "bpf::no_container_gets_at_what_bulkhead_has_in_the_kernel",
        needs: Needs::Refusing,
        run: own,
    },
    Scenario {
        name: "bpf::what_a_rule_denies_is_refused_and_in_audit_mode_counted",
        needs: Needs::Refusing,
        run: all,
    },
]];

/// A table of somebody's own, by every command that it takes.
const MAKE_ONE: &str = "unshare --mount sh -ec 'mkdir -p /tmp/bpf; mount -t bpf none /tmp/bpf
bpftool map create /tmp/bpf/probe type array key 4 value 4 entries 1 name probe
bpftool map dump pinned /tmp/bpf/probe > /dev/null'";

/// What `bpftool` says of everything of a kind, each with its id.
fn objects(kind: &str) -> Result<Vec<Value>> {
    let said = Command::new("bpftool")
        .args(["--json", kind, "show"])
        .output()?;
    ensure!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let found: Vec<Value> = serde_json::from_slice(&said.stdout)?;
    Ok(found)
}

/// What a container tries with what Bulkhead has in the kernel now.
struct Ways {
    program: u64,
    scripts: [String; 5],
}

impl Ways {
    fn now() -> Result<Self> {
        let named = |kind: &str, name: &str| {
            let all = objects(kind)?;
            // Of an earlier load there may be one still.
            (all.iter().filter(|one| one["name"] == name))
                .filter_map(|one| one["id"].as_u64())
                .max()
                .with_context(|| format!("no {name}: {all:?}"))
        };
        let table = named("map", "HOST")?;
        let program = named("prog", "setting_sysctl")?;
        let links = objects("link")?;
        let link = (links.iter().find(|link| link["prog_id"] == program))
            .and_then(|link| link["id"].as_u64())
            .context("no link")?;
        Ok(Self {
            program,
            scripts: [
                format!("bpftool map dump id {table}"),
                format!("bpftool map update id {table} key 0 0 0 0 value 1"),
                format!("bpftool prog dump xlated id {program}"),
                format!("bpftool link show id {link}"),
                format!("bpftool link detach id {link}"),
            ],
        })
    }

    fn are_refused(&self, container: &Cgroup) -> Result<()> {
        for script in &self.scripts {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let came = output(Some(container), command)?;
            let said = String::from_utf8_lossy(&came.stderr);
            ensure!(
                !came.status.success() && said.contains("No such file or directory"),
                "{script}: {} {said}",
                came.status
            );
        }
        Ok(())
    }
}

fn own() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 4000}")?;
    let mut first = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    Ways::now()?.are_refused(&container)?;
    let refused = count(&status()?, &container, "guard.disable", "refused")?;
    ensure!(refused >= 5, "{refused} refused");
    // What another load has is refused as well, and what comes with a rule.
    first.kill()?;
    let daemon = Daemon::start(&policy, &[])?;
    policy.rewrite("enforce", "deny: [socket]", "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", std::time::Duration::from_secs(20), || {
        Ok(!may(Some(&container), "bulkhead-probe socket --family 2")?)
    })?;
    let ways = Ways::now()?;
    ways.are_refused(&container)?;
    let hook = (objects("prog")?.into_iter())
        // The kernel keeps 15 characters; what is longer, bpftool has from the BTF.
        .find(|one| (one["name"].as_str()).is_some_and(|name| name.starts_with("socket_socket_c")))
        .and_then(|one| one["id"].as_u64())
        .context("no program of sockets")?;
    let script = format!("bpftool prog dump xlated id {hook} > /dev/null");
    ensure!(may(None, &script)?, "the host may not");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    ensure!(!output(Some(&container), command)?.status.success());
    policy.rewrite("enforce", "pids: {max: 4000}", "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", std::time::Duration::from_secs(20), || {
        may(Some(&container), "bulkhead-probe socket --family 2")
    })?;
    // Who looks at all there is finds the rest, and may have things of its own.
    for script in [
        "bpftool map show > /dev/null",
        "bpftool prog show > /dev/null",
        "bpftool link show > /dev/null",
        MAKE_ONE,
    ] {
        ensure!(
            may(Some(&container), script)?,
            "the container may not: {script}"
        );
    }
    let (first, last) = (&ways.scripts[0], &ways.scripts[4]);
    ensure!(
        may(None, &format!("{first} > /dev/null"))?,
        "the host may not"
    );
    // It was no empty threat.
    ensure!(may(None, last)?, "the host may not: {last}");
    ensure!(
        !(objects("link")?.iter())
            .any(|link| link["prog_id"] == ways.program && link["cgroup_id"] != 0),
        "the host has detached nothing"
    );
    println!(
        "    {} ways to Bulkhead's own refused, over a restart",
        ways.scripts.len()
    );
    Ok(())
}

fn all() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    let us = Some(&container);
    ensure!(may(us, MAKE_ONE)?, "without Bulkhead");
    let policy = Policy::enforce("deny: [bpf]")?;
    let daemon = Daemon::start(&policy, &[])?;
    ensure!(!may(us, MAKE_ONE)?, "the container may");
    ensure!(may(None, MAKE_ONE)?, "the host may not");
    ensure!(may(Some(&service), MAKE_ONE)?, "a service may not");
    let seen = status()?;
    ensure!(count(&seen, &container, "bpf", "refused")? >= 1);
    enforcing(&seen, "bpf", "bpf")?;
    wait_for("the record", std::time::Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == "bpf"
                && record["verdict"] == "deny"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    policy.rewrite("audit", "deny: [bpf]", "reserve: {pids: 300, mode: audit}")?;
    daemon.reload()?;
    wait_for("the reload", std::time::Duration::from_secs(20), || {
        may(us, MAKE_ONE)
    })?;
    let seen = status()?;
    ensure!(count(&seen, &container, "bpf", "audited")? >= 1);
    Ok(())
}
