//! How many pids a container may have.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::the_pids_cap_refuses_at_the_limit_and_not_one_below",
        needs: Needs::Nothing,
        run: the_pids_cap_refuses_at_the_limit_and_not_one_below,
    },
    Scenario {
        name: "fork_storm::the_pids_cap_counts_the_whole_container",
        needs: Needs::Nothing,
        run: the_pids_cap_counts_the_whole_container,
    },
    Scenario {
        name: "fork_storm::pids_max_is_only_tightened_and_comes_back",
        needs: Needs::Nothing,
        run: pids_max_is_only_tightened_and_comes_back,
    },
    Scenario {
        name: "fork_storm::pids_max_is_defended_once_and_then_left_alone",
        needs: Needs::Nothing,
        run: pids_max_is_defended_once_and_then_left_alone,
    },
    Scenario {
        name: "fork_storm::off_and_restarts_give_up_no_cap_and_blame_nobody",
        needs: Needs::Ends,
        run: off_and_restarts_give_up_no_cap_and_blame_nobody,
    },
    Scenario {
        name: "fork_storm::off_leaves_a_limit_that_the_runtime_set",
        needs: Needs::Ends,
        run: off_leaves_a_limit_that_the_runtime_set,
    },
];

/// Waits until `pids.max` of a container is this. Ours comes some seconds after the container.
fn wait_pids_max(container: &Cgroup, value: &str) -> Result<()> {
    host::wait_for(
        &format!("pids.max {value}"),
        Duration::from_secs(20),
        || Ok(container.read("pids.max")? == value),
    )
}

fn the_pids_cap_refuses_at_the_limit_and_not_one_below() -> Result<()> {
    {
        let container = Cgroup::container()?;
        let (_holding, leak) = bed::leak(&container, "--what process --most 150 --once")?;
        ensure!(
            (leak.made, leak.refused) == (150, 0),
            "refused without Bulkhead: {leak:?}"
        );
    }
    let policy = Policy::enforce("pids: {max: 100}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for what in ["process", "thread"] {
        // The probe is one of the hundred.
        let below = Cgroup::container()?;
        wait_pids_max(&below, "100")?;
        let (_below, held) = bed::leak(&below, &format!("--what {what} --most 99"))?;
        let pids = below.pids()?;
        ensure!(
            (held.made, held.refused, pids) == (99, 0, 100),
            "one below: {held:?}, {pids} pids"
        );
        let at = Cgroup::container()?;
        wait_pids_max(&at, "100")?;
        let (_at, held) = bed::leak(&at, &format!("--what {what} --once"))?;
        let pids = at.pids()?;
        println!(
            "    {what}: {} made and {} refused at {pids} pids",
            held.made, held.refused
        );
        ensure!(
            held.made == 99 && held.refused == 1 && pids == 100,
            "at the limit: {held:?}, {pids} pids"
        );
        let (worked, error) = host::spawn(20);
        ensure!(worked == 20, "host spawns {worked} of 20: {error}");
    }
    Ok(())
}

fn the_pids_cap_counts_the_whole_container() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 60}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    wait_pids_max(&container, "60")?;
    let nested: Vec<Cgroup> = (0..2)
        .map(|number| Cgroup::at(&format!("{}/nested-{number}", container.path)))
        .collect::<Result<_>>()?;
    let mut leaks = Vec::new();
    let mut made = 0;
    for cgroup in &nested {
        let (leak, held) = bed::leak(cgroup, "--what process --most 40 --once")?;
        made += held.made + 1;
        leaks.push(leak);
    }
    let pids = container.pids()?;
    println!("    two nested cgroups hold {made} pids together, the container {pids}");
    ensure!(made == 60 && pids == 60, "{made} made, {pids} pids of 60");
    Ok(())
}

fn pids_max_is_only_tightened_and_comes_back() -> Result<()> {
    let (unlimited, tighter) = (Cgroup::container()?, Cgroup::container()?);
    tighter.write("pids.max", "50")?;
    let policy = Policy::enforce("pids: {max: 100}")?;
    let mut daemon = Daemon::start(&policy, &[])?;
    wait_pids_max(&unlimited, "100")?;
    thread::sleep(Duration::from_secs(2));
    ensure!(
        tighter.read("pids.max")? == "50",
        "a tighter pids.max was raised to {}",
        tighter.read("pids.max")?
    );
    daemon.stop()?;
    let (first, second) = (unlimited.read("pids.max")?, tighter.read("pids.max")?);
    println!("    after the stop: {first} and {second}");
    ensure!(
        (first.as_str(), second.as_str()) == ("max", "50"),
        "not put back: {first} and {second}"
    );
    Ok(())
}

fn pids_max_is_defended_once_and_then_left_alone() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 100}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    wait_pids_max(&container, "100")?;
    container.write("pids.max", "500")?;
    wait_pids_max(&container, "100")?;
    container.write("pids.max", "400")?;
    thread::sleep(Duration::from_secs(4));
    ensure!(
        container.read("pids.max")? == "400",
        "still fought over: {}",
        container.read("pids.max")?
    );
    let said = fs::read_to_string(&policy.audit)?;
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("pids") && line.contains(&container.path))
        .collect();
    println!("    {} records speak of it", lines.len());
    ensure!(lines.len() >= 2, "no record says that it was left alone");
    // What the kernel side refuses does not depend on it.
    if counters(&container)?.is_some() && crate::hazards::Machine::this().poor.is_none() {
        let (_holding, leak) = bed::leak(&container, "--what process --most 200 --once")?;
        ensure!(leak.made == 99, "{} made with a cap of 100", leak.made);
    }
    Ok(())
}

fn off_and_restarts_give_up_no_cap_and_blame_nobody() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 60}")?;
    let container = Cgroup::container()?;
    let released = |by: &str| -> Result<()> {
        let present = container.read("pids.max")?;
        ensure!(present == "max", "{by} left pids.max at {present}");
        Ok(())
    };
    for _ in 0..3 {
        let mut daemon = Daemon::start(&policy, &[])?;
        wait_pids_max(&container, "60")?;
        for _ in 0..2 {
            succeed(&["off"])?;
            released("off")?;
            succeed(&["on"])?;
            wait_pids_max(&container, "60")?;
        }
        // With no daemon that could keep it in mind.
        daemon.kill()?;
        succeed(&["off"])?;
        released("off without a daemon")?;
        succeed(&["on"])?;
        let mut daemon = Daemon::start(&policy, &[])?;
        wait_pids_max(&container, "60")?;
        daemon.stop()?;
        released("the stop")?;
    }
    let said = fs::read_to_string(&policy.audit)?;
    for words in ["setting.contested", "somebody else"] {
        let blames = said.lines().find(|line| line.contains(words));
        ensure!(
            blames.is_none(),
            "somebody is blamed: {}",
            blames.unwrap_or_default()
        );
    }
    Ok(())
}

fn off_leaves_a_limit_that_the_runtime_set() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 60}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let (limited, unlimited) = (Cgroup::container()?, Cgroup::container()?);
    // The runtime comes to its own limit, which happens to be the same, after a daemon that does not wait has written.
    thread::sleep(Duration::from_secs(2));
    let before = limited.read("pids.max")?;
    ensure!(
        before == "max",
        "pids.max was {before} before the runtime came to it"
    );
    limited.write("pids.max", "60")?;
    // Before ours stands there, the cap is held all the same.
    let (_leak, held) = bed::leak(&unlimited, "--what process --once")?;
    ensure!(held.made == 59, "{} made with a cap of 60", held.made);
    wait_pids_max(&unlimited, "60")?;
    thread::sleep(Duration::from_secs(3));
    succeed(&["off"])?;
    let (first, second) = (limited.read("pids.max")?, unlimited.read("pids.max")?);
    println!("    after off: {first}, which the runtime set, and {second}");
    ensure!(
        (first.as_str(), second.as_str()) == ("60", "max"),
        "not as others want it: {first} and {second}"
    );
    succeed(&["on"]).map(drop)
}
