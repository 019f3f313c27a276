//! Plain data that crosses the boundary between Bulkhead's kernel side and its daemon.
//!
//! Everything here is `repr(C)`, of fixed width and without padding; sizes are asserted where a type is defined.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "std")]
extern crate std;

pub mod action;
pub mod bpf;
pub mod config;
pub mod device;
pub mod event;
pub mod fork_storm;
pub mod host;
pub mod identity;
pub mod kernel_log;
pub mod module;
pub mod mount;
pub mod netlink;
pub mod rtnetlink;
pub mod setting;
pub mod setup;
pub mod socket;
pub mod thin;

/// What a cgroup belongs to: the value of the kernel table `SUBJECTS`, whose key is a cgroup id (kernfs id).
///
/// A cgroup without an entry is the host's, and its tasks are never refused anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Cgroup id of the container's own (outermost) cgroup.
    pub container: u64,
    /// Index of the container's state in the kernel table `CONTAINERS`.
    pub slot: u32,
    /// Reserved, zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Subject>() == 16);

/// Slots of the kernel table `CONTAINERS`.
pub const SLOTS: u32 = 8192;
/// Entries of the kernel table `SUBJECTS`: containers and the cgroups nested in them.
pub const SUBJECTS: u32 = 65_536;
/// Entries of the kernel tables `HINTS` and `OF_THE_HOST`.
pub const HINTS: u32 = 4096;
/// What the kernel table `OF_THE_HOST` holds of a cgroup that is in no container, as long as so many have been entered
/// ([`host::Host::entered`], of which the lower half decides). 0, as the table holds at first, of an id that has no room beside that: such
/// a one is not remembered. (An id has more than 32 bits once a kernel has made 2^31 of what it gives them, files of cgroups among them.)
#[must_use]
pub const fn of_the_host(id: u64, entered: u64) -> u64 {
    if id >> 32 == 0 { id | entered << 32 } else { 0 }
}

/// Whether that is what is remembered.
#[must_use]
pub const fn is_of_the_host(remembered: u64, id: u64, entered: u64) -> bool {
    remembered != 0 && remembered == of_the_host(id, entered)
}

/// Bytes of the kernel's ring buffer of events.
pub const EVENT_BYTES: u32 = 1 << 20;

/// The state of one container: a value of the kernel table `CONTAINERS`, which the daemon maps into its memory.
///
/// The kernel side adds to counters with `XADD` (5.10 has no atomic that returns a value) and fills a slot when it gives
/// it away; the daemon stores `profile` and `moved_told` alone into a slot that is in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Cgroup id of the container; 0 where the slot is free.
    pub id: u64,
    /// Kernel address of the container's `struct cgroup`; 0 while it is not known.
    pub cgroup: u64,
    /// The enforced fork limit's bucket, and the audited one's.
    pub buckets: [fork_storm::Bucket; 2],
    /// Forks allowed.
    pub allowed: u64,
    /// Forks refused, by [`fork_storm::Reason`].
    pub refused: [u64; 3],
    /// Forks allowed that enforcing would have refused, by [`fork_storm::Reason`].
    pub audited: [u64; 3],
    /// What became of its actions, by [`action::Action`].
    pub actions: [action::Asked; action::ACTIONS],
    /// Start of the window in which a refusal was last told, an audited fork, a task that was moved out, and one that was
    /// made outside.
    pub told_ns: [u64; 4],
    /// Tasks that were moved out of the container by one in it, or made outside of it.
    pub moved_out: u64,
    /// Forks at which the number of pids could not be read.
    pub unread: u64,
    /// Index of the limits that apply, in the kernel table `PROFILES`.
    pub profile: u32,
    /// Cgroups nested in the container that stand in `SUBJECTS`.
    pub nested: u32,
    /// One of the [`SLOT_USER_MADE`] bits.
    pub flags: u32,
    /// Whose it is, if [`SLOT_USER_MADE`]: an index into [`host::Host::user_made_by`].
    pub user: u32,
    /// Depth of the container's cgroup; the root's is 0. Set where `cgroup` is not.
    pub level: u32,
    /// Of `moved_out`, those that stand on record, modulo 2^32; the daemon's to store.
    pub moved_told: u32,
}
const _: () =
    assert!(size_of::<Container>() == 176 + size_of::<[action::Asked; action::ACTIONS]>());

/// The container's name could have been made by an unprivileged user.
pub const SLOT_USER_MADE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_as_the_hosts_holds_for_one_cgroup_until_another_is_entered() {
        let all = [(7, 0), (7, 1), (8, 0), (8, 1), (u64::from(u32::MAX), 0)];
        for (at, one) in all.iter().enumerate() {
            for (beside, other) in all.iter().enumerate() {
                let remembered = of_the_host(one.0, one.1);
                let same = is_of_the_host(remembered, other.0, other.1);
                assert_eq!(same, at == beside, "{one:?}, {other:?}");
            }
            assert!(!is_of_the_host(0, one.0, one.1), "{one:?}");
        }
    }

    #[test]
    fn an_id_that_finds_no_room_is_never_remembered() {
        for (id, other) in [(1 << 32, 1 << 32), (1 << 32 | 7, 7), (u64::MAX, 1 << 40)] {
            let remembered = of_the_host(id, 3);
            assert!(!is_of_the_host(remembered, id, 3) && !is_of_the_host(remembered, other, 3));
        }
    }
}
