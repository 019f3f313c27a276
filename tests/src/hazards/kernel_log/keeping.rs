//! The host's copy: each line of the kernel log once and in order, or how many could not be had.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
};

use anyhow::{Context, Result, ensure};
use nix::{libc, sys::signal::Signal};
use serde_json::Value;

use super::bed::{AT_ONCE, Copy, LINES, Numbered, SOON, lost_since, told};
use crate::{
    daemon::{Daemon, bulkhead, status, succeed},
    hazards::{Needs, Scenario},
    host::{Setting, release, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::ten_thousand_lines_are_in_the_copy_once_and_in_order",
        needs: Needs::Ordinary,
        run: ten_thousand_lines_are_in_the_copy_once_and_in_order,
    },
    Scenario {
        name: "kernel_log::a_flood_is_kept_or_counted_as_lost",
        needs: Needs::Ordinary,
        run: a_flood_is_kept_or_counted_as_lost,
    },
    Scenario {
        name: "kernel_log::what_the_default_rate_limit_lets_through_is_kept_whole",
        needs: Needs::Ordinary,
        run: what_the_default_rate_limit_lets_through_is_kept_whole,
    },
    Scenario {
        name: "kernel_log::what_is_overwritten_while_the_daemon_stands_still_is_counted",
        needs: Needs::Ordinary,
        run: what_is_overwritten_while_the_daemon_stands_still_is_counted,
    },
    Scenario {
        name: "kernel_log::the_largest_record_and_any_byte_in_it_survive",
        needs: Needs::Ordinary,
        run: the_largest_record_and_any_byte_in_it_survive,
    },
    Scenario {
        name: "kernel_log::the_copy_moves_with_the_policy_and_ends_with_it",
        needs: Needs::Ordinary,
        run: the_copy_moves_with_the_policy_and_ends_with_it,
    },
];

fn ten_thousand_lines_are_in_the_copy_once_and_in_order() -> Result<()> {
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    // The kernel says something itself: what it can do for who presses SysRq and H.
    fs::write("/proc/sysrq-trigger", "h")?;
    let mut numbered = Numbered::new("ten-thousand")?;
    while numbered.written < LINES {
        numbered.write(AT_ONCE)?;
        copy.wait(&numbered.last())?;
    }
    let lines = copy.lines()?;
    ensure!(lost_since(&lines, "ten-thousand 0")? == 0);
    let numbers = numbered.numbers(&lines)?;
    ensure!(
        numbers.iter().copied().eq(0..LINES),
        "{} lines of {LINES}",
        numbers.len()
    );
    let one = lines
        .iter()
        .find(|line| line["text"] == "ten-thousand 0")
        .context("no first line")?;
    ensure!(
        one["facility"] == "user" && one["injected"] == true,
        "{one}"
    );
    // Not what earlier tests wrote by /dev/ttyprintk.
    let written = |line: &&&Value| {
        line["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("[U] "))
    };
    let kernels = (lines.iter())
        .filter(|line| line["facility"] == "kern")
        .filter(|line| !written(&line));
    ensure!(
        kernels.clone().count() > 0,
        "the kernel itself said nothing"
    );
    for line in kernels {
        ensure!(line["injected"].is_null(), "{line}");
    }
    let seen = status()?;
    let said = &seen["kernel_log"];
    ensure!(said["file"].as_str() == copy.file.to_str(), "{said}");
    ensure!(said["kept"].as_u64() >= Some(LINES), "{said}");
    ensure!(
        said["last_seq"].as_u64() >= lines.last().and_then(|line| line["seq"].as_u64()),
        "{said}"
    );
    ensure!(said["trouble"].is_null(), "{said}");
    let mode = fs::metadata(&copy.file)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "mode {mode:o}");
    // By the verb, as text and as it stands there.
    let shown = succeed(&["kernel-log", "--since", "1h"])?;
    let told = shown
        .lines()
        .filter(|line| line.contains("  user     *"))
        .filter(|line| line.contains("ten-thousand "))
        .count() as u64;
    ensure!(told == LINES, "kernel-log shows {told} lines");
    let json = succeed(&["kernel-log", "--json"])?;
    let text = fs::read_to_string(&copy.file)?;
    ensure!(
        text.starts_with(&json) || json.starts_with(&text),
        "kernel-log --json is not the file"
    );
    println!("    {LINES} lines written, {} kept, 0 lost", numbers.len());
    Ok(())
}

fn a_flood_is_kept_or_counted_as_lost() -> Result<()> {
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("flood")?;
    numbered.write(1)?;
    copy.wait(&numbered.last())?;
    numbered.write(LINES - 1)?;
    copy.wait(&numbered.last())?;
    let lines = copy.lines()?;
    let numbers = numbered.numbers(&lines)?;
    ensure!(numbers.is_sorted_by(|one, other| one < other));
    let kept = numbers.len() as u64;
    let lost = lost_since(&lines, "flood 0")?;
    println!("    {LINES} lines written as fast as can be: {kept} kept, {lost} lost");
    // Somebody else's lines may be among the lost.
    ensure!(kept + lost >= LINES, "{kept} kept, {lost} lost");
    Ok(())
}

fn what_the_default_rate_limit_lets_through_is_kept_whole() -> Result<()> {
    let copy = Copy::with_limit("ratelimit")?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut own = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    // Behind the last record: the oldest may be overwritten at any time.
    own.seek(SeekFrom::End(0))?;
    let mut numbered = Numbered::new("limited")?;
    numbered.write(LINES)?;
    let through = through(&mut own, "limited")?;
    let last = through.last().context("nothing came through")?;
    copy.wait(&format!("limited {last}"))?;
    let lines = copy.lines()?;
    let kept = numbered.numbers(&lines)?;
    println!(
        "    {LINES} lines written, {} let through by the kernel, {} kept",
        through.len(),
        kept.len()
    );
    ensure!((through.len() as u64) < LINES, "there is no limit");
    ensure!(kept == through);
    ensure!(lost_since(&lines, &format!("limited {}", through[0]))? == 0);
    // The kernel says how many it did not take, once somebody else may write again (`___ratelimit`).
    drop(numbered);
    let _unlimited = Setting::new("kernel/printk_devkmsg", "on\n")?;
    let mut after = Numbered::new("after")?;
    after.write(1)?;
    copy.wait(&after.last())?;
    Ok(())
}

/// The numbers of the lines `WORD NUMBER` that the kernel's buffer has.
fn through(log: &mut File, word: &str) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut record = [0; 8192];
    let before = format!(";{word} ");
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]).into_owned();
                let line = text.lines().next().unwrap_or_default();
                if let Some((_, number)) = line.split_once(&before) {
                    numbers.push(number.parse()?);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(numbers),
            // What was overwritten meanwhile was let through all the same; the buffer has room for what the limit allows.
            Err(error) => return Err(error.into()),
        }
    }
}

fn what_is_overwritten_while_the_daemon_stands_still_is_counted() -> Result<()> {
    let copy = Copy::new()?;
    let daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("stopped")?;
    numbered.write(1)?;
    copy.wait(&numbered.last())?;
    daemon.signal(Signal::SIGSTOP)?;
    // More than any kernel's buffer has room for.
    let result = numbered.write(3 * LINES);
    daemon.signal(Signal::SIGCONT)?;
    result?;
    copy.wait(&numbered.last())?;
    let lines = copy.lines()?;
    let numbers = numbered.numbers(&lines)?;
    let (kept, lost) = (numbers.len() as u64, lost_since(&lines, "stopped 0")?);
    println!(
        "    {} lines written, {kept} kept, {lost} lost",
        numbered.written
    );
    ensure!(lost > 0, "the kernel's buffer was not overrun");
    // Nobody else writes here; what the kernel itself says meanwhile would be among the lost.
    let others = lines
        .iter()
        .skip_while(|line| line["text"] != "stopped 0")
        .filter(|line| line["lost"].is_null())
        .count() as u64
        - kept;
    ensure!(
        kept + lost == numbered.written || (others > 0 && kept + lost > numbered.written),
        "{kept} kept and {lost} lost are not {}, with {others} lines of others",
        numbered.written
    );
    ensure!(numbers.is_sorted_by(|one, other| one < other));
    wait_for("the loss in status", SOON, || {
        Ok(status()?["kernel_log"]["lost"].as_u64() == Some(told(&copy.lines()?)))
    })?;
    wait_for("the record of the loss", SOON, || {
        let counts = copy.policy.records()?.into_iter().filter(|record| {
            record["kind"] == "lost"
                && record["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.starts_with("lines of the kernel log"))
        });
        Ok(counts
            .filter_map(|record| record["count"].as_u64())
            .sum::<u64>()
            == told(&copy.lines()?))
    })?;
    let shown = succeed(&["kernel-log", "--level", "emerg"])?;
    ensure!(shown.contains("LOST "), "{shown}");
    Ok(())
}

fn the_largest_record_and_any_byte_in_it_survive() -> Result<()> {
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg")?;
    // The kernel's limit is 992 bytes, 976 or 1,024, by its version and settings.
    let mut largest = |byte: u8| -> Result<usize> {
        for length in (900..=1100).rev() {
            if log.write(&vec![byte; length]).is_ok() {
                return Ok(length);
            }
        }
        anyhow::bail!("no line of 900 bytes or more can be written")
    };
    let (plain, escaped) = (largest(b'a')?, largest(1)?);
    let any: Vec<u8> = (1..=255).collect();
    log.write_all(&any)?;
    log.write_all(b"<11>two\nlines\x1b[2J of a terminal\n")?;
    log.write_all(b"the last one\n")?;
    copy.wait("the last one")?;
    let lines = copy.lines()?;
    let texts: Vec<(&Value, Vec<u8>)> = lines
        .iter()
        .filter_map(|line| Some((line, unescaped(line["text"].as_str()?))))
        .collect();
    let find = |wanted: &dyn Fn(&[u8]) -> bool| {
        texts
            .iter()
            .find(|(_, bytes)| wanted(bytes))
            .map(|(line, bytes)| (*line, bytes.as_slice()))
    };
    // Of the largest the kernel itself keeps one byte less: the last is its NUL (`vprintk_store`).
    let (line, bytes) =
        find(&|bytes| bytes.starts_with(&[b'a'; 900])).context("the largest line")?;
    ensure!(line["cut"].is_null(), "{line}");
    ensure!(bytes == vec![b'a'; plain - 1], "{} of {plain}", bytes.len());
    let (line, bytes) = find(&|bytes| bytes.starts_with(&[1; 400])).context("the escaped line")?;
    let cut = line["cut"] == true;
    println!(
        "    the largest line: {plain} bytes, and of {escaped} that are escaped {}{}",
        bytes.len(),
        if cut { ", cut by the kernel" } else { "" }
    );
    ensure!(
        cut == (release() >= (6, 3)),
        "cut: {cut} on {:?}",
        release()
    );
    ensure!(
        cut || bytes == vec![1; escaped - 1],
        "{} of {escaped}",
        bytes.len()
    );
    let whole = bytes.len() - if cut { 4 } else { 0 };
    ensure!(bytes[..whole].iter().all(|byte| *byte == 1));
    find(&|bytes| bytes == any).context("a line of any bytes")?;
    let (line, _) = find(&|bytes| bytes == b"two\nlines\x1b[2J of a terminal")
        .context("a line with a newline and an escape")?;
    ensure!(
        line["level"] == "err" && line["facility"] == "user",
        "{line}"
    );
    let text = fs::read_to_string(&copy.file)?;
    ensure!(
        !text.contains(|c: char| c != '\n' && c.is_control()),
        "a control character in the copy"
    );
    let shown = succeed(&["kernel-log"])?;
    ensure!(
        !shown.contains(|c: char| c != '\n' && c.is_control()),
        "a control character on the terminal"
    );
    ensure!(shown.contains(r"two\x0alines\x1b[2J of a terminal"));
    Ok(())
}

/// The bytes of a text of the copy.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(character) = rest.chars().next() {
        let escaped = rest
            .strip_prefix("\\x")
            .and_then(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                let length = character.len_utf8();
                out.extend_from_slice(&rest.as_bytes()[..length]);
                rest = &rest[length..];
            }
        }
    }
    out
}

fn the_copy_moves_with_the_policy_and_ends_with_it() -> Result<()> {
    let copy = Copy::new()?;
    let daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("moved")?;
    numbered.write(AT_ONCE)?;
    copy.wait(&numbered.last())?;
    let moved = Copy {
        file: copy.file.with_file_name("moved.jsonl"),
        policy: copy.policy.clone(),
        _limit: Setting::new("kernel/printk_devkmsg", "on\n")?,
    };
    moved.say(&format!("kernel_log: {{file: {}}}", moved.file.display()))?;
    daemon.reload()?;
    wait_for("the copy in its new file", SOON, || {
        Ok(status()?["kernel_log"]["file"].as_str() == moved.file.to_str())
    })?;
    numbered.write(AT_ONCE)?;
    moved.wait(&numbered.last())?;
    let mut lines = copy.lines()?;
    let old = lines.len();
    lines.extend(moved.lines()?);
    ensure!(lost_since(&lines, "moved 0")? == 0);
    ensure!(
        numbered
            .numbers(&lines)?
            .into_iter()
            .eq(0..numbered.written)
    );
    println!(
        "    {old} lines in the old file, {} in the new, none twice",
        lines.len() - old
    );
    // A file that cannot be is trouble, and nothing else.
    moved.say("kernel_log: {file: /proc/version/kernel.jsonl}")?;
    daemon.reload()?;
    wait_for("the trouble in status", SOON, || {
        let seen = status()?;
        Ok(is_degraded(&seen) && seen["kernel_log"]["trouble"].is_string())
    })?;
    moved.say("kernel_log: off")?;
    daemon.reload()?;
    wait_for("the end of the copy", SOON, || {
        let seen = status()?;
        Ok(seen["kernel_log"].is_null() && !is_degraded(&seen))
    })?;
    let file = "/nonexistent/kernel.jsonl";
    let output = bulkhead(&["kernel-log", "--file", file])?;
    ensure!(output.status.code() == Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("there is no log at /nonexistent/"), "{said}");
    let output = bulkhead(&["kernel-log", "--level", "loud"])?;
    ensure!(output.status.code() == Some(2));
    Ok(())
}

/// Whether the status says that something is wrong with the copy.
fn is_degraded(status: &Value) -> bool {
    let told = |words: &Value| {
        let words = words.as_str();
        words.is_some_and(|words| words.starts_with("the copy of the kernel log"))
    };
    let degraded = status["degraded"].as_array();
    degraded.is_some_and(|degraded| degraded.iter().any(told))
}
