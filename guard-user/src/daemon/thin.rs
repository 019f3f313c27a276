//! Thin discard: the kernel side's table of devices is kept true, discards of those on dm-thin are kept off, and what became of
//! them is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::pending,
    io,
    mem::offset_of,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::Ordering,
};

use guard_common::{
    device::Device as Number,
    host::Host as HostTable,
    thin::{Class, Device, NO_DEVICE, OfTheHost, all_of, number},
};

use super::{
    Daemon,
    say::{DISCARD_MAX_BYTES, MOUNT_DISCARD},
};
use crate::{
    act::{
        discards::{self, SYS},
        journal,
        pids::Applied,
        remount, restore,
    },
    kernel::{
        attach::{Link, release},
        btf::Btf,
        mapper::{Asked, Mapper, below_loop},
        tables::Plain,
    },
    policy::model::THIN,
    record::{Kind, Record, Severity, Verdict},
    sense::uevents::{Uevent, Uevents},
    thin::{
        mounts::Mounted,
        stack::{Ask, Stack, majors},
    },
};

/// Everything is looked at anew once in so many ticks, in case something was not told.
const ROUND: u64 = 30;
/// What became of discards is told so many ticks after it was last told, at the earliest.
const TELLING: u64 = 10;
/// So often in a row somebody may switch discards of a device on again without having changed it before it is left to him.
const PATIENCE: u8 = 1;

/// What is known of devices.
#[derive(Default)]
pub(super) struct Thin {
    uevents: Option<Uevents>,
    stack: Stack,
    /// What stands in the kernel side's table.
    table: BTreeMap<u32, Known>,
    /// What the kernel side had counted when that was last looked at.
    counted: u64,
    looked: u64,
    /// The program that counts discards which arrive all the same; while there is any device on dm-thin.
    arrivals: Option<Link>,
}

/// A device in the kernel side's table.
#[derive(Clone, Copy)]
struct Known {
    class: Class,
    /// What stood there when it was last told.
    told: Counts,
    /// Somebody switched its discards on again, so often.
    rewritten: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    refused: u64,
    audited: u64,
    arrived: u64,
}

impl Thin {
    /// Waits for what the kernel tells of block devices.
    pub(super) async fn told(&self) -> io::Result<Vec<Uevent>> {
        match &self.uevents {
            Some(uevents) => uevents.next().await,
            None => pending().await,
        }
    }
}

/// What devices say of themselves.
struct Devices(Option<Mapper>);

impl Devices {
    fn open() -> Self {
        Self(Mapper::is_there().then(Mapper::open).and_then(Result::ok))
    }
}

impl Ask for Devices {
    fn targets(&self, number: u32) -> Option<Vec<String>> {
        let targets = self.0.as_ref()?.targets(number, Asked::Table).ok()?;
        Some(targets.into_iter().map(|target| target.kind).collect())
    }

    fn below_loop(&self, name: &str) -> Option<u32> {
        below_loop(&Path::new("/dev").join(name))
    }
}

impl Daemon {
    /// Looks at all block devices, as far as anything is to be refused on them.
    pub(super) fn keep_thin(&mut self) {
        let judged = self.plan.judges(&[guard_common::action::Action::Discard]);
        self.listen_for_devices(judged || self.plan.waits_for_mapper);
        // First the table: what is not in it is refused nothing.
        let all = match judged {
            true => self.find_devices(),
            false => BTreeMap::new(),
        };
        let gone: Vec<u32> = (self.thin.table.keys())
            .filter(|number| !all.contains_key(number) && !is_of_no_device(**number))
            .copied()
            .collect();
        for (number, class) in all {
            self.classify(number, class);
        }
        for number in gone {
            self.strike_off(number);
        }
        self.kernel
            .host
            .word(0, offset_of!(HostTable, thin_discard))
            .store(self.plan.thin_discard as u32, Ordering::Release);
        self.keep_discards_off(false);
        self.keep_mounts();
        self.watch_arrivals();
    }

    /// Counts discards that arrive all the same, while there is a device that they could arrive at.
    fn watch_arrivals(&mut self) {
        let any = self
            .thin
            .table
            .values()
            .any(|known| known.class == Class::Thin);
        let wanted = any && self.plan.thin_discard == OfTheHost::Refused;
        if wanted == self.thin.arrivals.is_some() {
            return;
        }
        if let Some(link) = self.thin.arrivals.take() {
            return self.kernel.unpin(std::slice::from_ref(&link));
        }
        let btf = Btf::of_this_kernel(&[]).unwrap_or_else(|_| Btf::none());
        let attached = self.kernel.attach_arrivals(&btf);
        match attached.and_then(|link| self.kernel.pin(std::slice::from_ref(&link)).map(|()| link))
        {
            Ok(link) => self.thin.arrivals = Some(link),
            Err(error) => {
                let words = format!(
                    "discards that reach a device on dm-thin all the same are not counted: {}",
                    error.in_short()
                );
                self.note("arrivals", words);
            }
        }
    }

    fn listen_for_devices(&mut self, wanted: bool) {
        if wanted == self.thin.uevents.is_some() {
            return;
        }
        self.thin.uevents = match wanted.then(Uevents::open).transpose() {
            Ok(uevents) => uevents,
            Err(error) => {
                let words = format!("new block devices are seen late: {error}");
                self.note("uevents", words);
                None
            }
        };
    }

    /// All that belongs into the kernel side's table. What is new there and stacks is not known until it was looked at.
    fn find_devices(&mut self) -> BTreeMap<u32, Class> {
        let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
        let mut all: BTreeMap<u32, Class> = (majors(&devices).into_iter())
            .map(|major| (all_of(number(major, 0)), Class::Unknown))
            .collect();
        // In force while we look.
        for (number, class) in &all {
            self.classify(*number, *class);
        }
        self.thin.stack = if all.is_empty() {
            Stack::default()
        } else {
            Stack::of(Path::new(SYS), &Devices::open())
        };
        let numbers: Vec<u32> = self.thin.stack.blocks().map(|(number, _)| number).collect();
        all.extend(
            numbers
                .into_iter()
                .filter_map(|number| Some((number, self.class_of(number)?))),
        );
        if all.values().any(|class| *class == Class::Thin) {
            all.insert(NO_DEVICE, Class::Thin);
        }
        all
    }

    /// What the kernel side is to know of a device; `None`: it needs no entry.
    fn class_of(&self, number: u32) -> Option<Class> {
        self.thin.stack.block(number)?;
        let class = self.thin.stack.class(number);
        let stacks = self.thin.table.contains_key(&all_of(number));
        (stacks || class != Class::Other).then_some(class)
    }

    /// What the kernel told of block devices.
    pub(super) fn heard_of_devices(&mut self, told: io::Result<Vec<Uevent>>) {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                self.thin.uevents = None;
                return self.note(
                    "uevents",
                    format!("new block devices are seen late: {error}"),
                );
            }
        };
        if self.plan.waits_for_mapper {
            return self.look_for_mapper();
        }
        if told.contains(&Uevent::Lost) {
            return self.keep_thin();
        }
        let devices = Devices::open();
        for event in told {
            let Uevent::Block { name, changed } = event else {
                continue;
            };
            for number in self.thin.stack.renew(Path::new(SYS), &devices, &name) {
                match self.class_of(number) {
                    Some(class) => {
                        self.classify(number, class);
                        if class == Class::Thin && !self.thin.table.contains_key(&NO_DEVICE) {
                            self.classify(NO_DEVICE, Class::Thin);
                        }
                        if changed && let Some(known) = self.thin.table.get_mut(&number) {
                            // A table that was replaced takes its device's own limits along: that was nobody's wish.
                            known.rewritten = 0;
                        }
                    }
                    None => self.strike_off(number),
                }
                self.keep_off(number, true);
            }
        }
        self.watch_arrivals();
    }

    /// Whether there is a device mapper now, which what is refused depends on.
    fn look_for_mapper(&mut self) {
        if self.plan.waits_for_mapper && Mapper::is_there() {
            let _ = self.reload("there is a device mapper now");
        }
    }

    fn classify(&mut self, number: u32, class: Class) {
        let known = self.thin.table.get(&number).copied();
        if known.is_some_and(|known| known.class == class) {
            return;
        }
        // What is counted at this very moment is lost with the entry that it is counted in.
        let before = self.kernel.thin.get(&number, 0).map(|Plain(device)| device);
        let device = Device {
            class: class as u32,
            ..before.unwrap_or_default()
        };
        if let Err(error) = self.kernel.thin.insert(number, Plain(device), 0) {
            let words = format!(
                "{}: its discards are refused only as those of all devices of its driver are: {error}",
                Number::of(true, number)
            );
            return self.note("thin-table", words);
        }
        let told = known.map_or_else(|| Counts::of(&device), |known| known.told);
        let known = Known {
            class,
            told,
            rewritten: 0,
        };
        self.thin.table.insert(number, known);
    }

    fn strike_off(&mut self, number: u32) {
        if let Err(error) = self.say_discards(number) {
            self.note("thin-table", error);
        }
        let _ = self.kernel.thin.remove(&number);
        self.thin.table.remove(&number);
    }

    /// Keeps discards of every device on dm-thin off, or switches on again what may be on.
    fn keep_discards_off(&mut self, told_of: bool) {
        let numbers: Vec<u32> = self.thin.table.keys().copied().collect();
        for number in numbers {
            self.keep_off(number, told_of);
        }
        let ours: Vec<(u64, journal::Change)> = (self.journal.changes())
            .filter(|(id, change)| match change.kind() {
                journal::Kind::Discards => !self.is_to_be_off(*id as u32),
                journal::Kind::MountDiscard => !self.refuses(),
                journal::Kind::PidsMax | journal::Kind::Freeze | journal::Kind::DmesgRestrict => {
                    false
                }
            })
            .collect();
        for (id, change) in ours {
            let outcome = restore::restore(&self.hierarchy, id, change.kind(), &mut self.journal);
            self.say_restored(&restore::Restored {
                cgroup: id,
                change,
                outcome,
            });
        }
    }

    /// Whether discards on dm-thin are switched off for everybody.
    fn refuses(&self) -> bool {
        self.plan.thin_discard == OfTheHost::Refused && !self.is_off()
    }

    /// File systems on dm-thin that discard by themselves, on kernels whose devices cannot be told to take none.
    fn keep_mounts(&mut self) {
        let any = (self.thin.table.values()).any(|known| known.class == Class::Thin);
        if !any {
            return;
        }
        let mounted = match remount::mounted() {
            Ok(mounted) => mounted,
            Err(error) => return self.note("mounts", error.to_string()),
        };
        let mut alone = BTreeSet::new();
        for mounted in mounted {
            let Some(on) = device_of(&mounted) else {
                continue;
            };
            let known = self.thin.table.get(&on);
            if known.is_none_or(|known| known.class != Class::Thin) {
                continue;
            }
            if on != mounted.number {
                self.classify(mounted.number, Class::Thin);
                alone.insert(mounted.number);
            }
            if self.refuses() && !queues_are_heeded() && discards(&mounted) {
                self.stop_discarding(&mounted);
            }
        }
        // Another file system may have such a number next.
        let gone: Vec<u32> = (self.thin.table.keys())
            .filter(|number| is_of_no_device(**number) && !alone.contains(number))
            .copied()
            .collect();
        for number in gone {
            self.strike_off(number);
        }
    }

    fn stop_discarding(&mut self, mounted: &Mounted) {
        let at = mounted.at.display().to_string();
        let stopped = remount::stop_discarding(mounted, &mut self.journal);
        let again = remount::mounted().unwrap_or_default();
        let goes_on = (again.iter()).any(|one| one.number == mounted.number && discards(one));
        if !goes_on {
            let record = Record::new(Kind::SettingChanged)
                .severity(Severity::Info)
                .rule(THIN)
                .setting(MOUNT_DISCARD, "discard", "nodiscard")
                .outcome(format!(
                    "{at} is on dm-thin, and this kernel's devices cannot be told to take no discards"
                ));
            return self.say(record);
        }
        let why = stopped
            .err()
            .map_or_else(String::new, |error| format!(" ({error})"));
        self.trouble(
            &format!("mounted {}", mounted.number),
            format!(
                "{at}, on dm-thin, is mounted with discard and goes on with that{why}: what is deleted there is discarded. \
                 Unmount it and mount it without"
            ),
        );
    }

    fn is_to_be_off(&self, number: u32) -> bool {
        let thin = (self.thin.table.get(&number)).is_some_and(|known| known.class == Class::Thin);
        // A part shares its device's queue.
        let own = (self.thin.stack.block(number)).is_some_and(|block| !block.is_partition);
        thin && own && self.refuses()
    }

    /// `told_of`: it has just come or changed.
    fn keep_off(&mut self, number: u32, told_of: bool) {
        if !self.is_to_be_off(number) {
            return;
        }
        let Some(known) = self.thin.table.get(&number).copied() else {
            return;
        };
        let again = self.journal.discards(u64::from(number)).is_some();
        if again && !told_of && known.rewritten > PATIENCE {
            return;
        }
        match discards::switch_off(Path::new(SYS), number, &mut self.journal) {
            Ok(Applied::Done) => {
                let old = self.journal.discards(u64::from(number)).unwrap_or_default();
                let by_another = again && !told_of;
                let rewritten = if by_another { known.rewritten + 1 } else { 0 };
                if let Some(known) = self.thin.table.get_mut(&number) {
                    known.rewritten = rewritten;
                }
                let record = Record::new(Kind::SettingChanged)
                    .severity(Severity::Info)
                    .rule(THIN)
                    .setting(path_of(number), old.to_string(), "0")
                    .outcome(match (again, by_another) {
                        (false, _) => "it stands on dm-thin",
                        (true, false) => "it has another table: switched off again",
                        (true, true) => {
                            "somebody else had switched them on: switched off once more"
                        }
                    });
                self.say(record);
                if rewritten > PATIENCE {
                    let record = Record::new(Kind::SettingContested)
                        .severity(Severity::Medium)
                        .rule(THIN)
                        .setting(path_of(number), "", "0")
                        .reason("somebody else switches discards on again: from now on that is left to him");
                    self.say(record);
                }
            }
            Ok(Applied::Nothing | Applied::Absent | Applied::Moved) => {}
            Err(error) => self.note("discards", error.to_string()),
        }
    }

    /// Once a tick: what was counted, and now and then all devices.
    pub(super) fn look_at_thin(&mut self) {
        self.look_for_mapper();
        let counted = self.kernel.host.get(0).thin_counted;
        if counted != self.thin.counted && self.ticks >= self.thin.looked + TELLING {
            (self.thin.counted, self.thin.looked) = (counted, self.ticks);
            let numbers: Vec<u32> = self.thin.table.keys().copied().collect();
            for number in numbers {
                if let Err(error) = self.say_discards(number) {
                    self.note("thin-table", error);
                }
            }
        }
        if self.ticks.is_multiple_of(ROUND) && !self.thin.table.is_empty() {
            self.keep_thin();
        } else {
            self.keep_mounts();
        }
    }

    /// Tells what became of a device's discards since it was last told.
    fn say_discards(&mut self, number: u32) -> Result<(), String> {
        let Some(known) = self.thin.table.get(&number).copied() else {
            return Ok(());
        };
        let Plain(device) =
            (self.kernel.thin.get(&number, 0)).map_err(|error| error.to_string())?;
        let now = Counts::of(&device);
        if now == known.told {
            return Ok(());
        }
        if let Some(known) = self.thin.table.get_mut(&number) {
            known.told = now;
        }
        let name = self.name_of(number);
        let record = |count: u64| {
            Record::new(Kind::Discards)
                .rule(THIN)
                .action("discard")
                .count(count)
                .process(device.process, &device.name)
        };
        let new = |now: u64, told: u64| Some(now.saturating_sub(told)).filter(|new| *new > 0);
        if let Some(count) = new(now.refused, known.told.refused) {
            let record = record(count)
                .severity(Severity::Medium)
                .verdict(Verdict::Deny)
                .outcome(format!("discards of {name} were refused"));
            self.say(record);
        }
        if let Some(count) = new(now.audited, known.told.audited) {
            let record = record(count)
                .severity(Severity::Low)
                .verdict(Verdict::Audit)
                .mode(crate::record::Mode::Audit)
                .outcome(format!("discards of {name} were let through"));
            self.say(record);
        }
        if let Some(count) = new(now.arrived, known.told.arrived) {
            let record = record(count)
                .severity(Severity::High)
                .outcome(format!("discards reached {name} all the same"));
            self.say(record);
        }
        Ok(())
    }

    /// A device as people know it.
    fn name_of(&self, number: u32) -> String {
        match self.thin.stack.block(number) {
            Some(block) => match &block.mapped {
                Some(mapped) => format!("{mapped} ({})", block.name),
                None => block.name.clone(),
            },
            None if number == NO_DEVICE => "a file system on no device of its own".to_owned(),
            None => format!("a new device, {}", Number::of(true, number)),
        }
    }
}

impl Counts {
    fn of(device: &Device) -> Self {
        Self {
            refused: device.refused,
            audited: device.audited,
            arrived: device.arrived,
        }
    }
}

/// Whether a number is a file system's own, which is on several devices.
const fn is_of_no_device(number: u32) -> bool {
    number >> 20 == 0 && number != NO_DEVICE
}

/// The device that a file system is on; of one on several, the one that it was mounted from.
fn device_of(mounted: &Mounted) -> Option<u32> {
    if mounted.number >> 20 != 0 {
        return Some(mounted.number);
    }
    if mounted.kind != "btrfs" {
        return None;
    }
    let device = fs::metadata(&mounted.source).ok()?.rdev();
    Some(number(
        nix::sys::stat::major(device) as u32,
        nix::sys::stat::minor(device) as u32,
    ))
}

/// Whether a file system discards by itself: ext4 also if that stands in its own superblock, which it does not list.
fn discards(mounted: &Mounted) -> bool {
    let by_default = || {
        let device = fs::canonicalize(&mounted.source).ok()?;
        let of_it = Path::new("/proc/fs/ext4").join(device.file_name()?);
        let text = fs::read_to_string(of_it.join("options")).ok()?;
        Some(text.lines().any(|line| line == "discard"))
    };
    let asked = || mounted.discards || mounted.kind == "ext4" && by_default() == Some(true);
    mounted.writable && asked()
}

/// Whether a device whose queue takes no discards gets none: before 5.19 (`bdev_max_discard_sectors`) another flag said so, which
/// nobody can take back.
fn queues_are_heeded() -> bool {
    release() >= (5, 19)
}

/// The setting of a device in records.
fn path_of(device: u32) -> String {
    let directory = discards::directory(Path::new(SYS), device);
    directory.join(DISCARD_MAX_BYTES).display().to_string()
}
