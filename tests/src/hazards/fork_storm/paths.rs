//! All the ways to fork: none escapes.

use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{BURST, RATE, RULE, bound};
use crate::{
    bed,
    cgroup::{Cgroup, is_v2},
    daemon::{Daemon, Policy, counters, status},
    hazards::{Needs, Scenario, has},
    probe::forks::How,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::no_way_of_forking_escapes",
        needs: Needs::Refusing,
        run: no_way_of_forking_escapes,
    },
    Scenario {
        name: "fork_storm::no_stressor_of_stress_ng_escapes",
        needs: Needs::Ends,
        run: no_stressor_of_stress_ng_escapes,
    },
    Scenario {
        name: "fork_storm::more_nested_cgroups_than_the_table_holds_free_nobody",
        needs: Needs::Ends,
        run: more_nested_cgroups_than_the_table_holds_free_nobody,
    },
    Scenario {
        name: "fork_storm::a_cgroup_namespace_hides_nobody",
        needs: Needs::Refusing,
        run: a_cgroup_namespace_hides_nobody,
    },
    Scenario {
        name: "fork_storm::a_task_that_moves_itself_out_is_on_record",
        needs: Needs::Refusing,
        run: a_task_that_moves_itself_out_is_on_record,
    },
];

/// stress-ng makes some hundred forks in two seconds of an emulated processor, and has a few of its own.
const SLOW_RATE: u64 = 5;
const SLOW_BURST: u64 = 12;
const SLOW_RULE: &str = "forks: {rate: 5/s, burst: 12}";

fn no_way_of_forking_escapes() -> Result<()> {
    // Without Bulkhead each way makes more than twice as many.
    let mut ways = Vec::new();
    for how in How::ALL {
        if how == How::Into && !is_v2() {
            println!(
                "    skipping {}: a v1 cgroup cannot be born into",
                how.name()
            );
            continue;
        }
        let (container, other) = (Cgroup::container()?, Cgroup::container()?);
        let twice = 2 * bound(RATE, BURST, 2.0) + 1;
        // It ends as soon as it has made so many, however slow the machine is.
        let free = bed::run(&container, &arguments(how, &container, &other, 30, twice))?;
        ensure!(
            free.made >= twice && free.refused + free.failed == 0,
            "{} without Bulkhead: {free:?}",
            how.name()
        );
        ways.push(how);
    }
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    for how in ways {
        let (container, other) = (Cgroup::container()?, Cgroup::container()?);
        let bomb = bed::run(&container, &arguments(how, &container, &other, 2, u64::MAX))?;
        let most = bound(RATE, BURST, bomb.seconds);
        let seen = counters(&container)?.unwrap_or_default();
        println!(
            "    {}: {} made of {most}, {} refused",
            how.name(),
            bomb.made,
            bomb.refused
        );
        ensure!(bomb.failed == 0, "{}: {bomb:?}", how.name());
        ensure!(bomb.refused > 0, "{} was never refused", how.name());
        ensure!(
            bomb.made <= most,
            "{} made {} of {most}",
            how.name(),
            bomb.made
        );
        ensure!(
            (seen.allowed, seen.refused) == (bomb.made, bomb.refused),
            "{}: status counts {seen:?}, the bomb {bomb:?}",
            how.name()
        );
    }
    Ok(())
}

fn arguments(how: How, container: &Cgroup, other: &Cgroup, seconds: u32, made: u64) -> String {
    let mut text = format!(
        "bomb --how {} --seconds {seconds} --made {made}",
        how.name()
    );
    match how {
        // Whoever's cgroup the child is born into: the parent pays.
        How::Into => text.push_str(&format!(" --cgroup {}", other.folder().display())),
        How::Nested => text.push_str(&format!(" --cgroup {}", container.folder().display())),
        How::Fork | How::Vfork | How::Clone | How::Clone3 | How::Thread | How::Daemon => {}
    }
    text
}

fn no_stressor_of_stress_ng_escapes() -> Result<()> {
    ensure!(has("stress-ng"), "this machine has no stress-ng");
    let forks = |guarded: bool, stressor: &str, seconds: u32| -> Result<(u64, f64, Cgroup)> {
        let container = Cgroup::container()?;
        let (before, began) = (forks_since_boot()?, Instant::now());
        let mut command = Command::new("stress-ng");
        command
            .args([stressor, "1", "--timeout", &seconds.to_string()])
            .args(["--quiet", "--oomable", "--temp-path", "/tmp"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // What it says is of no interest: it fails when its forks do.
        let _ = container.enter(&mut command)?.status()?;
        let took = began.elapsed().as_secs_f64();
        let after = forks_since_boot()?;
        let seen = if guarded {
            counters(&container)?.unwrap_or_default().allowed
        } else {
            after - before
        };
        Ok((seen, took, container))
    };
    let mut free = Vec::new();
    for stressor in ["--fork", "--vfork", "--clone", "--pthread"] {
        // As long as it takes this machine to make more than twice as many as are allowed.
        let mut seconds = 2;
        loop {
            let (made, took, _) = forks(false, stressor, seconds)?;
            if made > 2 * bound(SLOW_RATE, SLOW_BURST, took) {
                free.push((stressor, seconds, made));
                break;
            }
            ensure!(
                seconds < 32,
                "{stressor} makes only {made} in {seconds} s without"
            );
            seconds *= 2;
        }
    }
    let policy = Policy::enforce(SLOW_RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    for (stressor, seconds, free) in free {
        let before = forks_since_boot()?;
        let (allowed, took, container) = forks(true, stressor, seconds)?;
        let all = forks_since_boot()? - before;
        let most = bound(SLOW_RATE, SLOW_BURST, took);
        let refused = counters(&container)?.unwrap_or_default().refused;
        println!(
            "    {stressor}: {free} without; {allowed} of {most} with, {refused} refused, the whole host made {all}"
        );
        ensure!(allowed <= most, "{stressor} made {allowed} of {most}");
        ensure!(refused > 0, "{stressor} was never refused");
        // Nothing got past the counter either; the host's own forks are few.
        ensure!(
            all <= most + 60,
            "{stressor}: the host saw {all} forks, {allowed} are accounted for"
        );
    }
    Ok(())
}

/// Tasks made since boot, of the whole host.
fn forks_since_boot() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    text.lines()
        .find_map(|line| line.strip_prefix("processes "))
        .and_then(|number| number.trim().parse().ok())
        .context("/proc/stat has no processes")
}

fn more_nested_cgroups_than_the_table_holds_free_nobody() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::with(&policy, &[], &[("BULKHEAD_TEST_SUBJECTS", "64")])?;
    let (bystander, container) = (Cgroup::container()?, Cgroup::container()?);
    let nested: Vec<Cgroup> = (0..150)
        .map(|number| Cgroup::at(&format!("{}/nested-{number}", container.path)))
        .collect::<Result<_>>()?;
    let losses = status()?["losses"].clone();
    println!("    150 nested cgroups in a table of 64: {losses}");
    ensure!(
        losses["unlisted"].as_u64().unwrap_or(0) > 0,
        "the table did not overflow: {losses}"
    );
    // In the last cgroup, which has no entry; beside it; and on the host.
    let last = nested.last().context("no nested cgroup")?;
    let inside = bed::run(last, "bomb --seconds 2")?;
    let beside = bed::run(&bystander, "bomb --seconds 2")?;
    // What one container fills keeps no new one out.
    let late = bed::run(&Cgroup::container()?, "bomb --seconds 2")?;
    let service = bed::run(&Cgroup::service()?, "bomb --attempts 200")?;
    println!(
        "    inside {} made {} refused, a neighbour {} made {} refused, a new one {} made {} refused, the host {} of 200",
        inside.made,
        inside.refused,
        beside.made,
        beside.refused,
        late.made,
        late.refused,
        service.made
    );
    for bomb in [&inside, &beside, &late] {
        ensure!(bomb.refused > 0, "free: {bomb:?}");
        ensure!(
            bomb.made <= bound(RATE, BURST, bomb.seconds),
            "too many: {bomb:?}"
        );
    }
    ensure!(service.made == 200, "the host was refused: {service:?}");
    drop(nested);
    let losses = status()?["losses"].clone();
    ensure!(
        losses["unlisted"].as_u64() == Some(0),
        "cgroups that are gone still count: {losses}"
    );
    Ok(())
}

fn a_cgroup_namespace_hides_nobody() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    // In a namespace of its own its cgroup is `/`, and so is what it makes there: no name of a container.
    let nested = if is_v2() {
        "mkdir -p /tmp/cgroups && mount -t cgroup2 inside /tmp/cgroups && mkdir /tmp/cgroups/inside && \
         echo $$ > /tmp/cgroups/inside/cgroup.procs && "
    } else {
        ""
    };
    let expected = if is_v2() { "0::/inside" } else { ":pids:/" };
    let bomb = bed::run_by(
        &container,
        &format!(
            "exec unshare --cgroup --mount sh -c '{nested}grep -q {expected}$ /proc/self/cgroup && \
             exec bulkhead-probe bomb --seconds 2'"
        ),
    )?;
    let most = bound(RATE, BURST, bomb.seconds);
    println!("    {} made of {most}, {} refused", bomb.made, bomb.refused);
    ensure!(bomb.refused > 0 && bomb.made <= most, "{bomb:?}");
    let seen = counters(&container)?.context("the container is not in status")?;
    ensure!(seen.refused == bomb.refused, "{seen:?}, {bomb:?}");
    let wait = std::time::Duration::from_secs(10);
    crate::host::wait_for("a record with the host's path", wait, || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "breach.began" && record["cgroup"] == container.path.as_str()
        }))
    })
}

fn a_task_that_moves_itself_out_is_on_record() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let (container, service) = (Cgroup::container()?, Cgroup::service()?);
    let of = |path: &str, words: &str| -> Result<u64> {
        Ok(policy
            .records()?
            .iter()
            .filter(|record| record["kind"] == "moved_out" && record["cgroup"] == path)
            .filter(|record| {
                record["reason"]
                    .as_str()
                    .is_some_and(|text| text.contains(words))
            })
            .filter_map(|record| record["count"].as_u64())
            .sum())
    };
    // A clone3 into no cgroup at all fails, is not told for what it was not, and hides no move after it.
    let decoy = if is_v2() {
        "/usr/local/bin/bulkhead-probe bomb --how into --attempts 1 --cgroup /tmp < /dev/null; "
    } else {
        ""
    };
    let mut command = Command::new("/bin/bash");
    command.args([
        "-c",
        &format!(
            "{decoy}echo $$ > {}/cgroup.procs",
            service.folder().display()
        ),
    ]);
    let status = container.enter(&mut command)?.status()?;
    ensure!(status.success(), "the move itself failed: {status}");
    let wait = std::time::Duration::from_secs(10);
    crate::host::wait_for("a record of the move", wait, || {
        Ok(of(&container.path, "moved a task to")? == 1)
    })?;
    ensure!(
        of(&container.path, "made")? == 0,
        "told for what it was not"
    );
    if is_v2() {
        // Made outside straight away, several in a second: all are accounted for.
        let other = Cgroup::container()?;
        let into = bed::run(
            &other,
            &format!(
                "bomb --how into --attempts 5 --cgroup {}",
                service.folder().display()
            ),
        )?;
        ensure!(into.made == 5, "{into:?}");
        crate::host::wait_for("records of five", wait, || {
            Ok(of(&other.path, "")? == 5 && of(&other.path, "made a task in")? >= 1)
        })?;
    }
    Ok(())
}
