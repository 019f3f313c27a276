//! The containers of this host, as the kernel tables have them: entered at start, kept in step, put right at a reload.

use std::{
    collections::HashMap,
    mem::offset_of,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use guard_common::{
    Container, SLOT_USER_MADE, SLOTS, Subject,
    host::Host,
    identity::{LABEL_PROFILE, LABEL_USER_MADE},
};
use thiserror::Error;

use super::{
    names::Names,
    runtime,
    tree::{Found, Hierarchy, TreeError},
};
use crate::kernel::{
    install::Bank,
    load::Kernel,
    prove::{NESTED_MAX, USER_MADE_MAX},
    tables::Plain,
};

/// Slots that the daemon leaves to the kernel side when it takes one from its end of the table: more than there are CPUs
/// that could be taking one at this moment.
const SLOTS_APART: u32 = 64;

/// Why the containers could not be entered.
#[derive(Debug, Error)]
pub enum RosterError {
    /// The tree could not be walked.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A kernel table.
    #[error("cannot enter the existing containers into the kernel's tables")]
    Table(#[from] aya::maps::MapError),
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its cgroup id.
    pub id: u64,
    /// Where its state stands in the kernel table.
    pub slot: u32,
    /// Its cgroup's path from the root of the hierarchy.
    pub path: PathBuf,
    /// The runtime that its path speaks of.
    pub runtime: &'static str,
    /// The id that it has there.
    pub name: String,
}

impl Known {
    fn new(id: u64, slot: u32, path: PathBuf) -> Self {
        let text = path.to_string_lossy();
        let (runtime, name) = runtime::parse(&text);
        let name = name.to_owned();
        Self {
            id,
            slot,
            runtime,
            name,
            path,
        }
    }
}

/// What putting the tables right came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// Containers that the policy knows.
    pub containers: usize,
    /// Of these, entered now.
    pub new: usize,
    /// Entries that no longer are what they were.
    pub changed: usize,
    /// Containers for which a table had no room.
    pub unrecognised: usize,
}

/// All containers, by cgroup id.
#[derive(Debug, Default)]
pub struct Roster {
    known: HashMap<u64, Known>,
}

impl Roster {
    /// The container with this cgroup id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Known> {
        self.known.get(&id)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// Number of containers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The kernel side has recognised a container.
    pub fn made(&mut self, id: u64, slot: u32, path: PathBuf) -> &Known {
        self.known.insert(id, Known::new(id, slot, path));
        &self.known[&id]
    }

    /// A container is gone.
    pub fn gone(&mut self, id: u64) -> Option<Known> {
        self.known.remove(&id)
    }

    /// Brings the kernel tables and the roster to what the tree and the policy say. The kernel side recognises by the same
    /// policy already, so that what is made meanwhile is entered by it; doing all this twice changes nothing.
    ///
    /// `own` is the daemon's own cgroup: a container that it stands in is limited in nothing.
    ///
    /// # Errors
    /// [`RosterError`]; what was entered so far stays.
    pub fn reconcile(
        &mut self,
        kernel: &mut Kernel,
        hierarchy: &Hierarchy,
        names: &Names,
        bank: Bank,
        own: Option<&Path>,
    ) -> Result<Entered, RosterError> {
        let mut wanted: HashMap<u64, (u64, u16)> = HashMap::new();
        let mut order: Vec<(u64, PathBuf)> = Vec::new();
        hierarchy.scan(names, &mut |found: Found<'_>| {
            wanted.insert(found.id, (found.container, found.label));
            order.push((found.id, to_path(found.path)));
        })?;
        let mut had: HashMap<u64, Subject> = HashMap::new();
        for entry in kernel.subjects.iter() {
            let (id, subject) = entry?;
            had.insert(id, subject.0);
        }
        let mut entered = Entered::default();
        let mut roster = HashMap::new();
        let mut slots: HashMap<u64, (u32, bool)> = HashMap::new();
        // Parents come before what is in them.
        for (id, path) in order {
            let Some(&(container, label)) = wanted.get(&id) else {
                continue;
            };
            // Asked anew: iterating over a hash table may pass over what is entered meanwhile.
            let before = kernel.subjects.get(&id, 0).ok().map(|subject| subject.0);
            if id == container {
                let mine = before.filter(|subject| subject.container == id);
                let within = own.is_some_and(|own| own.starts_with(&path));
                let profile = if within {
                    bank.nothing()
                } else {
                    bank.profile(u32::from(label & LABEL_PROFILE))
                };
                let slot = match mine {
                    Some(subject) => Some(subject.slot),
                    None => enter(kernel, id, profile, label & LABEL_USER_MADE != 0)?,
                };
                let Some(slot) = slot else {
                    entered.unrecognised += 1;
                    continue;
                };
                kernel
                    .containers
                    .word(slot as usize, offset_of!(Container, profile))
                    .store(profile, Ordering::Release);
                slots.insert(id, (slot, mine.is_none()));
                entered.containers += 1;
                entered.new += usize::from(mine.is_none());
                if mine.is_none() {
                    list(kernel, id, id, slot)?;
                }
                if still_there(kernel, hierarchy, id, slot, mine.is_none()) {
                    roster.insert(id, Known::new(id, slot, path));
                }
            } else if let Some(&(slot, new)) = slots.get(&container) {
                let subject = Subject {
                    container,
                    slot,
                    reserved: 0,
                };
                if before == Some(subject) {
                    continue;
                }
                if before.is_none() && !new {
                    // Made a moment ago and being entered by the kernel side, or left out by it and counted.
                    continue;
                }
                nest(kernel, id, slot, subject, before.is_some())?;
            }
            if let Some(before) =
                before.filter(|subject| subject.container == id && id != container)
            {
                // A container until now, and now a part of one.
                give_back(kernel, id, before.slot)?;
                entered.changed += 1;
            }
        }
        for (id, subject) in had {
            if wanted.contains_key(&id) || subject.container != id {
                continue;
            }
            if hierarchy.open(id).is_err() {
                if kernel.subjects.remove(&id).is_ok() {
                    give_back(kernel, id, subject.slot)?;
                }
                continue;
            }
            // No longer the policy's: it keeps its entry and is limited in nothing.
            kernel
                .containers
                .word(subject.slot as usize, offset_of!(Container, profile))
                .store(bank.nothing(), Ordering::Release);
            entered.changed += 1;
        }
        self.known = roster;
        Ok(entered)
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Gives a container a slot and fills it; `None`: there is no room, which is counted.
fn enter(
    kernel: &mut Kernel,
    id: u64,
    profile: u32,
    user_made: bool,
) -> Result<Option<u32>, RosterError> {
    let made = kernel.host.word(0, offset_of!(Host, user_made));
    let room = !user_made || made.load(Ordering::Acquire) < USER_MADE_MAX;
    let Some(slot) = room.then(|| take_slot(kernel)).flatten() else {
        kernel
            .host
            .long(0, offset_of!(Host, unrecognised))
            .fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    };
    kernel.containers.fill(
        slot as usize,
        &Container {
            id,
            profile,
            flags: if user_made { SLOT_USER_MADE } else { 0 },
            ..Container::default()
        },
    );
    if user_made {
        kernel
            .host
            .word(0, offset_of!(Host, user_made))
            .fetch_add(1, Ordering::Relaxed);
    }
    Ok(Some(slot))
}

/// A slot that was given back, else the last that the kernel side has not come to.
fn take_slot(kernel: &mut Kernel) -> Option<u32> {
    if let Ok(slot) = kernel.free_slots.pop(0) {
        return Some(slot);
    }
    let floor = kernel.host.word(0, offset_of!(Host, slot_floor));
    let given = kernel
        .host
        .word(0, offset_of!(Host, slots_given))
        .load(Ordering::Acquire);
    let last = floor.load(Ordering::Acquire);
    if last > SLOTS || given + SLOTS_APART >= last {
        return None;
    }
    floor.store(last - 1, Ordering::Release);
    Some(last - 1)
}

fn list(kernel: &mut Kernel, id: u64, container: u64, slot: u32) -> Result<(), RosterError> {
    let subject = Subject {
        container,
        slot,
        reserved: 0,
    };
    Ok(kernel.subjects.insert(id, Plain(subject), 0)?)
}

/// Enters a cgroup nested in a container, within the container's budget.
fn nest(
    kernel: &mut Kernel,
    id: u64,
    slot: u32,
    subject: Subject,
    replaces: bool,
) -> Result<(), RosterError> {
    let nested = kernel
        .containers
        .word(slot as usize, offset_of!(Container, nested));
    if nested.load(Ordering::Acquire) >= NESTED_MAX
        || kernel.subjects.insert(id, Plain(subject), 0).is_err()
    {
        if replaces {
            let _ = kernel.subjects.remove(&id);
        }
        kernel
            .host
            .long(0, offset_of!(Host, unlisted))
            .fetch_add(1, Ordering::Relaxed);
    } else {
        nested.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether a container that was just entered was not removed in the meantime: the kernel side found no entry then.
fn still_there(kernel: &mut Kernel, hierarchy: &Hierarchy, id: u64, slot: u32, new: bool) -> bool {
    if !new || hierarchy.open(id).is_ok() {
        return true;
    }
    if kernel.subjects.remove(&id).is_ok() {
        let _ = give_back(kernel, id, slot);
    }
    false
}

/// Frees a slot that nothing leads to any more.
fn give_back(kernel: &mut Kernel, id: u64, slot: u32) -> Result<(), RosterError> {
    let state = kernel.containers.get(slot as usize);
    if state.id != id {
        return Ok(());
    }
    if state.flags & SLOT_USER_MADE != 0 {
        kernel
            .host
            .word(0, offset_of!(Host, user_made))
            .fetch_sub(1, Ordering::Relaxed);
    }
    kernel
        .containers
        .long(slot as usize, offset_of!(Container, id))
        .store(0, Ordering::Release);
    Ok(kernel.free_slots.push(slot, 0)?)
}
