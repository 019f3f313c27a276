//! Thin discard: one that reaches a dm-thin device all the same, whoever sent it, is counted, so that somebody is told.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext,
};
use guard_common::{
    config::{Field, MISSING},
    thin::{Class, Origin},
};

use crate::{
    kernel::{add, config, current_name, is_kernel_thread, read},
    maps::{ORIGINS, THIN},
    subject,
};

/// Only where there is none (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;
/// Bits of `bi_opf` that say what is asked (`REQ_OP_BITS`, include/linux/blk_types.h).
const OPERATION: u32 = 0xff;
/// Bits of a minor number (`MINORBITS`, include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

// TRACE_EVENT(block_bio_queue, TP_PROTO(struct bio *bio))   5.11 to 7.3
// At every request to every device: most of them are over after the first question.
#[raw_tracepoint(tracepoint = "block_bio_queue")]
pub fn thin_discard_arrived(ctx: RawTracePointContext) -> i32 {
    let _ = arrived(ctx.arg(0));
    0
}

// TRACE_EVENT(block_bio_queue, TP_PROTO(struct request_queue *q, struct bio *bio))   5.10
// A program that reads an argument which is not there is not attached.
#[raw_tracepoint(tracepoint = "block_bio_queue")]
pub fn thin_discard_arrived_second(ctx: RawTracePointContext) -> i32 {
    let _ = arrived(ctx.arg(1));
    0
}

#[inline(always)]
fn arrived(bio: u64) -> Option<()> {
    let operation = read::<u32>(bio, Field::BioOperation)? & OPERATION;
    if operation != config(Field::OperationDiscard)
        && operation != config(Field::OperationDiscardOld)
    {
        return None;
    }
    let host = subject::host_of_witness()?;
    let number = number(bio)?;
    let device = THIN.get_ptr_mut(&number)?;
    // SAFETY: live map values; counters are only added to, and of two who write their names at once either may stand there.
    unsafe {
        if (&raw const (*device).class).read_volatile() != Class::Thin as u32 {
            return None;
        }
        add(&raw mut (*device).arrived, 1);
        if is_kernel_thread() {
            add(&raw mut (*device).by_kernel, 1);
        }
        (*device).process = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*device).name = current_name();
    }
    came_from(Origin {
        device: number,
        kernel: u32::from(is_kernel_thread()),
        name: current_name(),
    });
    // SAFETY: a live map value. Last: who sees that it moved finds the rest.
    unsafe { add(&raw mut (*host).thin_counted, 1) };
    Some(())
}

#[inline(always)]
fn came_from(origin: Origin) {
    // Of two who are the first one finds it there.
    if ORIGINS.get_ptr_mut(&origin).is_none() {
        let _ = ORIGINS.insert(&origin, &0, BPF_NOEXIST);
    }
    if let Some(count) = ORIGINS.get_ptr_mut(&origin) {
        // SAFETY: a live map value; it is only added to.
        unsafe { add(count, 1) };
    }
}

/// The number of the device that a request is for.
#[inline(always)]
fn number(bio: u64) -> Option<u32> {
    if config(Field::BioDisk) == MISSING {
        return read(read(bio, Field::BioDevice)?, Field::BlockDeviceNumber);
    }
    let disk: u64 = read(bio, Field::BioDisk)?;
    let (major, minor): (u32, u32) = (read(disk, Field::DiskMajor)?, read(disk, Field::DiskMinor)?);
    Some(major << MINOR_BITS | minor)
}
