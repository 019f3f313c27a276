//! Forks under way: judged, and neither done nor failed. Between a verdict and the pid lies the copying of the parent, and as
//! many forks can be there at once as there are tasks.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_kallsyms_lookup_name,
    macros::{btf_tracepoint, fentry, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext},
};
use guard_common::{
    action::name,
    config::Field,
    host::{Host, TOTAL_FORKS, TotalForks},
    setup::CLONE_INTO_CGROUP,
};

use crate::{
    attempt::TOLD_MADE_OUTSIDE,
    kernel::{self, add},
    names, subject,
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
        let total = match (&raw const (*host).total_forks_at).read_volatile() {
            0 => 0,
            at => kernel::word_at(at),
        };
        let landed = (&raw const (*host).forks_landed).read_volatile();
        total
            .wrapping_add(landed)
            .wrapping_add((&raw const (*host).forks_failed).read_volatile())
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
    let others = if counts && forking > 1 {
        forking as u64 - 1
    } else {
        0
    };
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
// the kernel's own count by now. For kernels that do not say where `total_forks` is.
#[btf_tracepoint(function = "task_newtask")]
pub fn fork_storm_landed(ctx: BtfTracePointContext) -> i32 {
    let Some(host) = subject::host_of_witness() else {
        return 0;
    };
    // SAFETY: a live map value; counters are only added to.
    unsafe { count(host, &raw mut (*host).forks_landed) };
    let clone_flags: u64 = ctx.arg(1);
    if clone_flags & CLONE_INTO_CGROUP != 0 {
        let _ = kernel::cgroup_of(ctx.arg(0))
            .and_then(|cgroup| names::leaves(cgroup, TOLD_MADE_OUTSIDE));
    }
    0
}

/// Says how many forks were done, and where the kernel counts them. Not attached to anything: the daemon runs it as a program of type
/// `BPF_PROG_TYPE_SYSCALL` (5.14), which `raw_tracepoint` is the name of here for the object's sake alone; the helper is of 5.16.
#[raw_tracepoint]
pub fn fork_storm_total(ctx: RawTracePointContext) -> i32 {
    const NAME: [u64; 2] = match name(TOTAL_FORKS) {
        Some(name) => name,
        None => [0; 2],
    };
    let total = ctx.as_ptr().cast::<TotalForks>();
    // SAFETY: the program's context is a whole `TotalForks`; the helper reads a name with its NUL and writes a word.
    unsafe {
        let mut at = (*total).at;
        if at == 0 {
            // On the stack, and not a constant, for which there is no table.
            let name = NAME.map(kernel::counted);
            let length = TOTAL_FORKS.len() + 1;
            bpf_kallsyms_lookup_name(name.as_ptr().cast(), length as i32, 0, &raw mut at);
        }
        (*total).at = at;
        (*total).forks = kernel::word_at(at);
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
