//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    helpers::bpf_get_current_pid_tgid,
    macros::{lsm, raw_tracepoint},
    programs::{LsmContext, RawTracePointContext},
};
use guard_common::{
    Container,
    event::Kind,
    fork_storm::{
        Bucket, FLIGHT_INTO_CGROUP, FLIGHTS as FLIGHTS_MAX, Flight, ForkLimits, MODE_AUDIT,
        MODE_ENFORCE, MODE_OFF, Reason,
    },
    host::Host,
};

use crate::{
    event,
    gate::{self, Attempt, Verdict},
    kernel::{self, add},
    maps::{FLIGHTS, PROFILES},
    subject,
};

const ALLOW: i32 = 0;
const EAGAIN: i32 = 11;

/// The child is made straight in a cgroup that the caller names (include/uapi/linux/sched.h, 5.7): the hook does not see
/// which.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// What a thread shares with its process: CLONE_VM, _FS, _FILES, _SIGHAND and _THREAD. With all of them there is next to
/// nothing to copy.
const CLONE_AS_THREAD: u64 = 0x1_0f00;
/// CLONE_NEWTIME and the other namespaces that a fork can make: each takes its time.
const CLONE_NEW: u64 = 0x7e02_0080;

const EEXIST: i32 = -17;

const ENFORCED: usize = 0;
const AUDITED: usize = 1;

// int security_task_alloc(struct task_struct *task, unsigned long clone_flags)   5.10
// int security_task_alloc(struct task_struct *task, u64 clone_flags)             7.3
// Runs in the parent, before a pid is allocated; the error is what clone(2) returns.
#[lsm(hook = "task_alloc")]
pub fn fork_storm_task_alloc(ctx: LsmContext) -> i32 {
    match judge(Some(ctx.arg(0)), ctx.arg(1)) {
        Some(Verdict::Deny) => kernel::apart(-EAGAIN),
        Some(Verdict::Allow) | None => ALLOW,
    }
}

// TRACE_EVENT(sched_process_fork, TP_PROTO(struct task_struct *parent, struct task_struct *child))   5.10 to 7.3
// Runs in the parent: the child has its pid, and is counted by the kernel from now on.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn fork_storm_landed(ctx: RawTracePointContext) -> i32 {
    let _ = landed(ctx.arg(1));
    0
}

// TRACE_EVENT(sched_process_fork, TP_PROTO(struct task_struct *parent, struct task_struct *child))   5.10 to 7.3
// Runs in the parent, after the child is made: the rung that can only watch.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn fork_storm_process_fork(_ctx: RawTracePointContext) -> i32 {
    let _ = judge(None, 0);
    0
}

/// `child`: the task that is being made, still a copy of the one that makes it; none where it is made already, and can only be
/// watched. `None`: the host's task, or something could not be looked up. Both are allowed.
#[inline(always)]
fn judge(child: Option<u64>, clone_flags: u64) -> Option<Verdict> {
    let watching = child.is_none();
    let host = subject::host()?;
    let subject = subject::of_current(host)?;
    let container = subject::container(&subject)?;
    // SAFETY: a live map value; the daemon stores the word whole.
    let profile = PROFILES.get(unsafe { (&raw const (*container).profile).read_volatile() })?;
    let self_test = profile.refuse_all != 0;
    let attempt = Attempt::new(host, subject.slot, container, watching, self_test)?;
    if self_test {
        return Some(attempt.refuse(Reason::Rate));
    }
    // SAFETY: `host` and `container` are live map values.
    unsafe {
        // First, while there is one state that the verifier has to follow into a climb.
        let capped = profile.pids_enforced != 0 || profile.pids_audited != 0;
        let pids = if capped {
            pids(child, container)
        } else {
            Some(0)
        };
        // What enforcing would have refused this fork for, if it is allowed: one fork counts once.
        let mut would = None;
        let flies = !watching
            && takes_time(host, profile.reserve, clone_flags)
            && take_off(host, clone_flags, attempt.now_ns);
        if over_reserve(child, host, profile.reserve, flies) == Some(true) {
            if profile.reserve == MODE_ENFORCE {
                return refuse(&attempt, flies, Reason::HostReserve);
            }
            would = Some(Reason::HostReserve);
        }
        match pids {
            None => add(&raw mut (*container).unread, 1),
            Some(pids) => {
                if profile.pids_enforced != 0 && pids >= u64::from(profile.pids_enforced) {
                    return refuse(&attempt, flies, Reason::PidsCap);
                }
                if profile.pids_audited != 0 && pids >= u64::from(profile.pids_audited) {
                    would = would.or(Some(Reason::PidsCap));
                }
            }
        }
        if over_rate(container, ENFORCED, &profile.enforced, attempt.now_ns) {
            return refuse(&attempt, flies, Reason::Rate);
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

#[inline(always)]
fn refuse(attempt: &Attempt, flies: bool, reason: Reason) -> Option<Verdict> {
    if flies {
        let _ = land(attempt.host);
    }
    Some(attempt.refuse(reason))
}

/// Whether a fork must be counted while it is under way: between our verdict and its pid lies the copying of the parent,
/// and as many forks can be there at once as there are tasks.
///
/// # Safety
/// `host` is a live map value.
#[inline(always)]
unsafe fn takes_time(host: *mut Host, reserve: u32, clone_flags: u64) -> bool {
    if clone_flags & CLONE_INTO_CGROUP != 0 {
        return true;
    }
    let thread = clone_flags & CLONE_AS_THREAD == CLONE_AS_THREAD && clone_flags & CLONE_NEW == 0;
    // SAFETY: the caller's promise; the daemon stores the word whole.
    let ceiling = unsafe { (&raw const (*host).pid_ceiling).read_volatile() };
    !thread && reserve != MODE_OFF && ceiling != 0
}

/// Counts a fork as under way; whether it is one more. An entry that is there already is of a fork of the same task that
/// failed later on, which no hook tells: this one takes its place.
#[inline(always)]
fn take_off(host: *mut Host, clone_flags: u64, now_ns: u64) -> bool {
    let flight = Flight {
        time_ns: now_ns,
        pid: bpf_get_current_pid_tgid() as u32,
        flags: if clone_flags & CLONE_INTO_CGROUP != 0 {
            FLIGHT_INTO_CGROUP
        } else {
            0
        },
    };
    let task = kernel::current();
    match FLIGHTS.insert(task, flight, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            // SAFETY: a live map value; the counter is only added to.
            unsafe { add(&raw mut (*host).flying, 1) };
            true
        }
        Err(EEXIST) => FLIGHTS.insert(task, flight, u64::from(BPF_EXIST)).is_ok(),
        Err(_) => false,
    }
}

/// The running task's fork is not under way any more; what it was, if it was counted.
#[inline(always)]
fn land(host: *mut Host) -> Option<Flight> {
    let task = kernel::current();
    // SAFETY: only the task itself writes its entry, and the daemon, which removes one that is out of date.
    let flight = *unsafe { FLIGHTS.get(&task) }?;
    if FLIGHTS.remove(task).is_ok() {
        // SAFETY: a live map value; the counter is only added to.
        unsafe { add(&raw mut (*host).flying, 1_u64.wrapping_neg()) };
    }
    Some(flight)
}

#[inline(always)]
fn landed(child: u64) -> Option<()> {
    let host = subject::host()?;
    // SAFETY: a live map value. This is asked at every fork of the whole host.
    if unsafe { (&raw const (*host).flying).read_volatile() } == 0 {
        return None;
    }
    let flight = land(host)?;
    if flight.flags & FLIGHT_INTO_CGROUP == 0 {
        return None;
    }
    // Whose it is now is the kernel's to say: the descriptor that was named may have led nowhere.
    let subject = subject::of_current(host)?;
    let cgroup = kernel::cgroup_of(child)?;
    let id = kernel::cgroup_id(cgroup)?;
    let into = subject::of_cgroup(host, cgroup, id);
    if into.is_some_and(|into| into.container == subject.container) {
        return None;
    }
    let container = subject::container(&subject)?;
    // SAFETY: a live map value; the counter is only added to.
    unsafe { add(&raw mut (*container).moved_out, 1) };
    if gate::is_told(container, gate::TOLD_MADE_OUTSIDE, flight.time_ns) {
        event::tell(host, Kind::MovedOut, 1, subject.slot, container, id);
    }
    Some(())
}

/// Whether the host has only its reserve of pids left; `None`: there is none, or it is not known.
///
/// # Safety
/// `host` is a live map value.
#[inline(always)]
unsafe fn over_reserve(
    child: Option<u64>,
    host: *mut Host,
    mode: u32,
    flies: bool,
) -> Option<bool> {
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
    // SAFETY: a live map value. Added to, then judged: of two forks at once one sees the other.
    let flying = unsafe { (&raw const (*host).flying).read_volatile() };
    // Ours is among them, if it is counted.
    let others = flying.saturating_sub(u64::from(flies));
    // SAFETY: the hook's argument.
    let pids = match child.and_then(|child| unsafe { kernel::host_pids_of_task(child) }) {
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
    // A full table counts as many again.
    let others = if others < u64::from(FLIGHTS_MAX - 1) {
        others
    } else {
        others.max(u64::from(pids))
    };
    Some(u64::from(pids) + others >= u64::from(ceiling))
}

/// Pids of the whole container, read from its own counter and not from a nested cgroup's.
#[inline(always)]
fn pids(child: Option<u64>, container: *mut Container) -> Option<u64> {
    let cgroup = subject::own_cgroup(container)?;
    // SAFETY: the hook's argument.
    if let Some(pids) = child.and_then(|child| unsafe { kernel::pids_of_task(child, cgroup) }) {
        return Some(pids);
    }
    kernel::pids(cgroup)
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
