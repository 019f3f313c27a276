//! Plain data that crosses the boundary between Bulkhead's kernel side and its daemon.
//!
//! Everything here is `repr(C)`, of fixed width and without padding; sizes are asserted where a type is defined.
#![no_std]
#![forbid(unsafe_code)]

pub mod fork_storm;

/// What a cgroup belongs to: the value of the kernel table `SUBJECTS`, whose key is a cgroup id (kernfs id).
///
/// A cgroup without an entry is the host's, and its tasks are never refused anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Cgroup id of the container's own (outermost) cgroup; key of the container's bucket.
    pub container: u64,
    /// Index of the limits that apply, in the kernel table `PROFILES`.
    pub profile: u32,
    /// Reserved, zero: keeps the size a multiple of eight without hidden padding.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Subject>() == 16);
