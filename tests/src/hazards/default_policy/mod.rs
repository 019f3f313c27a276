//! The built-in policy, enforced, refuses nothing that real runtimes do as they come: what they do without Bulkhead, they do with it.
//! And where a policy denies every action they start containers all the same.

mod armed;
mod docker;
mod podman;
mod systemd;

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{Needs, Scenario};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
    docker::LONG,
};

/// All scenarios of it.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "default_policy::docker_docker_in_docker_and_a_pod_do_all_that_they_do_without",
        needs: Needs::Runtimes,
        run: docker::run,
    },
    Scenario {
        name: "default_policy::podman_runs_and_builds_as_without",
        needs: Needs::Runtimes,
        run: podman::run,
    },
    Scenario {
        name: "default_policy::systemd_in_a_container_starts_as_without_and_no_other_unit_fails",
        needs: Needs::Runtimes,
        run: systemd::run,
    },
    Scenario {
        name: "default_policy::docker_and_systemd_start_as_ever_where_every_action_is_denied",
        needs: Needs::Runtimes,
        run: armed::run,
    },
]];

/// Something that people do, as they would type it. What it says is to be the same each time.
struct Step {
    what: &'static str,
    script: String,
}

/// How it ended, and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    code: Option<i32>,
    said: String,
}

/// What a script of the shell tries, each by itself: says of each whether it worked.
fn tries(all: &[&str]) -> String {
    all.iter()
        .map(|one| format!("({one}) > /dev/null 2>&1 && echo 'yes: {one}' || echo 'no: {one}'; "))
        .collect()
}

/// Does all of it.
fn go(steps: &[Step]) -> Result<Vec<Came>> {
    steps.iter().map(one).collect()
}

fn one(step: &Step) -> Result<Came> {
    let began = Instant::now();
    let output = Command::new("timeout")
        .args([LONG, "sh", "-c", &step.script])
        .stdin(Stdio::null())
        .output()
        .context("cannot start sh")?;
    println!("    {:.1} s: {}", began.elapsed().as_secs_f64(), step.what);
    let came = Came {
        code: output.status.code(),
        said: String::from_utf8_lossy(&output.stdout).into_owned(),
    };
    ensure!(
        output.status.success(),
        "{}: {came:?} {}",
        step.what,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(came)
}

/// Does all of it without Bulkhead and with it, which makes no difference, and nothing else is refused to anybody. What was audited
/// is for the caller to look at.
fn alike(steps: &[Step]) -> Result<Policy> {
    let without = go(steps)?;
    let policy = Policy::built_in()?;
    let daemon = Daemon::start(&policy, &["--enforce"])?;
    let with = go(steps)?;
    for (step, (without, with)) in steps.iter().zip(without.iter().zip(&with)) {
        println!(
            "    {}: {}",
            step.what,
            with.said.trim().replace('\n', ", ")
        );
        ensure!(without == with, "{}: {without:?}, then {with:?}", step.what);
    }
    // It is in force: what it does refuse is refused.
    let container = Cgroup::container()?;
    ensure!(
        !may(Some(&container), "dmesg --clear")?,
        "nothing is enforced"
    );
    // The last of the records are written as it ends.
    drop(daemon);
    let records = policy.records()?;
    let known = records.iter().filter(|one| one["kind"] == "container.made");
    ensure!(known.count() > 1, "no container was recognised");
    for record in &records {
        // What lists all programs of the kernel (bpftool) is told that Bulkhead's own are gone, and goes on with the next.
        let is_hidden =
            record["action"] == "guard.disable" && record["process.executable.name"] == "bpftool";
        ensure!(
            record["verdict"] != "deny" || is_hidden || record["cgroup"] == container.path.as_str(),
            "refused: {record}"
        );
        if record["verdict"] == "audit" {
            println!(
                "    audited: {} by {}, {} times",
                record["action"], record["process.executable.name"], record["count"]
            );
        }
    }
    Ok(policy)
}
