//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::{addr_of, addr_of_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    helpers::{bpf_get_current_cgroup_id, bpf_ktime_get_ns},
    macros::lsm,
    programs::LsmContext,
};
use guard_common::fork_storm::{MODE_AUDIT, MODE_ENFORCE};

use crate::maps::{FORK_BUCKETS, PROFILES, SUBJECTS};

const ALLOW: i32 = 0;
const EAGAIN: i32 = 11;

// int security_task_alloc(struct task_struct *task, unsigned long clone_flags)   5.10
// int security_task_alloc(struct task_struct *task, u64 clone_flags)             7.3
// Runs in the parent, before a pid is allocated; the error is what clone(2) returns.
#[lsm(hook = "task_alloc")]
pub fn fork_storm_task_alloc(_ctx: LsmContext) -> i32 {
    if over_limit().is_some() {
        -EAGAIN
    } else {
        ALLOW
    }
}

/// `Some` when the fork must be refused. Whatever cannot be looked up is allowed.
fn over_limit() -> Option<()> {
    // SAFETY: the helper has no preconditions; it names the task's cgroup in the default hierarchy (v2).
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: entries are replaced whole and read once, under RCU.
    let subject = unsafe { SUBJECTS.get(&cgroup) }?;
    let limits = PROFILES.get(subject.profile)?;
    if limits.mode != MODE_ENFORCE && limits.mode != MODE_AUDIT {
        return None;
    }
    let bucket = FORK_BUCKETS.get_ptr_mut(&subject.container)?;
    // SAFETY: `bucket` is a live map value for as long as the program runs; counters are only added to, and the
    // one plain store (an idle bucket's start) can lose at most one concurrent fork per CPU, and only once per idle spell.
    unsafe {
        let used = addr_of_mut!((*bucket).used_until_ns);
        let now = bpf_ktime_get_ns();
        if read_volatile(used) < now {
            write_volatile(used, now);
        }
        // Add, then judge: an XADD without result, since 5.10 knows no other.
        add(used, limits.interval_ns);
        if !limits.exceeded(read_volatile(addr_of!((*bucket).used_until_ns)), now) {
            add(addr_of_mut!((*bucket).allowed), 1);
            return None;
        }
        add(used, limits.interval_ns.wrapping_neg());
        if limits.mode == MODE_AUDIT {
            add(addr_of_mut!((*bucket).audited), 1);
            return None;
        }
        add(addr_of_mut!((*bucket).denied), 1);
    }
    Some(())
}

/// Adds without reading the result back: the one atomic that 5.10 has. `core` hides `fetch_add` on this target.
///
/// # Safety
/// `counter` points into a live map value and is aligned.
unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}
