//! Which denials `kernel: affected` arms: those that refuse any of what triggers a bug that the kernel has, or may have. Where it
//! cannot be found out what it has, all of them.

use std::path::Path;

use thiserror::Error;

use super::{
    host::{Host, HostError},
    judge::{State, judge},
    kernel::Kernel,
    model::{Advisory, Cover, Trigger},
    set::{self, KEY, Places, Set},
};
use crate::policy::{
    armed::{Armed, Bug},
    denial::{Denial, action},
    model::Policy,
    problem::Problems,
};

/// Why it is not known which bugs a kernel has.
#[derive(Debug, Error)]
pub enum ArmError {
    /// The set.
    #[error("the advisories cannot be read, see `bulkhead advisories`: {0}")]
    Set(String),
    /// The kernel that runs.
    #[error("it cannot be told which kernel runs: {0}")]
    Host(#[from] HostError),
}

impl From<Problems> for ArmError {
    /// The first of them, in one line.
    fn from(Problems(all): Problems) -> Self {
        let words = all.first().map_or_else(String::new, |first| {
            let more = match all.len() {
                1 => String::new(),
                count => format!(", and {} more", count - 1),
            };
            let (file, line, column) = (&first.file, first.line, first.column);
            format!("{file}:{line}:{column}: {}{more}", first.message)
        });
        Self::Set(words)
    }
}

/// A set of advisories, held against one kernel.
pub struct Bugs {
    /// The kernel, in words.
    kernel: String,
    /// Each advisory, and whether the kernel has that bug.
    judged: Vec<(Advisory, State)>,
}

impl Bugs {
    /// Those of `set` that `kernel` has; `unset` as in [`judge`].
    #[must_use]
    pub fn of(set: &Set, kernel: &Kernel, unset: &dyn Fn(&str) -> bool) -> Self {
        Self {
            kernel: kernel.words(),
            judged: (set.advisories.iter())
                .map(|advisory| (advisory.clone(), judge(advisory, kernel, unset).state))
                .collect(),
        }
    }

    /// By the set of this host, of `kernel` or of the one that runs.
    ///
    /// # Errors
    /// The set has a mistake, or the kernel's version cannot be read.
    pub fn by_this_host(kernel: Option<&Kernel>) -> Result<Self, ArmError> {
        let set = set::load(&Places::of_this_host(Path::new(KEY))?)?;
        Ok(match kernel {
            Some(kernel) => Self::of(&set, kernel, &|_| false),
            None => {
                let host = Host::of(Path::new("/"))?;
                Self::of(&set, &host.kernel, &|option| host.unset(option))
            }
        })
    }

    fn arms(&self, denial: &Denial) -> Armed {
        let mut bugs: Vec<Bug> = (self.judged.iter())
            .filter(|(_, state)| state.arms())
            .filter_map(|(advisory, state)| bug(denial, advisory, *state))
            .collect();
        // A line has room for a few: first those that it keeps containers from.
        bugs.sort_by_key(|bug| (bug.partly, bug.unsure));
        // What is about kernels of the past alone arms nothing that runs this.
        let speaks = |advisory: &Advisory| {
            advisory.historical.is_none() && bug(denial, advisory, State::Affected).is_some()
        };
        if !bugs.is_empty() {
            Armed::By(bugs)
        } else if self.judged.iter().any(|(advisory, _)| speaks(advisory)) {
            Armed::Not(self.kernel.clone())
        } else {
            Armed::Never
        }
    }
}

/// Decides for each denial of a rule with `kernel: affected` whether it is in force; `bugs`: what the kernel has, or why that is
/// not known.
pub fn arm(policy: &mut Policy, bugs: Result<&Bugs, &ArmError>) {
    let asking = policy.denials_mut().filter(|denial| denial.armed.asks());
    for denial in asking {
        denial.armed = match bugs {
            Ok(bugs) => bugs.arms(denial),
            Err(why) => Armed::Unjudged(why.to_string()),
        };
    }
}

/// The same by the set of this host, of `kernel` or of the one that runs. Where no rule asks, nothing is read.
///
/// # Errors
/// It is not known what the kernel has, and all is in force; why.
pub fn arm_by_this_host(policy: &mut Policy, kernel: Option<&Kernel>) -> Result<(), ArmError> {
    if !policy.asks_for_the_kernel() {
        return Ok(());
    }
    let bugs = Bugs::by_this_host(kernel);
    arm(policy, bugs.as_ref());
    bugs.map(drop)
}

/// How a denial stands to a bug that it refuses the triggers of; `None`: it refuses none.
fn bug(denial: &Denial, advisory: &Advisory, state: State) -> Option<Bug> {
    let Cover::By(triggers) = &advisory.cover else {
        return None;
    };
    let known = |trigger: &&Trigger| {
        action(&trigger.action).is_some_and(|action| denial.meets(action, &trigger.kinds))
    };
    let met: Vec<&Trigger> = triggers.iter().filter(known).collect();
    // Each trigger is a way of its own to keep a container from the bug.
    let covers = |trigger: &&Trigger| {
        action(&trigger.action)
            .is_some_and(|action| denial.covers(action, &trigger.kinds, trigger.nested))
    };
    (!met.is_empty()).then(|| Bug {
        id: advisory.id.clone(),
        unsure: state == State::Unsure,
        partly: !met.iter().any(covers),
    })
}
