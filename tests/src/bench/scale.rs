//! Whether anything depends on how many cgroups there are: 10, and 10,000 of which 1,000 are containers.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::resident;
use crate::{
    bed,
    cgroup::{Cgroup, Runtime},
    daemon::{Daemon, Policy, status},
};

/// Rounds of a measurement.
const ROUNDS: u32 = 2000;

/// Prints cost of a fork, time to enforcing and memory for both.
///
/// # Errors
/// A measurement failed.
pub fn run() -> Result<()> {
    println!(
        "{:<34} {:>14} {:>18} {:>12}",
        "", "ns per fork", "start, s of guest", "resident KiB"
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
    let began = Instant::now();
    let daemon = Daemon::notified(policy, &[])?;
    let started = began.elapsed().as_secs_f64();
    let found = status()?["containers"].as_array().map_or(0, Vec::len);
    ensure!(
        found == containers,
        "{found} of {containers} containers found"
    );
    let costs = bed::costs(
        Some(container),
        &format!("cost --work fork --rounds {ROUNDS} --warm-up 200"),
    )?;
    println!(
        "{what:<34} {:>14.0} {started:>18.2} {:>12}",
        costs.mean,
        resident(daemon.pid())?
    );
    Ok(())
}
