//! Forks under way: judged, and neither done nor failed. Between a verdict and the pid lies the copying of the parent, and as
//! many forks can be there at once as there are tasks.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use guard_common::{config::Field, event::Kind, host::Host, setup::CLONE_INTO_CGROUP};

use crate::{
    attempt::{TOLD_MADE_OUTSIDE, is_told},
    event,
    kernel::{self, add},
    subject,
};

/// One more. Every fork of the host is counted: it will take a pid as well.
#[inline(always)]
pub fn begins(host: *mut Host) {
    // SAFETY: a live map value; counters are only added to.
    unsafe { count(host, &raw mut (*host).forks_begun) }
}

/// A fork was refused, and no program will see it fail.
#[inline(always)]
pub fn refused(host: *mut Host) {
    // SAFETY: a live map value; the daemon stores the word whole.
    if unsafe { (&raw const (*host).refusal_ends).read_volatile() } != 0 {
        fails(host);
    }
}

#[inline(always)]
fn fails(host: *mut Host) {
    // SAFETY: a live map value; counters are only added to.
    unsafe { count(host, &raw mut (*host).forks_failed) }
}

/// # Safety
/// `host` is a live map value, and `counter` one of its counters.
#[inline(always)]
unsafe fn count(host: *mut Host, counter: *mut u64) {
    // SAFETY: the caller's promise; the daemon stores the word whole.
    unsafe {
        if (&raw const (*host).counts_forking).read_volatile() != 0 {
            add(counter, 1);
        }
    }
}

/// Whether the host cannot have reached its ceiling, by the forks that have begun since somebody looked.
#[inline(always)]
pub fn has_room(host: *mut Host) -> bool {
    // SAFETY: live map values.
    let (begun, until) = unsafe {
        (
            (&raw const (*host).forks_begun).read_volatile(),
            (&raw const (*host).room_until).read_volatile(),
        )
    };
    (begun.wrapping_sub(until) as i64) < 0
}

/// The count of forks that have ended, to be taken before the pids are read: what lands meanwhile counts twice, and not never.
#[inline(always)]
pub fn ended(host: *mut Host) -> u64 {
    // SAFETY: live map values.
    let ended = unsafe {
        let landed = (&raw const (*host).forks_landed).read_volatile();
        landed.wrapping_add((&raw const (*host).forks_failed).read_volatile())
    };
    kernel::in_order();
    ended
}

/// Whether the host has reached its ceiling with all forks under way but the one that is being judged, which has begun.
/// `pids`: read after `ended`.
#[inline(always)]
pub fn reaches(host: *mut Host, ended: u64, pids: u64, ceiling: u64) -> bool {
    // SAFETY: live map values; the daemon stores the word whole.
    let (begun, counts) = unsafe {
        (
            (&raw const (*host).forks_begun).read_volatile(),
            (&raw const (*host).counts_forking).read_volatile() != 0,
        )
    };
    let forking = begun.wrapping_sub(ended) as i64;
    let others = if forking > 1 { forking as u64 - 1 } else { 0 };
    // A task has one fork under way: a count that says more has lost some ends.
    if pids + others.min(pids) >= ceiling {
        return true;
    }
    if counts {
        let from = if forking < 0 { begun } else { ended };
        // SAFETY: a live map value; what any CPU stores holds for all times.
        unsafe { (&raw mut (*host).room_until).write_volatile(from.wrapping_add(ceiling - pids)) };
    }
    false
}

// TRACE_EVENT(task_newtask, TP_PROTO(struct task_struct *task, unsigned long clone_flags))   5.10
// TRACE_EVENT(task_newtask, TP_PROTO(struct task_struct *task, u64 clone_flags))             7.3
// Runs in the parent at the end of copy_process, also for a kernel thread, an io_uring worker and an idle task: the pid is in
// the kernel's own count by now.
#[btf_tracepoint(function = "task_newtask")]
pub fn fork_storm_landed(ctx: BtfTracePointContext) -> i32 {
    let Some(host) = subject::host_of_witness() else {
        return 0;
    };
    // SAFETY: a live map value; counters are only added to.
    unsafe { count(host, &raw mut (*host).forks_landed) };
    let clone_flags: u64 = ctx.arg(1);
    if clone_flags & CLONE_INTO_CGROUP != 0 {
        let _ = into_cgroup(host, ctx.arg(0));
    }
    0
}

// void perf_event_free_task(struct task_struct *task)   5.10 to 7.3
// "used by fork() in case of fail" (kernel/events/core.c): whatever fails behind our verdict comes here, and so does a refusal.
// What fails before comes here as well: an event that may not be inherited (`perf_event_init_task`), the audit context.
#[fentry(function = "perf_event_free_task")]
pub fn fork_storm_failed(ctx: FEntryContext) -> i32 {
    if let Some(host) = subject::host_of_witness()
        && was_judged(ctx.arg(0))
    {
        fails(host);
    }
    0
}

/// Whether a child that is given up had come as far as the verdict: right before that its list of shared memory is made its own
/// (`shm_init_task`, kernel/fork.c); until then it is a copy of its parent's, which leads elsewhere.
#[inline(always)]
fn was_judged(child: u64) -> bool {
    // SAFETY: the function's argument.
    let next: Option<u64> = unsafe { kernel::typed(child, Field::TaskShared) };
    next.is_none_or(|next| next == child + u64::from(kernel::config(Field::TaskShared)))
}

// void security_task_free(struct task_struct *task)   5.10 to 7.3
// Every task comes here in the end; for kernels whose type information lacks the function above (Debian's 5.10).
#[fentry(function = "security_task_free")]
pub fn fork_storm_freed(ctx: FEntryContext) -> i32 {
    let Some(host) = subject::host_of_witness() else {
        return 0;
    };
    // SAFETY: the function's argument. A copy of its parent's until the fork is done (`init_task_pid`, kernel/fork.c), null
    // once the task is dead (`detach_pid`, kernel/pid.c).
    let pid: Option<u64> = unsafe { kernel::typed(ctx.arg(0), Field::TaskPid) };
    if pid.is_some_and(|pid| pid != 0) {
        fails(host);
    }
    0
}

/// A child was made straight in some cgroup: whose it is now is the kernel's to say.
#[inline(always)]
fn into_cgroup(host: *mut Host, child: u64) -> Option<()> {
    let subject = subject::of_current(host)?;
    let container = subject::container(&subject)?;
    let cgroup = kernel::cgroup_of(child)?;
    if subject::contains(container, cgroup)? {
        return None;
    }
    // SAFETY: a live map value; the counter is only added to.
    unsafe { add(&raw mut (*container).moved_out, 1) };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if is_told(container, TOLD_MADE_OUTSIDE, now_ns) {
        let id = kernel::cgroup_id(cgroup)?;
        event::tell(host, Kind::MovedOut as u32, 1, subject.slot, container, id);
    }
    Some(())
}
