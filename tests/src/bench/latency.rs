//! How long the host's own programs take to start while a container's bomb is refused.

use std::{
    fs,
    process::{Child, Command, Stdio},
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
/// So often each is measured, one after the other.
const TURNS: u32 = 5;

/// Runs idle, with `pids.max` alone, with Bulkhead, and with that and a bound on processor time; prints them side by side.
///
/// # Errors
/// A measurement failed.
pub fn run(count: u32) -> Result<()> {
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9}   {:>16}   bomb's share of two processors",
        "1 fork+exec on the host, ms", "median", "p90", "p99", "worst", "p99 of each turn"
    );
    starts(count / 10)?;
    line("idle", &[starts(count)?], None);
    // What four tasks do to the host that want a processor each, and make nothing.
    let container = Cgroup::container()?;
    let loops = (0..4)
        .map(|_| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "while :; do :; done"]);
            Ok(Loop(container.enter(&mut command)?.spawn()?))
        })
        .collect::<Result<Vec<_>>>()?;
    line("four busy loops, no forks", &[starts(count)?], None);
    drop(loops);
    drop(container);
    let policy = Policy::enforce(&format!("pids: {{max: {CAP}}}"))?;
    let (mut alone, mut guarded) = (Bombed::default(), Bombed::default());
    let mut bounded = Bombed::default();
    // In turns: the machine that this machine runs on has other work too, now more and now less.
    for _ in 0..TURNS {
        {
            let container = Cgroup::container()?;
            container.write("pids.max", &CAP.to_string())?;
            alone.add(&container, count / TURNS)?;
        }
        let _daemon = Daemon::start(&policy, &[])?;
        guarded.add(&Cgroup::container()?, count / TURNS)?;
        // A quarter of two processors. The least `cpu.weight` changes nothing here: it is weighed against what stands beside the container,
        // and not against the host's.
        let container = Cgroup::container()?;
        container.write("cpu.max", "50000 100000")?;
        bounded.add(&container, count / TURNS)?;
    }
    line("pids.max alone", &alone.turns, Some(alone.share));
    line("Bulkhead", &guarded.turns, Some(guarded.share));
    line(
        "Bulkhead, cpu.max 50 %",
        &bounded.turns,
        Some(bounded.share),
    );
    Ok(())
}

/// A task that is killed when it is no longer needed.
struct Loop(Child);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was seen, in turns.
#[derive(Default)]
struct Bombed {
    turns: Vec<Vec<f64>>,
    share: f64,
}

impl Bombed {
    fn add(&mut self, container: &Cgroup, count: u32) -> Result<()> {
        let (times, share) = bombed(container, count)?;
        self.turns.push(times);
        self.share += share / f64::from(TURNS);
        Ok(())
    }
}

/// Milliseconds of each start during a bomb, and the bomb's share of two processors.
fn bombed(container: &Cgroup, count: u32) -> Result<(Vec<f64>, f64)> {
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
    drop(holders);
    Ok((times, share))
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

/// All turns together, and what the turns have as their 99th percentile: how far apart chance alone puts them.
fn line(what: &str, turns: &[Vec<f64>], share: Option<f64>) {
    let mut each: Vec<f64> = turns.iter().map(|turn| quantile(turn, 0.99)).collect();
    each.sort_by(f64::total_cmp);
    let all = turns.concat();
    println!(
        "{what:<28} {:>9.2} {:>9.2} {:>9.2} {:>9.2}   {:>6.2} to {:>6.2}   {}",
        quantile(&all, 0.5),
        quantile(&all, 0.9),
        quantile(&all, 0.99),
        quantile(&all, 1.0),
        quantile(&each, 0.0),
        quantile(&each, 1.0),
        share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share))
    );
}

fn quantile(times: &[f64], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}
