//! Whether a task runs, or an interrupt that happened to come while it did: what that does is not the task's doing.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_this_cpu_ptr;
use guard_common::config::{Field, MISSING, PREEMPT_COUNT};

use crate::kernel::{config, current, read, typed};

/// In a task's own count as in the processor's (`SOFTIRQ_OFFSET`, include/linux/preempt.h).
const SERVES_SOFTIRQ: u32 = 1 << 8;

/// What the loader puts in the place of a mark.
#[inline(always)]
pub fn loaded<const MARK: u64>() -> u64 {
    let value: u64;
    // SAFETY: one instruction, which loads a constant.
    unsafe {
        asm!("{value} = {mark} ll", value = out(reg) value, mark = const MARK,
            options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// Whether an interrupt is being handled, soft, hard or NMI. `None`: this kernel does not say. The caller cannot be moved to
/// another processor.
#[inline(always)]
pub fn is_interrupt() -> Option<bool> {
    let bits = config(Field::InterruptBits);
    if bits == MISSING {
        return None;
    }
    // SAFETY: the loader has put a per-CPU variable there, of which the helper gives this processor's.
    let count: u32 = unsafe {
        let variable = bpf_this_cpu_ptr(loaded::<PREEMPT_COUNT>() as *const _);
        typed(variable as u64, Field::PreemptCount)?
    };
    let own: u32 = read(current(), Field::TaskSoftirqs).unwrap_or_default();
    Some(count & bits != 0 || own & SERVES_SOFTIRQ != 0)
}
