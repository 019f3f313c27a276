//! Thin discard: the kernel side's table of devices is kept true, discards of those on dm-thin are kept off, and what became of
//! them is told.

mod off;
mod pools;
mod tell;

use std::{
    collections::BTreeMap, fs, future::pending, io, mem::offset_of, path::Path,
    sync::atomic::Ordering,
};

use guard_common::{
    action::Action,
    device::Device as Number,
    host::Host as HostTable,
    thin::{Class, Device, NO_DEVICE, Origin, all_of, number},
};

use super::Daemon;
use crate::{
    act::{
        discards::{self, SYS},
        journal,
    },
    kernel::{attach::Link, mapper::Mapper, tables::Plain},
    sense::{
        mounts::Mounts,
        uevents::{Uevent, Uevents},
    },
    thin::{
        devices::Devices,
        stack::{Stack, majors},
    },
};

/// Everything is looked at anew once in so many ticks, in case something was not told.
const ROUND: u64 = 30;
/// What became of discards is told so many ticks after it was last told, at the earliest.
const TELLING: u64 = 10;

/// What is known of devices.
#[derive(Default)]
pub(super) struct Thin {
    uevents: Option<Uevents>,
    /// While what is mounted with discard must be mounted anew.
    mounts: Option<Mounts>,
    devices: Option<Devices>,
    stack: Stack,
    /// What stands in the kernel side's table.
    table: BTreeMap<u32, Known>,
    /// What the kernel side had counted when that was last looked at.
    counted: u64,
    looked: u64,
    /// The program that counts discards which arrive all the same; while there is any device on dm-thin.
    arrivals: Option<Link>,
    pools: pools::Pools,
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

    /// Waits until something is mounted.
    pub(super) async fn mounted(&self) -> io::Result<()> {
        match &self.mounts {
            Some(mounts) => mounts.changed().await,
            None => pending().await,
        }
    }
}

impl Daemon {
    /// Looks at all block devices, as far as anything is to be refused on them.
    pub(super) fn keep_thin(&mut self) {
        let made = self.made();
        let judged = self.plan.judges(&[Action::Discard]);
        self.listen_for_devices(judged || self.plan.waits_for_mapper);
        // First the table: what is not in it is refused nothing.
        let all = match judged {
            true => self.find_devices(),
            false => BTreeMap::new(),
        };
        // Those too that an earlier daemon knew; file systems that are on no device `keep_mounts` knows of.
        let is_known = |number| is_of_no_device(number) && self.thin.table.contains_key(&number);
        let gone: Vec<u32> = (self.kernel.thin.keys())
            .filter_map(Result::ok)
            .filter(|number| !all.contains_key(number) && !is_known(*number))
            .collect();
        for (number, class) in all {
            self.classify(number, class);
        }
        for number in gone {
            self.strike_off(number);
        }
        self.have_looked(made);
        self.kernel
            .host
            .word(0, offset_of!(HostTable, thin_discard))
            .store(self.plan.thin_discard as u32, Ordering::Release);
        self.keep_discards_off(false);
        self.keep_mounts();
        self.watch_arrivals();
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
        let devices = fs::read_to_string("/proc/devices");
        if let Err(error) = &devices {
            self.note("devices", format!("drivers are not listed: {error}"));
        }
        let mut is_blind = devices.is_err();
        let mut all: BTreeMap<u32, Class> = (majors(&devices.unwrap_or_default()).into_iter())
            .map(|major| (all_of(number(major, 0)), Class::Unknown))
            .collect();
        // In force while we look.
        for (number, class) in &all {
            self.classify(*number, *class);
        }
        if !all.is_empty() {
            let devices = self.thin.devices.get_or_insert_with(Devices::open);
            devices.renew();
            match stack_of_this_host(devices) {
                Ok(stack) => self.thin.stack = stack,
                Err(error) => {
                    is_blind = true;
                    self.note("devices", format!("block devices are not listed: {error}"));
                }
            }
        } else if !is_blind {
            self.thin.stack = Stack::default();
        }
        let numbers: Vec<u32> = self.thin.stack.blocks().map(|(number, _)| number).collect();
        all.extend(
            numbers
                .into_iter()
                .filter_map(|number| Some((number, self.class_of(number)?))),
        );
        if is_blind {
            // What was known of them is not forgotten, nor what an earlier daemon knew.
            for number in self.kernel.thin.keys().filter_map(Result::ok) {
                let known = self.thin.table.get(&number);
                let class = known.map_or(Class::Unknown, |known| known.class);
                all.entry(number).or_insert(class);
            }
        }
        if all.values().any(|class| *class == Class::Thin) {
            all.insert(NO_DEVICE, Class::Thin);
        }
        all
    }

    /// What the kernel side is to know of a device; `None`: it needs no entry.
    fn class_of(&self, number: u32) -> Option<Class> {
        self.thin.stack.block(number)?;
        let class = match self.thin.stack.class(number) {
            // What was is so until it is known to be something else.
            Class::Unknown if self.is_known_thin(number) => Class::Thin,
            class => class,
        };
        let stacks = self.thin.table.contains_key(&all_of(number));
        (stacks || class != Class::Other).then_some(class)
    }

    fn is_known_thin(&self, number: u32) -> bool {
        let known = self.thin.table.get(&number);
        known.is_some_and(|known| known.class == Class::Thin)
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
        // What is told from now on is of devices that were made by now: one that is gone was told of before its number was given anew.
        let made = self.made();
        let rest = self.thin.uevents.as_ref().map(Uevents::rest);
        match rest.transpose() {
            Ok(rest) => {
                let told: Vec<Uevent> =
                    told.into_iter().chain(rest.into_iter().flatten()).collect();
                if told.contains(&Uevent::Lost) {
                    return self.keep_thin();
                }
                self.renew_devices(told);
                self.have_looked(made);
            }
            Err(_) => self.keep_thin(),
        }
        self.watch_arrivals();
    }

    fn renew_devices(&mut self, told: Vec<Uevent>) {
        let mut names = BTreeMap::new();
        for event in told {
            if let Uevent::Block { name, changed } = event {
                *names.entry(name).or_insert(false) |= changed;
            }
        }
        (self.thin.devices.get_or_insert_with(Devices::open)).renew();
        for (name, changed) in names {
            let devices = self.thin.devices.get_or_insert_with(Devices::open);
            for number in self.thin.stack.renew(Path::new(SYS), devices, &name) {
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
    }

    /// How often a device of the device mapper was made.
    fn made(&self) -> u32 {
        let made = offset_of!(HostTable, thin_made);
        self.kernel.host.word(0, made).load(Ordering::Acquire)
    }

    /// All that had been made by then was looked at.
    fn have_looked(&self, made: u32) {
        let looked = offset_of!(HostTable, thin_looked);
        self.kernel
            .host
            .word(0, looked)
            .store(made, Ordering::Release);
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
        let origins: Vec<Plain<Origin>> = (self.kernel.origins.keys())
            .filter_map(|key| key.ok().filter(|Plain(origin)| origin.device == number))
            .collect();
        for origin in origins {
            let _ = self.kernel.origins.remove(&origin);
        }
        self.thin.table.remove(&number);
        // The next one with this number was never changed by us.
        if discards::is_gone(Path::new(SYS), number)
            && let Err(error) = (self.journal).forget(u64::from(number), journal::Kind::Discards)
        {
            self.note("journal", error.to_string());
        }
    }

    /// Once a tick: what was counted, and now and then all devices.
    pub(super) fn look_at_thin(&mut self) {
        self.look_for_mapper();
        self.look_at_pools();
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
        // One that was to be made and was not is told of by nobody.
        let outdated = self.made() != self.kernel.host.get(0).thin_looked;
        let any = !self.thin.table.is_empty() || self.plan.judges(&[Action::Discard]);
        if (outdated || self.ticks.is_multiple_of(ROUND)) && any {
            self.keep_thin();
        } else {
            self.keep_mounts();
        }
    }
}

/// As sysfs lists them now.
fn stack_of_this_host(devices: &Devices) -> io::Result<Stack> {
    let stack = Stack::of(Path::new(SYS), devices)?;
    if stack.blocks().next().is_none() && are_there_any() {
        return Err(io::Error::other("the list is empty, and there are some"));
    }
    Ok(stack)
}

/// Whether the kernel has any block device, by another list than sysfs's. One that cannot be read says nothing.
fn are_there_any() -> bool {
    let partitions = fs::read_to_string("/proc/partitions").unwrap_or_default();
    // Behind a head and an empty line.
    partitions.lines().nth(2).is_some()
}

/// Whether a number is a file system's own, which is on several devices.
const fn is_of_no_device(number: u32) -> bool {
    number >> 20 == 0 && number != NO_DEVICE
}
