//! The containers of this host, as the kernel tables have them: entered at start, kept in step, put right at a reload.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use guard_common::{
    Container, SLOT_USER_MADE, SLOTS, Subject,
    host::{Host, USER_LEVEL, USERS, user_of},
    identity::{LABEL_PROFILE, LABEL_USER_MADE},
};
use thiserror::Error;

use super::{
    names::{Names, is_user_made},
    runtime,
    tree::{Found, Hierarchy, TreeError, id_of},
};
use crate::kernel::{
    install::Bank,
    load::Kernel,
    prove::{NESTED_MAX, USER_MADE_EACH, USER_MADE_MAX},
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
    /// An unprivileged user could have made it.
    pub user_made: bool,
}

impl Known {
    fn new(id: u64, slot: u32, path: PathBuf) -> Self {
        let text = path.to_string_lossy();
        let (runtime, name) = runtime::parse(&text);
        let name = name.to_owned();
        let user_made = is_user_made(&text);
        Self {
            id,
            slot,
            runtime,
            name,
            user_made,
            path,
        }
    }
}

/// What putting the tables right came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// Containers that the policy knows.
    pub containers: usize,
    /// Of these, entered now.
    pub new: usize,
    /// Cgroup ids that are no container's own any more, or gone.
    pub dropped: Vec<u64>,
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

    /// Drops what is kept of containers that are not in it.
    pub fn keep_known<T>(&self, kept: &mut HashMap<u64, T>) {
        kept.retain(|id, _| self.known.contains_key(id));
    }

    /// Brings the kernel tables and the roster to what the tree and the policy say. The kernel side recognises by the same
    /// policy already, so that what is made meanwhile is entered by it; doing all this twice changes nothing.
    ///
    /// `own` is the daemon's own cgroup: a container that it stands in is limited in nothing. Those that are dropped stay in
    /// the roster until the caller, who has their end to tell, takes them out of it ([`Self::gone`]).
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
        let mut had: HashMap<u64, Subject> = HashMap::new();
        for entry in kernel.subjects.iter() {
            let (id, subject) = entry?;
            had.insert(id, subject.0);
        }
        let mut pass = Pass {
            kernel,
            hierarchy,
            bank,
            own,
            slots: HashMap::new(),
            wanted: HashSet::new(),
            roster: HashMap::new(),
            entered: Entered::default(),
            error: None,
        };
        // Each is entered before its directory is read: what is made in it afterwards inherits in the kernel.
        hierarchy.scan(names, &mut |found| pass.visit(&found))?;
        if let Some(error) = pass.error {
            return Err(error);
        }
        let Pass {
            wanted,
            slots,
            roster,
            mut entered,
            ..
        } = pass;
        for (id, subject) in had {
            if wanted.contains(&id) || slots.contains_key(&subject.container) {
                continue;
            }
            // No longer the policy's, or gone: what is made below it is judged anew.
            if kernel.subjects.remove(&id).is_ok() {
                if id == subject.container {
                    give_back(kernel, id, subject.slot)?;
                    entered.dropped.push(id);
                } else {
                    kernel
                        .host
                        .long(0, offset_of!(Host, nested))
                        .fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        let mut before = std::mem::replace(&mut self.known, roster);
        let dropped = entered.dropped.iter();
        self.known
            .extend(dropped.filter_map(|id| before.remove_entry(id)));
        Ok(entered)
    }
}

/// One walk over the tree.
struct Pass<'p> {
    kernel: &'p mut Kernel,
    hierarchy: &'p Hierarchy,
    bank: Bank,
    own: Option<&'p Path>,
    /// Slot of each container, and whether it was entered just now.
    slots: HashMap<u64, (u32, bool)>,
    wanted: HashSet<u64>,
    roster: HashMap<u64, Known>,
    entered: Entered,
    error: Option<RosterError>,
}

impl Pass<'_> {
    fn visit(&mut self, found: &Found<'_>) {
        if let Err(error) = self.enter(found) {
            self.error.get_or_insert(error);
        }
    }

    fn enter(&mut self, found: &Found<'_>) -> Result<(), RosterError> {
        let (id, container) = (found.id, found.container);
        let before = self
            .kernel
            .subjects
            .get(&id, 0)
            .ok()
            .map(|subject| subject.0);
        if id == container {
            self.container(found, before)?;
        } else if let Some(&(slot, new)) = self.slots.get(&container) {
            self.wanted.insert(id);
            let subject = Subject {
                container,
                slot,
                reserved: 0,
            };
            // One that is not listed in a container that was known was left out by the kernel side, and counted.
            if before != Some(subject) && (new || before.is_some()) {
                nest(self.kernel, id, slot, subject, before.is_some())?;
            }
        }
        if let Some(before) = before.filter(|subject| subject.container == id && id != container) {
            // A container until now, and now a part of one.
            give_back(self.kernel, id, before.slot)?;
            self.entered.dropped.push(id);
        }
        Ok(())
    }

    fn container(&mut self, found: &Found<'_>, before: Option<Subject>) -> Result<(), RosterError> {
        let id = found.id;
        let path = to_path(found.path);
        let mine = before.filter(|subject| subject.container == id);
        let profile = if self.own.is_some_and(|own| own.starts_with(&path)) {
            self.bank.nothing()
        } else {
            self.bank.profile(u32::from(found.label & LABEL_PROFILE))
        };
        let slot = match mine {
            Some(subject) => Some(subject.slot),
            None => {
                let user = (found.label & LABEL_USER_MADE != 0)
                    .then(|| user_of_path(self.hierarchy, &path))
                    .flatten();
                let level = path.components().skip(1).count() as u32;
                enter(self.kernel, id, profile, level, user)?
            }
        };
        let Some(slot) = slot else {
            self.entered.unrecognised += 1;
            return Ok(());
        };
        self.kernel
            .containers
            .word(slot as usize, offset_of!(Container, profile))
            .store(profile, Ordering::Release);
        if mine.is_none() && !list(self.kernel, id, slot)? {
            self.entered.unrecognised += 1;
            return Ok(());
        }
        self.wanted.insert(id);
        self.slots.insert(id, (slot, mine.is_none()));
        self.entered.containers += 1;
        self.entered.new += usize::from(mine.is_none());
        if still_there(self.kernel, self.hierarchy, id, slot, mine.is_none()) {
            self.roster.insert(id, Known::new(id, slot, path));
        }
        Ok(())
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Whose a container is that a user could have made; `None` if it has just gone.
fn user_of_path(hierarchy: &Hierarchy, path: &Path) -> Option<usize> {
    let above: PathBuf = path
        .components()
        .skip(1)
        .take(USER_LEVEL as usize)
        .collect();
    id_of(&hierarchy.mount.join(above)).ok().map(user_of)
}

/// Where the kernel side counts a user's containers.
const fn offset_of_user(user: usize) -> usize {
    offset_of!(Host, user_made_by) + size_of::<u32>() * user
}

/// Gives a container a slot and fills it; `user`: whose it is, if a user could have made it. `None`: there is no room,
/// which is counted.
fn enter(
    kernel: &mut Kernel,
    id: u64,
    profile: u32,
    level: u32,
    user: Option<usize>,
) -> Result<Option<u32>, RosterError> {
    let count = |offset| kernel.host.word(0, offset).load(Ordering::Acquire);
    let room = user.is_none_or(|user| {
        count(offset_of!(Host, user_made)) < USER_MADE_MAX
            && count(offset_of_user(user)) < USER_MADE_EACH
    });
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
            level,
            flags: if user.is_some() { SLOT_USER_MADE } else { 0 },
            user: user.unwrap_or(0) as u32,
            ..Container::default()
        },
    );
    if let Some(user) = user {
        for offset in [offset_of!(Host, user_made), offset_of_user(user)] {
            kernel.host.word(0, offset).fetch_add(1, Ordering::Relaxed);
        }
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

/// Enters a container's own cgroup; false: there is no room, which is counted, and its slot goes back.
fn list(kernel: &mut Kernel, id: u64, slot: u32) -> Result<bool, RosterError> {
    let subject = Subject {
        container: id,
        slot,
        reserved: 0,
    };
    if kernel.enter(id, subject).is_ok() {
        return Ok(true);
    }
    give_back(kernel, id, slot)?;
    kernel
        .host
        .long(0, offset_of!(Host, unrecognised))
        .fetch_add(1, Ordering::Relaxed);
    Ok(false)
}

/// Enters a cgroup nested in a container, within the container's budget.
fn nest(
    kernel: &mut Kernel,
    id: u64,
    slot: u32,
    subject: Subject,
    replaces: bool,
) -> Result<(), RosterError> {
    let room = {
        let (nested, all) = nested_counts(kernel, slot);
        nested.load(Ordering::Acquire) < NESTED_MAX
            && all.load(Ordering::Acquire) < u64::from(kernel.nested_total)
    };
    if room && kernel.enter(id, subject).is_ok() {
        let (nested, all) = nested_counts(kernel, slot);
        nested.fetch_add(1, Ordering::Relaxed);
        all.fetch_add(1, Ordering::Relaxed);
    } else {
        if replaces {
            let _ = kernel.subjects.remove(&id);
        }
        kernel
            .host
            .long(0, offset_of!(Host, unlisted))
            .fetch_add(1, Ordering::Relaxed);
        kernel.has_entered();
    }
    Ok(())
}

/// The nested cgroups of one container, and of all, that are entered.
fn nested_counts(kernel: &Kernel, slot: u32) -> (&AtomicU32, &AtomicU64) {
    let nested = offset_of!(Container, nested);
    let nested = kernel.containers.word(slot as usize, nested);
    (nested, kernel.host.long(0, offset_of!(Host, nested)))
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
        let user = state.user as usize % USERS;
        for offset in [offset_of!(Host, user_made), offset_of_user(user)] {
            kernel.host.word(0, offset).fetch_sub(1, Ordering::Relaxed);
        }
    }
    kernel
        .containers
        .long(slot as usize, offset_of!(Container, id))
        .store(0, Ordering::Release);
    Ok(kernel.free_slots.push(slot, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_container_in_no_roster_is_dropped() {
        let mut roster = Roster::default();
        roster.made(1, 0, "/docker/a".into());
        let mut kept = HashMap::from([(1, "known"), (2, "made and gone, both untold")]);
        roster.keep_known(&mut kept);
        assert_eq!(kept, HashMap::from([(1, "known")]));
    }
}
