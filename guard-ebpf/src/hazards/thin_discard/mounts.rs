//! Thin discard: a file system on dm-thin that would discard by itself, from its own threads, is not mounted by a container.
//!
//! What is to be mounted is known where its options are read, and on which device where it opens that: what asked for discards is
//! remembered by its context, and the context's word by the task that mounts it. In between no other task has it. It must not come
//! to be mounted first: a journal that is replayed then discards what its last user left to be deleted.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_DEVCG_DEV_BLOCK, bpf_cgroup_dev_ctx},
    macros::{cgroup_device, fentry, fexit, lsm},
    programs::{DeviceContext, FEntryContext, FExitContext, LsmContext},
};
use guard_common::{
    action::{Action, name},
    config::Field,
    device,
    thin::{BEGIN, DM_THIN, ENDED, FOUND, NO_DEVICE, OPTIONS_MAX, OPTIONS_STEP, number, search},
};

use super::{ALLOW, EPERM, judge_container, number_of, thin};
use crate::{
    asking,
    gate::Verdict,
    kernel::{apart, current, read, text_at, word_at},
    maps::{ASKED_TO_DISCARD, MOUNTING},
};

/// The option's name. `nodiscard` takes nothing back: whether a file system knows it is not known yet, and one that refuses it goes on
/// with what it was told before.
const DISCARD: [u64; 2] = match name("discard") {
    Some(name) => name,
    None => [0; 2],
};

// int security_fs_context_parse_param(struct fs_context *fc, struct fs_parameter *param)   5.10 to 7.3
// Refuses nothing, unless it could not be remembered.
#[lsm(hook = "fs_context_parse_param")]
pub fn thin_discard_parameter(ctx: LsmContext) -> i32 {
    let (context, parameter): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let key = read(parameter, Field::ParameterKey).map_or([0; 2], text_at);
    if key == DISCARD
        && ASKED_TO_DISCARD
            .insert(context, 1, u64::from(BPF_ANY))
            .is_err()
    {
        // No room: who has so many of them at once is no mount.
        return deny(judge_container(NO_DEVICE, true));
    }
    ALLOW
}

// int __cgroup_bpf_check_dev_permission(short dev_type, u32 major, u32 minor, short access, …)   see `kernel_log_device`
// Whoever mounts something opens the devices that it is on, each of several, before it is looked at what is there.
#[cgroup_device]
pub fn thin_discard_device(ctx: DeviceContext) -> i32 {
    match opened(&ctx) {
        Some(Verdict::Deny) => 0,
        Some(Verdict::Allow) | None => 1,
    }
}

#[inline(always)]
fn opened(ctx: &DeviceContext) -> Option<Verdict> {
    let device: *const bpf_cgroup_dev_ctx = ctx.device;
    // SAFETY: the program's context. Volatile, as the verifier wants each word of it read by itself.
    let (access, major, minor) = unsafe {
        (
            (&raw const (*device).access_type).read_volatile(),
            (&raw const (*device).major).read_volatile(),
            (&raw const (*device).minor).read_volatile(),
        )
    };
    if access & 0xffff != BPF_DEVCG_DEV_BLOCK {
        return None;
    }
    // SAFETY: entries are stored whole, and a task's by itself alone.
    let mounting = unsafe { MOUNTING.get(&current()) }.copied()?;
    // Not what an earlier mount of the task left.
    if mounting < DEEPER || mounting & ASKED == 0 {
        return None;
    }
    let number = number(major, minor);
    let by_argument = thin(number).map(|_| DM_THIN);
    let told = device::Device::of(true, number).argument();
    asking::about_by_reading(Action::Discard, by_argument, told)
}

// int vfs_get_tree(struct fs_context *fc)   5.10 to 7.3
#[fentry(function = "vfs_get_tree")]
pub fn thin_discard_get_tree(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0))
}

// See the former. Only where it began ends what it was asked: btrfs mounts what it was given within its own mount.
#[fexit(function = "vfs_get_tree")]
pub fn thin_discard_got_tree(_ctx: FExitContext) -> i32 {
    leave()
}

// int reconfigure_super(struct fs_context *fc)   5.10 to 7.3
// It asks security modules within.
#[fentry(function = "reconfigure_super")]
pub fn thin_discard_reconfigure(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0))
}

#[fexit(function = "reconfigure_super")]
pub fn thin_discard_reconfigured(_ctx: FExitContext) -> i32 {
    leave()
}

// void put_fs_context(struct fs_context *fc)   5.10 to 7.3
// Another may be where this was.
#[fentry(function = "put_fs_context")]
pub fn thin_discard_put_context(ctx: FEntryContext) -> i32 {
    let _ = ASKED_TO_DISCARD.remove(ctx.arg::<u64>(0));
    0
}

// int security_sb_kern_mount(struct super_block *sb)   5.10 to 7.3
#[lsm(hook = "sb_kern_mount")]
pub fn thin_discard_kern_mount(ctx: LsmContext) -> i32 {
    mounted(ctx.arg(0))
}

// int security_sb_remount(struct super_block *sb, void *mnt_opts)   5.10 to 7.3
#[lsm(hook = "sb_remount")]
pub fn thin_discard_remount(ctx: LsmContext) -> i32 {
    mounted(ctx.arg(0))
}

/// In a value of `MOUNTING`: that it was asked to discard; above that, how deep in each other the calls are.
const ASKED: u32 = 1;
const DEEPER: u32 = 2;

#[inline(always)]
fn enter(context: u64) -> i32 {
    let task = current();
    // SAFETY: entries are stored whole, and a task's by itself alone.
    let before = unsafe { MOUNTING.get(&task) }.copied().unwrap_or_default();
    // What an earlier mount of the task left that failed is none of this one's.
    let outer = if before < DEEPER { 0 } else { before };
    let asked = if asks(context) { ASKED } else { 0 };
    let _ = MOUNTING.insert(task, (outer + DEEPER) | asked, u64::from(BPF_ANY));
    0
}

#[inline(always)]
fn leave() -> i32 {
    let task = current();
    // SAFETY: as above.
    if let Some(within) = unsafe { MOUNTING.get(&task) }.copied()
        && within >= DEEPER
    {
        let _ = MOUNTING.insert(task, within - DEEPER, u64::from(BPF_ANY));
    }
    0
}

/// Whether the options of what is to be mounted have it discard.
#[inline(always)]
fn asks(context: u64) -> bool {
    // SAFETY: entries are stored whole.
    if unsafe { ASKED_TO_DISCARD.get(&context) }.is_some() {
        return true;
    }
    let Some(kind) = read::<u64>(context, Field::ContextType) else {
        return false;
    };
    if read::<u64>(kind, Field::TypeInit) != Some(0) {
        return false;
    }
    read::<u64>(context, Field::ContextPrivate)
        .and_then(|private| read::<u64>(private, Field::LegacyOptions))
        .is_some_and(|options| options != 0 && has_it(options))
}

/// Whether a text of options has it.
#[inline(always)]
fn has_it(options: u64) -> bool {
    let mut window = BEGIN;
    for step in 0..OPTIONS_MAX / OPTIONS_STEP {
        let at = options + (step * OPTIONS_STEP) as u64;
        window = thin_discard_search(window, at);
        if window <= FOUND {
            break;
        }
    }
    window != ENDED
}

/// The next bytes of a text of options. Global: see [`crate::gate::gate_close`]; within the loop the verifier would look at a third of a
/// million instructions.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn thin_discard_search(window: u64, at: u64) -> u64 {
    search(window, [word_at(at), word_at(at + 8)])
}

#[inline(always)]
fn mounted(super_block: u64) -> i32 {
    // SAFETY: entries are stored whole.
    let mounting = unsafe { MOUNTING.get(&current()) }.copied();
    // One that mounts has an entry, unless others had so many meanwhile that there was no room.
    if mounting.unwrap_or(ASKED) & ASKED == 0 {
        return ALLOW;
    }
    match number_of(super_block) {
        Some(number) => deny(judge_container(number, false)),
        None => ALLOW,
    }
}

#[inline(always)]
fn deny(verdict: Verdict) -> i32 {
    if verdict == Verdict::Deny {
        return apart(-EPERM);
    }
    ALLOW
}
