//! An attempt before the gate: whether anybody may be refused at all, its count, and who is told of.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use guard_common::{Container, event::Kind, fork_storm::Reason, host::Host};

use crate::{
    event,
    gate::Verdict,
    kernel::{add, is_kernel_thread},
    maps::CONTAINERS,
    subject,
};

/// One refusal in a second is told; the others are counted.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// A container before the gate.
pub struct Attempt {
    pub host: *mut Host,
    pub slot: u32,
    pub container: *mut Container,
    pub now_ns: u64,
    /// The program can only watch: a refusal is counted as audited.
    pub watching: bool,
}

impl Attempt {
    /// `None` while the panic switch is thrown, unless it is the daemon's own `self_test`, which must know all the same.
    #[inline(always)]
    pub fn new(
        host: *mut Host,
        slot: u32,
        container: *mut Container,
        watching: bool,
        self_test: bool,
    ) -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        // SAFETY: a live map value; the daemon stores the word whole.
        let off_until = unsafe { (&raw const (*host).off_until_ns).read_volatile() };
        (self_test || off_until <= now_ns).then_some(Self {
            host,
            slot,
            container,
            now_ns,
            watching,
        })
    }

    /// Refuses, unless the task may not be refused anything or the program only watches.
    #[inline(always)]
    pub fn refuse(&self, reason: Reason) -> Verdict {
        if may_all() {
            return Verdict::Allow;
        }
        if self.watching {
            self.audit(reason);
            return Verdict::Allow;
        }
        self.tell(reason, 0);
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).refused[reason as usize], 1);
            add(&raw mut (*self.host).refused, 1);
        }
        Verdict::Deny
    }

    /// Counts what enforcing would have refused.
    #[inline(always)]
    pub fn audit(&self, reason: Reason) {
        self.tell(reason, 1);
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).audited[reason as usize], 1);
            add(&raw mut (*self.host).audited, 1);
        }
    }

    /// Before it is counted: who sees the count finds in the ring who it was, but for what another processor is about to tell.
    #[inline(always)]
    fn tell(&self, reason: Reason, audited: u32) {
        let what = u64::from(self.slot) | u64::from(audited) << 32 | (reason as u64) << 33;
        gate_tell_fork(what, self.now_ns);
    }
}

/// Tells of a fork, once a window. Global, as [`crate::gate::gate_close`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gate_tell_fork(what: u64, now_ns: u64) -> u32 {
    const {
        assert!(Kind::Audited as u32 == Kind::Refused as u32 + 1);
    }
    let (slot, audited) = (what as u32, (what >> 32) as u32 & 1);
    let (Some(host), Some(container)) = (subject::host_of_all(), CONTAINERS.get_ptr_mut(slot))
    else {
        return 0;
    };
    if is_told(container, audited as usize, now_ns) {
        let kind = Kind::Refused as u32 + audited;
        event::tell(host, kind, (what >> 33) as u32, slot, container, 0);
    }
    0
}

/// Whether the running task may not be refused anything: a kernel thread, or the host's first process, which somebody may
/// have moved here.
#[inline(always)]
pub fn may_all() -> bool {
    is_kernel_thread() || bpf_get_current_pid_tgid() >> 32 == 1
}

/// Which of `Container::told_ns` is whose.
pub const TOLD_MOVED: usize = 2;
/// See [`TOLD_MOVED`].
pub const TOLD_MADE_OUTSIDE: usize = 3;

/// Whether this is the first of its kind in a window. Two CPUs may both find so; nothing is counted here.
#[inline(always)]
pub fn is_told(container: *mut Container, which: usize, now_ns: u64) -> bool {
    // SAFETY: a live map value.
    is_first(unsafe { &raw mut (*container).told_ns[which] }, now_ns)
}

#[inline(always)]
pub fn is_first(told: *mut u64, now_ns: u64) -> bool {
    // SAFETY: it points into a live map value; words are stored whole.
    unsafe {
        if now_ns.wrapping_sub(told.read_volatile()) < WINDOW_NS {
            return false;
        }
        told.write_volatile(now_ns);
    }
    true
}
