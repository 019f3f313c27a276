//! What the daemon sees, and what is decided on it: the words that every decision is written in.

use std::time::Duration;

use guard_common::fork_storm::Reason;
use serde::{Deserialize, Serialize};

use super::{
    asked::{Counts, New},
    ladder::Step,
    leak::{Leak, LeakOver},
};

/// Who froze a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frozen {
    /// Nobody.
    #[default]
    No,
    /// We did: it stands in the journal.
    Ours,
    /// Somebody else, or an ancestor is frozen. Not ours to thaw.
    Others,
}

/// One container at one moment. Counters are the kernel's, since the container was made; they never go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Cgroup id.
    pub id: u64,
    /// Profile it is under.
    pub profile: u32,
    /// Forks allowed.
    pub allowed: u64,
    /// Forks refused, by [`Reason`].
    pub refused: [u64; 3],
    /// Forks that enforcing would have refused, by [`Reason`].
    pub audited: [u64; 3],
    /// What became of its actions.
    pub actions: Counts,
    /// Pids it has (`pids.current`); `None`: not read this time.
    pub pids: Option<u64>,
    /// The limit that stood in `pids.max` when it was last read; `None`: none.
    pub cap: Option<u32>,
    /// `max` in `pids.events`, read together with `cap`: forks that the pids controller refused.
    pub controller_refused: u64,
    /// The pids controller refused them at another's limit, if it did.
    pub elsewhere: bool,
    /// Who froze it.
    pub frozen: Frozen,
    /// Never frozen or killed: it holds the host's pid 1 or the daemon, or is exempt.
    pub protected: bool,
    /// An unprivileged user could have made it: there may be any number of its kind, so they have a budget of their own.
    pub user_made: bool,
}

/// The host at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSeen {
    /// Pids that are in use on the whole host.
    pub pids: Option<u64>,
    /// Pids at which the host's reserve begins.
    pub ceiling: Option<u64>,
}

/// What a profile's rules do beside refusing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the rules that are enforced, by `after`.
    pub ladder: Vec<Step>,
    /// Steps of the rules that are audited, by `after`: never taken, only told.
    pub audited_ladder: Vec<Step>,
    /// An alarm is given when a leak leaves less time than this.
    pub leak: Option<Duration>,
    /// The pids cap that is enforced.
    pub cap: Option<u32>,
}

/// What a breach is a breach of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The container's own rate or cap.
    Limit = 0,
    /// The host's reserve. Who is refused by it may be a bystander: no ladder is climbed for it.
    Reserve = 1,
    /// As `Limit`, audited: nothing was refused.
    LimitAudited = 2,
    /// As `Reserve`, audited: nothing was refused.
    ReserveAudited = 3,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Limit,
        Self::Reserve,
        Self::LimitAudited,
        Self::ReserveAudited,
    ];

    /// Whether nothing was refused.
    #[must_use]
    pub const fn audited(self) -> bool {
        match self {
            Self::Limit | Self::Reserve => false,
            Self::LimitAudited | Self::ReserveAudited => true,
        }
    }
}

/// Forks refused, or, in an audited breach, that would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// By us, by [`Reason`].
    pub forks: [u64; 3],
    /// By the pids controller, at the cap that we wrote.
    pub controller: u64,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.forks
            .iter()
            .fold(self.controller, |sum, forks| sum.saturating_add(*forks))
    }

    /// Forks of one reason.
    #[must_use]
    pub const fn by(&self, reason: Reason) -> u64 {
        self.forks[reason as usize]
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.forks.iter_mut().zip(other.forks) {
            *to = to.saturating_add(from);
        }
        self.controller = self.controller.saturating_add(other.controller);
    }
}

/// A breach, as far as it has come. The `new` of all tellings of a breach add up to its last `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Of what.
    pub kind: Kind,
    /// When its first refusal was seen, since boot.
    pub began: Duration,
    /// How long ago that was.
    pub lasted: Duration,
    /// Refusals since it was last told of.
    pub new: Tally,
    /// Refusals since it began.
    pub total: Tally,
}

/// Why a step that was due was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It was taken on this container not long ago.
    CoolingDown,
    /// The budget of actions is spent: the host's, or that of containers that users could have made.
    BudgetSpent,
    /// The container is never acted on.
    Protected,
    /// Somebody else froze it: it harms nobody, and is not ours to thaw.
    FrozenByOthers,
}

/// Why a container that we froze is thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thaw {
    /// The step's time is over.
    TimeOver,
    /// No ladder holds it: it was frozen before this daemon's memory.
    Orphan,
    /// It is not to be acted on any more.
    Protected,
    /// Everything is released.
    Released,
}

/// What is to be done or told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A breach began.
    Began(Breach),
    /// A breach still goes on.
    GoesOn(Breach),
    /// A breach is over.
    Ended(Breach),
    /// Refusals that were not watched: they came in the time `unwatched`, nobody knows when.
    Missed {
        /// Of what.
        kind: Kind,
        /// How many.
        new: Tally,
        /// How long nobody watched.
        unwatched: Duration,
    },
    /// Take this step: the only decisions that change the host are this one and `Thaw`.
    Act {
        /// The step.
        step: Step,
        /// What for. Its `new` stands in no other telling.
        breach: Breach,
    },
    /// An audited rule would have had this step taken.
    WouldAct {
        /// The step.
        step: Step,
        /// What for.
        breach: Breach,
    },
    /// A step that was due is not taken. Told once for each step and reason in a breach.
    Withheld {
        /// The step.
        step: Step,
        /// Why.
        why: Why,
    },
    /// Thaw the container, which we froze.
    Thaw {
        /// Why.
        why: Thaw,
        /// How long it was frozen; `None`: not known.
        held: Option<Duration>,
    },
    /// Somebody else thawed the container that we froze, or it could not be frozen.
    ThawedByOthers {
        /// How long after we had asked for it.
        held: Duration,
    },
    /// An action was refused, or would have been.
    Asked(New),
    /// Pids rise steadily, and little time is left.
    Leak(Leak),
    /// They do not any more.
    LeakOver(LeakOver),
}

/// A decision on one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its cgroup id.
    pub container: u64,
    /// The profile that it was under.
    pub profile: u32,
    /// The decision.
    pub what: What,
}
