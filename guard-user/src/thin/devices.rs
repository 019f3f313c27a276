//! Thin discard: what block devices say of themselves, where sysfs does not.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::stack::{Ask, Below};
use crate::{
    act::discards::SYS,
    kernel::{
        attach::release,
        mapper::{Asked, Mapper},
    },
    sense::asked::{Patience, below_loops, hangs},
};

/// A loop device says within so long what it is on, or those behind it are asked without it,
const EACH: Duration = Duration::from_millis(300);
/// the first within so long, since whoever asks must start,
const FIRST: Duration = Duration::from_secs(1);
/// and all of them together within so long. Those that were not heard are asked with the next look.
const ALL: Duration = Duration::from_secs(2);

/// The device mapper, if there is one, and the loop devices.
pub struct Devices {
    mapper: Option<Mapper>,
    /// What each loop device is on, as far as any was asked for since the last look.
    loops: RefCell<Option<BTreeMap<String, Below>>>,
    /// Loop devices that said nothing, each with its file and the process that asked: they are asked last, and not while they keep that.
    silent: RefCell<BTreeMap<String, (String, u32)>>,
}

impl Devices {
    /// Those of this host.
    #[must_use]
    pub fn open() -> Self {
        Self {
            mapper: mapper(),
            loops: RefCell::default(),
            silent: RefCell::default(),
        }
    }

    /// To be looked at anew.
    pub fn renew(&mut self) {
        self.mapper = mapper();
        self.loops.take();
    }

    /// How the first target of a device is, in the kernel's words; `None`: it cannot be told.
    #[must_use]
    pub fn status(&self, number: u32) -> Option<String> {
        let targets = self.mapper.as_ref()?.targets(number, Asked::Status).ok()?;
        targets.into_iter().next().map(|target| target.says)
    }

    /// What each loop device that has a file is on.
    fn ask_loops(&self) -> BTreeMap<String, Below> {
        let mut silent = self.silent.borrow_mut();
        let files = files_of_loops(Path::new(SYS));
        silent.retain(|name, (file, _)| files.get(name) == Some(file));
        let keeps = |name: &String| silent.get(name).is_some_and(|(_, process)| hangs(*process));
        let mut asked: Vec<String> = files.keys().filter(|name| !keeps(name)).cloned().collect();
        asked.sort_by_key(|name| silent.contains_key(name));
        let mut all = BTreeMap::new();
        let patience = Patience {
            first: FIRST,
            each: EACH,
            over: Instant::now() + ALL,
        };
        while !asked.is_empty() && Instant::now() < patience.over {
            let Ok(said) = below_loops(&asked, patience) else {
                break;
            };
            let rest = asked.split_off(said.below.len().min(asked.len()));
            silent.retain(|name, _| !asked.contains(name));
            all.extend(asked.into_iter().zip(said.below));
            // The first that says nothing keeps the others from being asked.
            let mut rest = rest.into_iter();
            if let Some(process) = said.hung
                && let Some(name) = rest.next()
            {
                let file = files.get(&name).cloned().unwrap_or_default();
                silent.insert(name, (file, process));
            }
            asked = rest.collect();
        }
        for name in files.into_keys() {
            all.entry(name).or_insert(Below::Unknown);
        }
        all
    }
}

fn mapper() -> Option<Mapper> {
    Mapper::is_there().then(Mapper::open).and_then(Result::ok)
}

/// The path of the file of each loop device that has one, as it says; none is followed.
fn files_of_loops(sys: &Path) -> BTreeMap<String, String> {
    let blocks = sys.join("block");
    let names = fs::read_dir(&blocks).into_iter().flatten().flatten();
    names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let file = fs::read(blocks.join(&name).join("loop/backing_file")).ok()?;
            Some((name, String::from_utf8_lossy(&file).into_owned()))
        })
        .collect()
}

impl Ask for Devices {
    fn targets(&self, number: u32) -> Option<Vec<String>> {
        let targets = self.mapper.as_ref()?.targets(number, Asked::Table).ok()?;
        Some(targets.into_iter().map(|target| target.kind).collect())
    }

    fn below_loop(&self, name: &str) -> Below {
        let mut loops = self.loops.borrow_mut();
        let loops = loops.get_or_insert_with(|| self.ask_loops());
        // It has a file, or nobody would ask; and had none when they were asked.
        loops.get(name).copied().unwrap_or(Below::Unknown)
    }
}

/// Whether a device whose queue takes no discards gets none: before 5.19 (`bdev_max_discard_sectors`) another flag said so, which
/// nobody can take back.
#[must_use]
pub fn queues_are_heeded() -> bool {
    release() >= (5, 19)
}

/// What stays open on this kernel while discards on dm-thin are switched off for everybody.
#[must_use]
pub fn open_here() -> Vec<&'static str> {
    let mut open = Vec::new();
    if !queues_are_heeded() {
        open.extend([
            "a file system that is mounted with discard in a mount namespace where the daemon does not see it, and any xfs mounted so: its own \
             threads discard what is deleted, until it is unmounted",
            "targets of iSCSI, NVMe and vhost on it: their clients trim, and no hook sees that",
        ]);
    }
    open.push("deleting a thin volume by a message of the device mapper, which goes through the same code");
    open
}
