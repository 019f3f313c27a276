//! Cgroups: a container that would move a task out of itself, where none of its limits holds, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, name},
    config::Field,
};

use crate::{
    gate::{self, Case, NONE, Verdict},
    kernel::{self, apart, config, read, text_at},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `MAY_WRITE` (include/linux/fs.h).
const MAY_WRITE: u32 = 2;
/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2: u64 = 0x6367_7270;

/// The file that a cgroup's tasks are moved by.
const PROCS: [u64; 2] = match name("cgroup.procs") {
    Some(name) => name,
    None => [0; 2],
};

// int security_inode_permission(struct inode *inode, int mask)   5.10 to 7.3
// Whoever moves a task between cgroups of v2, or has one born in another (CLONE_INTO_CGROUP), must be allowed to write `cgroup.procs`
// of the nearest cgroup that both are in (`cgroup_attach_permissions`, kernel/cgroup/cgroup.c), however and when the file was
// opened that says so. The kernel asks for it by this hook; and at each step of each path, mostly not for writing.
#[lsm(hook = "inode_permission")]
pub fn cgroup_move_permission(ctx: LsmContext) -> i32 {
    let mask: u32 = ctx.arg(1);
    if mask & MAY_WRITE == 0 {
        return ALLOW;
    }
    // SAFETY: the hook's argument.
    let cgroup = unsafe { procs_of(ctx.arg(0)) };
    if cgroup.and_then(judge) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

/// The cgroup whose `cgroup.procs` an inode is; `None`: it is another file, as nearly all are.
///
/// # Safety
/// `inode` is a hook's argument of type `struct inode *`.
#[inline(always)]
unsafe fn procs_of(inode: u64) -> Option<u64> {
    // SAFETY: the caller's promise, and the pointer is a field of the type that the next field is of.
    let magic = unsafe {
        let super_block: u64 = kernel::typed(inode, Field::InodeSuperBlock)?;
        kernel::typed::<u64>(super_block, Field::SuperBlockMagic)?
    };
    if magic != CGROUP2 || config(Field::CgroupVersion) != 2 {
        return None;
    }
    let node: u64 = read(inode, Field::InodePrivate)?;
    if text_at(read(node, Field::NodeName)?) != PROCS {
        return None;
    }
    let directory: u64 =
        read(node, Field::NodeParent).or_else(|| read(node, Field::NodeParentNow))?;
    read(directory, Field::NodePrivate)
}

/// What becomes of moving a task by this cgroup.
#[inline(always)]
fn judge(cgroup: u64) -> Option<Verdict> {
    let action = Action::CgroupMoveOut;
    let case = Case::of_current()?;
    if !gate::is_asked(&case, action) || case.has(cgroup)? {
        return None;
    }
    Some(case.close(action, NONE, case.sentence(case.fates(action), 0)))
}
