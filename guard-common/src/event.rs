//! What the kernel side tells the daemon. No decision depends on it, and every count stands in a table as well.

/// What an [`Event`] tells.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fork was refused; the first in a one-second window of its container.
    Refused = 1,
    /// A fork would have been refused; the first in a one-second window of its container.
    Audited = 2,
    /// A container was made; [`Made`] follows.
    Made = 3,
    /// A container is gone; [`Gone`] follows.
    Gone = 4,
    /// A task of a container moved a task out of it; `other` begins with the cgroup id of the destination, and `reason` is 1
    /// where the task was made there (CLONE_INTO_CGROUP).
    MovedOut = 5,
    /// An action was refused; the first in a one-second window of its container and action. `other` is what it was done to;
    /// all zero where the action has none.
    ActionRefused = 6,
    /// An action would have been refused; likewise.
    ActionAudited = 7,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Refused),
            2 => Some(Self::Audited),
            3 => Some(Self::Made),
            4 => Some(Self::Gone),
            5 => Some(Self::MovedOut),
            6 => Some(Self::ActionRefused),
            7 => Some(Self::ActionAudited),
            _ => None,
        }
    }
}

/// The beginning of every record in the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// A [`Kind`].
    pub kind: u32,
    /// A [`crate::fork_storm::Reason`], for [`Kind::Refused`] and [`Kind::Audited`]; a [`crate::action::Action`], for
    /// [`Kind::ActionRefused`] and [`Kind::ActionAudited`].
    pub reason: u32,
    /// Cgroup id of the container.
    pub container: u64,
    /// The container's slot.
    pub slot: u32,
    /// The container's profile at that moment.
    pub profile: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Thread id and thread group id of the task that did it, in the host's pid namespace.
    pub pid: u32,
    /// Thread group id.
    pub tgid: u32,
    /// Name of the task that did it, as it calls itself.
    pub comm: [u8; 16],
    /// See [`Kind`].
    pub other: crate::action::Told,
}
const _: () = assert!(size_of::<Event>() == 112);

/// A container was made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// What all events have.
    pub event: Event,
    /// Bytes of `path` that count, without a NUL.
    pub length: u64,
    /// The cgroup's path from the root of its hierarchy.
    pub path: [u8; crate::identity::PATH_MAX],
}
const _: () = assert!(size_of::<Made>() == 120 + crate::identity::PATH_MAX);

/// A container is gone, and this is what became of its forks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Gone {
    /// What all events have.
    pub event: Event,
    /// As in [`crate::Container`].
    pub allowed: u64,
    /// As in [`crate::Container`].
    pub refused: [u64; 3],
    /// As in [`crate::Container`].
    pub audited: [u64; 3],
    /// As in [`crate::Container`].
    pub actions: [crate::action::Asked; crate::action::ACTIONS],
    /// As in [`crate::Container`]: those that do not stand on record.
    pub moved_out: u64,
}
const _: () = assert!(size_of::<Gone>() == 176 + 24 * crate::action::ACTIONS);
