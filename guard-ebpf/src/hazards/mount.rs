//! Mounts: a container that would mount something, or a file system of a type that a policy denies, is refused before the kernel
//! reads what is to be mounted.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument},
    config::Field,
    mount::{is_of_its_type, is_remount, without_subtype},
};

use crate::{
    gate::{self, Case, NONE, Verdict},
    kernel::{apart, read, text_at},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

// int security_sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)
//   5.10 to 7.3
// At mount(2), whatever it is to do, before anything is looked at. The type is the kernel's own copy.
#[lsm(hook = "sb_mount")]
pub fn mount_mount(ctx: LsmContext) -> i32 {
    let (kind, flags): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    let typed = is_of_its_type(flags);
    let kind = || match typed {
        true => without_subtype(text_at(kind)),
        false => NONE,
    };
    verdict(judge(kind, !typed && !is_remount(flags)))
}

// int security_fs_context_parse_param(struct fs_context *fc, struct fs_parameter *param)   5.10 to 7.3
// At each option of a file system, by fsconfig(2) and by mount(2), before the file system reads it. Of a security module 0 says that
// the option is its own; of a program before the function that stands for one (`bpf_lsm_fs_context_parse_param`, which says
// ENOPARAM) it says that the kernel may go on there.
#[lsm(hook = "fs_context_parse_param")]
pub fn mount_parameter(ctx: LsmContext) -> i32 {
    verdict(judge(|| of_context(ctx.arg(0)), false))
}

// int security_sb_kern_mount(struct super_block *sb)   5.10 to 7.3
// When a file system is there and is about to be mounted, by mount(2) or by fsconfig(2).
#[lsm(hook = "sb_kern_mount")]
pub fn mount_kern_mount(ctx: LsmContext) -> i32 {
    verdict(judge(|| of_super_block(ctx.arg(0)), true))
}

// int security_sb_remount(struct super_block *sb, void *mnt_opts)   5.10 to 7.3
// When the options of what is mounted are changed, by mount(2) or by fsconfig(2).
#[lsm(hook = "sb_remount")]
pub fn mount_remount(ctx: LsmContext) -> i32 {
    verdict(judge(|| of_super_block(ctx.arg(0)), true))
}

// int security_move_mount(const struct path *from_path, const struct path *to_path)   5.10 to 7.3
// At move_mount(2), by which what fsmount(2) or open_tree(2) gave comes to be seen.
#[lsm(hook = "move_mount")]
pub fn mount_move(_ctx: LsmContext) -> i32 {
    verdict(judge(|| NONE, true))
}

// int security_sb_pivotroot(const struct path *old_path, const struct path *new_path)   5.10 to 7.3
// At pivot_root(2).
#[lsm(hook = "sb_pivotroot")]
pub fn mount_pivot(_ctx: LsmContext) -> i32 {
    verdict(judge(|| NONE, true))
}

#[inline(always)]
fn verdict(verdict: Option<Verdict>) -> i32 {
    if verdict == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

/// `passes`: no other hook is asked of the same mount after this one. One that is only counted is counted there. What kind it is, is
/// read for containers that a rule is about, and not for the host's.
#[inline(always)]
fn judge(kind: impl FnOnce() -> Argument, passes: bool) -> Option<Verdict> {
    let action = Action::Mount;
    let case = Case::of_current()?;
    if !gate::is_asked(&case, action) {
        return None;
    }
    let kind = kind();
    let mut fates = case.fates(action);
    if kind != NONE {
        fates |= case.fates_by_argument(action, kind);
    }
    let sentence = case.sentence(fates, 0);
    let sentence = if passes {
        sentence
    } else {
        sentence.if_refused()
    };
    Some(case.close(action, kind, sentence))
}

#[inline(always)]
fn of_super_block(super_block: u64) -> Argument {
    named(read(super_block, Field::SuperBlockType))
}

#[inline(always)]
fn of_context(context: u64) -> Argument {
    named(read(context, Field::ContextType))
}

/// The name of a type of file system.
#[inline(always)]
fn named(kind: Option<u64>) -> Argument {
    let name: Option<u64> = kind.and_then(|kind| read(kind, Field::TypeName));
    name.map(text_at).unwrap_or_default()
}
