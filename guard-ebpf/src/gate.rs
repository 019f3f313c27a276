//! The only way to a verdict: counts it, tells it once a second, and applies the panic switch and audit mode.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use guard_common::{
    Container, Subject, action::Action, event::Kind, fork_storm::Reason, host::Host,
};

use crate::{
    event::{self, Who},
    kernel::{add, is_kernel_thread},
    maps::PROFILES,
    subject,
};

/// One refusal in a second is told; the others are counted.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
}

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
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).refused[reason as usize], 1);
            add(&raw mut (*self.host).refused, 1);
        }
        self.tell(Kind::Refused, reason, 0);
        Verdict::Deny
    }

    /// Counts what enforcing would have refused.
    #[inline(always)]
    pub fn audit(&self, reason: Reason) {
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).audited[reason as usize], 1);
            add(&raw mut (*self.host).audited, 1);
        }
        self.tell(Kind::Audited, reason, 1);
    }

    #[inline(always)]
    fn tell(&self, kind: Kind, reason: Reason, which: usize) {
        if !is_told(self.container, which, self.now_ns) {
            return;
        }
        event::tell(self.host, kind, reason as u32, self.slot, self.container, 0);
    }
}

/// Whether the running task may do this; `None`: it is the host's, or something could not be looked up. Both may.
#[inline(always)]
pub fn ask(action: Action) -> Option<Verdict> {
    let host = subject::host()?;
    ask_of(
        host,
        subject::of_current(host)?,
        action,
        may_all,
        Who::current,
    )
}

/// The same, for a program that may not call every helper: whose the task is, whether it may not be refused anything and who it
/// is, it finds out by its own ways.
#[inline(always)]
pub fn ask_of(
    host: *mut Host,
    subject: Subject,
    action: Action,
    may_all: impl Fn() -> bool,
    who: impl Fn() -> Who,
) -> Option<Verdict> {
    let container = subject::container(&subject)?;
    // SAFETY: a live map value; the daemon stores the word whole.
    let profile = PROFILES.get(unsafe { (&raw const (*container).profile).read_volatile() })?;
    let self_test = profile.refuse_all != 0;
    let refused = self_test || profile.refused_actions & action.bit() != 0;
    if !refused && profile.audited_actions & action.bit() == 0 {
        return Some(Verdict::Allow);
    }
    let attempt = Attempt::new(host, subject.slot, container, false, self_test)?;
    if may_all() {
        return Some(Verdict::Allow);
    }
    // SAFETY: live map values; counters are only added to.
    let asked = unsafe {
        let asked = &raw mut (*container).actions[action as usize];
        if refused {
            add(&raw mut (*asked).refused, 1);
        } else {
            add(&raw mut (*asked).audited, 1);
        }
        asked
    };
    // SAFETY: as above.
    if is_first(unsafe { &raw mut (*asked).told_ns }, attempt.now_ns) {
        let kind = if refused {
            Kind::ActionRefused
        } else {
            Kind::ActionAudited
        };
        event::tell_action(host, kind, action, subject.slot, container, who);
    }
    Some(if refused {
        Verdict::Deny
    } else {
        Verdict::Allow
    })
}

/// Whether the running task may not be refused anything: a kernel thread, or the host's first process, which somebody may
/// have moved here.
#[inline(always)]
fn may_all() -> bool {
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
fn is_first(told: *mut u64, now_ns: u64) -> bool {
    // SAFETY: it points into a live map value; words are stored whole.
    unsafe {
        if now_ns.wrapping_sub(told.read_volatile()) < WINDOW_NS {
            return false;
        }
        told.write_volatile(now_ns);
    }
    true
}
