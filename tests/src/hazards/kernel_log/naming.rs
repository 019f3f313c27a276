//! Each line has the name of who printed it, and never another's.

use std::{collections::HashMap, fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bed::{Copy, FIRST};
use crate::{
    cgroup::{Cgroup, Runtime},
    daemon::{Daemon, bulkhead},
    hazards::{Needs, Scenario},
    host::{Setting, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::a_thousand_faults_are_named_and_none_wrongly",
        needs: Needs::Ordinary,
        run: a_thousand_faults_are_named_and_none_wrongly,
    },
    Scenario {
        name: "kernel_log::what_a_container_writes_is_marked_and_named_and_raises_no_alarm",
        needs: Needs::Ordinary,
        run: what_a_container_writes_is_marked_and_named_and_raises_no_alarm,
    },
];

/// Containers that die all at once, beside a service of the host.
const CONTAINERS: usize = 10;
/// Processes that die in each.
const TIMES: usize = 92;

/// What the copy says of who printed a line.
#[derive(Debug, Default)]
struct Score {
    right: usize,
    unknown: usize,
    wrong: Vec<String>,
}

impl Score {
    /// `id`: of the container; empty for the host.
    fn count(&mut self, line: &Value, id: &str) {
        let expected = if id.is_empty() { "host" } else { "container" };
        if line["from"] == "unknown" {
            self.unknown += 1;
        } else if line["from"] == expected && line["container"].as_str().unwrap_or("") == id {
            self.right += 1;
        } else {
            self.wrong.push(line.to_string());
        }
    }
}

fn a_thousand_faults_are_named_and_none_wrongly() -> Result<()> {
    let _unlimited = Setting::new("kernel/printk_ratelimit", "0\n")?;
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    copy.wait_until_named()?;
    let by_first = |line: &Value| {
        let comm = line["comm"].as_str().unwrap_or_default();
        comm.starts_with(FIRST)
    };
    let mut groups: Vec<Cgroup> = (0..CONTAINERS)
        .map(|number| Cgroup::of(Runtime::ALL[number % Runtime::ALL.len()]))
        .collect::<Result<_>>()?;
    groups.push(Cgroup::service()?);
    let ids: Vec<String> = groups.iter().map(id_of).collect();
    let children: Vec<_> = groups
        .iter()
        .enumerate()
        .map(|(number, group)| {
            let mut command = std::process::Command::new("bulkhead-probe");
            command
                .args(["crash", "--name", &format!("w{number}")])
                .args(["--times", &TIMES.to_string()])
                .stdout(Stdio::null());
            group.enter(&mut command)?;
            Ok(command.spawn()?)
        })
        .collect::<Result<_>>()?;
    for mut child in children {
        ensure!(child.wait()?.success(), "a probe failed");
    }
    let all = groups.len() * TIMES;
    let faults = |lines: &[Value]| lines.iter().filter(|line| fault(line).is_some()).count();
    let mut before = 0;
    wait_for("the end of the copy", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_secs(2));
        let now = lines(&copy)?.len();
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    let mut lines = lines(&copy)?;
    lines.retain(|line| !by_first(line));
    let told = faults(&lines);
    let lost: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    ensure!(
        told * 2 >= all,
        "only {told} of {all} faults are told of, {lost} lines lost"
    );
    if told < all && lost == 0 {
        let odd = |line: &&Value| fault(line).is_none() && !is_code(line);
        let odd: Vec<_> = lines.iter().filter(odd).rev().take(10).collect();
        bail!("{told} of {all} faults are told of; {odd:?}");
    }
    let (mut score, mut codes) = (Score::default(), Score::default());
    let mut died: HashMap<u64, usize> = HashMap::new();
    for (line, (group, pid)) in lines.iter().filter_map(|line| Some((line, fault(line)?))) {
        died.insert(pid, group);
        score.count(line, &ids[group]);
    }
    // The same words for all: these are told apart by nothing but the time.
    for line in lines.iter().filter(|line| is_code(line)) {
        match line["pid"].as_u64().and_then(|pid| died.get(&pid)) {
            Some(group) => codes.count(line, &ids[*group]),
            // Whose fault it was may be among the lines that were lost.
            None if line["from"] == "unknown" || lost > 0 => codes.unknown += 1,
            None => codes.wrong.push(line.to_string()),
        }
    }
    println!(
        "    {told} of {all} faults in {CONTAINERS} containers and on the host at once: {} named rightly, {} unknown, {} wrongly; \
         {} lines of the same words: {} rightly, {} unknown, {} wrongly",
        score.right,
        score.unknown,
        score.wrong.len(),
        codes.right + codes.unknown + codes.wrong.len(),
        codes.right,
        codes.unknown,
        codes.wrong.len()
    );
    ensure!(
        score.wrong.is_empty() && codes.wrong.is_empty(),
        "{:?} {:?}",
        score.wrong,
        codes.wrong
    );
    ensure!(score.right * 100 >= told * 99, "{score:?}");
    let said = bulkhead(&[
        "kernel-log",
        "--file",
        &copy.file.display().to_string(),
        "--container",
        &ids[0],
    ])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // All that the copy gives to this container, and nothing of another's.
    let own = (lines.iter())
        .filter(|line| {
            let of = [&line["container"], &line["about"]["container"]];
            of.contains(&&Value::from(ids[0].as_str())) && fault(line).is_some()
        })
        .count();
    let shown = said.matches("]: segfault").count();
    let others = (1..groups.len()).any(|group| said.contains(&format!("  w{group}-")));
    ensure!(
        own > 0 && shown == own && !others,
        "{shown} of {own} faults are shown: {said}"
    );
    wait_for("the alarm", Duration::from_secs(20), || {
        Ok(copy.policy.records()?.iter().any(|record| {
            record["kind"] == "alarm" && record["rule"] == "segfault" && record["count"] == 1
        }))
    })
}

fn what_a_container_writes_is_marked_and_named_and_raises_no_alarm() -> Result<()> {
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    copy.wait_until_named()?;
    let container = Cgroup::container()?;
    let text = "BUG: kernel NULL pointer dereference, address: 0000000000000000";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("echo '<1>{text}' > /dev/kmsg")]);
    container.enter(&mut command)?;
    ensure!(command.status()?.success());
    let mut found = Value::Null;
    wait_for("the line", Duration::from_secs(20), || {
        let all = lines(&copy)?;
        found = (all.into_iter().rev())
            .find(|line| line["text"] == text)
            .unwrap_or_default();
        Ok(!found.is_null())
    })?;
    ensure!(found["injected"] == true, "{found}");
    let mut score = Score::default();
    score.count(&found, &id_of(&container));
    ensure!(score.right == 1, "{found}");
    // Whatever would be told is told by the next tick.
    std::thread::sleep(Duration::from_secs(3));
    let records = copy.policy.records()?;
    ensure!(
        (records.iter())
            .filter(|record| record["kind"] == "alarm")
            .all(|record| !record["reason"].as_str().unwrap_or("").contains(text)),
        "{records:?}"
    );
    println!("    named {}, marked as injected, no alarm", found["from"]);
    Ok(())
}

/// The container's id as its runtime gave it; empty for a service.
pub(super) fn id_of(group: &Cgroup) -> String {
    let hex = |name: &str| {
        name.split(['-', '.'])
            .find(|part| part.len() == 64)
            .map(str::to_owned)
    };
    group.path.rsplit('/').find_map(hex).unwrap_or_default()
}

pub(super) fn lines(copy: &Copy) -> Result<Vec<Value>> {
    let text = fs::read_to_string(&copy.file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a line: {line}")))
        .collect()
}

/// Of `w3-17[1234]: segfault at 8 …`: the group, and the process.
fn fault(line: &Value) -> Option<(usize, u64)> {
    let text = line["text"].as_str()?;
    let (name, rest) = text.strip_prefix('w')?.split_once('[')?;
    let (pid, rest) = rest.split_once("]: ")?;
    let group = name.split_once('-')?.0.parse().ok()?;
    rest.starts_with("segfault")
        .then_some((group, pid.parse().ok()?))
}

fn is_code(line: &Value) -> bool {
    line["text"]
        .as_str()
        .is_some_and(|text| text.starts_with("Code: "))
}
