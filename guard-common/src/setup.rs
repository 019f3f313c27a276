//! Setting up: what a runtime does in a container's cgroup before it executes what the container is for. It mounts, makes
//! namespaces and keys and writes settings there, and is refused none of that.
//!
//! A process is set up from the moment at which a task of the host puts it into the container, with the processes that it forks
//! meanwhile, each until it executes something, and for five minutes at most. Not by what a process or a file is called: containers
//! choose names.

/// A process that is being set up: a value of the kernel table `SETTING_UP`, whose key is the process's number in the host's pid
/// namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Cgroup id of the container.
    pub container: u64,
    /// When the process began: its number can come again.
    pub start_ns: u64,
    /// Kernel address of the mount namespace in which it was put there, if that is its runtime's as well; else 0. A runtime that
    /// executes itself once more from a copy that has no path (runc does, against CVE-2019-5736) does so there, before it makes
    /// another or enters the container's.
    pub mounts: u64,
    /// Kernel address of the memory that it had when it was put there itself, until its next exec; else 0. An exec takes new memory,
    /// lets its parent go on (`exec_mm_release`, for vfork) and comes to an end much later: if that memory is this, who put the process
    /// there did so in the midst of the exec, and put what is executed there.
    pub memory: u64,
    /// When it was put there, or the one that it was forked from, `CLOCK_MONOTONIC`, nanoseconds.
    pub since_ns: u64,
}
const _: () = assert!(size_of::<Setup>() == 40);

/// No longer is any process set up: some are put into a container and never execute anything (restored by CRIU, or moved while
/// they ran).
pub const LONGEST_NS: u64 = 300_000_000_000;

/// Entries of the kernel table `SETTING_UP`, the least recently used of which give way: that many processes at once.
pub const SETTING_UP: u32 = 8192;

/// Flags of clone(2) (include/uapi/linux/sched.h).
pub const CLONE_THREAD: u64 = 0x0001_0000;
/// A network namespace is made; likewise of unshare(2).
pub const CLONE_NEWNET: u64 = 0x4000_0000;
/// A user namespace is made; likewise of unshare(2).
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
/// The child is made straight in a cgroup that the caller names (5.7).
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
