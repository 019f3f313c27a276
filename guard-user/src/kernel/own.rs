//! What is Bulkhead's own in the kernel: noted there, so that no container gets a descriptor of it by its number.

use std::{
    collections::HashSet,
    io,
    os::fd::BorrowedFd,
    sync::{Mutex, PoisonError},
};

use aya::maps::{HashMap as Table, MapData};
use guard_common::bpf::Object;

use super::{load::LoadError, sys, tables::Plain};

/// The kernel table `OWN`, which all loads share: while one takes another's place, both guard what is new.
pub(super) struct Own(Mutex<Noted>);

struct Noted {
    table: Table<MapData, u64, Plain<u32>>,
    /// By this load.
    keys: HashSet<u64>,
}

impl Own {
    /// What starts that failed have left in it goes: nobody else strikes that off.
    pub(super) fn new(table: Table<MapData, u64, Plain<u32>>) -> Self {
        let own = Self(Mutex::new(Noted {
            table,
            keys: HashSet::new(),
        }));
        own.forget_unless(|_, key| {
            Object::of_key(*key).is_some_and(|(kind, id)| sys::is_there(kind, id))
        });
        own
    }

    fn with<T>(&self, act: impl FnOnce(&mut Noted) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is ours.
    pub(super) fn note(&self, kind: Object, object: BorrowedFd<'_>) -> Result<(), LoadError> {
        let key = kind.own(sys::id_of(object).map_err(LoadError::Own)?);
        self.with(|noted| {
            noted.keys.insert(key);
            let set = noted.table.insert(key, Plain(1), 0);
            set.map_err(|error| LoadError::Own(io::Error::other(error)))
        })
    }

    /// This goes.
    pub(super) fn forget(&self, kind: Object, object: BorrowedFd<'_>) {
        if let Ok(id) = sys::id_of(object) {
            self.with(|noted| {
                noted.keys.remove(&kind.own(id));
                let _ = noted.table.remove(&kind.own(id));
            });
        }
    }

    /// Of what earlier loads noted, nothing is there any more but what this one has taken over.
    pub(super) fn forget_others(&self) {
        self.forget_unless(HashSet::contains);
    }

    fn forget_unless(&self, stays: impl Fn(&HashSet<u64>, &u64) -> bool) {
        self.with(|noted| {
            let all: Vec<u64> = noted.table.keys().filter_map(Result::ok).collect();
            for key in all.iter().filter(|key| !stays(&noted.keys, key)) {
                let _ = noted.table.remove(key);
            }
        });
    }
}
