//! Whom a line of the kernel log is about: a process that it names may be gone before anybody reads it.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use guard_common::{
    config::{Field, MISSING},
    kernel_log::{ENDED as ENDED_MAX, is_deadly},
};

use crate::{
    kernel::{self, config},
    maps::ENDED,
    subject,
};

// TRACE_EVENT(signal_deliver, TP_PROTO(int sig, struct kernel_siginfo *info, struct k_sigaction *ka))   5.10 to 7.3
// In `get_signal`, by the task itself, which stands in its cgroup still: no line names a task that ends in any other way once it
// is gone, and an exit without a signal is not passed here. Where it can be interrupted (7.3), what another task does meanwhile on
// the same processor is passed over.
#[btf_tracepoint(function = "signal_deliver")]
pub fn kernel_log_ended(ctx: BtfTracePointContext) -> i32 {
    let signal: u32 = ctx.arg(0);
    if !is_deadly(signal)
        || [Field::TaskStart, Field::SignalHandler]
            .into_iter()
            .any(|field| config(field) == MISSING)
    {
        return 0;
    }
    // With a handler, as the runtimes of some languages have, it lives on. Not by the type of the argument: the verifier of 6.12
    // looks through all types for each such read.
    if kernel::read::<u64>(ctx.arg(2), Field::SignalHandler) != Some(0) {
        return 0;
    }
    let pid = bpf_get_current_pid_tgid() as u32;
    if let Some(host) = subject::host_of_witness()
        && let Some(subject) = subject::of_current(host)
        && let Some(cgroup) = kernel::current_cgroup_id()
        && let Some(start_ns) = kernel::read(kernel::current(), Field::TaskStart)
        && let Some(ended) = ENDED.get_ptr_mut(pid % ENDED_MAX)
    {
        // SAFETY: a live map value, each word stored whole, the number last.
        unsafe {
            (&raw mut (*ended).pid).write_volatile(0);
            (&raw mut (*ended).container).write_volatile(subject.container);
            (&raw mut (*ended).cgroup).write_volatile(cgroup);
            (&raw mut (*ended).start_ns).write_volatile(start_ns);
            (&raw mut (*ended).end_ns).write_volatile(bpf_ktime_get_ns());
            (&raw mut (*ended).comm).write_volatile(kernel::current_name());
            (&raw mut (*ended).pid).write_volatile(pid);
        }
    }
    0
}
