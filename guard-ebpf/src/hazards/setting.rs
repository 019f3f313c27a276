//! Settings: a container that would switch off what refuses, or reach the kernel log by a setting, is refused.

use aya_ebpf::{
    helpers::generated::bpf_sysctl_get_name, macros::cgroup_sysctl, programs::SysctlContext,
};
use guard_common::setting::{Name, written};

use crate::{
    asking::{Ask, ByReading},
    gate::Verdict,
};

const ALLOW: i32 = 1;
/// The kernel makes EPERM of it.
const DENY: i32 = 0;

// int __cgroup_bpf_run_filter_sysctl(struct ctl_table_header *head, const struct ctl_table *table, int write, ...)   5.10 to 7.3
// At each read and write of a file below /proc/sys. It is called without a trampoline, so that what it refuses may be the one
// thing that takes trampolines away.
#[cgroup_sysctl]
pub fn setting_sysctl(ctx: SysctlContext) -> i32 {
    // SAFETY: the program's context.
    if unsafe { (&raw const (*ctx.sysctl).write).read_volatile() } == 0 {
        return ALLOW;
    }
    let mut name: Name = [0; 4];
    // SAFETY: as long as it says. A name that does not fit is cut, and none of ours.
    unsafe {
        bpf_sysctl_get_name(
            ctx.sysctl,
            name.as_mut_ptr().cast(),
            size_of::<Name>() as u64,
            0,
        )
    };
    match written(&name) {
        Some(action) if ByReading.ask(action) == Some(Verdict::Deny) => DENY,
        Some(_) | None => ALLOW,
    }
}
