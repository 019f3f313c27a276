//! How fast a container may fork.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::bound;
use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::a_bomb_gets_burst_and_rate_and_no_more",
        needs: Needs::Refusing,
        run: a_bomb_gets_burst_and_rate_and_no_more,
    },
    Scenario {
        name: "fork_storm::silent_just_below_the_rate_and_refused_just_above",
        needs: Needs::Refusing,
        run: silent_just_below_the_rate_and_refused_just_above,
    },
    Scenario {
        name: "fork_storm::buckets_hold_across_reload_and_restart",
        needs: Needs::Ends,
        run: buckets_hold_across_reload_and_restart,
    },
    Scenario {
        name: "fork_storm::audit_mode_records_and_refuses_nothing",
        needs: Needs::Refusing,
        run: audit_mode_records_and_refuses_nothing,
    },
];

/// The rate of the bomb's test, and for how long it is thrown.
const RATES: [u64; 4] = [200, 100, 50, 25];
const SECONDS: f64 = 10.0;

fn a_bomb_gets_burst_and_rate_and_no_more() -> Result<()> {
    // Without Bulkhead the bomb makes more than twice as many in the same time. Emulation is slow, and slower while another machine
    // has work: the limit is one that this very bomb broke by far.
    let container = Cgroup::container()?;
    let unguarded = bed::run(
        &container,
        &format!("bomb --together 2 --seconds {SECONDS}"),
    )?;
    println!(
        "    without: {} forks in {:.1} s, none refused",
        unguarded.made, unguarded.seconds
    );
    ensure!(unguarded.refused == 0, "refused without Bulkhead");
    let rate = RATES
        .into_iter()
        .find(|rate| unguarded.made > 2 * bound(*rate, 2 * rate, SECONDS))
        .with_context(|| format!("this machine makes only {} forks", unguarded.made))?;
    let burst = 2 * rate;
    drop(container);

    let policy = Policy::enforce(&format!("forks: {{rate: {rate}/s, burst: {burst}}}"))?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let neighbour = Cgroup::container()?;
    let steady = bed::start(Some(&neighbour), "steady --rate 20 --seconds 9")?;
    let bomb = bed::run(
        &container,
        &format!("bomb --together 2 --seconds {SECONDS}"),
    )?;
    let steady = steady.finish()?;
    // Processes that the bomb itself is made of count too.
    let made = bomb.made + 1;
    let most = bound(rate, burst, bomb.seconds);
    println!(
        "    with {rate}/s, burst {burst}: {made} forks of {most} in {:.1} s, {} refused; a neighbour {} of {}",
        bomb.seconds,
        bomb.refused,
        steady.made,
        steady.made + steady.refused
    );
    ensure!(made <= most, "{made} forks, {most} allowed");
    ensure!(
        made as f64 >= 0.95 * (burst as f64 + rate as f64 * SECONDS),
        "only {made} forks of {most}: the limit is tighter than it says"
    );
    ensure!(bomb.refused > 0, "never refused");
    ensure!(steady.refused == 0, "a neighbour was refused: {steady:?}");
    let seen = counters(&container)?.unwrap_or_default();
    ensure!(
        (seen.allowed, seen.refused) == (made, bomb.refused),
        "status counts {seen:?}, the bomb {made} and {}",
        bomb.refused
    );
    let (worked, error) = host::spawn(20);
    ensure!(worked == 20, "host spawns {worked} of 20: {error}");
    Ok(())
}

fn silent_just_below_the_rate_and_refused_just_above() -> Result<()> {
    for rate in RATES {
        let policy = Policy::enforce(&format!("forks: {{rate: {rate}/s, burst: {}}}", rate / 4))?;
        let _daemon = Daemon::start(&policy, &[])?;
        let (below, above) = (Cgroup::container()?, Cgroup::container()?);
        let beat = 0.95 * rate as f64;
        let slow = bed::run(&below, &format!("steady --rate {beat} --seconds 5"))?;
        println!(
            "    {beat}/s against {rate}/s: {} made in {:.1} s, {} refused",
            slow.made, slow.seconds, slow.refused
        );
        ensure!(slow.refused == 0, "refused below the limit: {slow:?}");
        if (slow.made as f64) < 0.93 * beat * slow.seconds {
            println!("    this machine does not reach {beat}/s");
            continue;
        }
        let beat = 1.3 * rate as f64;
        let fast = bed::run(&above, &format!("steady --rate {beat} --seconds 5"))?;
        println!(
            "    {beat}/s against {rate}/s: {} made, {} refused",
            fast.made, fast.refused
        );
        // Enough to use the burst up as well.
        let enough = 1.1 * rate as f64 * fast.seconds;
        if fast.refused == 0 && (fast.made as f64) < enough {
            println!("    this machine does not reach {beat}/s");
            continue;
        }
        ensure!(fast.refused > 0, "not refused above the limit: {fast:?}");
        return Ok(());
    }
    bail!("this machine forks too slowly for any rate")
}

fn buckets_hold_across_reload_and_restart() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 20/s, burst: 500}")?;
    let mut daemon = Daemon::start(&policy, &["--keep-on-stop"])?;
    let container = Cgroup::container()?;
    let bomb = bed::start(Some(&container), "bomb --seconds 14")?;
    thread::sleep(Duration::from_secs(3));
    daemon.reload()?;
    thread::sleep(Duration::from_secs(1));
    daemon.kill()?;
    let mut daemon = Daemon::start(&policy, &["--keep-on-stop"])?;
    daemon.stop()?;
    let _daemon = Daemon::start(&policy, &[])?;
    let bomb = bomb.finish()?;
    let most = bound(20, 500, bomb.seconds);
    println!(
        "    {} forks of {most} in {:.1} s, {} refused, over a reload, a kill -9 and a stop",
        bomb.made, bomb.seconds, bomb.refused
    );
    ensure!(bomb.made <= most, "{} forks, {most} allowed", bomb.made);
    ensure!(
        bomb.made as f64 >= 0.95 * (500.0 + 20.0 * 14.0),
        "only {} forks of {most}",
        bomb.made
    );
    let seen = counters(&container)?.unwrap_or_default();
    ensure!(
        seen.allowed == bomb.made && seen.refused == bomb.refused,
        "status counts {seen:?}, the bomb {bomb:?}"
    );
    Ok(())
}

fn audit_mode_records_and_refuses_nothing() -> Result<()> {
    let policy = Policy::write(
        "audit",
        "forks: {rate: 1/s, burst: 100}\npids: {max: 20}",
        "reserve: {pids: 300}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let bomb = bed::run(&container, "bomb --attempts 1000")?;
    let (_holding, leak) = bed::leak(&container, "--what process --most 50")?;
    let seen = counters(&container)?.unwrap_or_default();
    println!(
        "    {} of 1000 made, {} held; audited {}",
        bomb.made, leak.made, seen.audited
    );
    ensure!(bomb.refused + leak.refused == 0, "audit mode refused");
    ensure!(
        bomb.made == 1000 && leak.made == 50,
        "audit mode got in the way: {bomb:?} {leak:?}"
    );
    ensure!(seen.refused == 0, "audit mode counts refusals: {seen:?}");
    ensure!(
        seen.audited as f64 >= 900.0 - bomb.seconds.ceil(),
        "audited {} only",
        seen.audited
    );
    ensure!(
        container.read("pids.max")? == "max",
        "audit mode wrote pids.max"
    );
    host::wait_for("a record of it", Duration::from_secs(10), || {
        Ok(policy
            .records()?
            .iter()
            .any(|record| record["verdict"] == "audit"))
    })
}
