//! The names of those who print: the kernel side's messages, joined with records, and cgroups made into containers.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{MapData, RingBuf};
use guard_common::kernel_log::{ENDED, Ended, Printed};
use serde::{Deserialize, Serialize};

use super::{
    about::{
        Had, Living, Moment, Named, Tasks, Whom, had, in_proc, monotonic, named, real_ahead, slack,
        stamped,
    },
    naming::{self, Naming, Printer},
    record::Record,
};
use crate::{
    identity::{names::Names as Patterns, runtime},
    kernel::tables::Mapped,
    record::Text,
};

/// Whose a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A kernel thread printed it, or an interrupt.
    Kernel,
    /// A task of the host's, by a system call or a fault of its own.
    Host,
    /// A task in a container, likewise.
    Container,
    /// It cannot be told.
    Unknown,
}

/// Who printed a line, and whom it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The container's id, as its runtime gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Text>,
    /// The container's runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Text>,
    /// The process, as the host numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<Text>,
    /// Id of the task's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    /// Whom the line is about, where the kernel's own words name a process or a cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Box<Whom>>,
}

/// Containers, for those who have no roster: by cgroup id also such as are gone, since what they printed may be read later, and
/// by path whatever the policy takes for one.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// Runtime and name, by cgroup id.
    ids: HashMap<u64, (Text, Text)>,
    patterns: Option<Arc<Patterns>>,
}

/// Whose a path is.
enum Owner<'p> {
    /// The container's own path, its runtime and its name.
    Container(&'p [u8], Text, Text),
    Host,
}

impl Directory {
    /// There is a container, or was.
    pub fn add(&self, id: u64, path: &Path) {
        let path = path.to_string_lossy();
        let (runtime, name) = runtime::parse(&path);
        let entry = (Text::from(runtime), Text::from(name));
        self.with(|known| known.ids.insert(id, entry));
    }

    /// From now on these patterns say what a container is.
    pub fn recognise(&self, patterns: Arc<Patterns>) {
        self.with(|known| known.patterns = Some(patterns));
    }

    fn owner<'p>(&self, path: &'p [u8]) -> Option<Owner<'p>> {
        let patterns = self.with(|known| known.patterns.clone())?;
        let Some((own, _)) = patterns.container(path) else {
            return Some(Owner::Host);
        };
        let text = String::from_utf8_lossy(own);
        let (runtime, name) = runtime::parse(&text);
        Some(Owner::Container(own, runtime.into(), name.into()))
    }

    /// Forgets all that `lives` does not know.
    pub fn keep(&self, lives: impl Fn(u64) -> bool) {
        self.with(|known| known.ids.retain(|id, _| lives(*id)));
    }

    /// Runtime and name of a container; if it came and went before anybody looked, no more than its cgroup id.
    fn of_id(&self, id: u64) -> (Option<Text>, Option<Text>) {
        match self.with(|known| known.ids.get(&id).cloned()) {
            Some((runtime, name)) => (Some(runtime), Some(name)),
            None => (None, Some(format!("cgroup:{id}").into())),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The kernel side's tables for those who read the kernel log; none where no program fills them.
#[derive(Default)]
pub struct KernelSide {
    /// `PRINTED`.
    pub printed: Option<RingBuf<MapData>>,
    /// `ENDED`.
    pub ended: Option<Mapped<Ended>>,
}

impl Tasks for KernelSide {
    fn ended(&self, pid: u32) -> Option<Ended> {
        let place = (pid % ENDED) as usize;
        let read = || Some(self.ended.as_ref()?.get(place));
        let ended = read()?;
        // Not one that is being written.
        (ended.pid == pid && read() == Some(ended)).then_some(ended)
    }

    fn living(&self, pid: u32) -> Option<Living> {
        in_proc(pid)
    }
}

/// What the kernel side tells of those who print, and of those whom they name.
pub struct Names {
    told: KernelSide,
    naming: Naming,
    moment: Moment,
    directory: Directory,
    /// Records were lost before the next one.
    lost: bool,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Names")
            .field("naming", &self.naming)
            .finish_non_exhaustive()
    }
}

impl Names {
    /// With nothing told yet.
    #[must_use]
    pub fn new(told: KernelSide, directory: Directory) -> Self {
        Self {
            told,
            naming: Naming::default(),
            moment: Moment::default(),
            directory,
            lost: false,
        }
    }

    /// Records were lost.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// There is nothing more to read for now.
    pub const fn caught_up(&mut self) {
        self.moment.caught_up();
    }

    /// Who printed a record that has just been read, and whom it is about.
    pub fn of(&mut self, record: &Record) -> By {
        let line = naming::Line {
            seq: record.seq,
            time_us: record.time_us,
            text: &record.text,
        };
        if let Some(ring) = &mut self.told.printed {
            // Each is told before its record can be read.
            while let Some(item) = ring.next() {
                if let Some(printed) = take(&item) {
                    self.naming.told(printed);
                }
            }
        }
        if std::mem::take(&mut self.lost) {
            self.naming.lost(line);
        }
        let printer = self.naming.name(line);
        let said_ns = self.moment.of(record.time_us, monotonic());
        let about = (!record.written() && !record.fragment)
            .then(|| named(&record.text))
            .flatten()
            // Whoever an interrupt came upon has no part in it.
            .filter(|named| !(named.ran && matches!(printer, Printer::Kernel)));
        By {
            about: about.map(|named| Box::new(self.about(&named, printer, said_ns))),
            ..self.by(printer)
        }
    }

    /// Whom a line is about that names a process or a cgroup, printed by this one and said at this time of `CLOCK_MONOTONIC`.
    fn about(&self, named: &Named<'_>, printer: Printer, said_ns: Option<i64>) -> Whom {
        let unknown = Whom {
            whose: Origin::Unknown,
            container: None,
            runtime: None,
            pid: named.pid,
            comm: (named.comm.as_ref()).map(|comm| Text::from_bytes(comm)),
            cgroup: None,
            cgroup_id: None,
        };
        if let Some(place) = named.place {
            return self.at(place.path, place.whole, unknown);
        }
        let Some(pid) = named.pid else {
            return unknown;
        };
        match printer {
            Printer::Task(task) if task.pid == pid || task.tgid == pid => {
                return self.of_task(task.container, task.cgroup, unknown);
            }
            Printer::Task(_) | Printer::Kernel | Printer::Unknown => {}
        }
        let at = match (said_ns, named.stamp_ms) {
            (Some(said), Some(stamp)) => stamped(stamp, said, real_ahead(), slack()),
            (said, _) => said,
        };
        match at.and_then(|at| had(&self.told, pid, named.comm.as_deref(), at, slack())) {
            Some(Had::Ended(task)) => self.of_task(task.container, task.cgroup, unknown),
            Some(Had::Living(task)) if task.kernel => Whom {
                whose: Origin::Kernel,
                ..unknown
            },
            Some(Had::Living(task)) => self.at(&task.cgroup, true, unknown),
            None => unknown,
        }
    }

    /// What is in this cgroup. `whole`: the path goes so far and no farther.
    fn at(&self, path: &[u8], whole: bool, unknown: Whom) -> Whom {
        match self.directory.owner(path) {
            Some(Owner::Container(own, runtime, name)) => Whom {
                whose: Origin::Container,
                container: Some(name),
                runtime: Some(runtime),
                cgroup: Some(Text::from_bytes(if whole { path } else { own })),
                ..unknown
            },
            Some(Owner::Host) if whole => Whom {
                whose: Origin::Host,
                cgroup: Some(Text::from_bytes(path)),
                ..unknown
            },
            Some(Owner::Host) | None => unknown,
        }
    }

    /// A task of this container, 0 for the host, in this cgroup.
    fn of_task(&self, container: u64, cgroup: u64, unknown: Whom) -> Whom {
        let mut whom = Whom {
            whose: Origin::Host,
            cgroup_id: Some(cgroup),
            ..unknown
        };
        if container != 0 {
            whom.whose = Origin::Container;
            (whom.runtime, whom.container) = self.directory.of_id(container);
        }
        whom
    }

    fn by(&self, printer: Printer) -> By {
        let task = match printer {
            Printer::Task(task) => task,
            Printer::Kernel | Printer::Unknown => {
                let from = if printer == Printer::Kernel {
                    Origin::Kernel
                } else {
                    Origin::Unknown
                };
                return By {
                    from: Some(from),
                    ..By::default()
                };
            }
        };
        let end = (task.comm.iter().position(|byte| *byte == 0)).unwrap_or(task.comm.len());
        let mut by = By {
            from: Some(Origin::Host),
            pid: Some(task.tgid),
            comm: Some(Text::from_bytes(&task.comm[..end])),
            cgroup_id: Some(task.cgroup),
            ..By::default()
        };
        if task.container != 0 {
            by.from = Some(Origin::Container);
            (by.runtime, by.container) = self.directory.of_id(task.container);
        }
        by
    }
}

/// A message; `None`: it is not of this version.
fn take(bytes: &[u8]) -> Option<Printed> {
    if bytes.len() < size_of::<Printed>() {
        return None;
    }
    // SAFETY: there are enough bytes, and `Printed` is a `repr(C)` structure of integers: every pattern is a value.
    Some(unsafe { bytes.as_ptr().cast::<Printed>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use guard_common::kernel_log::{PRINTED_BY_KERNEL, PRINTED_TEXT};

    use super::*;
    use crate::identity::names::Role;

    fn printed(container: u64, text: &str) -> Printed {
        let mut bytes = [0; PRINTED_TEXT];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let mut comm = [0; 16];
        comm[..3].copy_from_slice(b"bad");
        Printed {
            time_ns: 5,
            container,
            cgroup: 9,
            pid: 7,
            tgid: 6,
            comm,
            flags: 0,
            length: text.len() as u32,
            text: bytes,
        }
    }

    #[test]
    fn a_container_has_its_runtimes_name_also_when_it_is_gone() {
        let directory = Directory::default();
        let id = "ab".repeat(32);
        directory.add(3, Path::new(&format!("/system.slice/docker-{id}.scope")));
        let mut names = Names::new(KernelSide::default(), directory.clone());
        let record = Record::parse(b"6,1,0,-;text\n").unwrap();
        names.naming.told(printed(3, "text"));
        let by = names.of(&record);
        assert_eq!(by.from, Some(Origin::Container));
        assert_eq!(by.container, Some(Text::from(id.as_str())));
        assert_eq!(by.runtime, Some(Text::from("docker")));
        assert_eq!((by.pid, by.comm), (Some(6), Some(Text::from("bad"))));
        directory.keep(|_| false);
        names.naming.told(printed(3, "text"));
        assert_eq!(names.of(&record).container, Some("cgroup:3".into()));
        names.naming.told(printed(0, "text"));
        assert_eq!(names.of(&record).from, Some(Origin::Host));
        assert_eq!(names.of(&record).from, Some(Origin::Unknown));
    }

    #[test]
    fn a_line_is_about_whom_its_words_name_and_not_about_its_printer() {
        let directory = Directory::default();
        let mut names = Names::new(KernelSide::default(), directory.clone());
        let mut about = |text: &str, container: u64| {
            names.naming.told(printed(container, text));
            let line = format!("6,1,0,-;{text}\n");
            let by = names.of(&Record::parse(line.as_bytes()).unwrap());
            (by.from, by.about)
        };
        let killed = "cgroup: fork rejected by pids controller in /docker/ab/c d";
        // Nothing is known of containers yet.
        assert_eq!(about(killed, 3).1.unwrap().whose, Origin::Unknown);
        let patterns = [("/docker/*".to_owned(), Role::Subject(0))];
        let patterns = Patterns::compile(&patterns, &mut |_| Ok(1)).unwrap();
        directory.recognise(Arc::new(patterns));
        let (from, whom) = about(killed, 0);
        let whom = whom.unwrap();
        assert_eq!((from, whom.whose), (Some(Origin::Host), Origin::Container));
        assert_eq!(whom.container, Some("ab".into()));
        assert_eq!(whom.runtime, Some("docker".into()));
        assert_eq!(whom.cgroup, Some("/docker/ab/c d".into()));
        let host = about("cgroup: fork rejected by pids controller in /x.slice", 3);
        assert_eq!(host.1.unwrap().whose, Origin::Host);
        // The printer's own number, of thread or process; any other is looked for, and there is no time to go by.
        for (pid, whose) in [
            (7, Origin::Container),
            (6, Origin::Container),
            (8, Origin::Unknown),
        ] {
            let text = format!("bad[{pid}]: segfault at 0 ip 1 sp 2 error 4");
            assert_eq!(about(&text, 3).1.unwrap().whose, whose, "{pid}");
        }
        assert_eq!(about("a quiet line", 3).1, None);
        // Of an interrupt that came upon it.
        let warned = "WARNING: CPU: 1 PID: 7 at net/x.c:1 y+0x1/0x2";
        assert!(about(warned, 3).1.is_some());
        let mut by_kernel = printed(0, warned);
        by_kernel.flags = PRINTED_BY_KERNEL;
        names.naming.told(by_kernel);
        let line = format!("4,1,0,-;{warned}\n");
        let by = names.of(&Record::parse(line.as_bytes()).unwrap());
        assert_eq!((by.from, by.about), (Some(Origin::Kernel), None));
        // Written by a process, or a piece of a line.
        for head in ["14,1,0,-;", "6,1,0,c;"] {
            let line = format!("{head}{killed}\n");
            assert_eq!(
                names.of(&Record::parse(line.as_bytes()).unwrap()).about,
                None
            );
        }
    }
}
