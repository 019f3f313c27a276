//! Settings: a container that would switch off what refuses, reach the kernel log by a setting, give the kernel a command of the
//! magic key, or write a file of the kernel's that a policy names, is refused.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_sysctl_get_name},
    macros::{cgroup_sysctl, lsm},
    programs::{LsmContext, SysctlContext},
};
use guard_common::{
    action::{self, Action, Told},
    config::Field,
    setting::{DEPTH, FILE_SYSTEMS, Name, PROC, Part, Path, written},
};

use crate::{
    asking::{Ask, ByReading},
    gate::{self, Case, Verdict},
    kernel::{self, apart, read},
};

const ALLOW: i32 = 1;
/// The kernel makes EPERM of it.
const DENY: i32 = 0;

/// What a hook says.
const OPENS: i32 = 0;
const EPERM: i32 = 1;

/// `FMODE_WRITE` (include/linux/fs.h).
const WRITE: u32 = 2;

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
        Some(action) if ByReading.denies(action) => DENY,
        Some(_) | None => ALLOW,
    }
}

// int security_file_open(struct file *file)   5.10 to 7.3
// At each file that is opened, by whatever mount and name.
#[lsm(hook = "file_open")]
pub fn setting_sysrq(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's argument.
    if unsafe { is_sysrq(ctx.arg(0)) } == Some(true)
        && gate::ask(Action::Sysrq) == Some(Verdict::Deny)
    {
        return apart(-EPERM);
    }
    OPENS
}

// The same.
#[lsm(hook = "file_open")]
pub fn setting_file(ctx: LsmContext) -> i32 {
    // SAFETY: the hook's argument.
    if unsafe { judge(ctx.arg(0)) } == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    OPENS
}

/// The file system of a file that is opened to be written.
///
/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn written_in(file: u64) -> Option<u64> {
    // SAFETY: the caller's promise, and each pointer is a field of the type that the next field is of.
    unsafe {
        if kernel::typed::<u32>(file, Field::FileMode)? & WRITE == 0 {
            return None;
        }
        let inode: u64 = kernel::typed(file, Field::FileInode)?;
        let super_block: u64 = kernel::typed(inode, Field::InodeSuperBlock)?;
        kernel::typed(super_block, Field::SuperBlockMagic)
    }
}

/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn is_sysrq(file: u64) -> Option<bool> {
    // SAFETY: the caller's promise.
    if unsafe { written_in(file) }? != PROC {
        return None;
    }
    Some(part(read(file, Field::FileEntry)?) == SYSRQ)
}

const SYSRQ: Part = match action::name("sysrq-trigger") {
    Some(name) => name,
    None => [0; 4],
};

/// # Safety
/// `file` is a hook's argument of type `struct file *`.
#[inline(always)]
unsafe fn judge(file: u64) -> Option<Verdict> {
    // SAFETY: the caller's promise.
    let file_system = unsafe { written_in(file) }?;
    if !FILE_SYSTEMS.iter().any(|(magic, _)| *magic == file_system) {
        return None;
    }
    let action = Action::KernelSettingWrite;
    let case = Case::of_current()?;
    if !gate::is_asked(&case, action) {
        return None;
    }
    let entry: u64 = read(file, Field::FileEntry)?;
    let name = part(entry);
    let (whole, anywhere) = (path_of(entry), Path::new().below(&name));
    let mut told = Told::default();
    told[..4].copy_from_slice(&name);
    // Opened by its handle, a file may stand in no directory: it can be any that a rule names.
    let nowhere = read(entry, Field::EntryParent) == Some(entry);
    let any = if nowhere {
        case.any_by_argument(action)
    } else {
        0
    };
    let fates = case.fates(action)
        | any
        | case.fates_by_argument(action, [whole, file_system])
        | case.fates_by_argument(action, anywhere.anywhere());
    Some(case.close_told(action, told, case.sentence(fates, 0)))
}

/// The sum of a file's name and of those above it, as [`Path`] has it; 0: it stands too deep. A function by itself, so that the ways
/// out of its loop are no ways through what is behind it.
#[unsafe(no_mangle)]
#[inline(never)]
fn path_of(mut entry: u64) -> u64 {
    let mut path = Path::new();
    for _ in 0..=DEPTH {
        let above: u64 = read(entry, Field::EntryParent).unwrap_or(entry);
        if above == entry {
            return path.whole(0)[0];
        }
        path = path.below(&part(entry));
        entry = above;
    }
    0
}

/// A name in a directory.
#[inline(always)]
fn part(entry: u64) -> Part {
    let mut words = Part::default();
    if let Some(name) = read::<u64>(entry, Field::EntryName) {
        // SAFETY: as many bytes as there is room for, and the helper fails on an address that cannot be read.
        unsafe {
            bpf_probe_read_kernel_str(
                words.as_mut_ptr().cast(),
                size_of::<Part>() as u32,
                name as *const _,
            );
        }
    }
    words
}
