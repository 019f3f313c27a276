//! User namespaces: a container that would make one although a policy denies it is refused, and with it the capabilities by which
//! it would reach code that only root was meant to.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Fate},
    config::Field,
    setup::CLONE_NEWUSER,
};

use crate::{
    gate::{Case, NONE, Verdict},
    kernel::{self, apart, config, offset, read, read_at},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// Bytes of a task's kernel stack (`THREAD_SIZE`, arch/x86/include/asm/page_64_types.h, without KASAN).
const STACK: u64 = 16 << 10;
/// unshare(2), and that of 32 bits (arch/x86/entry/syscalls/).
const UNSHARE: u32 = 272;
const UNSHARE_32: u32 = 310;
/// A system call by the x32 ABI (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

// int security_create_user_ns(const struct cred *cred)   6.1 to 7.3
// At clone(2), clone3(2) and unshare(2), by whatever task.
#[lsm(hook = "userns_create")]
pub fn user_namespace_create(_ctx: LsmContext) -> i32 {
    if is_denied() != 0 {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_prepare_creds(struct cred *new, const struct cred *old, gfp_t gfp)   5.10 to 7.3
// At each change of credentials; unshare(2) prepares new ones for the user namespace before it makes that (`unshare_userns`,
// kernel/user_namespace.c), takes any refusal for a lack of memory, and returns ENOMEM.
#[lsm(hook = "cred_prepare")]
pub fn user_namespace_unshare(_ctx: LsmContext) -> i32 {
    if unshares() == Some(true) && is_denied() != 0 {
        return apart(-EPERM);
    }
    ALLOW
}

/// Whether a fork would make a user namespace that is denied, on a kernel that asks nobody about those.
#[inline(always)]
pub fn is_denied_at_fork(flags: u64) -> bool {
    config(Field::UserNamespacesUnasked) == 1 && flags & CLONE_NEWUSER != 0 && is_denied() != 0
}

/// Whether the running task is in unshare(2), and asks for a user namespace. Nobody but the task itself or who traces it writes its
/// registers, and no longer when the kernel has read them.
#[inline(always)]
fn unshares() -> Option<bool> {
    let stack: u64 = read(kernel::current(), Field::TaskStack)?;
    let registers = stack + STACK - offset(Field::Registers)?;
    // Of the number the kernel takes 32 bits (`syscall_get_nr`, arch/x86/include/asm/syscall.h); the flag is one of the lower ones.
    let flags: u32 = match read::<u32>(registers, Field::RegisterCall)? & !X32 {
        UNSHARE => read_at(registers + offset(Field::RegisterFirst)?)?,
        UNSHARE_32 => read_at(registers + offset(Field::RegisterFirst32)?)?,
        _ => 0,
    };
    Some(u64::from(flags) & CLONE_NEWUSER != 0)
}

/// 1: the running task is refused it. A function by itself, for three programs.
#[unsafe(no_mangle)]
#[inline(never)]
fn is_denied() -> u64 {
    u64::from(judge() == Some(Verdict::Deny))
}

#[inline(always)]
fn judge() -> Option<Verdict> {
    let case = Case::of_current()?;
    let action = Action::UserNamespaceCreate;
    if !case.is_about(action.bit(), &[Fate::Refused, Fate::Audited]) || case.is_setting_up() {
        return None;
    }
    Some(case.close(action, NONE, case.sentence(case.fates(action), 0)))
}
