//! Opens the kernel side, takes over the tables of an earlier daemon, and keeps programs attached after our death.

use std::{
    fs, io,
    mem::offset_of,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::maps::{Array, HashMap as Table, MapData, MapError, Queue, RingBuf};
use guard_common::{
    Container, SLOTS, Subject,
    action::ArgumentKey,
    bpf::Object,
    config::{FIELDS, Field},
    fork_storm::Profile,
    host::Host,
    identity::NameMatcher,
    kernel_log::{ENDED, Ended},
    setup::Setup,
    thin::{Device, Origin},
};
use thiserror::Error;

use super::{
    attach::{GOVERNOR, Link},
    fold::Constants,
    image::Image,
    object::{self, Tables},
    own::Own,
    pins, sys,
    tables::{Mapped, Plain},
    under_way::Total,
};

/// Where everything that outlives the daemon stands; the last name is the version of the tables' layout.
pub const PINS: &str = "/sys/fs/bpf/bulkhead/v12";

/// Why the kernel side is not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A table cannot be made or used.
    #[error(
        "cannot use the kernel table {name} (one of another version? `bulkhead off`, then remove {PINS})"
    )]
    Table {
        /// Its name.
        name: String,
        /// What aya said.
        source: MapError,
    },
    /// A table cannot be mapped.
    #[error("cannot map the kernel table {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The object is not what this daemon was built with.
    #[error("the embedded kernel object is broken: {0}")]
    Object(String),
    /// The kernel's type information has no such function.
    #[error("this kernel has no function {0} to attach to")]
    NoFunction(&'static str),
    /// The kernel's type information has no such field.
    #[error("this kernel has no field {0} to read")]
    NoField(&'static str),
    /// What is ours could not be noted.
    #[error(
        "cannot note what is Bulkhead's own in the kernel, which keeps containers from it: {0}"
    )]
    Own(#[source] io::Error),
    /// Neither the kernel's type information nor its table of symbols says where a variable is.
    #[error(
        "this kernel does not say where its variable {0} is (kernel.kptr_restrict=2 hides it from root too)"
    )]
    NoVariable(&'static str),
    /// A program is attached to a function, and what goes through that was not seen.
    #[error("attached, but {0} is not called when it should be")]
    NotCalled(&'static str),
    /// The kernel refused a program.
    #[error("the kernel refused the program {program} as {how}: {source}{}{log}", if log.is_empty() { "" } else { "\n" })]
    Program {
        /// Its name.
        program: &'static str,
        /// How it was to be attached.
        how: &'static str,
        /// What the system said.
        source: io::Error,
        /// The end of what the verifier said.
        log: String,
    },
    /// The root of the v2 hierarchy.
    #[error("cannot open the root of the cgroup v2 hierarchy: {0}")]
    Unified(#[source] io::Error),
    /// Kernel memory, which alone says whose a task is on cgroup v1.
    #[error(
        "no program can read kernel memory here, and nothing else tells whose a task is on cgroup v1"
    )]
    Unread,
    /// The directory of pins is another's as well.
    #[error(
        "{path} is not root's alone but {why}, and who can write there owns what is enforced: nothing was changed; see who \
         made it, then remove it (rm -r {path})"
    )]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// A link or a directory of pins.
    #[error("cannot pin {path}")]
    Pin {
        /// The path in bpffs.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LoadError {
    /// In one line: of what the verifier said, only its verdict.
    #[must_use]
    pub fn in_short(&self) -> String {
        let text = self.to_string();
        let mut lines = text.lines().map(str::trim);
        let first = lines.next().unwrap_or_default();
        match lines.rfind(|line| !line.is_empty() && !line.starts_with("processed ")) {
            Some(verdict) => format!("{first}: {verdict}"),
            None => first.to_owned(),
        }
    }
}

/// What is different for a test.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Entries of `SUBJECTS`.
    pub subjects: Option<u32>,
}

/// The kernel side: tables, and the programs ready to be loaded.
pub struct Kernel {
    /// The kernel's own count of forks that are done, where forks under way are counted by it.
    pub(super) total: Option<Total>,
    /// Keeps the tables that nobody took out of it.
    _tables: Tables,
    pub(super) image: Image,
    /// What programs read of `CONFIG`.
    pub(super) constants: Constants,
    /// Number of this load.
    pub generation: u32,
    /// Nested cgroups that may stand in `subjects`.
    pub nested_total: u32,
    /// Where tables and links are pinned, if they are.
    pub pins: Option<PathBuf>,
    /// Whether an earlier daemon's tables were found.
    pub taken_over: bool,
    /// See [`Host`].
    pub host: Mapped<Host>,
    /// See [`Container`].
    pub containers: Mapped<Container>,
    matchers: OwnedFd,
    pub(super) own: Own,
    /// cgroup id → whose.
    pub subjects: Table<MapData, u64, Plain<Subject>>,
    /// Profile → limits.
    pub profiles: Array<MapData, Plain<Profile>>,
    /// What becomes of an action by what it is done to.
    pub arguments: Table<MapData, Plain<ArgumentKey>, u32>,
    /// Slots that were given back.
    pub free_slots: Queue<MapData, u32>,
    /// What the kernel side tells.
    pub events: RingBuf<MapData>,
    /// Number of a device → whether it stands on dm-thin.
    pub thin: Table<MapData, u32, Plain<Device>>,
    /// Who gave a device a discard that reached it → how many.
    pub origins: Table<MapData, Plain<Origin>, u64>,
    /// Process → that a runtime sets a container up by it.
    pub(super) setting_up: Table<MapData, u32, Plain<Setup>>,
    /// Who printed which line of the kernel log; taken by its reader.
    pub printed: Option<RingBuf<MapData>>,
    /// Tasks of containers that have ended; taken by the reader of the kernel log.
    pub ended: Option<Mapped<Ended>>,
}

impl Kernel {
    /// Makes the tables, or takes over those pinned below `pins`. `config` needs no generation: it is one more than the
    /// last. Nothing is attached yet.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open(
        mut config: [u32; FIELDS],
        pins: Option<&Path>,
        sizes: &Sizes,
    ) -> Result<Self, LoadError> {
        let mut taken_over = false;
        let mut generation = 1;
        if let Some(pins) = pins {
            pins::make(pins)?;
            if let Ok(data) = MapData::from_pin(pins.join("HOST")) {
                let host: Mapped<Host> =
                    Mapped::new(data.fd().as_fd(), 1).map_err(|source| LoadError::Map {
                        name: "HOST",
                        source,
                    })?;
                let last = host.get(0).generation;
                generation = last.wrapping_add(1).max(1);
                // Tables of a start that died before it acted are as good as new.
                taken_over = last != 0;
            }
        }
        config[Field::Generation as usize] = generation;
        let entries = sizes.subjects.unwrap_or(guard_common::SUBJECTS);
        config[Field::NestedTotal as usize] = entries - entries / 8;
        // Left by a start that died before its programs acted, or before it let go of those that had acted before: of two loads, and no
        // more, each knows what the other does.
        if let Some(pins) = pins {
            let acting = pins.join(format!("links-{}", generation.wrapping_sub(1)));
            for stale in links_below(pins).filter(|links| *links != acting) {
                remove_pins(&stale).map_err(|source| LoadError::Pin {
                    path: stale,
                    source,
                })?;
            }
        }

        let (image, mut tables) = object::open(config, pins, sizes)?;
        let host =
            Mapped::new(tables.get("HOST")?.fd().as_fd(), 1).map_err(|source| LoadError::Map {
                name: "HOST",
                source,
            })?;
        let containers =
            Mapped::new(tables.get("CONTAINERS")?.fd().as_fd(), SLOTS).map_err(|source| {
                LoadError::Map {
                    name: "CONTAINERS",
                    source,
                }
            })?;
        let ended = Mapped::new(tables.get("ENDED")?.fd().as_fd(), ENDED).map_err(|source| {
            LoadError::Map {
                name: "ENDED",
                source,
            }
        })?;
        let descriptor = |name| {
            let fd = tables.get(name)?.fd().as_fd().try_clone_to_owned();
            fd.map_err(|source| LoadError::Map { name, source })
        };
        let matchers = descriptor("MATCHERS")?;
        let constants = tables.constants(config)?;
        let ids: Vec<OwnedFd> = tables.all().map_err(LoadError::Own)?;
        let own = Own::new(tables.take("OWN")?);
        for table in &ids {
            if let Err(error) = own.note(Object::Table, table.as_fd()) {
                tracing::warn!("{error}");
            }
        }
        let kernel = Self {
            total: None,
            image,
            constants,
            generation,
            nested_total: config[Field::NestedTotal as usize],
            pins: pins.map(Path::to_path_buf),
            taken_over,
            host,
            containers,
            matchers,
            own,
            subjects: tables.take("SUBJECTS")?,
            profiles: tables.take("PROFILES")?,
            arguments: tables.take("ARGUMENTS")?,
            free_slots: tables.take("FREE_SLOTS")?,
            events: tables.take("EVENTS")?,
            setting_up: tables.take("SETTING_UP")?,
            thin: tables.take("THIN")?,
            origins: tables.take("ORIGINS")?,
            printed: Some(tables.take("PRINTED")?),
            ended: Some(ended),
            _tables: tables,
        };
        if kernel.host.get(0).slot_floor == 0 {
            // The last slot is the self-test's.
            kernel
                .host
                .word(0, offset_of!(Host, slot_floor))
                .store(SLOTS - 1, Ordering::Release);
        }
        // Before a program of ours is attached.
        if taken_over {
            kernel.takes_over(generation);
        }
        Ok(kernel)
    }

    /// Fills one of the two matchers; the other may be in force meanwhile.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn fill_matcher(&self, bank: u32, matcher: &NameMatcher) -> Result<(), LoadError> {
        // Unmapped again at once: half a megabyte that nobody needs to see.
        let both: Mapped<NameMatcher> =
            Mapped::new(self.matchers.as_fd(), 2).map_err(|source| LoadError::Map {
                name: "MATCHERS",
                source,
            })?;
        both.fill(bank as usize, matcher);
        Ok(())
    }

    /// Enters a cgroup: from now on it is that container's.
    ///
    /// # Errors
    /// There is no room.
    pub fn enter(&mut self, id: u64, subject: Subject) -> Result<(), MapError> {
        let entered = self.subjects.insert(id, Plain(subject), 0);
        self.has_entered();
        entered
    }

    /// A cgroup was entered, or found no room: whatever the programs remember to be the host's they look up anew.
    pub fn has_entered(&self) {
        let entered = self.host.long(0, offset_of!(Host, entered));
        entered.fetch_add(1, Ordering::Release);
    }

    /// Slots that were ever given: by the kernel side from the first one on, by the daemon from the last one on.
    pub fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        let host = self.host.get(0);
        (0..host.slots_given.min(SLOTS) as usize).chain(host.slot_floor as usize..SLOTS as usize)
    }

    /// From now on these programs act, and those of earlier loads do not.
    pub fn act(&self) {
        self.act_as(self.generation);
    }

    /// The load whose programs act; 0: none.
    #[must_use]
    pub fn acting(&self) -> u32 {
        self.host
            .word(0, offset_of!(Host, generation))
            .load(Ordering::Acquire)
    }

    /// From now on the programs of that load act; 0: none.
    pub fn act_as(&self, generation: u32) {
        self.host
            .word(0, offset_of!(Host, generation))
            .store(generation, Ordering::Release);
    }

    /// The load that waits ahead of the one that acts; 0: none.
    fn takes_over(&self, generation: u32) {
        self.host
            .word(0, offset_of!(Host, taking_over))
            .store(generation, Ordering::Release);
    }

    /// Whether the load that acts, which is not ours, refuses forks.
    #[must_use]
    pub fn refused_before(&self) -> bool {
        let acting = self.acting();
        self.taken_over
            && acting != self.generation
            && self
                .links_of(acting)
                .is_some_and(|links| links.join(GOVERNOR).exists())
    }

    /// Whether the load that acts, which is not ours, has this program pinned.
    pub(super) fn is_pinned_by_another(&self, program: &str) -> bool {
        let acting = self.acting();
        acting != self.generation
            && (self.links_of(acting)).is_some_and(|links| links.join(program).exists())
    }

    /// Takes away what was pinned for this load: it is not used after all.
    pub fn unpin_own(&self) {
        self.takes_over(0);
        if let Some(directory) = self.links() {
            let _ = remove_pins(&directory);
        }
    }

    /// Takes away the pins of programs that are not used after all.
    pub fn unpin(&self, links: &[Link]) {
        if let Some(directory) = self.links() {
            for link in links {
                let _ = fs::remove_file(directory.join(link.name));
            }
        }
        for link in links {
            self.own.forget(Object::Link, link.as_fd());
            self.own.forget(Object::Program, link.program.as_fd());
        }
    }

    /// Pins the links, so that they outlive us.
    ///
    /// # Errors
    /// [`LoadError::Pin`].
    pub fn pin(&self, links: &[Link]) -> Result<(), LoadError> {
        let Some(directory) = self.links() else {
            return Ok(());
        };
        let error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| LoadError::Pin { path, source }
        };
        pins::make_below(&directory)?;
        for link in links {
            let path = directory.join(link.name);
            sys::pin(link.as_fd(), &path).map_err(error(&path))?;
        }
        Ok(())
    }

    fn links(&self) -> Option<PathBuf> {
        self.links_of(self.generation)
    }

    /// Where the links of a load are pinned.
    pub(super) fn links_of(&self, generation: u32) -> Option<PathBuf> {
        Some(self.pins.as_ref()?.join(format!("links-{generation}")))
    }

    /// Takes away the pinned links of earlier loads, which no longer act, and all that a daemon of another version left.
    pub fn unpin_others(&self) {
        self.unpin_pins_of_others();
        self.takes_over(0);
        self.own.forget_others();
    }

    fn unpin_pins_of_others(&self) {
        let (Some(pins), Some(own)) = (&self.pins, self.links()) else {
            return;
        };
        // Tables of another layout cannot be taken over: what acts on them goes now that we act.
        let versions = pins.parent().into_iter().flat_map(fs::read_dir).flatten();
        for other in versions.flatten().filter(|entry| entry.path() != *pins) {
            let _ = remove_pins(&other.path());
        }
        for others in links_below(pins).filter(|links| *links != own) {
            let _ = remove_pins(&others);
        }
    }
}

/// Where the links of each load are pinned.
fn links_below(pins: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("links-"))
        .map(|entry| entry.path())
}

/// Takes away a directory of pins, whatever it holds.
///
/// # Errors
/// The last that the system said.
pub fn remove_pins(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_pins(&path)?
        } else {
            fs::remove_file(&path)?
        }
    }
    fs::remove_dir(directory)
}
