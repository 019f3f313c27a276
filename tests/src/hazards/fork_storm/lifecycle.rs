//! The daemon dies, comes back, is switched off and on, is given a broken policy: what it enforces stands or is let go whole.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{BURST, RATE, RULE, bound};
use crate::{
    bed,
    cgroup::{self, Cgroup},
    daemon::{Daemon, PINS, Policy, bulkhead, counters, status, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::ten_kills_of_the_daemon_change_nothing",
        needs: Needs::Ends,
        run: ten_kills_of_the_daemon_change_nothing,
    },
    Scenario {
        name: "fork_storm::off_allows_everything_and_on_refuses_again",
        needs: Needs::Ends,
        run: off_allows_everything_and_on_refuses_again,
    },
    Scenario {
        name: "fork_storm::a_broken_policy_keeps_the_old_one",
        needs: Needs::Patience,
        run: a_broken_policy_keeps_the_old_one,
    },
    Scenario {
        name: "fork_storm::a_new_policy_counts_after_a_reload",
        needs: Needs::Ends,
        run: a_new_policy_counts_after_a_reload,
    },
    Scenario {
        name: "fork_storm::what_was_the_hosts_is_governed_once_a_policy_names_it",
        needs: Needs::Ends,
        run: what_was_the_hosts_is_governed_once_a_policy_names_it,
    },
    Scenario {
        name: "fork_storm::a_stop_releases_everything",
        needs: Needs::Nothing,
        run: a_stop_releases_everything,
    },
    Scenario {
        name: "fork_storm::a_stop_that_keeps_leaves_everything_enforced",
        needs: Needs::Refusing,
        run: a_stop_that_keeps_leaves_everything_enforced,
    },
    Scenario {
        name: "fork_storm::a_second_daemon_says_so_and_ends",
        needs: Needs::Ends,
        run: a_second_daemon_says_so_and_ends,
    },
    Scenario {
        name: "fork_storm::without_root_it_says_so_and_exits_3",
        needs: Needs::Nothing,
        run: without_root_it_says_so_and_exits_3,
    },
];

/// A bomb in a new container is refused.
fn refuses() -> Result<()> {
    super::refuses(&Cgroup::container()?)
}

fn allows() -> Result<()> {
    let bomb = bed::run(&Cgroup::container()?, "bomb --attempts 300")?;
    ensure!(bomb.made == 300, "refused: {bomb:?}");
    Ok(())
}

fn ten_kills_of_the_daemon_change_nothing() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let mut bomb = bed::start(Some(&container), "bomb --seconds 600")?;
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(200));
        daemon.kill()?;
        daemon = Daemon::start(&policy, &[])?;
    }
    ensure!(!bomb.has_ended()?, "the bomb ended by itself");
    drop(bomb);
    container.kill()?;
    let bomb = bed::run(&container, "bomb --attempts 1")?;
    let seen = counters(&container)?.unwrap_or_default();
    drop(bomb);
    let uptime: f64 = fs::read_to_string("/proc/uptime")?
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0);
    println!(
        "    ten kills: {} allowed, {} refused in the container",
        seen.allowed, seen.refused
    );
    ensure!(seen.refused > 0, "never refused");
    ensure!(
        seen.allowed <= bound(RATE, BURST, uptime),
        "{} forks allowed",
        seen.allowed
    );
    let gaps = policy
        .records()?
        .iter()
        .filter(|record| record.to_string().contains("gap"))
        .count();
    ensure!(gaps >= 10, "{gaps} of 10 gaps are on record");
    Ok(())
}

fn off_allows_everything_and_on_refuses_again() -> Result<()> {
    let policy = Policy::enforce(&format!("{RULE}\npids: {{max: 60}}"))?;
    let mut daemon = Daemon::start(&policy, &[])?;
    refuses().context("before")?;
    let capped = Cgroup::container()?;
    host::wait_for("pids.max", Duration::from_secs(20), || {
        Ok(capped.read("pids.max")? == "60")
    })?;
    succeed(&["off"])?;
    allows().context("off")?;
    ensure!(
        capped.read("pids.max")? == "max",
        "off left pids.max behind"
    );
    daemon.kill()?;
    allows().context("off, and the daemon dead")?;
    let mut daemon = Daemon::spawn(&policy, &[], &[])?;
    host::wait_for("an answer", Duration::from_secs(30), || {
        Ok(status().is_ok_and(|status| status["pid"].is_u64()))
    })?;
    allows().context("off, and the daemon back")?;
    succeed(&["on"])?;
    daemon.wait_ready()?;
    refuses().context("on")?;
    succeed(&["off", "--for", "3s"])?;
    allows().context("off for 3 s")?;
    thread::sleep(Duration::from_millis(3500));
    refuses().context("after off for 3 s")?;
    // With no daemon at all the pinned switch is thrown.
    daemon.kill()?;
    refuses().context("the daemon dead")?;
    succeed(&["off"])?;
    allows().context("off without a daemon")?;
    succeed(&["on"])?;
    refuses().context("on without a daemon")
}

fn a_broken_policy_keeps_the_old_one() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let daemon = Daemon::start(&policy, &[])?;
    policy.replace("version: 1\nrules:\n  - name: x\n    forks: {rate: fast}\n")?;
    daemon.reload()?;
    host::wait_for("status to say so", Duration::from_secs(10), || {
        Ok(!status()?["policy_refused"].is_null())
    })?;
    let said = status()?["policy_refused"].to_string();
    println!("    {said}");
    ensure!(said.contains("policy.yaml:"), "it names no place: {said}");
    refuses()?;
    every_invalid_policy_is_refused(&policy, &daemon)?;
    refuses()?;
    policy.rewrite("enforce", RULE, "reserve: {pids: 300}")?;
    daemon.reload()?;
    host::wait_for("the good policy", Duration::from_secs(10), || {
        Ok(status()?["policy_refused"].is_null())
    })?;
    refuses()
}

/// Each file of `policies/invalid`, with the place and the words that its first line names.
fn every_invalid_policy_is_refused(policy: &Policy, daemon: &Daemon) -> Result<()> {
    let mut files: Vec<_> = fs::read_dir("/usr/local/share/bulkhead/invalid")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    ensure!(files.len() > 50, "only {} invalid policies", files.len());
    for file in &files {
        let text = fs::read_to_string(file)?;
        let expected = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# expect: "))
            .with_context(|| format!("{} expects nothing", file.display()))?;
        policy.replace(&text)?;
        daemon.reload()?;
        let mut said = String::new();
        host::wait_for(expected, Duration::from_secs(10), || {
            said = status()?["policy_refused"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            Ok(said.contains(&format!("policy.yaml:{expected}")))
        })
        .with_context(|| format!("{}: {said}", file.display()))?;
    }
    println!("    {} invalid policies, each refused", files.len());
    Ok(())
}

fn a_new_policy_counts_after_a_reload() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 1000/s, burst: 100000}")?;
    let daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let free = bed::run(&container, "bomb --attempts 300")?;
    ensure!(free.made == 300, "refused too early: {free:?}");
    policy.rewrite("enforce", RULE, "reserve: {pids: 300}")?;
    daemon.reload()?;
    host::wait_for("the new limit", Duration::from_secs(10), || {
        Ok(bed::run(&container, "bomb --attempts 100")?.refused > 0)
    })?;
    refuses()
}

/// The kernel side remembers of a cgroup that it is the host's: until a policy says otherwise.
fn what_was_the_hosts_is_governed_once_a_policy_names_it() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let daemon = Daemon::start(&policy, &[])?;
    let number = cgroup::number();
    let alone = Cgroup::at(&format!("/named-{number}-alone"))?;
    let nested = Cgroup::at(&format!("/named-{number}/nested"))?;
    let other = Cgroup::at(&format!("/other-{number}"))?;
    let free = |cgroups: &[&Cgroup]| {
        cgroups.iter().try_for_each(|cgroup| {
            let bomb = bed::run(cgroup, "bomb --attempts 300")?;
            ensure!(bomb.made == 300, "{}: {bomb:?}", cgroup.path);
            Ok(())
        })
    };
    free(&[&alone, &nested, &other])?;
    let text = fs::read_to_string(&policy.file)?;
    let naming = text.replacen("cgroups: [", "cgroups: [\"/named-*\", ", 1);
    ensure!(naming != text, "no patterns in {text}");
    policy.replace(&naming)?;
    daemon.reload()?;
    for cgroup in [&alone, &nested] {
        host::wait_for("the new name", Duration::from_secs(10), || {
            Ok(bed::run(cgroup, "bomb --attempts 100")?.refused > 0)
        })?;
        super::refuses(cgroup)?;
    }
    free(&[&other])?;
    policy.replace(&text)?;
    daemon.reload()?;
    host::wait_for("the old names", Duration::from_secs(10), || {
        let bombs = [&alone, &nested].map(|cgroup| bed::run(cgroup, "bomb --attempts 100"));
        let [one, two] = bombs;
        Ok(one?.refused + two?.refused == 0)
    })?;
    free(&[&alone, &nested, &other])
}

fn a_stop_releases_everything() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 60}")?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    host::wait_for("pids.max", Duration::from_secs(20), || {
        Ok(container.read("pids.max")? == "60")
    })?;
    daemon.stop()?;
    ensure!(
        !Path::new(PINS).exists() || fs::read_dir(PINS)?.next().is_none(),
        "pins are left: {:?}",
        fs::read_dir(PINS)?
            .flatten()
            .map(|entry| entry.file_name())
            .collect::<Vec<_>>()
    );
    ensure!(
        container.read("pids.max")? == "max",
        "pids.max is {}",
        container.read("pids.max")?
    );
    let (_holding, free) = bed::leak(&container, "--what process --most 100")?;
    ensure!(free.refused == 0, "still refused: {free:?}");
    let output = bulkhead(&["status", "--json"])?;
    ensure!(
        output.status.code() == Some(1),
        "status without a daemon exits {:?}",
        output.status.code()
    );
    Ok(())
}

fn a_stop_that_keeps_leaves_everything_enforced() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let mut daemon = Daemon::start(&policy, &["--keep-on-stop"])?;
    refuses()?;
    daemon.stop()?;
    refuses()?;
    // What a daemon of another version left is let go of, once ours acts.
    let other = Path::new(PINS).join("v0");
    fs::create_dir(&other)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    ensure!(!other.exists(), "the other version's pins are left");
    refuses()?;
    daemon.stop()?;
    allows()
}

fn a_second_daemon_says_so_and_ends() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let first = Daemon::start(&policy, &[])?;
    let mut second = Daemon::spawn(&policy, &[], &[])?;
    let status = second.wait()?;
    ensure!(
        status.code() == Some(1),
        "the second ended with {status}:\n{}",
        second.log()
    );
    ensure!(
        second.log().contains(&first.pid().to_string()) || second.log().contains("already"),
        "it does not say why: {}",
        second.log()
    );
    succeed(&["status"]).map(drop).or_else(|error| {
        if crate::daemon::poor_rung().is_none() {
            Err(error)
        } else {
            Ok(())
        }
    })
}

fn without_root_it_says_so_and_exits_3() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let output = Command::new("bulkhead")
        .args(["run", "--policy"])
        .arg(&policy.file)
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(3),
        "exits {}: {said}",
        output.status
    );
    ensure!(
        said.lines().count() == 1 && said.contains("root"),
        "not one clear line: {said}"
    );
    Ok(())
}
