//! Whether anything depends on how many cgroups there are: 10, and 10,000 of which 1,000 are containers.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::resident;
use crate::{
    bed,
    cgroup::{Cgroup, Runtime},
    daemon::{Daemon, Policy, status},
};

/// Rounds of a measurement.
const ROUNDS: u32 = 2000;
/// Nanoseconds of an instruction.
const NANOSECONDS: f64 = 2.0;
/// After so long every container was looked at once more.
const SETTLED: Duration = Duration::from_secs(60);

/// Prints cost of a fork, time to enforcing and memory for both.
///
/// # Errors
/// A measurement failed.
pub fn run() -> Result<()> {
    println!(
        "{:<34} {:>12} {:>12} {:>10} {:>10} {:>10} {:>12}",
        "instructions of a fork",
        "unguarded",
        "just begun",
        "settled",
        "daemon, %",
        "start, s",
        "resident KiB"
    );
    let policy = Policy::enforce("forks: {rate: 100000/s, burst: 1000000}\npids: {max: 4000}")?;
    let few = [Cgroup::container()?];
    one("10 cgroups", &policy, &few[0], 1)?;
    // Each pod holds nine cgroups that are no containers' own.
    let mut many = Vec::new();
    for _ in 0..1000 {
        let container = Cgroup::of(Runtime::Kubernetes)?;
        for nested in 0..8 {
            many.push(Cgroup::at(&format!("{}/nested-{nested}", container.path))?);
        }
        many.push(container);
    }
    one("10,000 cgroups, 1,000 containers", &policy, &few[0], 1001)?;
    drop(many);
    Ok(())
}

fn one(what: &str, policy: &Policy, container: &Cgroup, containers: usize) -> Result<()> {
    let fork = || -> Result<f64> {
        let arguments = format!("cost --work fork --rounds {ROUNDS} --warm-up 200");
        Ok(bed::costs(Some(container), &arguments)?.mean / NANOSECONDS)
    };
    let unguarded = fork()?;
    let began = Instant::now();
    let daemon = Daemon::notified(policy, &[])?;
    let started = began.elapsed().as_secs_f64();
    let found = status()?["containers"].as_array().map_or(0, Vec::len);
    ensure!(
        found == containers,
        "{found} of {containers} containers found"
    );
    let begun = fork()?;
    std::thread::sleep(SETTLED);
    let (before, watched) = (processor(daemon.pid())?, Instant::now());
    std::thread::sleep(SETTLED);
    let busy = (processor(daemon.pid())? - before) / watched.elapsed().as_secs_f64();
    let settled = fork()?;
    println!(
        "{what:<34} {unguarded:>12.0} {begun:>12.0} {settled:>10.0} {:>10.2} {started:>10.2} {:>12}",
        100.0 * busy,
        resident(daemon.pid())?
    );
    Ok(())
}

/// Seconds of processor time that a process has used: its 14th and 15th field, in hundredths (proc_pid_stat(5)).
fn processor(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.into_iter().sum::<f64>() / 100.0)
}
