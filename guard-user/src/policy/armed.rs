//! What `kernel: affected` comes to: which denials are in force on one kernel, by which advisories, and why others are not.

use serde::Serialize;

use super::{
    denial,
    model::{Denial, Rule},
};

/// Advisories that are named in one line.
const NAMED: usize = 4;

/// Whether a denial is in force, as far as that depends on the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Armed {
    /// Its rule says nothing of the kernel.
    #[default]
    Always,
    /// Its rule says `kernel: affected`, and nobody has asked what this kernel has. In force: what is not known must not be
    /// taken for harmless.
    Unasked,
    /// The same, and it could not be found out; why.
    Unjudged(String),
    /// This kernel has these bugs, at least one, and it refuses what triggers them.
    By(Vec<Bug>),
    /// This kernel, in words, has none of the bugs that it is against.
    Not(String),
    /// No advisory is about it, so that no kernel arms it.
    Never,
}

/// A bug that arms a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bug {
    /// The advisory's id.
    pub id: String,
    /// The kernel may have it; it cannot be told.
    pub unsure: bool,
    /// The denial leaves open some of what triggers it.
    pub partly: bool,
}

impl Armed {
    /// Whether the denial is in force.
    #[must_use]
    pub const fn holds(&self) -> bool {
        match self {
            Self::Always | Self::Unasked | Self::Unjudged(_) | Self::By(_) => true,
            Self::Not(_) | Self::Never => false,
        }
    }

    /// Whether its rule says `kernel: affected`.
    #[must_use]
    pub const fn asks(&self) -> bool {
        match self {
            Self::Always => false,
            Self::Unasked | Self::Unjudged(_) | Self::By(_) | Self::Not(_) | Self::Never => true,
        }
    }

    /// In words, of a denial that is called so; empty where its rule says nothing of the kernel.
    fn words(&self, denies: &str) -> String {
        match self {
            Self::Always => String::new(),
            Self::Unasked => "armed where the kernel is affected".to_owned(),
            Self::Unjudged(why) => format!("armed as on a kernel with every bug: {why}"),
            Self::By(bugs) => {
                let mut named: Vec<String> = bugs.iter().take(NAMED).map(Bug::words).collect();
                if bugs.len() > NAMED {
                    named.push(format!("{} more", bugs.len() - NAMED));
                }
                format!("armed by {}", named.join(", "))
            }
            Self::Not(kernel) => {
                format!("not armed: this kernel ({kernel}) has none of the bugs that it triggers")
            }
            Self::Never => format!(
                "not armed: no advisory about a kernel that Bulkhead runs on speaks of {denies}"
            ),
        }
    }
}

impl Bug {
    fn words(&self) -> String {
        let mut marks = Vec::new();
        if self.unsure {
            marks.push("unsure");
        }
        if self.partly {
            marks.push("not covered");
        }
        match marks.as_slice() {
            [] => self.id.clone(),
            marks => format!("{} ({})", self.id, marks.join(", ")),
        }
    }
}

/// One denial of a rule with `kernel: affected`, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arming {
    /// What it denies.
    pub denies: String,
    /// The action's name.
    pub action: &'static str,
    /// Whether it is in force on this kernel.
    pub armed: bool,
    /// The ids of the advisories that arm it.
    pub by: Vec<String>,
    /// The whole in words.
    pub says: String,
}

impl Arming {
    fn of(denial: &Denial) -> Self {
        let denies = denial::words([denial]);
        let by = match &denial.armed {
            Armed::By(bugs) => bugs.iter().map(|bug| bug.id.clone()).collect(),
            Armed::Always | Armed::Unasked | Armed::Unjudged(_) | Armed::Not(_) | Armed::Never => {
                Vec::new()
            }
        };
        Self {
            says: format!("{denies}: {}", denial.armed.words(&denies)),
            action: denial.action.name(),
            armed: denial.armed.holds(),
            by,
            denies,
        }
    }
}

/// All that a rule denies, if it says `kernel: affected`; else nothing.
#[must_use]
pub fn of(rule: &Rule) -> Vec<Arming> {
    let asks = rule.deny.iter().filter(|denial| denial.armed.asks());
    asks.map(Arming::of).collect()
}

/// What the host itself switches off, if that depends on the kernel; else nothing.
#[must_use]
pub fn of_one(denial: &Denial) -> Vec<Arming> {
    let asks = Some(denial).filter(|denial| denial.armed.asks());
    asks.map(Arming::of).into_iter().collect()
}

/// What whoever checks a policy should know of a rule's denials: that it could not be found out what the kernel has, or that no
/// kernel arms one.
pub(crate) fn notes(rule: &Rule) -> Vec<String> {
    let mut notes = Vec::new();
    let name = &rule.name;
    let unjudged = |denial: &Denial| match &denial.armed {
        Armed::Unjudged(why) => Some(why.clone()),
        Armed::Always | Armed::Unasked | Armed::By(_) | Armed::Not(_) | Armed::Never => None,
    };
    if let Some(why) = rule.deny.iter().find_map(unjudged) {
        notes.push(format!(
            "rule `{name}` is armed as on a kernel with every bug, since it cannot be told which this one has: {why}"
        ));
    }
    let never: Vec<&Denial> = (rule.deny.iter())
        .filter(|denial| denial.armed == Armed::Never)
        .collect();
    if never.is_empty() {
        return notes;
    }
    let what = denial::words(never.iter().copied());
    let (so, what_to_do) = if never.len() == rule.deny.len() {
        ("the rule denies nothing on any kernel", "take `kernel` out")
    } else {
        (
            "it is denied on no kernel",
            "put it into a rule without `kernel`",
        )
    };
    notes.push(format!(
        "rule `{name}`: no advisory about a kernel that Bulkhead runs on speaks of {what}, so with `kernel: affected` {so}; to \
         deny it everywhere {what_to_do}"
    ));
    notes
}
