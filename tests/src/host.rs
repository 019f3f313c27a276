//! The host's side of a test: its limits, its pids, and whether it can still start a program.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// A system setting that is put back when dropped.
pub struct Setting {
    file: String,
    before: String,
}

impl Setting {
    /// Writes `value` to `/proc/sys/NAME`.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn new(name: &str, value: &str) -> Result<Self> {
        let file = format!("/proc/sys/{name}");
        let before = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        fs::write(&file, value).with_context(|| format!("cannot write {file}"))?;
        Ok(Self { file, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.file, &self.before);
    }
}

/// What `/proc/sys/NAME` says.
///
/// # Errors
/// It is no number.
pub fn sysctl(name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{name} is no number"))
}

/// Numbers below this are not given again (`RESERVED_PIDS`, include/linux/pid.h).
pub const RESERVED_PIDS: u64 = 300;

/// The number of tasks that the host can have.
///
/// # Errors
/// A setting cannot be read.
pub fn task_limit() -> Result<u64> {
    Ok((sysctl("kernel/pid_max")? - RESERVED_PIDS).min(sysctl("kernel/threads-max")?))
}

/// The number of tasks that the host has now: the kernel's own count.
///
/// # Errors
/// It cannot be read.
pub fn tasks() -> Result<u64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    text.split_whitespace()
        .nth(3)
        .and_then(|word| word.split('/').nth(1))
        .and_then(|word| word.parse().ok())
        .context("/proc/loadavg is not what it was")
}

/// Forks that the kernel has done since it was booted, by its own count.
pub fn forks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("processes "));
    Ok(count.context("/proc/stat counts no forks")?.parse()?)
}

/// The kernel's release, as numbers.
#[must_use]
pub fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(['.', '-']).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Starts a program `count` times, as a shell on the host would; how many times that worked, and the last error.
#[must_use]
pub fn spawn(count: u32) -> (u32, String) {
    let (mut worked, mut error) = (0, String::new());
    for _ in 0..count {
        let status = Command::new("/usr/local/bin/bulkhead-probe-true")
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => worked += 1,
            Ok(status) => error = status.to_string(),
            Err(failed) => error = failed.to_string(),
        }
    }
    (worked, error)
}

/// Watches how many tasks the host has, as often as it can.
pub struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    samples: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch.
    #[must_use]
    pub fn new() -> Self {
        let (stop, most, samples) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, seen, counted) = (stop.clone(), most.clone(), samples.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(tasks().unwrap_or(0), Ordering::Relaxed);
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self {
            stop,
            most,
            samples,
            thread: Some(thread),
        }
    }

    /// The most tasks that were seen, and in how many looks.
    #[must_use]
    pub fn most(&self) -> (u64, u64) {
        (
            self.most.load(Ordering::Relaxed),
            self.samples.load(Ordering::Relaxed),
        )
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until something holds.
///
/// # Errors
/// It did not within `limit`; the error says what was waited for.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        if holds()? {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "waited {} s for {what}",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(50));
    }
}
