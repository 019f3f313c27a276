//! A line that names a process or a cgroup says which container that is, and never another.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    bed::Copy,
    naming::{id_of, lines},
};
use crate::{
    cgroup::{Cgroup, Runtime, is_v2},
    daemon::{Daemon, bulkhead},
    hazards::{Needs, Scenario},
    host::{Setting, release, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::whom_lines_name_is_told_of_processes_that_are_gone_and_never_wrongly",
        needs: Needs::Ordinary,
        run: whom_lines_name_is_told_of_processes_that_are_gone_and_never_wrongly,
    },
    Scenario {
        name: "kernel_log::who_is_killed_for_memory_is_told_by_the_cgroup_and_no_name_forges_it",
        needs: Needs::Nothing,
        run: who_is_killed_for_memory_is_told_by_the_cgroup_and_no_name_forges_it,
    },
];

/// Containers that do it all at once, beside a service of the host.
const CONTAINERS: usize = 10;
/// Processes in each, of each kind.
const TIMES: usize = 20;
/// Where the memory controller of v1 is mounted.
const MEMORY: &str = "/sys/fs/cgroup/memory";

/// What the copy says of whom lines of one kind are about.
#[derive(Debug, Default)]
struct Score {
    told: usize,
    right: usize,
    host: usize,
    unknown: usize,
    wrong: Vec<String>,
    /// One that is unknown.
    sample: String,
}

/// Kinds of lines, by what stands in them.
const KINDS: [(&str, &str); 6] = [
    ("segfault", "]: segfault at "),
    ("trap", "] trap "),
    ("audit", "audit: type=1326 "),
    ("oom-kill", "oom-kill:"),
    ("killed", ": Killed process "),
    ("reaped", "oom_reaper: reaped process "),
];

fn score(lines: &[Value], letter: char, ids: &[String]) -> BTreeMap<&'static str, Score> {
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    for line in lines {
        let text = line["text"].as_str().unwrap_or_default();
        let kind = KINDS.iter().find(|(_, words)| text.contains(words));
        let (Some((kind, _)), Some(group)) = (kind, group_of(text, letter)) else {
            continue;
        };
        let score = scores.entry(kind).or_default();
        let (id, about) = (&ids[group], &line["about"]);
        let whose = about["whose"].as_str().unwrap_or("unknown");
        score.told += usize::from(!id.is_empty());
        if whose == "unknown" && about["container"].is_null() {
            if !id.is_empty() {
                score.unknown += 1;
                score.sample = line.to_string();
            }
        } else if id.is_empty() && whose == "host" {
            score.host += 1;
        } else if whose == "container" && about["container"] == *id.as_str() && !id.is_empty() {
            score.right += 1;
        } else {
            score.wrong.push(line.to_string());
        }
    }
    scores
}

/// Of the process's name `q3-17`, wherever it stands: the group. The last, since names of cgroups stand before it.
fn group_of(text: &str, letter: char) -> Option<usize> {
    text.rmatch_indices(letter).find_map(|(at, _)| {
        let (group, rest) = text[at + 1..].split_once('-')?;
        let numbered = rest.starts_with(|digit: char| digit.is_ascii_digit());
        numbered.then(|| group.parse().ok())?
    })
}

fn say(scores: &BTreeMap<&str, Score>) {
    for (kind, score) in scores {
        println!(
            "    {kind}: {} of containers: {} right, {} unknown, {} wrong; {} of the host right",
            score.told,
            score.right,
            score.unknown,
            score.wrong.len(),
            score.host
        );
    }
}

/// Runs the probe in all groups at once.
fn crash(groups: &[Cgroup], letter: char, how: &str, times: usize) -> Result<()> {
    let children: Vec<_> = groups
        .iter()
        .enumerate()
        .map(|(number, group)| {
            let mut command = std::process::Command::new("bulkhead-probe");
            command
                .args([
                    "crash",
                    "--name",
                    &format!("{letter}{number}"),
                    "--how",
                    how,
                ])
                .args(["--times", &times.to_string()])
                .stdout(Stdio::piped());
            group.enter(&mut command)?;
            Ok(command.spawn()?)
        })
        .collect::<Result<_>>()?;
    for child in children {
        let said = child.wait_with_output()?;
        let ended = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        ensure!(ended == times.to_string(), "{how}: {ended} of {times}");
    }
    Ok(())
}

fn settled(copy: &Copy) -> Result<Vec<Value>> {
    let mut before = 0;
    wait_for("the end of the copy", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_secs(2));
        let now = lines(copy)?.len();
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    lines(copy)
}

fn whom_lines_name_is_told_of_processes_that_are_gone_and_never_wrongly() -> Result<()> {
    let _unlimited = Setting::new("kernel/printk_ratelimit", "0\n")?;
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    std::thread::sleep(Duration::from_secs(4));
    // As systemd sets it: an audit record's stamp is early by as much as the tick of an emulated machine is late.
    let _numbers = Setting::new("kernel/pid_max", "4194304\n")?;
    let mut groups: Vec<Cgroup> = (0..CONTAINERS)
        .map(|number| Cgroup::of(Runtime::ALL[number % Runtime::ALL.len()]))
        .collect::<Result<_>>()?;
    groups.push(Cgroup::service()?);
    let ids: Vec<String> = groups.iter().map(id_of).collect();
    for how in ["fault", "trap", "killed", "logged"] {
        crash(&groups, 'q', how, TIMES)?;
    }
    let lines = settled(&copy)?;
    let scores = score(&lines, 'q', &ids);
    say(&scores);
    let wrong: Vec<_> = scores.values().flat_map(|score| &score.wrong).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    let lost: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    for (kind, words) in &KINDS[..3] {
        let all = CONTAINERS * TIMES * if *words == KINDS[2].1 { 2 } else { 1 };
        // On 5.10 pieces of lines that two processors print at once end up in one another's records.
        let least = if release() >= (6, 1) {
            all
        } else {
            all * 8 / 10
        };
        let score = scores.get(kind);
        ensure!(
            score.is_some_and(|score| lost > 0 || score.told >= least),
            "{kind}: {score:?}"
        );
        // On 7.3 a program at a tracepoint can be interrupted by another task, whose end it then does not see
        // (`recursion_misses`).
        let percent = match release() {
            // Half of them are killed, which takes no signal there (`__seccomp_filter`).
            (..=5, _) if *words == KINDS[2].1 => 49,
            (7.., _) => 97,
            _ => 99,
        };
        ensure!(
            score.is_some_and(|score| score.right * 100 >= score.told * percent),
            "{kind}: {score:?}"
        );
    }
    let said = bulkhead(&[
        "kernel-log",
        "--file",
        &copy.file.display().to_string(),
        "--container",
        &ids[0],
    ])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let shown = said.matches("audit: type=1326 ").count();
    let others = (1..groups.len()).any(|group| said.contains(&format!("\"q{group}-")));
    ensure!(shown >= TIMES && !others, "{shown} are shown: {said}");
    wait_for("the alarm", Duration::from_secs(20), || {
        Ok(copy.policy.records()?.iter().any(|record| {
            record["kind"] == "alarm"
                && record["rule"] == "trap"
                && ids
                    .iter()
                    .any(|id| !id.is_empty() && record["container.id"] == *id.as_str())
        }))
    })
}

fn who_is_killed_for_memory_is_told_by_the_cgroup_and_no_name_forges_it() -> Result<()> {
    let own_v1 = Path::new(MEMORY).join("memory.limit_in_bytes").exists();
    if !is_v2() && !own_v1 {
        println!("    skipping: {MEMORY}: no memory controller is mounted");
        return Ok(());
    }
    let _unlimited = Setting::new("kernel/printk_ratelimit", "0\n")?;
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    std::thread::sleep(Duration::from_secs(4));
    let mut groups: Vec<Cgroup> = (0..CONTAINERS)
        .map(|number| Cgroup::of(Runtime::ALL[number % Runtime::ALL.len()]))
        .collect::<Result<_>>()?;
    let mut ids: Vec<String> = groups.iter().map(id_of).collect();
    // The first nests a cgroup whose names are the kernel's words, and another's path.
    let forged = format!(
        "{}/x,task_memcg={}/y,task=m1-0,pid=1,uid=0",
        groups[0].path, groups[1].path
    );
    groups.push(Cgroup::at(&forged)?);
    ids.push(ids[0].clone());
    for group in &groups[1..] {
        limit(group)?;
    }
    crash(&groups[1..], 'm', "memory", 3)?;
    // Numbered from the second on.
    let ids: Vec<String> = ids[1..].to_vec();
    let lines = settled(&copy)?;
    let scores = score(&lines, 'm', &ids);
    say(&scores);
    let wrong: Vec<_> = scores.values().flat_map(|score| &score.wrong).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    let score = scores.get("oom-kill");
    ensure!(
        score.is_some_and(|score| score.right > 0 && score.right * 100 >= score.told * 99),
        "{score:?}"
    );
    wait_for("the alarm", Duration::from_secs(20), || {
        Ok(copy.policy.records()?.iter().any(|record| {
            record["kind"] == "alarm"
                && record["rule"] == "oom-limit"
                && ids.iter().any(|id| record["container.id"] == *id.as_str())
        }))
    })
}

/// Sixteen megabytes.
fn limit(group: &Cgroup) -> Result<()> {
    if is_v2() {
        group.write("memory.max", "16M")
    } else {
        group.write("memory.limit_in_bytes", "16M")
    }
}
