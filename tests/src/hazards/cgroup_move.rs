//! Cgroups: a container that would move a task out of itself, where none of its limits holds, is refused; within itself it moves what it
//! likes, and the host whom it likes.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::{self, may},
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "cgroup_move::no_task_of_a_container_leaves_it_in_any_way",
        needs: Needs::RefusingOnV2,
        run: refused,
    },
    Scenario {
        name: "cgroup_move::in_audit_mode_each_leaves_and_is_counted",
        needs: Needs::Ends,
        run: audited,
    },
]];

const RULE: &str = "deny: [cgroup.move_out]";
const ROOT: &str = "/sys/fs/cgroup";

/// A shell that moves itself, and says whether it could.
fn to(directory: &str, file: &str) -> String {
    format!("sh -c '/bin/echo $$ > {directory}/{file}'")
}

/// Ways out of a container into a neighbour of it.
fn ways(neighbour: &Cgroup) -> Vec<String> {
    let (at, path) = (format!("{ROOT}{}", neighbour.path), &neighbour.path);
    vec![
        to(ROOT, "cgroup.procs"),
        to(&at, "cgroup.procs"),
        format!(
            "mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2 && {}; came=$?; umount /run/cgroup2; exit $came",
            to(&format!("/run/cgroup2{path}"), "cgroup.procs")
        ),
        format!(
            "mkdir -p /run/bound && mount --bind {at} /run/bound && {}; came=$?; umount /run/bound; exit $came",
            to("/run/bound", "cgroup.procs")
        ),
        // Its child.
        format!("sleep 5 & /bin/echo $! > {at}/cgroup.procs"),
    ]
}

/// The same by a descriptor that the host has opened and handed down, as standard output.
fn inherited(container: &Cgroup, neighbour: &Cgroup) -> Result<bool> {
    let file = OpenOptions::new()
        .write(true)
        .open(format!("{ROOT}{}/cgroup.procs", neighbour.path))?;
    let mut command = Command::new("/bin/echo");
    command.arg("0");
    container.enter(&mut command)?;
    let came = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::from(file))
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let said = String::from_utf8_lossy(&came.stderr);
    ensure!(
        came.status.success() || said.contains("Operation not permitted"),
        "{said}"
    );
    Ok(came.status.success())
}

/// Whether a child may be born in another cgroup.
fn born(container: &Cgroup, there: &Cgroup) -> Result<bool> {
    let arguments = format!("bomb --how into --attempts 1 --cgroup {ROOT}{}", there.path);
    let counted = bed::run(container, &arguments)?;
    ensure!(counted.made == 1 || counted.error == "EPERM", "{counted:?}");
    Ok(counted.made == 1)
}

fn refused() -> Result<()> {
    let container = Cgroup::container()?;
    let neighbour = Cgroup::at("/neighbour")?;
    let us = Some(&container);
    let ways = ways(&neighbour);
    for way in &ways {
        ensure!(may(us, way)?, "without Bulkhead: {way}");
    }
    ensure!(inherited(&container, &neighbour)? && born(&container, &neighbour)?);
    let policy = Policy::enforce(RULE)?;
    let daemon = Daemon::start(&policy, &[])?;
    let seen = status()?;
    enforcing(&seen, "cgroup_move", "inode_permission")?;
    for way in &ways {
        ensure!(!may(us, way)?, "the container may: {way}");
    }
    ensure!(
        !inherited(&container, &neighbour)?,
        "it may by a file that was opened before"
    );
    ensure!(
        !born(&container, &neighbour)?,
        "it may have a child born outside"
    );
    let count = count(&status()?, &container, "cgroup.move_out", "refused")?;
    ensure!(count >= ways.len() as u64, "{count} are counted");
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["action"] == "cgroup.move_out"
                && record["verdict"] == "deny"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    // Within itself, by whatever mount; and what else stands in cgroupfs.
    let own = format!("{ROOT}{}", container.path);
    for script in [
        format!(
            "mkdir -p {own}/sub && {}; {}",
            to(&format!("{own}/sub"), "cgroup.procs"),
            to(&own, "cgroup.procs")
        ),
        format!(
            "cat {ROOT}{}/cgroup.procs {own}/cgroup.procs > /dev/null",
            neighbour.path
        ),
        format!("rmdir {own}/sub"),
        "echo x > /tmp/cgroup.procs; rm /tmp/cgroup.procs".to_owned(),
    ] {
        ensure!(may(us, &script)?, "the container may not: {script}");
    }
    ensure!(
        born(&container, &container)?,
        "it may have no child born within itself"
    );
    // The host and a neighbour do as they like.
    for script in &ways[..2] {
        ensure!(may(None, script)?, "the host may not: {script}");
        ensure!(
            may(Some(&neighbour), script)?,
            "a neighbour may not: {script}"
        );
    }
    drop(daemon);
    ensure!(may(us, &ways[0])?, "it is refused still");
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let neighbour = Cgroup::at("/neighbour")?;
    let policy = Policy::write("audit", RULE, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let ways = ways(&neighbour);
    for way in &ways {
        ensure!(may(Some(&container), way)?, "refused: {way}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, "cgroup.move_out", "audited")? >= ways.len() as u64);
    ensure!(count(&seen, &container, "cgroup.move_out", "refused")? == 0);
    Ok(())
}
