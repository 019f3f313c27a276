//! Who: the container that a task or a cgroup belongs to, if any.

use guard_common::{Container, Subject, config::Field, host::Host};

use crate::{
    kernel::{self, add, config},
    maps::{CONTAINERS, HOST, SUBJECTS},
};

/// Levels below the hierarchy's root on which a container's own cgroup is looked for, once a table has overflowed.
const WALK: u32 = 32;
/// Levels above a task on which the container's own cgroup is looked for, the first time that it forks.
const CLIMB: u32 = 64;

/// The host's numbers, if these programs are the ones that act.
#[inline(always)]
pub fn host() -> Option<*mut Host> {
    let host = HOST.get_ptr_mut(0)?;
    // SAFETY: a live map value; the daemon stores the word whole.
    let generation = unsafe { (&raw const (*host).generation).read_volatile() };
    (generation == config(Field::Generation)).then_some(host)
}

/// Whose the running task is; `None`: the host's.
#[inline(always)]
pub fn of_current(host: *mut Host) -> Option<Subject> {
    let id = kernel::current_cgroup_id()?;
    // SAFETY: entries are replaced whole and read once, under RCU.
    if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
        return Some(*subject);
    }
    // SAFETY: a live map value.
    if unsafe { (&raw const (*host).unlisted).read_volatile() } == 0 {
        return None;
    }
    of_ancestors(host, kernel::current_cgroup()?).copied()
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
    let level: u32 = kernel::read(cgroup, Field::CgroupLevel)?;
    let pointers = config(Field::CgroupAncestors);
    let ids = config(Field::CgroupAncestorIds);
    for step in 1..WALK {
        if step > level {
            break;
        }
        let at = 8 * u64::from(step);
        let id = if pointers != guard_common::config::MISSING {
            let ancestor: u64 = kernel::read_at(cgroup + u64::from(pointers) + at)?;
            kernel::cgroup_id(ancestor)?
        } else if ids != guard_common::config::MISSING {
            kernel::read_at::<u64>(cgroup + u64::from(ids) + at)?
        } else {
            return None;
        };
        // SAFETY: as above.
        if let Some(subject) = unsafe { SUBJECTS.get(&id) } {
            return Some(subject);
        }
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

/// Kernel address of a container's own cgroup; climbed to from the running task the first time.
#[inline(always)]
pub fn own_cgroup(container: *mut Container) -> Option<u64> {
    // SAFETY: a live map value; the address is stored whole.
    let known = unsafe { (&raw const (*container).cgroup).read_volatile() };
    if known != 0 {
        return Some(known);
    }
    match climb(container) {
        0 => None,
        found => Some(found),
    }
}

/// 0: it was not found.
#[unsafe(no_mangle)]
#[inline(never)]
fn climb(container: *mut Container) -> u64 {
    // SAFETY: a live map value.
    let id = unsafe { (*container).id };
    let mut cgroup = kernel::current_cgroup();
    for _ in 0..CLIMB {
        let Some(at) = cgroup else { break };
        if kernel::cgroup_id(at) == Some(id) {
            // SAFETY: a live map value; every CPU stores the same address.
            unsafe { (&raw mut (*container).cgroup).write_volatile(at) };
            return at;
        }
        cgroup = kernel::parent(at);
    }
    0
}
