//! Reboot: a container that would restart or halt its host, or have it run another kernel, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, config::Field};

use crate::{
    call::{Call, NONE},
    gate::{self, Verdict},
    kernel::{self, apart},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `CAP_SYS_BOOT` (include/uapi/linux/capability.h).
const SYS_BOOT: u32 = 22;

const REBOOT: Call = Call(169, 88);
const KEXEC_LOAD: Call = Call(246, 283);
const KEXEC_FILE_LOAD: Call = Call(320, NONE);

// int security_capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)   5.10 to 7.3
// reboot(2), kexec_load(2) and kexec_file_load(2) ask for this capability before anything else, and so do some files in sysfs.
#[lsm(hook = "capable")]
pub fn reboot_capable(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) == SYS_BOOT
        && restarts_the_host()
        && gate::ask(Action::Reboot) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    ALLOW
}

/// Not a reboot(2) that ends nothing but the container's own pid namespace (`reboot_pid_ns`, kernel/pid_namespace.c), as systemd in a
/// container ends.
#[inline(always)]
fn restarts_the_host() -> bool {
    if REBOOT.running().is_none() {
        return Call::is_any([KEXEC_LOAD, KEXEC_FILE_LOAD]);
    }
    let level = kernel::read::<u64>(kernel::current(), Field::TaskPid)
        .and_then(|pid| kernel::read::<u32>(pid, Field::PidLevel));
    level.is_none_or(|level| level == 0)
}
