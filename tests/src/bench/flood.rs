//! A flood of the kernel log: how much of it the host's copy keeps, beside the readers that hosts have.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    daemon::Daemon,
    hazards::kernel_log::{
        bed::{Copy, Numbered, lost_since},
        rsyslog::{Input, Rsyslog, numbers},
    },
    host::wait_for,
};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(10);
/// How long a reader may take for what it has not read by then.
const SOON: Duration = Duration::from_secs(120);

/// This thread, and what it starts, on the first processor alone.
struct OneProcessor(CpuSet);

impl OneProcessor {
    fn now() -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let mut one = CpuSet::new();
        one.set(0)?;
        sched_setaffinity(this, &one)?;
        Ok(Self(before))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// What this thread starts has the priority that the unit gives to the daemon (`Nice=`, packaging/bulkhead.service).
struct AsTheUnit;

impl AsTheUnit {
    fn now() -> Result<Self> {
        Self::nice(-10)?;
        Ok(Self)
    }

    fn nice(value: i32) -> Result<()> {
        // SAFETY: a plain system call; who is 0: this thread.
        let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
        ensure!(
            done == 0,
            "nice {value}: {}",
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}

impl Drop for AsTheUnit {
    fn drop(&mut self) {
        let _ = Self::nice(0);
    }
}

/// Lines as fast as can be, and how many.
fn flood(word: &'static str) -> Result<Numbered> {
    let mut numbered = Numbered::new(word)?;
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        numbered.write(100)?;
    }
    Ok(numbered)
}

/// A child that is killed when it is no longer needed.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How much of its own flood a reader has: kept and written.
fn kept(word: &'static str, numbers: &dyn Fn() -> Vec<u64>) -> Result<(u64, u64)> {
    let mut numbered = flood(word)?;
    // What comes after it shows that the reader has seen all that it will see.
    let written = numbered.written;
    wait_for("the end of the flood at its reader", SOON, || {
        numbered.write(1)?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(numbers().last() >= Some(&written))
    })?;
    let kept = numbers().into_iter().filter(|number| *number < written);
    Ok((kept.count() as u64, written))
}

/// Floods each reader alone, with itself and the writer on one processor, and prints what it kept. Bulkhead runs as its unit has
/// it run, the others as theirs.
///
/// # Errors
/// A reader does not work, or the copy neither has a line nor counts it.
pub fn run() -> Result<()> {
    let _one = OneProcessor::now()?;
    let copy = Copy::new()?;
    let mut others = Vec::new();
    {
        let file = Path::new("/run/flood-dmesg");
        let _reader = Reader(
            Command::new("dmesg")
                .args(["--follow-new"])
                .stdin(Stdio::null())
                .stdout(File::create(file)?)
                .stderr(Stdio::null())
                .spawn()
                .context("dmesg")?,
        );
        others.push(("dmesg -w", kept("dmesg", &|| numbers(file, "dmesg"))?));
        fs::remove_file(file)?;
    }
    for input in [Input::Imklog, Input::Imkmsg] {
        let rsyslog = Rsyslog::start(None, input)?;
        let word = input.name();
        others.push((word, kept(word, &|| rsyslog.numbers(word))?));
    }
    copy.say(&format!(
        "kernel_log: {{file: {}, rotate: {{size: 1GiB}}}}",
        copy.file.display()
    ))?;
    let _daemon = {
        let _priority = AsTheUnit::now()?;
        Daemon::start(&copy.policy, &[])?
    };
    let mut first = Numbered::new("flood")?;
    first.write(1)?;
    copy.wait(&first.last())?;
    let ours = kept("bulkhead", &|| numbers_of(&copy, "bulkhead"))?;
    let lines = copy.lines()?;
    let lost = lost_since(&lines, "flood 0")?;
    let share = |(kept, written): (u64, u64)| kept as f64 / written as f64;
    for (who, seen) in others.iter().chain([&("bulkhead", ours)]) {
        println!(
            "{who:<10} {:>7} of {:>7} lines: {:.1} %",
            seen.0,
            seen.1,
            100.0 * share(*seen)
        );
    }
    println!("lost by the kernel's own numbers: {lost}");
    // Somebody else's lines may be among the lost.
    ensure!(ours.0 + lost >= ours.1, "{ours:?} and {lost}");
    Ok(())
}

/// The numbers of the copy's lines `WORD NUMBER`; looked for in the text, since there may be a million.
fn numbers_of(copy: &Copy, word: &str) -> Vec<u64> {
    let text = fs::read_to_string(&copy.file).unwrap_or_default();
    let before = format!("\"text\":\"{word} ");
    text.lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(&before)?;
            rest.split_once('"')?.0.parse().ok()
        })
        .collect()
}
