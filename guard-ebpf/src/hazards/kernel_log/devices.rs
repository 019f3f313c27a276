//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.
//!
//! Where the kernel asks no program of ours before each read and write, it still asks the device programs of a task's cgroups
//! before a node is opened. What is open already, syslog(2) and `/proc/kmsg` they do not see.

use aya_ebpf::{
    bindings::{BPF_DEVCG_ACC_READ, BPF_DEVCG_ACC_WRITE, BPF_DEVCG_DEV_CHAR, bpf_cgroup_dev_ctx},
    macros::cgroup_device,
    programs::DeviceContext,
};
use guard_common::{
    action::Action,
    kernel_log::{KMSG_DEVICE, TTYPRINTK_DEVICE},
};

use crate::asking::{Ask, ByHelpers, ByReading};

const ALLOW: i32 = 1;
/// The kernel makes EPERM of it.
const DENY: i32 = 0;

// int __cgroup_bpf_check_dev_permission(short dev_type, u32 major, u32 minor, short access, enum bpf_attach_type type)   5.10
// int __cgroup_bpf_check_dev_permission(short dev_type, u32 major, u32 minor, short access, enum cgroup_bpf_attach_type atype)   7.3
// At each open of a device node, by whatever name, and each mknod. Attached to the root of the v2 hierarchy, in which every task
// of the host stands, also where all controllers are on v1. What other programs refuse stays refused: all of them must allow.
#[cgroup_device]
pub fn kernel_log_device(ctx: DeviceContext) -> i32 {
    judge(&ctx, &ByReading)
}

// The same where no kernel memory can be read: without type information, or in lockdown. Who it was is not known there.
#[cgroup_device]
pub fn kernel_log_device_plain(ctx: DeviceContext) -> i32 {
    judge(&ctx, &ByHelpers)
}

/// Making a node is nobody's harm and a runtime's daily work, so only opening it is judged.
#[inline(always)]
fn judge(ctx: &DeviceContext, by: &impl Ask) -> i32 {
    let device: *const bpf_cgroup_dev_ctx = ctx.device;
    // SAFETY: the program's context. Volatile, as the verifier wants each word of it read by itself.
    let (access, major, minor) = unsafe {
        (
            (&raw const (*device).access_type).read_volatile(),
            (&raw const (*device).major).read_volatile(),
            (&raw const (*device).minor).read_volatile(),
        )
    };
    let is = |device| {
        access & 0xffff == BPF_DEVCG_DEV_CHAR && major == device >> 20 && minor == device & 0xf_ffff
    };
    let is_kmsg = is(KMSG_DEVICE);
    if !is_kmsg && !is(TTYPRINTK_DEVICE) {
        return ALLOW;
    }
    let asks = |bit| access >> 16 & bit != 0;
    // Who has opened ttyprintk at all can write by `/dev/tty`.
    let writes = !is_kmsg || asks(BPF_DEVCG_ACC_WRITE);
    if is_kmsg && asks(BPF_DEVCG_ACC_READ) && by.denies(Action::KernelLogRead) {
        return DENY;
    }
    if writes && by.denies(Action::KernelLogWrite) {
        return DENY;
    }
    ALLOW
}
