//! Tells the daemon. A full ring costs the message, which is counted, and never a decision.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated};
use guard_common::{
    Container,
    action::{ACTIONS, Asked, Told},
    event::{Event, Gone, Kind, Made},
    host::Host,
};

use crate::{
    kernel::{self, add},
    maps::{EVENTS, WALK},
};

/// A task that is told of.
#[derive(Default)]
pub struct Who {
    /// Thread id, in the host's pid namespace.
    pub pid: u32,
    /// Thread group id, likewise.
    pub tgid: u32,
    /// As it calls itself.
    pub comm: [u8; 16],
}

impl Who {
    /// The running task.
    #[inline(always)]
    pub fn current() -> Self {
        let pid_tgid = bpf_get_current_pid_tgid();
        Self {
            pid: pid_tgid as u32,
            tgid: (pid_tgid >> 32) as u32,
            comm: kernel::current_name(),
        }
    }
}

/// What all events have in common.
#[inline(always)]
fn head(kind: u32, reason: u32, slot: u32, container: *const Container, who: Who) -> Event {
    Event {
        kind,
        reason,
        // SAFETY: `container` is a live map value.
        container: unsafe { (*container).id },
        slot,
        // SAFETY: as above.
        profile: unsafe { (*container).profile },
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        pid: who.pid,
        tgid: who.tgid,
        comm: who.comm,
        other: Told::default(),
    }
}

/// A fork was refused or audited, or a task moved out.
#[inline(always)]
pub fn tell(
    host: *mut Host,
    kind: u32,
    reason: u32,
    slot: u32,
    container: *const Container,
    other: u64,
) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        return lost(host);
    };
    let mut event = head(kind, reason, slot, container, Who::current());
    event.other[0] = other;
    entry.write(event);
    entry.submit(0);
}

/// An action was refused or audited.
#[inline(always)]
pub fn tell_action(
    host: *mut Host,
    kind: u32,
    (action, told): (u32, Told),
    slot: u32,
    container: *const Container,
    who: impl Fn() -> Who,
) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        return lost(host);
    };
    let mut event = head(kind, action, slot, container, who());
    event.other = told;
    entry.write(event);
    entry.submit(0);
}

/// A container was made; its path is in `WALK`.
#[inline(always)]
pub fn tell_made(host: *mut Host, slot: u32, container: *const Container, length: u64) {
    let Some(walk) = WALK.get_ptr(0) else {
        return lost(host);
    };
    let Some(mut entry) = EVENTS.reserve::<Made>(0) else {
        return lost(host);
    };
    let made = entry.as_mut_ptr();
    // SAFETY: `made` is the reserved room for one `Made`, which is written whole; `walk` is a live map value.
    unsafe {
        (&raw mut (*made).event).write(head(Kind::Made as u32, 0, slot, container, Who::current()));
        (&raw mut (*made).length).write(length);
        // By a helper: a copy of ours is an instruction for each word and way.
        generated::bpf_probe_read_kernel(
            (&raw mut (*made).path).cast(),
            guard_common::identity::PATH_MAX as u32,
            (&raw const (*walk).path).cast(),
        );
    }
    entry.submit(0);
}

/// A container is gone.
#[inline(always)]
pub fn tell_gone(host: *mut Host, slot: u32, container: *const Container) {
    let Some(mut entry) = EVENTS.reserve::<Gone>(0) else {
        return lost(host);
    };
    let gone = entry.as_mut_ptr();
    // SAFETY: `gone` is the reserved room for one `Gone`, which is written whole; `container` is a live map value, and no task of a
    // removed cgroup forks.
    unsafe {
        (&raw mut (*gone).event).write(head(Kind::Gone as u32, 0, slot, container, Who::current()));
        (&raw mut (*gone).allowed).write((*container).allowed);
        (&raw mut (*gone).refused).write((*container).refused);
        (&raw mut (*gone).audited).write((*container).audited);
        // By a helper: there is no room for it on the stack.
        generated::bpf_probe_read_kernel(
            (&raw mut (*gone).actions).cast(),
            size_of::<[Asked; ACTIONS]>() as u32,
            (&raw const (*container).actions).cast(),
        );
        let moved_out = ((*container).moved_out as u32).wrapping_sub((*container).moved_told);
        (&raw mut (*gone).moved_out).write(u64::from(moved_out));
    }
    entry.submit(0);
}

#[inline(always)]
fn lost(host: *mut Host) {
    // SAFETY: `host` is a live map value.
    unsafe { add(&raw mut (*host).events_lost, 1) }
}
