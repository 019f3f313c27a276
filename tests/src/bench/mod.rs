//! What Bulkhead costs, in guest instructions: off and on in turn, in one boot; of forks also beside a daemon that has attached nothing to them.
//!
//! The machine runs with `-icount shift=1,sleep=off` on one processor: its clock advances by two nanoseconds with every
//! instruction, and by nothing else while a task runs. [`clock`] checks that with a loop of known length.

pub mod actions;
pub mod flood;
pub mod kernel_log;
pub mod latency;
pub mod net_link;
pub mod programs;
pub mod scale;
pub mod starting;

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{self, Daemon, Policy, status},
    host::Setting,
    probe::cost::{Costs, LOOP_INSTRUCTIONS, LOOP_PASSES},
};

/// Nanoseconds of an instruction under `shift=1`.
const NANOSECONDS: f64 = 2.0;

/// How long a new container is left alone before anything is measured in it; idle time costs nothing here.
const SETTLES: Duration = Duration::from_secs(3);

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Turns of off and on.
    pub turns: u32,
    /// Rounds of each kind of work in a turn.
    pub rounds: u32,
}

/// What is there while something is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// No daemon.
    Off,
    /// One that has attached nothing to what is measured (`--rung setting`): what a process more, and what it does, make of it. Addresses
    /// fall otherwise than without it, which can weigh more than a hook.
    Beside,
    /// All of it.
    On,
}

/// With and without.
const OFF_AND_ON: [Side; 2] = [Side::Off, Side::On];

/// One line of the table: the same work on each side.
struct Line {
    what: &'static str,
    /// What the probe calls it.
    work: &'static str,
    /// In a governed container, or on the host.
    inside: bool,
    /// By [`Side`], each turn's mean,
    means: [Vec<f64>; 3],
    /// and its median of single rounds.
    medians: [Vec<f64>; 3],
    most: &'static str,
}

/// A rule that refuses nothing that is measured here, with everything switched on.
const RULE: &str = "forks: {rate: 100000/s, burst: 1000000}\npids: {max: 4000}";

/// Runs everything and prints the table.
///
/// # Errors
/// A measurement failed.
pub fn run(rounds: Rounds) -> Result<()> {
    clock()?;
    let mut lines = [
        line(
            "fork+exit+wait, governed container",
            "fork",
            true,
            "1,200 and 0.5 %",
        ),
        line("fork+exit+wait, host", "fork", false, "250 and 0.1 %"),
        line("fork+exec, governed container", "exec", true, "0.2 %"),
        line(
            "thread create+join, governed container",
            "thread",
            true,
            "1 %",
        ),
    ];
    let policy = Policy::enforce(RULE)?;
    let sides = [Side::Off, Side::Beside, Side::On];
    let starts = in_turn(&mut lines, rounds, &policy, &sides)?;
    print(&lines);
    start(&starts);
    refused(rounds)?;
    programs::forks(&policy)?;
    programs::setup()
}

/// Fills the table, each side in turn, and returns the instructions of each start.
fn in_turn(
    lines: &mut [Line],
    rounds: Rounds,
    policy: &Policy,
    sides: &[Side],
) -> Result<Vec<f64>> {
    let mut starts = Vec::new();
    for turn in 0..rounds.turns {
        for side in sides {
            let daemon = match side {
                Side::Off => None,
                Side::Beside => Some(Daemon::start(policy, &["--rung", "setting"])?),
                Side::On => {
                    let (daemon, instructions) = started(policy)?;
                    starts.push(instructions);
                    Some(daemon)
                }
            };
            measure(lines, rounds, *side)?;
            if let (Side::On, Some(daemon)) = (side, &daemon)
                && turn + 1 == rounds.turns
            {
                println!(
                    "resident memory of the daemon: {} KiB",
                    resident(daemon.pid())?
                );
            }
            drop(daemon);
            ensure!(
                !std::path::Path::new(daemon::PINS).exists(),
                "off is not off"
            );
        }
    }
    Ok(starts)
}

/// Starts a daemon; with what that took, up to its READY=1.
fn started(policy: &Policy) -> Result<(Daemon, f64)> {
    let _ahead = Ahead::of_others()?;
    let daemon = Daemon::notified(policy, &[])?;
    let instructions = instructions_of(daemon.pid())?;
    Ok((daemon, instructions))
}

/// We run as soon as we can, so that what the daemon does after it said that it is ready does not count to its start.
struct Ahead;

impl Ahead {
    fn of_others() -> Result<Self> {
        set(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)?;
        Ok(Self)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let _ = set(libc::SCHED_OTHER, 0);
    }
}

/// sched_setscheduler(2) of this thread.
fn set(policy: libc::c_int, priority: libc::c_int) -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters live through the call.
    let done = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    ensure!(
        done == 0,
        "sched_setscheduler: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn start(starts: &[f64]) {
    println!(
        "the daemon's start to enforcing: {:.1} million (± {:.1})   at most 250 million",
        mean(starts) / 1e6,
        error(starts) / 1e6
    );
}

fn print(lines: &[Line]) {
    println!(
        "{:<40} {:>11} {:>11} {:>9} {:>7} {:>8} {:>8} {:>8}   at most",
        "instructions", "off", "on", "more", "±", "%", "median", "hooks"
    );
    for line in lines {
        let of = |side: Side| &line.means[side as usize];
        let (off, on) = (mean(of(Side::Off)), mean(of(Side::On)));
        let pairs: Vec<f64> = of(Side::On)
            .iter()
            .zip(of(Side::Off))
            .map(|(on, off)| on - off)
            .collect();
        // Of the medians, what the hooks make: with them, less beside a daemon without.
        let median = |side: Side| mean(&line.medians[side as usize]);
        let hooks = match of(Side::Beside).is_empty() {
            true => "-".to_owned(),
            false => format!("{:+.0}", median(Side::On) - median(Side::Beside)),
        };
        println!(
            "{:<40} {off:>11.0} {on:>11.0} {:>9.0} {:>7.0} {:>7.2}% {:>+8.0} {hooks:>8}   {}",
            line.what,
            on - off,
            error(&pairs),
            100.0 * (on - off) / off,
            median(Side::On) - median(Side::Off),
            line.most
        );
    }
}

const fn line(what: &'static str, work: &'static str, inside: bool, most: &'static str) -> Line {
    Line {
        what,
        work,
        inside,
        means: [Vec::new(), Vec::new(), Vec::new()],
        medians: [Vec::new(), Vec::new(), Vec::new()],
        most,
    }
}

/// Checks that the clock counts instructions.
fn clock() -> Result<()> {
    let costs = cost(None, "loop", 200)?;
    // In the mean stands what else the machine did so soon after it was switched on.
    let (seen, known) = (
        costs.median / NANOSECONDS,
        (LOOP_INSTRUCTIONS * LOOP_PASSES) as f64,
    );
    println!(
        "the clock: a loop of {known:.0} instructions took {seen:.0} ({:+.2} %)",
        100.0 * (seen - known) / known
    );
    ensure!(
        (seen - known).abs() < 0.02 * known,
        "this machine's clock does not count instructions: boot it with -icount shift=1,sleep=off"
    );
    Ok(())
}

fn measure(lines: &mut [Line], rounds: Rounds, side: Side) -> Result<()> {
    let container = Cgroup::container()?;
    if side == Side::On {
        status()?["containers"]
            .as_array()
            .context("status has no containers")?
            .iter()
            .find(|other| other["cgroup"].as_str() == Some(&container.path))
            .context("the container is not governed")?;
    }
    // What a new container gives the daemon to do is done once, and not for every fork.
    thread::sleep(SETTLES);
    for line in lines {
        // An exec is three forks' work, and a file a small part of one's.
        let rounds = match line.work {
            "exec" => rounds.rounds / 3,
            "file" | "ioctl" | "route" | "socket" | "hostname" => rounds.rounds * 5,
            _ => rounds.rounds,
        };
        let costs = cost(line.inside.then_some(&container), line.work, rounds)?;
        ensure!(costs.wrong == 0, "{}: {} refused", line.work, costs.wrong);
        let instructions = all_told(&costs);
        line.means[side as usize].push(instructions);
        line.medians[side as usize].push(costs.median / NANOSECONDS);
        println!(
            "  {} {}: {instructions:.0} a round, median {:.0}, worst {:.0}",
            match side {
                Side::Off => "off,",
                Side::Beside => "beside,",
                Side::On => "on, ",
            },
            line.what,
            costs.median / NANOSECONDS,
            costs.worst / NANOSECONDS
        );
    }
    Ok(())
}

/// Instructions of a round: the whole time, so that what the daemon does meanwhile counts too, without the pauses.
fn all_told(costs: &Costs) -> f64 {
    let paused = (LOOP_INSTRUCTIONS * costs.paused) as f64;
    (costs.total / NANOSECONDS - paused) / f64::from(costs.rounds)
}

/// What a refusal costs, by us and by the kernel's own controller.
fn refused(rounds: Rounds) -> Result<()> {
    let capped = Cgroup::container()?;
    capped.write("pids.max", "1")?;
    let controller = cost(Some(&capped), "refused", rounds.rounds)?;
    drop(capped);
    let policy = Policy::enforce("forks: {rate: 1/m, burst: 1}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let ours = cost(Some(&container), "refused", rounds.rounds)?;
    ensure!(
        controller.wrong + ours.wrong == 0,
        "forks were made: {} and {}",
        controller.wrong,
        ours.wrong
    );
    println!(
        "a refused fork: {:.0} (± {:.0})   at most 100,000; by the pids controller {:.0}",
        all_told(&ours),
        (ours.variance / f64::from(ours.rounds)).sqrt() / NANOSECONDS,
        all_told(&controller),
    );
    Ok(())
}

fn cost(cgroup: Option<&Cgroup>, work: &str, rounds: u32) -> Result<Costs> {
    bed::costs(
        cgroup,
        &format!("cost --work {work} --rounds {rounds} --warm-up 100"),
    )
}

/// Instructions that a process has run, all its threads together.
fn instructions_of(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().unwrap_or("");
        nanoseconds += first.parse::<f64>().context("schedstat is no number")?;
    }
    Ok(nanoseconds / NANOSECONDS)
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// It is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("no VmRSS")
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of a mean.
fn error(values: &[f64]) -> f64 {
    let (middle, count) = (mean(values), values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (squares / (count - 1.0) / count).sqrt()
}

/// Switches the kernel's own statistics of programs on.
fn statistics() -> Result<Setting> {
    Setting::new("kernel/bpf_stats_enabled", "1")
}
