//! Policy: the typed model, which holds only what was checked.

use std::{fmt, path::Path, time::Duration};

use guard_common::fork_storm::ForkLimits;

pub use super::denial::{Denial, Kind};
pub use super::outlet::{Outlet, Syslog};
use super::units::{Pids, Rate};
use crate::{klog, record};

/// Most subjects that a policy may name: each is a bit of the names' automaton.
pub const SUBJECTS: usize = 64;
/// Most rules that a policy may have.
pub const RULES: usize = 256;
/// What the host's reserve is called where a rule's name is asked for.
pub const RESERVE: &str = "host.reserve";

/// What switching discards on dm-thin off is called there.
pub const THIN: &str = "host.thin";

/// Whether a refusal is made or only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Allow, and record what would have been refused.
    Audit,
    /// Refuse.
    Enforce,
}

impl Mode {
    /// As the policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// How much a breach matters to whoever reads the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// To be read some day.
    Low,
    /// To be read this week.
    Medium,
    /// To be read today.
    High,
    /// To be woken up for.
    Critical,
}

impl Severity {
    /// As the policy writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A position in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A set of cgroups with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Patterns of the cgroups that are its containers.
    pub cgroups: Vec<String>,
    /// Patterns of cgroups that are not, after all.
    pub except: Vec<String>,
    /// Where it is defined.
    pub place: Place,
}

/// How fast forks may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forks {
    /// The steady rate.
    pub rate: Rate,
    /// Forks that may come at once.
    pub burst: u32,
    /// The same as the kernel side counts it.
    pub limits: ForkLimits,
}

impl fmt::Display for Forks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, burst {}", self.rate, self.burst)
    }
}

/// What a step of a ladder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Stops all tasks of the container, and lets them run again.
    Freeze {
        /// How long they are stopped.
        time: Duration,
    },
    /// Kills all tasks of the container.
    Kill,
}

/// A step of a rule's ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escalation {
    /// Since the start of the breach.
    pub after: Duration,
    /// What is done then.
    pub act: Act,
}

/// When a thin pool that fills up is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolAlarm {
    /// In thousandths of its data.
    pub data: u32,
    /// In thousandths of its metadata.
    pub metadata: u32,
    /// Less time than this is left until either is full.
    pub left: Duration,
}

/// What the containers of some subjects may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the policy.
    pub name: String,
    /// Names of its subjects, at least one.
    pub subjects: Vec<String>,
    /// Its own mode; `None`: the policy's.
    pub mode: Option<Mode>,
    /// The fork rate.
    pub forks: Option<Forks>,
    /// The pids cap.
    pub pids: Option<u32>,
    /// Alarm when pids rise so fast that less than this is left until the cap, or the host's reserve, is reached.
    pub leak: Option<Duration>,
    /// Actions that are refused.
    pub deny: Vec<Denial>,
    /// Subjects whose containers it is not about after all.
    pub except: Vec<String>,
    /// How much its breach matters.
    pub severity: Severity,
    /// Its ladder, in order of time.
    pub escalate: Vec<Escalation>,
    /// Where it is defined.
    pub place: Place,
}

impl Rule {
    /// What it denies on this kernel.
    pub fn in_force(&self) -> impl Iterator<Item = &Denial> {
        self.deny.iter().filter(|denial| denial.armed.holds())
    }

    /// Whether it does anything on this kernel.
    #[must_use]
    pub fn limits_anything(&self) -> bool {
        let others = self.forks.is_some() || self.pids.is_some() || self.leak.is_some();
        others || self.in_force().next().is_some()
    }
}

/// Pids that only the host may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// How many.
    pub pids: Pids,
    /// Its own mode; `None`: the policy's.
    pub mode: Option<Mode>,
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Absolute path of the file.
    pub file: String,
    /// A new file is begun when it has so many bytes.
    pub size: u64,
    /// A new file is begun when it is so old.
    pub age: Duration,
    /// So many old files are kept.
    pub keep: u32,
}

impl LogSettings {
    /// The audit log's, where no file says anything.
    #[must_use]
    pub fn audit() -> Self {
        Self::at(record::audit::DEFAULT_FILE)
    }

    /// The same of the copy of the kernel log.
    #[must_use]
    pub fn kernel_log() -> Self {
        Self::at(klog::keep::DEFAULT_FILE)
    }

    fn at(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            size: 64 << 20,
            age: Duration::from_secs(7 * 86_400),
            keep: 8,
        }
    }

    /// Whether one of them is, or is once rotated, a file of the other.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let of = |one: &str, other: &str| {
            // Paths that differ in a slash too many are one.
            let (one, other) = (Path::new(one), Path::new(other));
            let rotated = |name: &str| {
                let (stem, number) = name.rsplit_once('.')?;
                number.parse::<u32>().ok()?;
                Some(one.with_file_name(stem) == other)
            };
            one == other
                || one
                    .file_name()
                    .and_then(|name| rotated(name.to_str()?))
                    .unwrap_or(false)
        };
        of(&self.file, &other.file) || of(&other.file, &self.file)
    }
}

/// Something that the kernel may say of itself, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Its name, unique among those in force.
    pub name: String,
    /// A regular expression over one line of the kernel log, without time and level.
    pub expression: String,
    /// How much it matters.
    pub severity: Severity,
    /// What a line that matches means, in one line.
    pub means: String,
    /// What to do then, in one line.
    pub advice: String,
    /// Lines that it matches.
    pub samples: Vec<String>,
    /// It comes with Bulkhead: only the kernel's own lines are held against it.
    pub shipped: bool,
    /// Where it is defined.
    pub place: Place,
}

/// A policy: all its files together, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The files that it was read from.
    pub files: Vec<String>,
    /// It is the one that is built in, since the host has none: audited altogether, unless the call says enforce.
    pub embedded: bool,
    /// What holds where a rule says nothing.
    pub mode: Mode,
    /// In order of definition; the index is the number in the names' automaton.
    pub subjects: Vec<Subject>,
    /// Patterns of cgroups that are refused nothing.
    pub exempt: Vec<String>,
    /// In order of definition.
    pub rules: Vec<Rule>,
    /// The host's reserve of pids.
    pub reserve: Option<Reserve>,
    /// Discards on dm-thin that are switched off for everybody; `None`: they are left on.
    pub thin_discard: Option<Denial>,
    /// When a thin pool is told of; `None`: pools are not watched.
    pub pool_alarm: Option<PoolAlarm>,
    /// `kernel.dmesg_restrict` is set, where the policy's mode is enforce.
    pub dmesg_restrict: bool,
    /// The audit log.
    pub audit: LogSettings,
    /// The host's copy of the kernel log; `None`: none is kept.
    pub kernel_log: Option<LogSettings>,
    /// The host's own patterns over the kernel log, in order of definition.
    pub patterns: Vec<Pattern>,
    /// Names of shipped patterns that are not watched for.
    pub ignore_patterns: Vec<String>,
    /// Where else the kernel log goes.
    pub forward: Vec<Outlet>,
}

impl Policy {
    /// Whether any of it depends on which bugs the kernel has.
    #[must_use]
    pub fn asks_for_the_kernel(&self) -> bool {
        let mut all = (self.rules.iter())
            .flat_map(|rule| &rule.deny)
            .chain(&self.thin_discard);
        all.any(|denial| denial.armed.asks())
    }

    /// What may depend on the kernel.
    pub fn denials_mut(&mut self) -> impl Iterator<Item = &mut Denial> {
        (self.rules.iter_mut())
            .flat_map(|rule| &mut rule.deny)
            .chain(&mut self.thin_discard)
    }
}
