//! Reads of the running kernel's structures, at offsets that the daemon took from its BTF.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::{MaybeUninit, transmute},
    ptr::read_volatile,
};

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel, generated,
};
use guard_common::config::{FIELDS, Field, MISSING, OFFSET_MAX};

/// A kernel thread (`PF_KTHREAD`, include/linux/sched.h, the same bit on 5.10 to 7.3).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The namespace may still take pids (include/linux/pid_namespace.h, the same bit on 5.10 to 7.3).
const PIDNS_ADDING: u32 = 1 << 31;

/// Set by the daemon before the programs are loaded, and frozen: the verifier sees constants.
#[unsafe(no_mangle)]
static CONFIG: [u32; FIELDS] = [MISSING; FIELDS];

/// What the daemon set.
#[inline(always)]
pub fn config(field: Field) -> u32 {
    // SAFETY: the index is below FIELDS by the enum's construction. Volatile, since the value is set after compilation.
    unsafe { read_volatile(&raw const CONFIG[field as usize]) }
}

/// Where a field stands in its structure; `None` if this kernel has no such field.
#[inline(always)]
pub fn offset(field: Field) -> Option<u64> {
    let offset = config(field);
    (offset <= OFFSET_MAX).then_some(u64::from(offset))
}

/// A value inside a kernel structure; `None` if this kernel has no such field or the read fails, as it does where `base` is 0.
#[inline(always)]
pub fn read<T>(base: u64, field: Field) -> Option<T> {
    read_at(base + offset(field)?)
}

/// A value behind a pointer whose type the verifier knows, such as a hook's argument: a few instructions, where [`read`] is a
/// helper's call of a hundred. A pointer that is wrong reads as zero. `None` if this kernel has no such field.
///
/// # Safety
/// `base` is a kernel pointer to the structure that `field` is a field of.
#[inline(always)]
pub unsafe fn typed<T>(base: u64, field: Field) -> Option<T> {
    let at = base + offset(field)?;
    // SAFETY: the caller's promise; the kernel handles the fault of a pointer that is wrong.
    Some(unsafe { read_volatile(at as *const T) })
}

/// A value at a kernel address.
#[inline(always)]
pub fn read_at<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// A word at a kernel address; 0 where it cannot be read, as the helper leaves it. For loops, of which the verifier follows each
/// round, and each way out of it: nothing is asked here.
#[inline(always)]
pub fn word_at(address: u64) -> u64 {
    let mut word = MaybeUninit::<u64>::uninit();
    // SAFETY: the helper checks the address, and writes the whole word in any case.
    unsafe {
        generated::bpf_probe_read_kernel(word.as_mut_ptr().cast(), 8, address as *const _);
        word.assume_init()
    }
}

/// The first 15 bytes of a text at a kernel address, and NULs behind it; none where it cannot be read.
#[inline(always)]
pub fn text_at(address: u64) -> [u64; 2] {
    let mut words = [0_u64; 2];
    // SAFETY: as many bytes as there is room for, and the helper fails on an address that cannot be read.
    unsafe {
        generated::bpf_probe_read_kernel_str(words.as_mut_ptr().cast(), 16, address as *const _);
    }
    words
}

/// Adds without reading the result back: the one atomic that 5.10 has. `core` hides `fetch_add` on this target.
///
/// # Safety
/// `counter` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// The same for 32 bits.
///
/// # Safety
/// `counter` points into a live map value and is aligned.
#[inline(always)]
pub unsafe fn add32(counter: *mut u32, value: u32) {
    // SAFETY: the caller's promise.
    let _ = unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// A constant that the compiler may not compute from a condition: the verifier (6.12) wants to see that what an LSM
/// program returns is 0 or a negative errno, and does not see it in arithmetic.
#[inline(always)]
pub fn apart(value: i32) -> i32 {
    // SAFETY: no instruction at all; it only keeps the branch that it stands in.
    unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
    value
}

/// A counter of rounds that stays one: the compiler would count down to zero from what it may be at most, and the verifier (5.10)
/// wants to see a number that it knows come to one that it knows.
#[inline(always)]
pub fn counted(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {value} */", value = inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// What is read after this is not read before, by the compiler; nor by the processor where that reads in order
/// ([`Field::ReadsInOrder`]).
#[inline(always)]
pub fn in_order() {
    // SAFETY: no instruction at all; the compiler takes it for one that may write memory.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// Address of the running task's `task_struct`.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// What the running task calls itself.
#[inline(always)]
pub fn current_name() -> [u8; 16] {
    // In words: of bytes the compiler would make a hundred instructions.
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: the helper writes it all, zeros if it fails, and any bytes are a name.
    unsafe {
        generated::bpf_get_current_comm(name.as_mut_ptr().cast(), 16);
        transmute(name.assume_init())
    }
}

/// What a task calls itself, where it cannot be asked of a helper.
#[inline(always)]
pub fn name_of(task: u64) -> [u8; 16] {
    let name: [u64; 2] = read(task, Field::TaskName).unwrap_or_default();
    // SAFETY: any bytes are a name.
    unsafe { transmute(name) }
}

/// Whether the running task is a kernel thread. Unknown counts as one: it is then refused nothing.
#[inline(always)]
pub fn is_kernel_thread() -> bool {
    read::<u32>(current(), Field::TaskFlags).is_none_or(|flags| flags & PF_KTHREAD != 0)
}

/// Id of the running task's cgroup in the hierarchy that tells containers apart.
#[inline(always)]
pub fn current_cgroup_id() -> Option<u64> {
    if config(Field::CgroupVersion) == 2 {
        // SAFETY: the helper has no preconditions.
        return Some(unsafe { bpf_get_current_cgroup_id() });
    }
    cgroup_id(current_cgroup()?)
}

/// Address of the running task's `struct cgroup` in that hierarchy.
#[inline(always)]
pub fn current_cgroup() -> Option<u64> {
    let cgroup = kernel_current_cgroup();
    (cgroup != 0).then_some(cgroup)
}

/// The same; 0: it cannot be read. Global, as `gate_close` is: programs come to it from several places, and on v2 seldom.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn kernel_current_cgroup() -> u64 {
    cgroup_of(current()).unwrap_or_default()
}

/// Address of a task's `struct cgroup` in that hierarchy.
#[inline(always)]
pub fn cgroup_of(task: u64) -> Option<u64> {
    let sets: u64 = read(task, Field::TaskCgroups)?;
    if config(Field::CgroupVersion) == 2 {
        return read(sets, Field::CssSetDefault);
    }
    let state = controller_state(sets, Field::CssSetSubsys)?;
    read(state, Field::CssCgroup)
}

/// Address of a task's mount namespace.
#[inline(always)]
pub fn mounts_of(task: u64) -> Option<u64> {
    read(read(task, Field::TaskNamespaces)?, Field::NamespacesMounts)
}

/// Id of a cgroup.
#[inline(always)]
pub fn cgroup_id(cgroup: u64) -> Option<u64> {
    read(read::<u64>(cgroup, Field::CgroupNode)?, Field::NodeId)
}

/// Whether a cgroup stands in the hierarchy that tells containers apart.
#[inline(always)]
pub fn in_our_hierarchy(cgroup: u64) -> bool {
    read::<u64>(cgroup, Field::CgroupRoot)
        .and_then(|root| read::<u32>(root, Field::RootHierarchy))
        .is_some_and(|hierarchy| hierarchy == config(Field::Hierarchy))
}

/// Id of a cgroup's ancestor at a level, the root's being 0. The caller sees to it that there is one.
#[inline(always)]
pub fn ancestor_id(cgroup: u64, level: u32) -> Option<u64> {
    if config(Field::CgroupAncestors) <= OFFSET_MAX {
        return cgroup_id(ancestor(cgroup, level)?);
    }
    element(cgroup, Field::CgroupAncestorIds, level)
}

/// Address of a cgroup's ancestor, as [`ancestor_id`]; since 6.1.
#[inline(always)]
pub fn ancestor(cgroup: u64, level: u32) -> Option<u64> {
    element(cgroup, Field::CgroupAncestors, level)
}

/// What finds the ids of a cgroup's ancestors one after the other.
pub enum Ancestors {
    /// The kernel lists the ancestors (6.1): where, and where a cgroup's node and a node's id are.
    Listed(u64, u64, u64),
    /// It lists their ids.
    Ids(u64),
}

/// How this kernel lists a cgroup's ancestors; `None`: not at all.
#[inline(always)]
pub fn ancestors() -> Option<Ancestors> {
    if let Some(listed) = offset(Field::CgroupAncestors) {
        let (node, id) = (offset(Field::CgroupNode)?, offset(Field::NodeId)?);
        return Some(Ancestors::Listed(listed, node, id));
    }
    offset(Field::CgroupAncestorIds).map(Ancestors::Ids)
}

impl Ancestors {
    /// As [`ancestor_id`]; 0 where it cannot be read. See [`word_at`].
    #[inline(always)]
    pub fn id(&self, cgroup: u64, level: u64) -> u64 {
        let at = cgroup + 8 * level;
        match self {
            Self::Listed(listed, node, id) => word_at(word_at(word_at(at + listed) + node) + id),
            Self::Ids(ids) => word_at(at + ids),
        }
    }
}

/// An element of an array of eight-byte words inside a kernel structure.
#[inline(always)]
fn element(base: u64, array: Field, index: u32) -> Option<u64> {
    read_at(base + offset(array)? + 8 * u64::from(index))
}

/// The parent of a cgroup, of whose state `self` the parent's `self` is the parent (`cgroup_create`).
#[inline(always)]
pub fn parent(cgroup: u64) -> Option<u64> {
    let own = offset(Field::CgroupSelf)?;
    let above: u64 = read(cgroup + own, Field::CssParent)?;
    (above != 0).then(|| above - own)
}

/// Where a cgroup's state is in it, and the parent in that; for [`word_at`], as [`parent`].
#[inline(always)]
pub fn parents() -> Option<(u64, u64)> {
    Some((offset(Field::CgroupSelf)?, offset(Field::CssParent)?))
}

/// Pids in a cgroup and below it; `None` where it has no pids controller.
#[inline(always)]
pub fn pids(cgroup: u64) -> Option<u64> {
    read(
        controller_state(cgroup, Field::CgroupSubsys)?,
        Field::PidsCounter,
    )
}

/// A process as the verifier knows it: what its threads share, a `struct signal_struct`. `task` may be the child that is being
/// made: it still shares all of its parent's.
///
/// Whatever is read from here costs next to nothing, also when a program is loaded: 6.12 searches its whole type information
/// four times for each pointer that is read through one that it trusts, as it does `task`, and this is the only one.
///
/// # Safety
/// `task` is a hook's argument of type `struct task_struct *`.
#[inline(always)]
pub unsafe fn process(task: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe { typed(task, Field::TaskSignal) }
}

/// The same as [`pids`] for a container's own cgroup where the process stands in it, and not in one nested in it; `None`: it
/// does not.
///
/// # Safety
/// `process` comes from [`process`].
#[inline(always)]
pub unsafe fn pids_of_process(process: u64, cgroup: u64) -> Option<u64> {
    let controller = offset(Field::PidsController)?;
    // SAFETY: the caller's promise, and each pointer is a field of the type that the next field is of.
    let state = unsafe {
        let thread: u64 = typed(process, Field::SignalTarget)?;
        let set: u64 = typed(thread, Field::TaskCgroups)?;
        let slot = set + 8 * controller;
        let state: u64 = typed(slot, Field::CssSetSubsys)?;
        if typed::<u64>(state, Field::CssCgroup)? != cgroup {
            return None;
        }
        state
    };
    read(state, Field::PidsCounter)
}

/// Pids in use on the host, by a process. The first number of a pid is the one in the host's namespace, whatever namespace the
/// process is in.
///
/// # Safety
/// `process` comes from [`process`].
#[inline(always)]
pub unsafe fn host_pids_of_process(process: u64) -> Option<u32> {
    // SAFETY: the caller's promise, and each pointer is a field of the type that the next field is of.
    let pids: u32 = unsafe {
        let kind = process + 8 * offset(Field::PidKind)?;
        let pid: u64 = typed(kind, Field::SignalPids)?;
        let numbers = pid + offset(Field::PidNumbers)?;
        let namespace: u64 = typed(numbers, Field::NumberNamespace)?;
        typed(namespace, Field::NamespacePids)?
    };
    Some(pids & !PIDNS_ADDING)
}

/// Pids in use on the host. `namespace` remembers where the first namespace is.
#[inline(always)]
pub fn host_pids(namespace: &mut u64) -> Option<u32> {
    if *namespace == 0 {
        let pid: u64 = read(current(), Field::TaskPid)?;
        // The first number is the one in the host's namespace, whatever namespace the task is in.
        *namespace = read(pid + offset(Field::PidNumbers)?, Field::NumberNamespace)?;
    }
    read::<u32>(*namespace, Field::NamespacePids).map(|pids| pids & !PIDNS_ADDING)
}

#[inline(always)]
fn controller_state(base: u64, table: Field) -> Option<u64> {
    let controller = config(Field::PidsController);
    if controller == MISSING {
        return None;
    }
    element(base, table, controller)
}
