//! No window: a container is governed from its first fork, whoever made it and whether or not the daemon runs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::bound;
use crate::{
    bed,
    cgroup::{self, Cgroup, Runtime, is_v2},
    daemon::{Daemon, Policy, counters, status},
    hazards::{Needs, Scenario, has},
    host,
    probe::tally::Counted,
    runtimes::{Payload, make_root, oci, podman},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::a_thousand_new_containers_are_governed_from_their_first_fork",
        needs: Needs::Ends,
        run: a_thousand_new_containers_are_governed_from_their_first_fork,
    },
    Scenario {
        name: "fork_storm::containers_of_crun_runc_and_podman_start_and_are_governed",
        needs: Needs::Refusing,
        run: containers_of_crun_runc_and_podman_start_and_are_governed,
    },
    Scenario {
        name: "fork_storm::containers_that_were_there_before_are_found",
        needs: Needs::Refusing,
        run: containers_that_were_there_before_are_found,
    },
    Scenario {
        name: "fork_storm::containers_made_while_the_daemon_is_dead_are_governed",
        needs: Needs::Ends,
        run: containers_made_while_the_daemon_is_dead_are_governed,
    },
    Scenario {
        name: "fork_storm::a_path_is_read_to_its_end_however_long_it_is",
        needs: Needs::Refusing,
        run: a_path_is_read_to_its_end_however_long_it_is,
    },
    Scenario {
        name: "fork_storm::a_new_container_of_an_old_name_starts_afresh",
        needs: Needs::Refusing,
        run: a_new_container_of_an_old_name_starts_afresh,
    },
];

fn a_thousand_new_containers_are_governed_from_their_first_fork() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 1/m, burst: 1}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    // The parents' controllers are switched on by one container of each kind.
    let first: Vec<Cgroup> = Runtime::ALL
        .into_iter()
        .map(Cgroup::of)
        .collect::<Result<_>>()?;
    let mount = cgroup::folder_of("");
    let names: Vec<String> = (0..1000)
        .map(|number| {
            let runtime = Runtime::ALL[number % Runtime::ALL.len()];
            format!("{}{}", mount.display(), runtime.path(cgroup::number()))
        })
        .collect();
    let list = policy.file.with_file_name("list");
    fs::write(&list, names.join("\n"))?;
    let born = if is_v2() { "--born" } else { "" };
    let began = Instant::now();
    let counted = bed::start(None, &format!("window {} {born}", list.display()))?.finish();
    let took = began.elapsed().as_secs_f64();
    let losses = status()?["losses"].clone();
    for name in &names {
        for _ in 0..50 {
            if cgroup::remove_below(Path::new(name)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The pod above it.
        if name.contains("kubepods")
            && let Some(pod) = Path::new(name).parent()
        {
            let _ = fs::remove_dir(pod);
        }
    }
    drop(first);
    let counted = counted?;
    println!(
        "    1000 containers in {took:.1} s: {} first forks made, {} second and third ones refused; losses {losses}",
        counted.made, counted.refused
    );
    ensure!(
        counted.failed == 0 && counted.made == 1000 && counted.refused == 2000,
        "not every container got exactly its one fork: {counted:?}"
    );
    Ok(())
}

fn containers_of_crun_runc_and_podman_start_and_are_governed() -> Result<()> {
    let bundle = Path::new("/run/bulkhead-bundle");
    make_root(&bundle.join("rootfs"))?;
    for runtime in RUNTIMES {
        ensure!(has(runtime), "this machine has no {runtime}");
        let free = start(runtime, bundle)?;
        ensure!(
            (free.made, free.refused) == (200, 0),
            "{runtime} without Bulkhead: {free:?}"
        );
    }
    // A runtime's own init forks too, at most a dozen threads; the payload gets what is left.
    let policy = Policy::enforce("forks: {rate: 1/s, burst: 60}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for round in 0..20 {
        // Podman takes the longest, and starts crun like the first.
        let runtime = RUNTIMES[if round % 5 == 2 { 2 } else { round % 2 }];
        let began = Instant::now();
        let made = start(runtime, bundle)?;
        let most = bound(1, 60, began.elapsed().as_secs_f64());
        ensure!(
            made.refused > 0 && made.made > 0 && made.made <= most,
            "{runtime}: {made:?}, at most {most}"
        );
        if round < 3 {
            println!(
                "    {runtime}: started, {} made and {} refused of 200",
                made.made, made.refused
            );
        }
    }
    Ok(())
}

const RUNTIMES: [&str; 3] = ["crun", "runc", "podman"];

/// Starts a container that forks 200 times and ends.
fn start(runtime: &str, bundle: &Path) -> Result<Counted> {
    match runtime {
        "podman" => parse("podman", &podman(bundle, &[], &PAYLOAD)?),
        _ => by_oci(runtime, bundle),
    }
}

const PAYLOAD: [&str; 4] = ["/probe", "bomb", "--attempts", "200"];

fn by_oci(runtime: &str, bundle: &Path) -> Result<Counted> {
    let payload = Payload {
        args: &PAYLOAD,
        user_namespace: false,
        detached: false,
    };
    let (_, output) = oci(runtime, bundle, &payload)?;
    parse(runtime, &output)
}

fn parse(runtime: &str, output: &std::process::Output) -> Result<Counted> {
    let text = String::from_utf8_lossy(&output.stdout);
    let counted = text
        .lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| {
            format!(
                "{runtime} did not start its container ({}): {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
    ensure!(
        output.status.success(),
        "{runtime} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(counted)
}

fn containers_that_were_there_before_are_found() -> Result<()> {
    let containers: Vec<Cgroup> = Runtime::ALL
        .into_iter()
        .map(Cgroup::of)
        .collect::<Result<_>>()?;
    // A cgroup that hands its controllers on cannot hold processes itself.
    let above = Cgroup::container()?;
    let nested = Cgroup::at(&format!("{}/below", above.path))?;
    let free = bed::run(&nested, "bomb --attempts 200")?;
    ensure!(free.made == 200, "refused without Bulkhead: {free:?}");
    let policy = Policy::enforce("forks: {rate: 20/s, burst: 40}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for cgroup in containers.iter().chain([&nested]) {
        let bomb = bed::run(cgroup, "bomb --seconds 1")?;
        ensure!(
            bomb.refused > 0 && bomb.made <= bound(20, 40, bomb.seconds),
            "{}: {bomb:?}",
            cgroup.path
        );
    }
    let service = bed::run(&Cgroup::service()?, "bomb --attempts 200")?;
    ensure!(service.made == 200, "the host was refused: {service:?}");
    Ok(())
}

fn containers_made_while_the_daemon_is_dead_are_governed() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 20/s, burst: 40}")?;
    let mut daemon = Daemon::start(&policy, &[])?;
    daemon.kill()?;
    let container = Cgroup::container()?;
    let bomb = bed::run(&container, "bomb --seconds 1")?;
    println!(
        "    with the daemon dead: {} made, {} refused",
        bomb.made, bomb.refused
    );
    ensure!(
        bomb.refused > 0 && bomb.made <= bound(20, 40, bomb.seconds),
        "a container made without the daemon is free: {bomb:?}"
    );
    let _daemon = Daemon::start(&policy, &[])?;
    let seen = counters(&container)?.context("the next daemon does not know it")?;
    ensure!(
        (seen.allowed, seen.refused) == (bomb.made, bomb.refused),
        "status counts {seen:?}, the bomb {bomb:?}"
    );
    Ok(())
}

/// The kernel side reads 16 bytes at a time, and the kernel hands it 1,023 at most: one that long may have been cut off.
fn a_path_is_read_to_its_end_however_long_it_is() -> Result<()> {
    let mut daemon = Daemon::start(&Policy::enforce("forks: {rate: 1/m, burst: 20}")?, &[])?;
    // The scan would find them too.
    daemon.kill()?;
    for length in [
        47, 48, 49, 63, 64, 65, 511, 512, 513, 1007, 1008, 1009, 1021, 1022, 1023,
    ] {
        let path = path_of(length);
        let bomb = bed::run(&Cgroup::at(&path)?, "bomb --attempts 60")?;
        ensure!(
            (bomb.refused > 0) == (length < 1023),
            "a path of {length} bytes: {bomb:?}"
        );
        let _ = cgroup::remove_below(&cgroup::folder_of(START));
    }
    Ok(())
}

const START: &str = "/kubepods.slice";

/// So many bytes of a container's path.
fn path_of(length: usize) -> String {
    const END: &str = "/cri-containerd-1.scope";
    let mut path = START.to_owned();
    while path.len() + END.len() < length {
        let rest = length - END.len() - path.len();
        // No name is longer than 255 bytes, and none is empty.
        let part = if rest > 202 { 200 } else { rest };
        path += &format!("/{:a<width$}", "", width = part - 1);
    }
    path + END
}

fn a_new_container_of_an_old_name_starts_afresh() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 1/s, burst: 100}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let path = Runtime::Docker.path(cgroup::number());
    for round in 0..3 {
        let container = Cgroup::at(&path)?;
        let bomb = bed::run(&container, "bomb --refused 10")?;
        ensure!(
            bomb.made >= 100 && bomb.made <= bound(1, 100, bomb.seconds),
            "round {round}: {bomb:?}"
        );
        host::wait_for("its counters", Duration::from_secs(5), || {
            Ok(counters(&container)?
                .is_some_and(|seen| (seen.allowed, seen.refused) == (bomb.made, bomb.refused)))
        })?;
    }
    Ok(())
}
