//! Who: the container that a task or a cgroup belongs to, if any.

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_pid_tgid};
use guard_common::{
    Container, HINTS as HINTS_MAX, Subject,
    config::{Field, MISSING},
    host::{Host, Turn, WAITING as WAITING_MAX},
    is_of_the_host, of_the_host,
};

use crate::{
    kernel::{self, add, config, in_order},
    maps::{CONTAINERS, HINTS, HOST, OF_THE_HOST, SUBJECTS, WAITING},
};

/// The first level below the hierarchy's root on which a container's own cgroup is not looked for, once a table has overflowed.
const WALK: u32 = 16;
/// Levels above a task on which the container's own cgroup is looked for, the first time that it forks.
const CLIMB: u64 = 256;

/// The host's numbers, if these programs are the ones that act. For hooks that refuse: see [`subject_hand_over`].
#[inline(always)]
pub fn host() -> Option<*mut Host> {
    let host = HOST.get_ptr_mut(0)?;
    // SAFETY: a live map value; the daemon stores the word whole.
    let taking_over = unsafe { (&raw const (*host).taking_over).read_volatile() };
    let acts = match taking_over {
        0 => acts(host),
        _ => subject_hand_over() != 0,
    };
    acts.then_some(host)
}

/// The same for programs that see what is done, and for those of cgroups, which 5.10 tells nothing of the task: as one load takes over
/// from another, what happens at that moment may be seen, or judged, by both or by neither.
#[inline(always)]
pub fn host_of_witness() -> Option<*mut Host> {
    let host = HOST.get_ptr_mut(0)?;
    acts(host).then_some(host)
}

#[inline(always)]
fn acts(host: *mut Host) -> bool {
    // SAFETY: a live map value; the daemon stores the word whole.
    let generation = unsafe { (&raw const (*host).generation).read_volatile() };
    generation == config(Field::Generation)
}

/// Whether these programs judge what the running task is about to do, while one load takes over from another: [`Turn::of`]. Global, as
/// `gate_close` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn subject_hand_over() -> u64 {
    let task = bpf_get_current_pid_tgid();
    let (Some(host), Some(mark)) = (
        HOST.get_ptr_mut(0),
        WAITING.get_ptr_mut(task as u32 % WAITING_MAX),
    ) else {
        return 0;
    };
    // SAFETY: live map values; words are stored whole.
    let (new, marked) = unsafe {
        let taking_over = (&raw const (*host).taking_over).read_volatile();
        (
            taking_over == config(Field::Generation),
            mark.read_volatile() == task,
        )
    };
    let turn = Turn::of(acts(host), new, marked);
    if turn.marks != marked {
        // SAFETY: as above.
        unsafe { mark.write_volatile(if turn.marks { task } else { 0 }) };
    }
    u64::from(turn.judges)
}

/// The host's numbers, whichever programs act: for those that only keep what the next ones must know as well.
#[inline(always)]
pub fn host_of_all() -> Option<*mut Host> {
    HOST.get_ptr_mut(0)
}

/// Whose the running task is; `None`: the host's.
#[inline(always)]
pub fn of_current(host: *mut Host) -> Option<Subject> {
    of_current_by(host, || {
        if config(Field::CgroupVersion) == 2 && config(Field::HelperAncestor) != MISSING {
            // SAFETY: a live map value.
            unsafe { add(&raw mut (*host).walks, 1) };
            return of_current_unread();
        }
        of_ancestors(host, kernel::current_cgroup()?).copied()
    })
}

/// The same for programs of cgroups, which have no helper for ancestors on every kernel.
#[inline(always)]
pub fn of_current_in_cgroup(host: *mut Host) -> Option<Subject> {
    of_current_by(host, || {
        of_ancestors(host, kernel::current_cgroup()?).copied()
    })
}

/// Whose the running task is. `walk` looks among the ancestors of its cgroup, while there may be a cgroup without an entry.
#[inline(always)]
fn of_current_by(host: *mut Host, walk: impl Fn() -> Option<Subject>) -> Option<Subject> {
    let id = kernel::current_cgroup_id()?;
    // SAFETY: a live map value. Before `SUBJECTS` is asked: what is entered meanwhile moves it on.
    let entered = unsafe { (&raw const (*host).entered).read_volatile() };
    in_order();
    let remembered = OF_THE_HOST.get_ptr_mut(id as u32 % HINTS_MAX)?;
    // SAFETY: a live map value; the word is stored whole.
    if is_of_the_host(unsafe { remembered.read_volatile() }, id, entered) {
        return None;
    }
    if let Some(subject) = hinted(id) {
        return Some(subject);
    }
    // SAFETY: entries are replaced whole and read once, under RCU.
    if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
        hint(id, subject);
        return Some(*subject);
    }
    // SAFETY: a live map value.
    if unsafe { (&raw const (*host).unlisted).read_volatile() } != 0 {
        // Not remembered: the walk asks anew where the task stands, and somebody may have moved it meanwhile.
        return walk();
    }
    let word = of_the_host(id, entered);
    if config(Field::ReadsInOrder) != MISSING && word != 0 {
        // SAFETY: as above.
        unsafe { remembered.write_volatile(word) };
    }
    None
}

/// Whose the running task is, by helpers alone: for a host where no kernel memory can be read. Cgroups that are nested in a
/// container have no entry there, so their ancestors are always asked. On v2 alone.
#[inline(always)]
pub fn of_current_unread() -> Option<Subject> {
    if config(Field::CgroupVersion) != 2 {
        return None;
    }
    let mut level = 1;
    while level < u64::from(WALK) {
        // SAFETY: the helper has no preconditions; it says 0 where the task stands higher.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        // SAFETY: entries are replaced whole and read once, under RCU.
        if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
            return Some(*subject);
        }
        level = kernel::counted(level + 1);
    }
    None
}

/// Most containers are one cgroup, and its tasks stand in it: a guess that the slot confirms spares the search.
#[inline(always)]
fn hinted(id: u64) -> Option<Subject> {
    let slot = *HINTS.get(id as u32 % HINTS_MAX)?;
    let subject = Subject {
        container: id,
        slot,
        reserved: 0,
    };
    container(&subject).map(|_| subject)
}

#[inline(always)]
fn hint(id: u64, subject: &Subject) {
    if subject.container == id
        && let Some(hint) = HINTS.get_ptr_mut(id as u32 % HINTS_MAX)
    {
        // SAFETY: a live map value; the word is stored whole.
        unsafe { hint.write_volatile(subject.slot) };
    }
}

/// Whether a cgroup of our hierarchy is a container's own or stands below it.
#[inline(always)]
pub fn contains(container: *const Container, cgroup: u64) -> Option<bool> {
    // SAFETY: a live map value.
    let (id, own, mut level) =
        unsafe { ((*container).id, (*container).cgroup, (*container).level) };
    if level == 0 {
        level = kernel::read(own, Field::CgroupLevel)?;
    }
    if kernel::read::<u32>(cgroup, Field::CgroupLevel)? < level {
        return Some(false);
    }
    Some(kernel::ancestor_id(cgroup, level)? == id)
}

/// Whose a cgroup is.
#[inline(always)]
pub fn of_cgroup(host: *mut Host, cgroup: u64, id: u64) -> Option<Subject> {
    // SAFETY: as above.
    if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
        return Some(*subject);
    }
    // SAFETY: a live map value.
    if unsafe { (&raw const (*host).unlisted).read_volatile() } == 0 {
        return None;
    }
    of_ancestors(host, cgroup).copied()
}

/// Looks for a container among a cgroup's ancestors, from the root down: a container's own cgroup always has an entry,
/// whatever the container nests below it.
// `no_mangle`, here and below: the compiler's own name holds a hash of where the toolchain stands.
#[unsafe(no_mangle)]
#[inline(never)]
fn of_ancestors(host: *mut Host, cgroup: u64) -> Option<&'static Subject> {
    // SAFETY: a live map value.
    unsafe { add(&raw mut (*host).walks, 1) };
    let level = u64::from(kernel::read::<u32>(cgroup, Field::CgroupLevel)?);
    let ancestors = kernel::ancestors()?;
    let mut step = 1;
    while step < u64::from(WALK) && step <= level {
        let id = ancestors.id(cgroup, step);
        // SAFETY: as above. No cgroup's id is 0.
        if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
            return Some(subject);
        }
        step = kernel::counted(step + 1);
    }
    None
}

/// The state of a container.
#[inline(always)]
pub fn container(subject: &Subject) -> Option<*mut Container> {
    let container = CONTAINERS.get_ptr_mut(subject.slot)?;
    // SAFETY: a live map value. A slot that was given to another container is not this one's.
    (unsafe { (*container).id } == subject.container).then_some(container)
}

/// Kernel address of a container's own cgroup; found from the running task the first time.
#[inline(always)]
pub fn own_cgroup(container: *mut Container) -> Option<u64> {
    // SAFETY: a live map value; the address is stored whole.
    let known = unsafe { (&raw const (*container).cgroup).read_volatile() };
    if known != 0 {
        return Some(known);
    }
    let found = find(container)?;
    // SAFETY: as above; every CPU stores the same address.
    unsafe { (&raw mut (*container).cgroup).write_volatile(found) };
    Some(found)
}

/// By the task's own ancestors where the kernel lists them (6.1), else by climbing.
#[inline(always)]
fn find(container: *const Container) -> Option<u64> {
    // SAFETY: a live map value.
    let (id, level) = unsafe { ((*container).id, (*container).level) };
    let from = kernel::current_cgroup()?;
    let below = kernel::read::<u32>(from, Field::CgroupLevel)?.checked_sub(level)?;
    let found = if config(Field::CgroupAncestors) == MISSING {
        climb(from, u64::from(below))
    } else {
        kernel::ancestor(from, level)?
    };
    (kernel::cgroup_id(found)? == id).then_some(found)
}

/// So many levels up; 0: there are not so many. Global, as `gate_close` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn climb(mut cgroup: u64, levels: u64) -> u64 {
    let Some((own, parent)) = kernel::parents() else {
        return 0;
    };
    for level in 0..CLIMB {
        if level == levels {
            return cgroup;
        }
        // Above the root is 0, and above that as well.
        cgroup = kernel::word_at(cgroup + own + parent) - own;
    }
    0
}
