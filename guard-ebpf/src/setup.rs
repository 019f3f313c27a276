//! Setting up: which processes of a container are still the runtime's, which is refused nothing that it needs to start one.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, fentry, raw_tracepoint},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext},
};
use guard_common::{
    Container,
    config::Field,
    setup::{CLONE_INTO_CGROUP, CLONE_THREAD, Setup},
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
    begin(task, to.container, kernel::mounts_of(task)?)
}

#[inline(always)]
fn forked(child: u64, flags: u64) -> Option<()> {
    if flags & CLONE_THREAD != 0 {
        return None;
    }
    if let Some(setup) = own() {
        return begin(child, setup.container, setup.mounts);
    }
    if flags & CLONE_INTO_CGROUP == 0 {
        return None;
    }
    let host = subject::host_of_all()?;
    if subject::of_current(host).is_some() {
        return None;
    }
    let cgroup = kernel::cgroup_of(child)?;
    let to = subject::of_cgroup(host, cgroup, kernel::cgroup_id(cgroup)?)?;
    begin(child, to.container, kernel::mounts_of(child)?)
}

#[inline(always)]
fn begin(task: u64, container: u64, mounts: u64) -> Option<()> {
    let process: u32 = read(task, Field::TaskProcess)?;
    let setup = Setup {
        container,
        start_ns: start(task)?,
        mounts,
    };
    SETTING_UP.insert(process, setup, u64::from(BPF_ANY)).ok()
}

#[inline(always)]
fn executed(program: u64) -> Option<()> {
    let setup = own()?;
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
fn own() -> Option<Setup> {
    // SAFETY: entries are replaced whole, and copied at once, under RCU.
    let setup = *unsafe { SETTING_UP.get(&process()) }?;
    (start(kernel::current()) == Some(setup.start_ns)).then_some(setup)
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
