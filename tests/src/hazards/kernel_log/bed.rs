//! A host's copy of the kernel log, numbered lines that are written into the log, and what the copy says of them.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cgroup::PATTERNS,
    daemon::Policy,
    host::{Setting, wait_for},
};

/// Lines that are written: more than the buffer of a kernel here has room for.
pub(crate) const LINES: u64 = 10_000;
/// How long the copy may take, on an emulated processor that others use too.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// What dies so that somebody prints a line.
pub(crate) const FIRST: &str = "first";
/// Less than any kernel's buffer has room for.
pub(crate) const AT_ONCE: u64 = 500;

/// A policy that keeps the copy, and the copy.
pub(crate) struct Copy {
    pub policy: Policy,
    pub file: PathBuf,
    /// Whether a writer is held to ten lines in five seconds.
    pub _limit: Setting,
}

impl Copy {
    pub fn new() -> Result<Self> {
        Self::with_limit("on")
    }

    /// The same with a setting of `kernel.printk_devkmsg`.
    pub fn with_limit(word: &str) -> Result<Self> {
        // Without the end of a line the kernel takes no word (`devkmsg_sysctl_set_loglvl`).
        let limit = Setting::new("kernel/printk_devkmsg", &format!("{word}\n"))?;
        let policy = Policy::enforce("pids: {max: 4000}")?;
        let copy = Self {
            file: policy.file.with_file_name("kernel.jsonl"),
            policy,
            _limit: limit,
        };
        copy.say(&format!("kernel_log: {{file: {}}}", copy.file.display()))?;
        Ok(copy)
    }

    /// Rewrites the policy, with this line about the copy.
    pub fn say(&self, kernel_log: &str) -> Result<()> {
        self.policy.replace(&format!(
            "version: 1\nmode: enforce\nsubjects: {{containers: {{cgroups: {PATTERNS}}}}}\n\
             rules: [{{name: cap, subjects: [containers], pids: {{max: 4000}}}}]\n\
             audit: {{file: {}}}\n{kernel_log}\n",
            self.policy.audit.display()
        ))
    }

    /// All lines of the copy.
    pub fn lines(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file).context("the copy cannot be read")?;
        // The last may be under way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a line: {line}")))
            .collect()
    }

    /// Waits until lines have the names of those who print them, which is told last after a start: something dies on the host.
    pub fn wait_until_named(&self) -> Result<()> {
        wait_for("a line with a name", SOON, || {
            let mut crash = std::process::Command::new("bulkhead-probe");
            crash.args(["crash", "--name", FIRST, "--times", "1"]);
            crate::bed::output(None, crash)?;
            let named = |line: &Value| {
                let text = line["text"].as_str().unwrap_or_default();
                text.starts_with(FIRST) && line["from"] == "host"
            };
            Ok(self.lines().unwrap_or_default().iter().any(named))
        })
    }

    /// Waits until the copy has a text.
    pub fn wait(&self, text: &str) -> Result<()> {
        let key = format!("\"text\":\"{text}\"");
        wait_for(&format!("the line {text} in the copy"), SOON, || {
            Ok(fs::read_to_string(&self.file)
                .unwrap_or_default()
                .contains(&key))
        })
    }
}

/// Writes numbered lines into the kernel log.
pub(crate) struct Numbered {
    log: File,
    word: &'static str,
    pub written: u64,
}

impl Numbered {
    pub fn new(word: &'static str) -> Result<Self> {
        Ok(Self {
            log: OpenOptions::new().write(true).open("/dev/kmsg")?,
            word,
            written: 0,
        })
    }

    pub fn write(&mut self, lines: u64) -> Result<()> {
        for _ in 0..lines {
            // Nobody can read a line without its end until the next one comes (`prb_commit`).
            let line = format!("{}\n", self.text(self.written));
            self.log.write_all(line.as_bytes())?;
            self.written += 1;
        }
        Ok(())
    }

    pub fn text(&self, number: u64) -> String {
        format!("{} {number}", self.word)
    }

    pub fn last(&self) -> String {
        self.text(self.written - 1)
    }

    /// The numbers that the copy has, in its order.
    pub fn numbers(&self, lines: &[Value]) -> Result<Vec<u64>> {
        let prefix = format!("{} ", self.word);
        lines
            .iter()
            .filter_map(|line| line["text"].as_str()?.strip_prefix(&prefix))
            .map(|number| Ok(number.parse()?))
            .collect()
    }
}

/// How many records are lost by what the lines say; an error if their numbers say otherwise.
fn losses(lines: &[Value]) -> Result<u64> {
    let (mut before, mut all) = (None, 0);
    for line in lines {
        let seq = line["seq"].as_u64().context("a line without a number")?;
        let lost = line["lost"].as_u64();
        if let Some(before) = before {
            let step = lost.unwrap_or(1);
            ensure!(
                seq == before + step,
                "after {before} comes {seq}, which says that it is {step} further: {line}"
            );
            all += lost.unwrap_or(0);
        }
        before = Some(seq);
    }
    Ok(all)
}

/// What the lines say is lost, also before the first of them.
pub(crate) fn told(lines: &[Value]) -> u64 {
    let lost = lines.iter().filter_map(|line| line["lost"].as_u64());
    lost.sum()
}

/// Losses behind the line with this text.
pub(crate) fn lost_since(lines: &[Value], text: &str) -> Result<u64> {
    let at = lines
        .iter()
        .position(|line| line["text"] == text)
        .with_context(|| format!("no line {text}"))?;
    losses(&lines[at..])
}
