//! Who printed a line of the kernel log: told where it is printed, in the context of the task that did it.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated},
    macros::{fexit, raw_tracepoint},
    programs::{FExitContext, RawTracePointContext},
};
use guard_common::{
    config::{Field, PRINTK_RING},
    host::Host,
    kernel_log::{
        PRINTED_BY_KERNEL, PRINTED_LOST_SHIFT, PRINTED_NUMBER, PRINTED_TEXT, PRINTED_UNTOLD,
        Printed,
    },
};

use crate::{
    context,
    kernel::{self, add},
    maps::PRINTED,
    subject,
};

// TRACE_EVENT(console, TP_PROTO(const char *text, size_t len))   6.1 to 7.3
// In `printk_sprint`, for each piece of a record, before anybody can read it. In any context, interrupts off.
#[raw_tracepoint(tracepoint = "console")]
pub fn kernel_log_printed(ctx: RawTracePointContext) -> i32 {
    let words = Words::Text {
        at: ctx.arg(0),
        length: ctx.arg::<u64>(1) as u32,
    };
    tell(words, context::is_interrupt);
    0
}

// int vprintk_store(int facility, int level, const struct dev_printk_info *dev_info, const char *fmt, va_list args)   5.10
// Under `logbuf_lock`, interrupts off: the record stands in the ring and is the last one, or is the last one's next piece. The
// tracepoint is passed for others there, later.
#[fexit(function = "vprintk_store")]
pub fn kernel_log_stored(_ctx: FExitContext) -> i32 {
    let Some(record) = last_record() else {
        return 0;
    };
    let (Some(number), Some(caller)) = (
        kernel::read(record, Field::InfoNumber),
        kernel::read::<u32>(record, Field::InfoCaller),
    ) else {
        return 0;
    };
    let interrupt = caller & CALLER_IS_PROCESSOR != 0;
    // Where there was no room for a record, the last one is another's.
    if interrupt || caller == bpf_get_current_pid_tgid() as u32 {
        tell(Words::Number(number), || Some(interrupt));
    }
    0
}

/// What is known of a line when it is printed.
#[derive(Clone, Copy)]
enum Words {
    /// Itself.
    Text { at: u64, length: u32 },
    /// The number that its record has.
    Number(u64),
}

/// Not a task (`printk_caller_id`, kernel/printk/printk.c).
const CALLER_IS_PROCESSOR: u32 = 1 << 31;

/// Address of what is known of the last record in the ring.
#[inline(always)]
fn last_record() -> Option<u64> {
    let (descriptors, size) = (
        kernel::offset(Field::RingDescriptors)?,
        kernel::offset(Field::InfoSize)?,
    );
    let ring = kernel::read_at::<u64>(context::loaded::<PRINTK_RING>())? + descriptors;
    let bits: u32 = kernel::read(ring, Field::DescriptorBits)?;
    let infos: u64 = kernel::read(ring, Field::DescriptorInfos)?;
    let head: u64 = kernel::read(ring, Field::DescriptorHead)?;
    let last = head & ((1 << (bits & 31)) - 1);
    Some(infos + last * size)
}

#[inline(always)]
fn tell(words: Words, is_interrupt: impl Fn() -> Option<bool>) {
    if let Some(host) = subject::host_of_witness() {
        tell_of(host, words, is_interrupt);
    }
}

#[inline(always)]
fn tell_of(host: *mut Host, words: Words, is_interrupt: impl Fn() -> Option<bool>) {
    let Some(mut entry) = PRINTED.reserve::<Printed>(0) else {
        // SAFETY: a live map value; the counter is only added to.
        unsafe { add(&raw mut (*host).printed_lost, 1) };
        return;
    };
    let told = entry.as_mut_ptr();
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: a live map value.
    let lost = unsafe { (&raw const (*host).printed_lost).read_volatile() };
    let (mut flags, mut container, mut cgroup) = ((lost as u32) << PRINTED_LOST_SHIFT, 0, 0);
    let interrupt = is_interrupt();
    if interrupt == Some(true) || kernel::is_kernel_thread() {
        flags |= PRINTED_BY_KERNEL;
    } else {
        match kernel::current_cgroup_id() {
            Some(id) if interrupt.is_some() => cgroup = id,
            _ => flags |= PRINTED_UNTOLD,
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
        let to = (&raw mut (*told).text).cast::<u64>();
        for word in 0..PRINTED_TEXT / 8 {
            to.add(word).write_volatile(0);
        }
        let length = match words {
            Words::Text { at, length } => {
                if length > 0 {
                    let bytes = if length > PRINTED_TEXT as u32 {
                        PRINTED_TEXT as u32
                    } else {
                        length
                    };
                    generated::bpf_probe_read_kernel(to.cast(), bytes, at as *const _);
                }
                length
            }
            Words::Number(number) => {
                flags |= PRINTED_NUMBER;
                to.write_volatile(number);
                0
            }
        };
        (&raw mut (*told).flags).write(flags);
        (&raw mut (*told).length).write(length);
    }
    entry.submit(0);
}
