//! The names of those who print: the kernel side's messages, joined with records, and cgroups made into containers.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{MapData, RingBuf};
use guard_common::kernel_log::Printed;
use serde::{Deserialize, Serialize};

use super::{
    naming::{self, Naming, Printer},
    record::Record,
};
use crate::{identity::runtime, record::Text};

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

/// Who printed a line.
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
}

/// Containers by cgroup id, for those who have no roster: also such as are gone, since what they printed may be read later.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<Mutex<HashMap<u64, (Text, Text)>>>);

impl Directory {
    /// There is a container, or was.
    pub fn add(&self, id: u64, path: &Path) {
        let path = path.to_string_lossy();
        let (runtime, name) = runtime::parse(&path);
        let entry = (Text::from(runtime), Text::from(name));
        self.with(|known| known.insert(id, entry));
    }

    /// Forgets all that `lives` does not know.
    pub fn keep(&self, lives: impl Fn(u64) -> bool) {
        self.with(|known| known.retain(|id, _| lives(*id)));
    }

    fn get(&self, id: u64) -> Option<(Text, Text)> {
        self.with(|known| known.get(&id).cloned())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, (Text, Text)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the kernel side tells of those who print.
pub struct Names {
    ring: Option<RingBuf<MapData>>,
    naming: Naming,
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
    /// `ring`: `PRINTED`; none where no program tells anything.
    #[must_use]
    pub fn new(ring: Option<RingBuf<MapData>>, directory: Directory) -> Self {
        Self {
            ring,
            naming: Naming::default(),
            directory,
            lost: false,
        }
    }

    /// Records were lost.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Who printed a record that has just been read.
    pub fn of(&mut self, record: &Record) -> By {
        let line = naming::Line {
            time_us: record.time_us,
            text: &record.text,
        };
        if let Some(ring) = &mut self.ring {
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
        self.by(printer)
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
            (by.runtime, by.container) = match self.directory.get(task.container) {
                Some((runtime, name)) => (Some(runtime), Some(name)),
                // It came and went before anybody looked.
                None => (None, Some(format!("cgroup:{}", task.container).into())),
            };
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
    use guard_common::kernel_log::PRINTED_TEXT;

    use super::*;

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
        let mut names = Names::new(None, directory.clone());
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
}
