//! The outage: one container leaks threads until the host has no pid left, and nobody can log in.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters},
    hazards::{Needs, Scenario},
    host::{self, Setting, Watch},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::a_leak_takes_every_pid_but_the_hosts_reserve",
        needs: Needs::Refusing,
        run: a_leak_takes_every_pid_but_the_hosts_reserve,
    },
    Scenario {
        name: "fork_storm::a_thousand_forks_under_way_at_once_leave_the_hosts_reserve",
        needs: Needs::Ends,
        run: a_thousand_forks_under_way_at_once_leave_the_hosts_reserve,
    },
    Scenario {
        name: "fork_storm::a_changed_pid_max_counts_within_a_second",
        needs: Needs::Refusing,
        run: a_changed_pid_max_counts_within_a_second,
    },
];

const RESERVE: u64 = 300;
/// Pids that are left for the crowd to race for.
const ROOM: u64 = 150;

fn a_leak_takes_every_pid_but_the_hosts_reserve() -> Result<()> {
    let _pid_max = Setting::new("kernel/pid_max", "4096")?;
    let limit = host::task_limit()?;

    // Without Bulkhead the host cannot start a program any more.
    {
        let container = Cgroup::container()?;
        let (_leak, full) = bed::leak(&container, "--what thread")?;
        let (worked, error) = host::spawn(20);
        println!(
            "    without: {} threads leaked, host spawns {worked} of 20 ({error})",
            full.made
        );
        ensure!(worked < 20, "the host can still fork: {worked} of 20");
    }

    let policy = Policy::write("enforce", "pids: {max: 1000000}", "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let crowded = Cgroup::container()?;
    let before = host::tasks()?;
    let watch = Watch::new();

    // A leak fills the host up to a few pids, and then 64 large processes fork at once.
    let room = limit.saturating_sub(RESERVE + host::tasks()? + 64 + ROOM);
    let (leak, leaked) = bed::leak(&container, &format!("--what thread --most {room}"))?;
    ensure!(leaked.refused == 0, "refused too early: {leaked:?}");
    let crowd = bed::run(&crowded, "crowd --processes 64 --megabytes 3 --seconds 3")?;
    let (most, samples) = watch.most();
    println!(
        "    with: a leak of {}, a crowd of 64 made {} more at once and was refused {}; lowest free pids {} of {limit} in {samples} looks",
        leaked.made,
        crowd.made,
        crowd.refused,
        limit - most,
    );
    ensure!(
        crowd.refused > 0 && crowd.made > 0,
        "the crowd never came to the edge: {crowd:?}"
    );
    ensure!(
        limit - most >= RESERVE,
        "the reserve was entered: {} pids free, {RESERVE} reserved ({before} tasks before)",
        limit - most
    );
    drop(watch);
    drop(leak);
    drop(container);
    drop(crowded);

    // The leak alone, going on, and the host at work.
    let container = Cgroup::container()?;
    let (mut leak, _) = bed::leak(&container, "--what thread")?;
    let (worked, error) = host::spawn(200);
    let service = Cgroup::service()?;
    let neighbour = bed::run(&service, "bomb --attempts 100")?;
    ensure!(!leak.has_ended()?, "the leak ended by itself");
    let leaked = leak.finish()?;
    let seen = counters(&container)?;
    println!(
        "    with: {} threads, {} refused; host spawns {worked} of 200 {error}; a host service's forks {} of 100",
        leaked.made, leaked.refused, neighbour.made
    );
    ensure!(worked == 200, "{worked} of 200 host spawns worked: {error}");
    ensure!(
        neighbour.made == 100,
        "a host service was refused: {neighbour:?}"
    );
    ensure!(leaked.refused > 0, "the leak was never refused");
    let seen = seen.map_or(0, |counters| counters.refused);
    ensure!(
        seen == leaked.refused,
        "status counts {seen} refusals, the leak {}",
        leaked.refused
    );
    Ok(())
}

/// Threads of one process that fork in the same moment stand in line for its memory, each allowed already and without a pid.
fn a_thousand_forks_under_way_at_once_leave_the_hosts_reserve() -> Result<()> {
    let swarm = |threads: u32, seconds: u32| {
        format!("crowd --processes 1 --threads {threads} --megabytes 4 --seconds {seconds}")
    };
    let _pid_max = Setting::new("kernel/pid_max", "4096")?;
    let limit = host::task_limit()?;
    {
        let container = Cgroup::container()?;
        // As long as this machine needs. They fork one after the other: with more threads, fewer forks are needed.
        let mut full = bed::start(Some(&container), &swarm(3000, 300))?;
        let mut failed = 0;
        host::wait_for(
            "the swarm to fill the host",
            Duration::from_secs(240),
            || {
                failed = 20 - host::spawn(20).0;
                Ok(failed > 0 || full.has_ended()?)
            },
        )?;
        let tasks = host::tasks()?;
        println!("    without: {failed} of 20 host spawns fail, {tasks} tasks of {limit}");
        ensure!(failed > 0, "the host can still fork");
    }
    let policy = Policy::write("enforce", "pids: {max: 1000000}", "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let watch = Watch::new();
    let mut swarm = bed::start(Some(&container), &swarm(2000, 15))?;
    let (mut spawned, mut tried, mut error) = (0, 0, String::new());
    while !swarm.has_ended()? {
        let (worked, failed) = host::spawn(5);
        (spawned, tried) = (spawned + worked, tried + 5);
        if !failed.is_empty() {
            error = failed;
        }
    }
    let made = swarm.finish()?;
    let (most, samples) = watch.most();
    println!(
        "    with: {} made and {} refused; host spawns {spawned} of {tried} {error}; lowest free pids {} of {limit} in {samples} looks",
        made.made,
        made.refused,
        limit - most
    );
    ensure!(
        spawned == tried && tried > 0,
        "host spawns {spawned} of {tried}: {error}"
    );
    ensure!(
        made.refused > 0 && made.made > 0,
        "it never came to the edge: {made:?}"
    );
    ensure!(
        limit - most >= RESERVE,
        "the reserve was entered: {} pids free, {RESERVE} reserved",
        limit - most
    );
    drop(container);
    // What failed on its way is forgotten: the room is a container's again.
    let container = Cgroup::container()?;
    let (_leak, held) = bed::leak(&container, "--what process --most 500 --once")?;
    ensure!(
        held.refused == 0,
        "refused although there is room: {held:?}"
    );
    Ok(())
}

fn a_changed_pid_max_counts_within_a_second() -> Result<()> {
    let policy = Policy::write("enforce", "pids: {max: 1000000}", "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let room = host::tasks()? + 300 + 200 + host::RESERVED_PIDS;
    let (_holding, roomy) = bed::leak(&container, "--what process --most 250")?;
    ensure!(roomy.refused == 0, "refused although there is room");
    container.kill()?;
    let _pid_max = Setting::new("kernel/pid_max", &room.max(310).to_string())?;
    std::thread::sleep(Duration::from_millis(1200));
    let (_leak, held) = bed::leak(&container, "--what process --most 400 --once")?;
    println!(
        "    pid_max {room}: {} made before the first refusal",
        held.made
    );
    ensure!(held.refused > 0, "the new pid_max does not count");
    ensure!(held.made <= 200, "{} made with room for 200", held.made);
    let (worked, error) = host::spawn(20);
    ensure!(worked == 20, "host spawns {worked} of 20: {error}");
    Ok(())
}
