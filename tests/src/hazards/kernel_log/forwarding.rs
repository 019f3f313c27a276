//! Outlets: each line reaches the receivers too, with who printed it, and no receiver costs the copy a line.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    bed::{Copy, Numbered},
    naming::id_of,
    receivers::{GivesBack, Got, Journal, Mirror, Rsyslog, SOON, WAYS},
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, status},
    hazards::{Needs, Scenario, has},
    host::{Setting, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::each_line_reaches_rsyslog_on_every_way_with_who_printed_it",
        needs: Needs::Patience,
        run: each_line_reaches_rsyslog_on_every_way_with_who_printed_it,
    },
    Scenario {
        name: "kernel_log::a_receiver_that_is_gone_or_stands_still_costs_the_copy_nothing",
        needs: Needs::Patience,
        run: a_receiver_that_is_gone_or_stands_still_costs_the_copy_nothing,
    },
    Scenario {
        name: "kernel_log::a_daemon_that_is_killed_forwards_no_line_twice",
        needs: Needs::Patience,
        run: a_daemon_that_is_killed_forwards_no_line_twice,
    },
    Scenario {
        name: "kernel_log::the_journal_gets_each_line_with_who_printed_it",
        needs: Needs::Patience,
        run: the_journal_gets_each_line_with_who_printed_it,
    },
    Scenario {
        name: "kernel_log::no_line_that_a_receiver_gives_back_goes_round_for_ever",
        needs: Needs::Patience,
        run: no_line_that_a_receiver_gives_back_goes_round_for_ever,
    },
];

/// Lines that are written at once: less than a datagram socket's room.
const AT_ONCE: u64 = 100;
/// The copy, with outlets.
fn forward(copy: &Copy, outlets: &str) -> Result<()> {
    copy.say(&format!(
        "kernel_log: {{file: {}, forward: {outlets}}}",
        copy.file.display()
    ))
}

fn outlet(way: &str) -> Result<Value> {
    let seen = status()?;
    let all = seen["kernel_log"]["forward"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    all.into_iter()
        .find(|outlet| {
            outlet["to"]
                .as_str()
                .is_some_and(|to| to.starts_with(&format!("{way}:")))
        })
        .with_context(|| format!("status has no outlet {way}: {}", seen["kernel_log"]))
}

fn each_line_reaches_rsyslog_on_every_way_with_who_printed_it() -> Result<()> {
    const LINES: u64 = 2000;
    if !has("rsyslogd") {
        println!("    skipping: rsyslogd: it is not on this machine");
        return Ok(());
    }
    let rsyslog = Rsyslog::start("ways")?;
    let _unlimited = Setting::new("kernel/printk_ratelimit", "0\n")?;
    let copy = Copy::new()?;
    forward(&copy, &rsyslog.outlets(&WAYS))?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("forwarded")?;
    while numbered.written < LINES {
        numbered.write(AT_ONCE)?;
        for way in WAYS {
            rsyslog.wait(way, &numbered.last())?;
        }
    }
    // What the kernel says of a container, and what a container says of the kernel.
    let container = Cgroup::container()?;
    let mut command = Command::new("bulkhead-probe");
    command
        .args(["crash", "--name", "w0", "--times", "5"])
        .stdout(Stdio::null());
    container.enter(&mut command)?;
    ensure!(command.status()?.success());
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo '<1>a "forged" ] line \ grün' > /dev/kmsg"#]);
    container.enter(&mut command)?;
    ensure!(command.status()?.success());
    numbered.write(1)?;
    for way in WAYS {
        rsyslog.wait(way, &numbered.last())?;
    }
    let lines = of_this_test(copy.lines()?, "forwarded 0");
    let (mut compared, mut named) = (0, 0);
    for way in WAYS {
        let got = rsyslog.got(way)?;
        let by_seq: HashMap<u64, &Got> = (got.iter())
            .filter_map(|got| Some((got.number("seq")?, got)))
            .collect();
        ensure!(
            got.len() == by_seq.len(),
            "{way}: {} messages with {} numbers",
            got.len(),
            by_seq.len()
        );
        ensure!(
            got.iter().map(|got| got.number("seq")).is_sorted(),
            "{way}: out of order"
        );
        for line in &lines {
            let seq = line["seq"].as_u64().context("a line without a number")?;
            let got = by_seq
                .get(&seq)
                .with_context(|| format!("{way} did not get {line}"))?;
            compared += 1;
            compare(line, got).with_context(|| format!("{way}: {line} as {got:?}"))?;
            named += u64::from(line["container"].is_string());
        }
        ensure!(outlet(way)?["dropped"] == 0, "{}", outlet(way)?);
    }
    let id = id_of(&container);
    let of_container = |line: &&Value| line["container"].as_str() == Some(&id);
    ensure!(
        lines.iter().filter(of_container).count() >= 6,
        "the container's lines are not named"
    );
    println!(
        "    {} lines by each of {WAYS:?}: {compared} compared with the copy, {named} of a container",
        lines.len()
    );
    Ok(())
}

/// The kernel's lines, and what was written from this line on: what other tests wrote may be held back.
fn of_this_test(lines: Vec<Value>, first: &str) -> Vec<Value> {
    let mut begun = false;
    let wanted = |line: &Value| {
        begun |= line["text"] == first;
        begun || line["injected"].is_null()
    };
    let mut lines = lines;
    lines.retain(wanted);
    // journald's own, from ForwardToKMsg=.
    lines.retain(|line| {
        let text = line["text"].as_str().unwrap_or_default();
        !text.starts_with("bulkhead-kernel[")
    });
    lines
}

/// A message says all that the line of the copy does.
fn compare(line: &Value, got: &Got) -> Result<()> {
    const FACILITIES: [&str; 6] = ["kern", "user", "mail", "daemon", "auth", "syslog"];
    const LEVELS: [&str; 8] = [
        "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
    ];
    if line["lost"].is_number() {
        ensure!(got.kind == "lost");
        return Ok(());
    }
    ensure!(got.name == "bulkhead-kernel" && got.kind == "kmsg");
    let facility = FACILITIES.iter().position(|name| line["facility"] == *name);
    let level = LEVELS.iter().position(|name| line["level"] == *name);
    if let (Some(facility), Some(level)) = (facility, level) {
        ensure!(got.pri == (8 * facility + level) as u64, "pri");
    }
    let text = line["text"].as_str().unwrap_or_default();
    ensure!(got.text == text.trim_start_matches(' '), "text");
    let time = line["time"].as_str().unwrap_or_default();
    ensure!(got.time.get(..26) == time.get(..26), "time");
    for key in [
        "boot",
        "seq",
        "monotonic_us",
        "from",
        "container",
        "runtime",
        "pid",
        "comm",
        "cgroup_id",
        "injected",
    ] {
        let told = match &line[key] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        ensure!(got.data.get(key) == told.as_ref(), "{key}");
    }
    Ok(())
}

fn a_receiver_that_is_gone_or_stands_still_costs_the_copy_nothing() -> Result<()> {
    /// So many long lines are more than a queue has room for, and fewer than programs may write.
    const LONG: u64 = 9000;
    if !has("rsyslogd") {
        println!("    skipping: rsyslogd: it is not on this machine");
        return Ok(());
    }
    let mut rsyslog = Rsyslog::start("gone")?;
    let copy = Copy::new()?;
    let daemon = Daemon::start(&copy.policy, &[])?;
    // What earlier tests said is not forwarded, nor taken from what programs may write.
    let mut before = Numbered::new("before")?;
    before.write(1)?;
    copy.wait(&before.last())?;
    forward(&copy, &rsyslog.outlets(&["tcp", "unix"]))?;
    daemon.reload()?;
    wait_for("the outlets", SOON, || Ok(outlet("unix").is_ok()))?;
    let mut numbered = Numbered::new("gone")?;
    numbered.write(1)?;
    for way in ["tcp", "unix"] {
        rsyslog.wait(way, &numbered.last())?;
    }
    rsyslog.end();
    numbered.write(AT_ONCE)?;
    copy.wait(&numbered.last())?;
    wait_for("the trouble in status", SOON, || {
        let seen = status()?;
        let degraded = seen["degraded"].to_string();
        Ok(outlet("tcp")?["trouble"].is_string()
            && outlet("unix")?["trouble"].is_string()
            && degraded.contains("the kernel log is not forwarded to tcp:127.0.0.1:6010: "))
    })?;
    rsyslog.run()?;
    for way in ["tcp", "unix"] {
        rsyslog.wait(way, &numbered.last())?;
        let got = rsyslog.got(way)?;
        ensure!(numbers(&got, "gone").into_iter().eq(0..=AT_ONCE), "{way}");
        let broken = got.iter().filter(|got| got.kind == "broken").count();
        ensure!(broken == 1, "{way}: told of {broken} breaks");
    }
    wait_for("the end of the trouble", SOON, || {
        Ok(!status()?["degraded"].to_string().contains("not forwarded"))
    })?;
    // It stands still, and more comes than there is room for.
    forward(&copy, &rsyslog.outlets(&["tcp"]))?;
    rsyslog.signal(Signal::SIGSTOP)?;
    let result = long_lines(&copy, LONG);
    let stalled = result.and_then(|()| {
        wait_for("a line that was dropped", SOON, || {
            Ok(outlet("tcp")?["dropped"].as_u64() > Some(0))
        })?;
        outlet("tcp")
    });
    rsyslog.signal(Signal::SIGCONT)?;
    let stalled = stalled?;
    ensure!(stalled["trouble"].is_string(), "{stalled}");
    numbered.write(1)?;
    rsyslog.wait("tcp", &numbered.last())?;
    let got = rsyslog.got("tcp")?;
    let sent = got
        .iter()
        .filter(|got| got.text.starts_with("long "))
        .count() as u64;
    let missing: u64 = (got.iter())
        .filter(|got| got.kind == "gap")
        .filter_map(|got| got.number("count"))
        .sum();
    let dropped = outlet("tcp")?["dropped"].as_u64().unwrap_or(0);
    println!(
        "    {LONG} long lines to a receiver that stands still: {sent} sent later, {missing} told to be missing"
    );
    ensure!(
        sent + missing == LONG && missing == dropped,
        "{dropped} dropped"
    );
    wait_for("the record of the loss", SOON, || {
        let counts = copy.policy.records()?.into_iter().filter(|record| {
            let reason = record["reason"].as_str().unwrap_or_default();
            record["kind"] == "lost" && reason.contains("tcp:127.0.0.1:6010")
        });
        Ok(counts
            .filter_map(|record| record["count"].as_u64())
            .sum::<u64>()
            == dropped)
    })
}

/// Writes long lines, never more at once than the kernel has room for; the copy has each of them.
fn long_lines(copy: &Copy, lines: u64) -> Result<()> {
    let mut log = fs::OpenOptions::new().write(true).open("/dev/kmsg")?;
    for number in 0..lines {
        log.write_all(format!("long {number} {}\n", "x".repeat(800)).as_bytes())?;
        if number % AT_ONCE == AT_ONCE - 1 {
            copy.wait(&format!("long {number} {}", "x".repeat(800)))?;
        }
    }
    let kept = copy.lines()?;
    let kept = kept.iter().filter(|line| {
        line["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("long "))
    });
    ensure!(kept.count() as u64 == lines, "the copy lacks lines");
    Ok(())
}

fn numbers(got: &[Got], word: &str) -> Vec<u64> {
    let prefix = format!("{word} ");
    got.iter()
        .filter_map(|got| got.text.strip_prefix(&prefix)?.parse().ok())
        .collect()
}

fn a_daemon_that_is_killed_forwards_no_line_twice() -> Result<()> {
    const KILLS: u32 = 3;
    if !has("rsyslogd") {
        println!("    skipping: rsyslogd: it is not on this machine");
        return Ok(());
    }
    let rsyslog = Rsyslog::start("killed")?;
    let copy = Copy::new()?;
    forward(&copy, &rsyslog.outlets(&["tcp"]))?;
    let mut daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("resumed")?;
    for _ in 0..KILLS {
        numbered.write(AT_ONCE)?;
        rsyslog.wait("tcp", &numbered.last())?;
        daemon.kill()?;
        // Nobody reads these but the next daemon.
        numbered.write(AT_ONCE)?;
        daemon = Daemon::start(&copy.policy, &[])?;
        rsyslog.wait("tcp", &numbered.last())?;
    }
    // What waits goes out with SIGTERM.
    numbered.write(AT_ONCE)?;
    daemon.stop()?;
    rsyslog.wait("tcp", &numbered.last())?;
    let numbers = numbers(&rsyslog.got("tcp")?, "resumed");
    ensure!(
        numbers.iter().copied().eq(0..numbered.written),
        "{} lines of {}",
        numbers.len(),
        numbered.written
    );
    println!(
        "    {KILLS} kills: {} lines, each there once, in order",
        numbers.len()
    );
    // A reload takes the outlet away; the copy goes on.
    let daemon = Daemon::start(&copy.policy, &[])?;
    forward(&copy, "[]")?;
    daemon.reload()?;
    wait_for("no outlet", SOON, || {
        let forward = &status()?["kernel_log"]["forward"];
        Ok(forward.as_array().is_some_and(Vec::is_empty))
    })?;
    numbered.write(1)?;
    let unsent = numbered.last();
    copy.wait(&unsent)?;
    forward(&copy, &rsyslog.outlets(&["tcp"]))?;
    daemon.reload()?;
    wait_for("the outlet", SOON, || Ok(outlet("tcp").is_ok()))?;
    numbered.write(1)?;
    rsyslog.wait("tcp", &numbered.last())?;
    ensure!(rsyslog.got("tcp")?.iter().all(|got| got.text != unsent));
    Ok(())
}

fn the_journal_gets_each_line_with_who_printed_it() -> Result<()> {
    const LINES: u64 = 200;
    let mut journal = Journal::start()?;
    let copy = Copy::new()?;
    forward(&copy, "[{to: journald}]")?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("journal")?;
    numbered.write(LINES)?;
    let mut entries = HashMap::new();
    wait_for("the last line in the journal", SOON, || {
        for entry in journal.entries()? {
            entries.insert(entry["BULKHEAD_SEQ"].to_string(), entry);
        }
        let last = numbered.last();
        Ok(entries.values().any(|entry| entry["MESSAGE"] == last))
    })?;
    let lines = of_this_test(copy.lines()?, "journal 0");
    for line in &lines {
        // All values of the journal are text.
        let text = |value: &Value| match value {
            Value::Null => Value::Null,
            Value::String(text) => Value::from(text.as_str()),
            other => Value::from(other.to_string()),
        };
        let entry = entries
            .get(&text(&line["seq"]).to_string())
            .with_context(|| format!("the journal lacks {line}"))?;
        ensure!(entry["SYSLOG_IDENTIFIER"] == "bulkhead-kernel", "{entry}");
        for key in ["boot", "from", "pid", "comm", "injected", "monotonic_us"] {
            let told = &entry[format!("BULKHEAD_{}", key.to_uppercase())];
            ensure!(*told == text(&line[key]), "{key} of {line}: {entry}");
        }
        let message = line["text"].as_str().unwrap_or_default();
        ensure!(
            line["lost"].is_number() || entry["MESSAGE"] == message,
            "{entry}"
        );
    }
    println!(
        "    {} entries, each as the copy has it, in {}",
        lines.len(),
        journal.what()
    );
    Ok(())
}

fn no_line_that_a_receiver_gives_back_goes_round_for_ever() -> Result<()> {
    let text_of = |message: &str| {
        message
            .rsplit_once("] ")
            .map_or("", |(_, text)| text)
            .to_owned()
    };
    // As journald does with ForwardToKMsg=, as a syslog daemon does that writes what it got, and one that writes the text alone.
    let mirrors: [(&str, GivesBack); 3] = [
        ("named", |message| {
            let text = message.rsplit_once("] ").map_or("", |(_, text)| text);
            format!("bulkhead-kernel[12]: {text}")
        }),
        ("whole", str::to_owned),
        ("bare", text_of),
    ];
    for (name, gives_back) in mirrors {
        let mirror = Mirror::start(name, gives_back)?;
        let copy = Copy::new()?;
        forward(
            &copy,
            &format!(
                "[{{to: syslog, address: \"unix:{}\"}}]",
                mirror.path.display()
            ),
        )?;
        let _daemon = Daemon::start(&copy.policy, &[])?;
        let first = mirror.settles()?;
        let mut numbered = Numbered::new(name)?;
        numbered.write(AT_ONCE)?;
        let last = mirror.settles()?;
        let seen = status()?;
        println!(
            "    {name}: of {AT_ONCE} lines {} came back, and {} echoes were kept from going round",
            last - first,
            seen["kernel_log"]["echoes"]
        );
        // Each once, and in the worst case a hundred more; and what the machine itself says meanwhile.
        let most = AT_ONCE + 10 + if name == "bare" { 100 } else { 0 };
        let came = last - first;
        ensure!(
            (AT_ONCE..=most).contains(&came),
            "{name}: of {AT_ONCE} lines {came} came, and at most {most} may: they go round"
        );
    }
    Ok(())
}
