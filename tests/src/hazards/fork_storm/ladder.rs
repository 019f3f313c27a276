//! What follows a breach that goes on: frozen, thawed, killed, and nothing else touched.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::a_breach_that_goes_on_is_frozen_thawed_and_killed",
        needs: Needs::Nothing,
        run: a_breach_that_goes_on_is_frozen_thawed_and_killed,
    },
    Scenario {
        name: "fork_storm::a_breach_that_ends_in_time_is_not_escalated",
        needs: Needs::Ends,
        run: a_breach_that_ends_in_time_is_not_escalated,
    },
    Scenario {
        name: "fork_storm::a_container_that_another_froze_is_not_thawed",
        needs: Needs::Nothing,
        run: a_container_that_another_froze_is_not_thawed,
    },
    Scenario {
        name: "fork_storm::what_we_froze_is_not_left_frozen_by_a_kill",
        needs: Needs::Nothing,
        run: what_we_froze_is_not_left_frozen_by_a_kill,
    },
];

/// A cap of 50 that a leak keeps running into: a breach on every rung.
const STORM: &str = "leak --what process";

fn steps(policy: &Policy, container: &Cgroup, step: &str) -> Result<usize> {
    Ok(policy
        .records()?
        .iter()
        .filter(|record| {
            record["cgroup"].as_str() == Some(&container.path)
                && record["kind"] == "step"
                && record["step"] == step
                && record["reason"].is_string()
                && record["outcome"].is_string()
        })
        .count())
}

fn a_breach_that_goes_on_is_frozen_thawed_and_killed() -> Result<()> {
    let policy = Policy::enforce(
        "pids: {max: 50}\nescalate: [{after: 2s, do: freeze, for: 3s}, {after: 8s, do: kill}]",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    let (container, neighbour) = (Cgroup::container()?, Cgroup::container()?);
    let quiet = bed::start(Some(&neighbour), "leak --what process --most 10")?;
    let storm = bed::start(Some(&container), STORM)?;
    host::wait_for("the freeze", Duration::from_secs(20), || {
        container.is_frozen()
    })?;
    host::wait_for("the thaw", Duration::from_secs(20), || {
        Ok(!container.is_frozen()?)
    })?;
    host::wait_for("the kill", Duration::from_secs(40), || {
        Ok(!container.is_populated())
    })?;
    drop(storm);
    ensure!(
        neighbour.pids()? == 11 && !neighbour.is_frozen()?,
        "the neighbour was touched: {} pids",
        neighbour.pids()?
    );
    for word in ["freeze", "thaw", "kill"] {
        host::wait_for(
            &format!("a record of the {word}"),
            Duration::from_secs(10),
            || Ok(steps(&policy, &container, word)? > 0),
        )
        .with_context(|| {
            let records = policy.records().unwrap_or_default();
            let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
    }
    // Where the kernel has no cgroup.kill it was frozen for the kill; what is started there next must not hang.
    host::wait_for("the thaw after the kill", Duration::from_secs(10), || {
        Ok(!container.is_frozen()?)
    })?;
    quiet.finish()?;
    let (worked, error) = host::spawn(20);
    ensure!(worked == 20, "host spawns {worked} of 20: {error}");
    Ok(())
}

fn a_breach_that_ends_in_time_is_not_escalated() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 50}\nescalate: [{after: 4s, do: kill}]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let holder = bed::start(Some(&container), "leak --what process --most 5")?;
    for _ in 0..2 {
        let storm = bed::start(Some(&container), STORM)?;
        thread::sleep(Duration::from_secs(1));
        drop(storm);
        // Its children stay: stop them one by one, as a service would.
        thread::sleep(Duration::from_secs(4));
        ensure!(container.is_populated(), "killed for a breach of a second");
    }
    holder.finish()?;
    Ok(())
}

fn a_container_that_another_froze_is_not_thawed() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 50}\nescalate: [{after: 1s, do: freeze, for: 2s}]")?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let _paused = bed::start(Some(&container), "leak --what process --most 5")?;
    thread::sleep(Duration::from_millis(500));
    container.freeze(true)?;
    host::wait_for("the pause", Duration::from_secs(5), || {
        container.is_frozen()
    })?;
    thread::sleep(Duration::from_secs(4));
    ensure!(container.is_frozen()?, "thawed by the daemon");
    daemon.stop()?;
    ensure!(container.is_frozen()?, "thawed by the daemon's stop");
    let _daemon = Daemon::start(&policy, &[])?;
    thread::sleep(Duration::from_secs(2));
    succeed(&["off"])?;
    ensure!(container.is_frozen()?, "thawed by a start or by off");
    succeed(&["on"])?;
    container.freeze(false)
}

fn what_we_froze_is_not_left_frozen_by_a_kill() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 50}\nescalate: [{after: 1s, do: freeze, for: 10s}]")?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let storm = bed::start(Some(&container), STORM)?;
    host::wait_for("the freeze", Duration::from_secs(20), || {
        container.is_frozen()
    })?;
    daemon.kill()?;
    ensure!(container.is_frozen()?, "thawed by kill -9");
    let _daemon = Daemon::start(&policy, &[])?;
    host::wait_for("the thaw", Duration::from_secs(30), || {
        Ok(!container.is_frozen()?)
    })?;
    // Frozen again or not: off thaws at once.
    succeed(&["off"])?;
    host::wait_for("off to thaw", Duration::from_secs(2), || {
        Ok(!container.is_frozen()?)
    })?;
    succeed(&["on"])?;
    drop(storm);
    Ok(())
}
