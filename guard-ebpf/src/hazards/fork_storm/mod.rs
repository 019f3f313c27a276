//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

use aya_ebpf::{
    macros::{lsm, raw_tracepoint},
    programs::{LsmContext, RawTracePointContext},
};
use guard_common::{
    Container,
    fork_storm::{Bucket, ForkLimits, MODE_AUDIT, MODE_ENFORCE, Reason},
    host::Host,
};

use crate::{
    attempt::Attempt,
    gate::Verdict,
    kernel::{self, add},
    maps::PROFILES,
    subject,
};

mod under_way;

const ALLOW: i32 = 0;
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;

const ENFORCED: usize = 0;
const AUDITED: usize = 1;

// int security_task_alloc(struct task_struct *task, unsigned long clone_flags)   5.10
// int security_task_alloc(struct task_struct *task, u64 clone_flags)             7.3
// Runs in the parent, before a pid is allocated; the error is what clone(2) returns.
#[lsm(hook = "task_alloc")]
pub fn fork_storm_task_alloc(ctx: LsmContext) -> i32 {
    let Some(host) = subject::host() else {
        return ALLOW;
    };
    under_way::begins(host);
    match judge(host, Some(ctx.arg(0))) {
        Some(Verdict::Deny) => {
            under_way::refused(host);
            kernel::apart(-EAGAIN)
        }
        Some(Verdict::Allow) | None => ALLOW,
    }
}

/// A fork was refused ahead of the governor, which is not asked then: it counts as one that began, since it will be seen to fail.
#[inline(always)]
pub fn refused_ahead() -> i32 {
    if let Some(host) = subject::host_of_all() {
        under_way::begins(host);
        under_way::refused(host);
    }
    kernel::apart(-EPERM)
}

// TRACE_EVENT(sched_process_fork, TP_PROTO(struct task_struct *parent, struct task_struct *child))   5.10 to 7.3
// Runs in the parent, after the child is made: the rung that can only watch.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn fork_storm_process_fork(_ctx: RawTracePointContext) -> i32 {
    if let Some(host) = subject::host_of_witness() {
        let _ = judge(host, None);
    }
    0
}

/// `child`: the task that is being made, still a copy of the one that makes it; none where it is made already, and can only be
/// watched. `None`: the host's task, or something could not be looked up. Both are allowed.
#[inline(always)]
fn judge(host: *mut Host, child: Option<u64>) -> Option<Verdict> {
    let watching = child.is_none();
    let subject = subject::of_current(host)?;
    let container = subject::container(&subject)?;
    // SAFETY: a live map value; the daemon stores the word whole.
    let profile = PROFILES.get(unsafe { (&raw const (*container).profile).read_volatile() })?;
    let self_test = profile.self_test != 0;
    let attempt = Attempt::new(host, subject.slot, container, watching, self_test)?;
    if self_test {
        return Some(attempt.refuse(Reason::Rate));
    }
    // SAFETY: `host` and `container` are live map values, `child` is the hook's argument.
    unsafe {
        let process = child.and_then(|child| kernel::process(child));
        // First, while there is one state that the verifier has to follow into a climb.
        let capped = profile.pids_enforced != 0 || profile.pids_audited != 0;
        let pids = if capped {
            pids(process, container)
        } else {
            Some(0)
        };
        // What enforcing would have refused this fork for, if it is allowed: one fork counts once.
        let mut would = None;
        if over_reserve(process, host, profile.reserve) == Some(true) {
            if profile.reserve == MODE_ENFORCE {
                return Some(attempt.refuse(Reason::HostReserve));
            }
            would = Some(Reason::HostReserve);
        }
        match pids {
            None => add(&raw mut (*container).unread, 1),
            Some(pids) => {
                if profile.pids_enforced != 0 && pids >= u64::from(profile.pids_enforced) {
                    return Some(attempt.refuse(Reason::PidsCap));
                }
                if profile.pids_audited != 0 && pids >= u64::from(profile.pids_audited) {
                    would = would.or(Some(Reason::PidsCap));
                }
            }
        }
        if over_rate(container, ENFORCED, &profile.enforced, attempt.now_ns) {
            return Some(attempt.refuse(Reason::Rate));
        }
        if over_rate(container, AUDITED, &profile.audited, attempt.now_ns) {
            would = would.or(Some(Reason::Rate));
        }
        if let Some(reason) = would {
            attempt.audit(reason);
        }
        add(&raw mut (*container).allowed, 1);
    }
    Some(Verdict::Allow)
}

/// Whether the host has only its reserve of pids left; `None`: there is none, or it is not known.
///
/// # Safety
/// `host` is a live map value.
#[inline(always)]
unsafe fn over_reserve(process: Option<u64>, host: *mut Host, mode: u32) -> Option<bool> {
    if mode != MODE_ENFORCE && mode != MODE_AUDIT {
        return None;
    }
    // SAFETY: the caller's promise; words are stored whole, and every CPU finds the same namespace.
    let (ceiling, known) = unsafe {
        (
            (&raw const (*host).pid_ceiling).read_volatile(),
            (&raw const (*host).init_pid_ns).read_volatile(),
        )
    };
    if ceiling == 0 {
        return None;
    }
    if under_way::has_room(host) {
        return Some(false);
    }
    let ended = under_way::ended(host);
    // SAFETY: the process of the hook's argument.
    let pids = match process.and_then(|process| unsafe { kernel::host_pids_of_process(process) }) {
        Some(pids) => pids,
        None => {
            let mut namespace = known;
            let pids = kernel::host_pids(&mut namespace)?;
            if known == 0 {
                // SAFETY: as above.
                unsafe { (&raw mut (*host).init_pid_ns).write_volatile(namespace) };
            }
            pids
        }
    };
    Some(under_way::reaches(
        host,
        ended,
        u64::from(pids),
        u64::from(ceiling),
    ))
}

/// Pids of the whole container, read from its own counter and not from a nested cgroup's.
#[inline(always)]
fn pids(process: Option<u64>, container: *mut Container) -> Option<u64> {
    let cgroup = subject::own_cgroup(container)?;
    // SAFETY: the process of the hook's argument.
    let of_process =
        process.and_then(|process| unsafe { kernel::pids_of_process(process, cgroup) });
    of_process.or_else(|| kernel::pids(cgroup))
}

/// Takes one fork out of a bucket; whether that is one too many, in which case nothing is taken.
///
/// # Safety
/// `container` is a live map value.
#[inline(always)]
unsafe fn over_rate(
    container: *mut Container,
    which: usize,
    limits: &ForkLimits,
    now: u64,
) -> bool {
    if limits.interval_ns == 0 {
        return false;
    }
    // SAFETY: the caller's promise; `taken_ns` is only added to, and see `Bucket` for the plain store.
    unsafe {
        let bucket = &raw mut (*container).buckets[which];
        let (start, taken) = (&raw mut (*bucket).start_ns, &raw mut (*bucket).taken_ns);
        if let Some(refilled) = Bucket::refilled(start.read_volatile(), taken.read_volatile(), now)
        {
            start.write_volatile(refilled);
        }
        // Add, then judge: an XADD without result, since 5.10 knows no other.
        add(taken, limits.interval_ns);
        let used = start.read_volatile().wrapping_add(taken.read_volatile());
        let over = limits.exceeded(used, now);
        if over {
            add(taken, limits.interval_ns.wrapping_neg());
        }
        over
    }
}
