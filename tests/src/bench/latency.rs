//! How long the host's own programs take to start while a container's bomb is refused.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
};

/// The cap, ours and the controller's.
const CAP: u64 = 100;

/// Runs idle, with `pids.max` alone and with Bulkhead, and prints them side by side.
///
/// # Errors
/// A measurement failed.
pub fn run(count: u32) -> Result<()> {
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9}   bomb's share of two processors",
        "1 fork+exec on the host, ms", "median", "p90", "p99", "worst"
    );
    starts(count / 10)?;
    line("idle", &starts(count)?, None);
    {
        let container = Cgroup::container()?;
        container.write("pids.max", &CAP.to_string())?;
        bombed("pids.max alone", &container, count)?;
    }
    let policy = Policy::enforce(&format!("pids: {{max: {CAP}}}"))?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    bombed("Bulkhead", &container, count)
}

fn bombed(what: &str, container: &Cgroup, count: u32) -> Result<()> {
    // At its cap, four processes go on trying as fast as they can.
    let holders = bed::start(
        Some(container),
        &format!("leak --what process --most {}", CAP - 5),
    )?;
    let mut bomb = bed::start(Some(container), "bomb --together 4 --seconds 3600")?;
    std::thread::sleep(Duration::from_millis(500));
    let (before, began) = (cpu(container)?, Instant::now());
    let times = starts(count)?;
    let share = (cpu(container)? - before) / began.elapsed().as_secs_f64() / 2.0;
    ensure!(!bomb.has_ended()?, "the bomb has ended");
    line(what, &times, Some(share));
    drop(holders);
    Ok(())
}

fn starts(count: u32) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let began = Instant::now();
        let status = Command::new("/usr/local/bin/bulkhead-probe-true")
            .stdin(Stdio::null())
            .status()
            .context("the host cannot start a program")?;
        ensure!(status.success(), "the host's program failed");
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Seconds of processor time that a cgroup has used.
fn cpu(container: &Cgroup) -> Result<f64> {
    let text = fs::read_to_string(container.folder().join("cpu.stat"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .and_then(|number| number.parse::<f64>().ok())
        .map(|microseconds| microseconds / 1e6)
        .context("no usage_usec")
}

fn line(what: &str, sorted: &[f64], share: Option<f64>) {
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize];
    println!(
        "{what:<28} {:>9.2} {:>9.2} {:>9.2} {:>9.2}   {}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share))
    );
}
