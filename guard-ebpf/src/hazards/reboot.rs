//! Reboot: a container that would restart or halt its host, or have it run another kernel, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, config::Field};

use crate::{
    call::Call,
    gate::{self, Verdict},
    kernel::{self, apart},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `CAP_SYS_BOOT` (include/uapi/linux/capability.h).
const SYS_BOOT: u32 = 22;

const REBOOT: Call = Call(169, 88);

// int security_capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)   5.10 to 7.3
// reboot(2), kexec_load(2) and kexec_file_load(2) ask for this capability, and nothing else does.
#[lsm(hook = "capable")]
pub fn reboot_capable(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) == SYS_BOOT
        && !ends_its_own_namespace()
        && gate::ask(Action::Reboot) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}

/// Whether it is a reboot(2) that ends nothing but the container's own pid namespace (`reboot_pid_ns`, kernel/pid_namespace.c), as
/// systemd in a container ends.
#[inline(always)]
fn ends_its_own_namespace() -> bool {
    let level = kernel::read::<u64>(kernel::current(), Field::TaskPid)
        .and_then(|pid| kernel::read::<u32>(pid, Field::PidLevel));
    level.is_some_and(|level| level > 0) && REBOOT.running().is_some()
}
