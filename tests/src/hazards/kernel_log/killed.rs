//! A daemon that is killed while lines are written: each is in the copy once, or counted as lost.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::{AT_ONCE, Copy, Numbered, lost_since};
use crate::{
    daemon::Daemon,
    hazards::{Needs, Scenario},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::a_daemon_that_is_killed_resumes_without_a_gap_or_a_line_twice",
        needs: Needs::Ordinary,
        run: a_daemon_that_is_killed_resumes_without_a_gap_or_a_line_twice,
    },
    Scenario {
        name: "kernel_log::a_daemon_that_is_killed_in_a_flood_resumes_with_exact_gaps",
        needs: Needs::Ends,
        run: a_daemon_that_is_killed_in_a_flood_resumes_with_exact_gaps,
    },
];

/// The lines of a copy, and how many others: what was half written at a kill is written again.
fn whole(copy: &Copy) -> Result<(Vec<Value>, usize)> {
    let text = fs::read_to_string(&copy.file)?;
    let lines: Vec<Value> = (text.lines())
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let torn = text.lines().count() - lines.len();
    Ok((lines, torn))
}

fn a_daemon_that_is_killed_resumes_without_a_gap_or_a_line_twice() -> Result<()> {
    const KILLS: u32 = 5;
    let copy = Copy::new()?;
    // So few in the time of a start that the kernel has them all still.
    let pause = Duration::from_millis(20);
    let (mut daemon, mut numbered) = killed(&copy, "killed", KILLS, (2, pause))?;
    numbered.write(1)?;
    copy.wait(&numbered.last())?;
    // SIGTERM writes what can be read still.
    numbered.write(AT_ONCE)?;
    daemon.stop()?;
    let (lines, torn) = whole(&copy)?;
    ensure!(lost_since(&lines, "killed 0")? == 0);
    let numbers = numbered.numbers(&lines)?;
    ensure!(
        numbers.iter().copied().eq(0..numbered.written),
        "{} lines of {}",
        numbers.len(),
        numbered.written
    );
    println!(
        "    {KILLS} kills while {} lines were written: each is there once, in order; {torn} torn",
        numbered.written
    );
    Ok(())
}

/// Kills and starts the daemon so often while numbered lines are written, so many at a time and then a pause.
fn killed(
    copy: &Copy,
    word: &'static str,
    kills: u32,
    (lines, pause): (u64, Duration),
) -> Result<(Daemon, Numbered)> {
    let mut daemon = Daemon::start(&copy.policy, &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<Numbered> {
            let mut numbered = Numbered::new(word)?;
            while !stop.load(Ordering::Relaxed) {
                numbered.write(lines)?;
                thread::sleep(pause);
            }
            Ok(numbered)
        })
    };
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(700));
        daemon.kill()?;
        daemon = Daemon::start(&copy.policy, &[])?;
    }
    stop.store(true, Ordering::Relaxed);
    let numbered = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    Ok((daemon, numbered))
}

fn a_daemon_that_is_killed_in_a_flood_resumes_with_exact_gaps() -> Result<()> {
    const KILLS: u32 = 3;
    let copy = Copy::new()?;
    // In the time of a start more than any kernel's buffer has room for.
    let pause = Duration::from_millis(1);
    let (mut daemon, mut numbered) = killed(&copy, "flooded", KILLS, (100, pause))?;
    numbered.write(1)?;
    copy.wait(&numbered.last())?;
    daemon.stop()?;
    let (lines, _) = whole(&copy)?;
    let numbers = numbered.numbers(&lines)?;
    let first = numbers.first().context("no line")?;
    let (kept, lost) = (
        numbers.len() as u64,
        lost_since(&lines, &numbered.text(*first))?,
    );
    let missing = numbered.written - first - kept;
    println!(
        "    {KILLS} kills while {} lines were written: {kept} kept, {missing} missing, {lost} lost by the kernel's numbers",
        numbered.written
    );
    ensure!(
        numbers.is_sorted_by(|one, other| one < other),
        "a line twice"
    );
    ensure!(missing > 0, "the kernel's buffer was not overrun");
    // Lines of the kernel's own may be among those that were lost.
    ensure!(
        lost >= missing && lost - missing < 100,
        "{missing} are missing, {lost} are said to be lost"
    );
    Ok(())
}
