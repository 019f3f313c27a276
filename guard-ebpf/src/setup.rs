//! Setting up: which processes of a container are still the runtime's, which is refused nothing that it needs to start one.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fentry, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext},
};
use guard_common::{
    Container,
    config::Field,
    setup::{CLONE_INTO_CGROUP, CLONE_THREAD, LONGEST_NS, Setup},
};

use crate::{
    kernel::{self, offset, read},
    maps::SETTING_UP,
    subject,
};

// int cgroup_attach_task(struct cgroup *dst_cgrp, struct task_struct *leader, bool threadgroup)   5.10 to 7.3
// At its entry the mover, if it moves itself, still stands where it comes from.
#[fentry(function = "cgroup_attach_task")]
pub fn setup_joined(ctx: FEntryContext) -> i32 {
    let _ = joined(ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    0
}

// TRACE_EVENT(task_newtask, TP_PROTO(struct task_struct *task, unsigned long clone_flags))   5.10
// TRACE_EVENT(task_newtask, TP_PROTO(struct task_struct *task, u64 clone_flags))             7.3
// In the parent, when the child stands in its cgroup and does not run yet.
#[btf_tracepoint(function = "task_newtask")]
pub fn setup_forked(ctx: BtfTracePointContext) -> i32 {
    let _ = forked(ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    0
}

// TRACE_EVENT(sched_process_exec, TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm))   5.10 to 7.3
// Behind the point of no return: what runs next is the new program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn setup_executed(ctx: RawTracePointContext) -> i32 {
    let _ = executed(ctx.arg::<u64>(2));
    0
}

/// Whether a runtime is setting the container up by the running process.
#[inline(always)]
pub fn is_going_on(container: *const Container) -> bool {
    // SAFETY: a live map value.
    own().is_some_and(|setup| setup.container == unsafe { (*container).id })
}

#[inline(always)]
fn joined(destination: u64, task: u64) -> Option<()> {
    let host = subject::host_of_all()?;
    // A container that moves its own about is not set up by that.
    if !kernel::in_our_hierarchy(destination) || subject::of_current(host).is_some() {
        return None;
    }
    let to = subject::of_cgroup(host, destination, kernel::cgroup_id(destination)?)?;
    let from = kernel::cgroup_of(task)?;
    let was = subject::of_cgroup(host, from, kernel::cgroup_id(from)?);
    if was.is_some_and(|was| was.container == to.container) {
        return None;
    }
    let process: u32 = read(task, Field::TaskProcess)?;
    let mut setup = Setup {
        start_ns: start(task)?,
        ..Setup::default()
    };
    begin(&mut setup, task, to.container);
    setup.memory = read(task, Field::TaskMemory)?;
    SETTING_UP.insert(process, setup, u64::from(BPF_ANY)).ok()
}

#[inline(always)]
fn forked(child: u64, flags: u64) -> Option<()> {
    if flags & CLONE_THREAD != 0 {
        return None;
    }
    let into = made_into(child, flags);
    let own = own();
    if into.is_none() && own.is_none() {
        return None;
    }
    let process: u32 = read(child, Field::TaskProcess)?;
    let mut setup = Setup {
        start_ns: start(child)?,
        ..Setup::default()
    };
    // Where the child goes says more than where the parent was put.
    match (into, own) {
        (Some(container), _) => begin(&mut setup, child, container),
        // Each word by itself: 5.10 takes no whole structure out of one that may be none.
        (None, Some(own)) => {
            setup.container = own.container;
            setup.mounts = own.mounts;
            setup.since_ns = own.since_ns;
        }
        (None, None) => return None,
    }
    SETTING_UP.insert(process, setup, u64::from(BPF_ANY)).ok()
}

/// The container into which a task of the host makes its child, if it names one.
#[inline(always)]
fn made_into(child: u64, flags: u64) -> Option<u64> {
    let host = subject::host_of_all()?;
    if flags & CLONE_INTO_CGROUP == 0 || subject::of_current(host).is_some() {
        return None;
    }
    let cgroup = kernel::cgroup_of(child)?;
    let to = subject::of_cgroup(host, cgroup, kernel::cgroup_id(cgroup)?)?;
    Some(to.container)
}

/// The running task, of the host, puts another there, or itself.
#[inline(always)]
fn begin(setup: &mut Setup, task: u64, container: u64) {
    let there = kernel::mounts_of(task).unwrap_or_default();
    let ours = kernel::mounts_of(kernel::current()).unwrap_or_default();
    setup.container = container;
    setup.mounts = if there == ours { there } else { 0 };
    // SAFETY: the helper has no preconditions.
    setup.since_ns = unsafe { bpf_ktime_get_ns() };
}

#[inline(always)]
fn executed(program: u64) -> Option<()> {
    // Also one that is over is taken out.
    let setup = SETTING_UP.get_ptr_mut(process())?;
    // SAFETY: a live map value, of this process alone; the mover stores it whole, and nobody this word but we.
    let memory = unsafe { (&raw mut (*setup).memory).replace(0) };
    if memory != 0 && read(kernel::current(), Field::TaskMemory) == Some(memory) {
        return None;
    }
    // SAFETY: as above; it is only read from here on.
    let setup = unsafe { &*setup };
    if kernel::mounts_of(kernel::current()) == Some(setup.mounts)
        && has_no_path(program, setup.mounts) == Some(true)
    {
        return None;
    }
    SETTING_UP.remove(process()).ok()
}

/// Whether what is executed cannot be reached by a path in a mount namespace: a memfd, a file that was removed, or one of a mount
/// that was made for this alone.
#[inline(always)]
fn has_no_path(program: u64, mounts: u64) -> Option<bool> {
    let file: u64 = read(program, Field::ExecutedFile)?;
    let links: u32 = read(read(file, Field::FileInode)?, Field::InodeLinks)?;
    let mount = read::<u64>(file, Field::FileMount)? - offset(Field::MountSeen)?;
    Some(links == 0 || read::<u64>(mount, Field::MountNamespace)? != mounts)
}

/// The running process's setup, if it has one.
#[inline(always)]
fn own() -> Option<&'static Setup> {
    // SAFETY: the entry stays what it is for this process as long as that is not moved or ends.
    let setup = unsafe { SETTING_UP.get(&process()) }?;
    // SAFETY: the helper has no preconditions.
    let age_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(setup.since_ns);
    (start(kernel::current()) == Some(setup.start_ns) && age_ns < LONGEST_NS).then_some(setup)
}

/// The running process.
#[inline(always)]
fn process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// When a task's process began.
#[inline(always)]
fn start(task: u64) -> Option<u64> {
    read(read(task, Field::TaskLeader)?, Field::TaskStart)
}
