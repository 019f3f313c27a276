//! Who printed a line of the kernel log: told where it is printed, in the context of the task that did it.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use guard_common::{
    config::Field,
    host::Host,
    kernel_log::{
        PRINTED_BY_KERNEL, PRINTED_LOST_SHIFT, PRINTED_TEXT, PRINTED_UNTOLD, Printed, STACK_BYTES,
    },
};

use crate::{
    kernel::{self, add},
    maps::PRINTED,
    subject,
};

// TRACE_EVENT(console, TP_PROTO(const char *text, size_t len))   6.1 to 7.3
// In `printk_sprint`, for each piece of a record, before anybody can read it. In any context, interrupts off.
#[raw_tracepoint(tracepoint = "console")]
pub fn kernel_log_printed(ctx: RawTracePointContext) -> i32 {
    if let Some(host) = subject::host() {
        printed(
            host,
            ctx.as_ptr() as u64,
            ctx.arg::<u64>(0),
            ctx.arg::<u64>(1) as u32,
        );
    }
    0
}

/// `stack`: an address on the stack that we stand on.
#[inline(always)]
fn printed(host: *mut Host, stack: u64, text: u64, length: u32) {
    let Some(mut entry) = PRINTED.reserve::<Printed>(0) else {
        // SAFETY: a live map value; the counter is only added to.
        unsafe { add(&raw mut (*host).printed_lost, 1) };
        return;
    };
    let told = entry.as_mut_ptr();
    // By way of memory: the verifier takes it for a pointer, and forbids to reckon with it.
    // SAFETY: the entry is ours until it is submitted.
    let stack = unsafe {
        let scratch = &raw mut (*told).time_ns;
        scratch.write_volatile(stack);
        scratch.read_volatile()
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: a live map value.
    let lost = unsafe { (&raw const (*host).printed_lost).read_volatile() };
    let (mut flags, mut container, mut cgroup) = ((lost as u32) << PRINTED_LOST_SHIFT, 0, 0);
    if !is_task(stack) || kernel::is_kernel_thread() {
        flags |= PRINTED_BY_KERNEL;
    } else {
        match kernel::current_cgroup_id() {
            Some(id) => cgroup = id,
            None => flags |= PRINTED_UNTOLD,
        }
        if let Some(subject) = subject::of_current(host) {
            container = subject.container;
        }
    }
    // SAFETY: the entry is ours until it is submitted, and every field is written, the text by the helper or as zeros.
    unsafe {
        (&raw mut (*told).time_ns).write(bpf_ktime_get_ns());
        (&raw mut (*told).container).write(container);
        (&raw mut (*told).cgroup).write(cgroup);
        (&raw mut (*told).pid).write(pid_tgid as u32);
        (&raw mut (*told).tgid).write((pid_tgid >> 32) as u32);
        (&raw mut (*told).comm).write(kernel::current_name());
        (&raw mut (*told).flags).write(flags);
        (&raw mut (*told).length).write(length);
        let to = (&raw mut (*told).text).cast::<u64>();
        for word in 0..PRINTED_TEXT / 8 {
            to.add(word).write_volatile(0);
        }
        if length > 0 {
            let bytes = if length > PRINTED_TEXT as u32 {
                PRINTED_TEXT as u32
            } else {
                length
            };
            generated::bpf_probe_read_kernel(to.cast(), bytes, text as *const _);
        }
    }
    entry.submit(0);
}

/// Whether the running task itself brought us here: interrupts, soft and hard, have stacks of their own on x86-64 since
/// long before 5.10.
#[inline(always)]
fn is_task(stack: u64) -> bool {
    kernel::read::<u64>(kernel::current(), Field::TaskStack)
        .is_some_and(|own| stack.wrapping_sub(own) < u64::from(STACK_BYTES))
}
