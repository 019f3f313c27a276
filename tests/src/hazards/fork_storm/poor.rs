//! A host on which no fork can be refused beforehand: seen and acted upon, or capped by the kernel's own controller.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters, poor_rung, status},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "fork_storm::a_poor_host_says_what_it_cannot_do_and_does_what_it_can",
    needs: Needs::Poor,
    run: a_poor_host_says_what_it_cannot_do_and_does_what_it_can,
}];

fn a_poor_host_says_what_it_cannot_do_and_does_what_it_can() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 20/s, burst: 40}\npids: {max: 100}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let said = status()?;
    println!(
        "    {} on {}: {}",
        said["state"], said["rung"], said["degraded"]
    );
    ensure!(
        said["state"] == "DEGRADED",
        "a host that refuses nothing says {}",
        said["state"]
    );
    let container = Cgroup::container()?;
    host::wait_for("pids.max", Duration::from_secs(10), || {
        Ok(container.read("pids.max")? == "100")
    })?;
    let bomb = bed::run(&container, "bomb --attempts 300")?;
    ensure!(bomb.refused == 0, "refused after all: {bomb:?}");
    if poor_rung().as_deref() == Some("observe") {
        let seen = counters(&container)?.unwrap_or_default();
        println!("    a bomb of 300: {} audited", seen.audited);
        ensure!(seen.audited > 0, "the bomb was not seen");
    }
    let (_leak, held) = bed::leak(&container, "--what process --once")?;
    ensure!(held.made == 99, "{} made with a cap of 100", held.made);
    host::wait_for("the controller's refusals", Duration::from_secs(10), || {
        Ok(said_by_controller(&container)? > 0)
    })?;
    let (worked, error) = host::spawn(20);
    ensure!(worked == 20, "host spawns {worked} of 20: {error}");
    Ok(())
}

fn said_by_controller(container: &Cgroup) -> Result<u64> {
    Ok(status()?["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|other| other["cgroup"].as_str() == Some(&container.path))
        .and_then(|other| other["refused_by_controller"].as_u64())
        .unwrap_or(0))
}
