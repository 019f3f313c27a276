//! Thin discard: discards of what stands on dm-thin are kept off, as far as the kernel lets them be, and what arrives all the same is
//! counted.

use std::{collections::BTreeSet, io, path::Path, time::Instant};

use guard_common::thin::{Class, OfTheHost, all_of};

use super::{Daemon, is_of_no_device};
use crate::{
    act::{
        discards::{self, SYS},
        journal,
        pids::Applied,
        remount, restore,
    },
    daemon::say::{DISCARD_MAX_BYTES, MOUNT_DISCARD},
    kernel::btf::Btf,
    policy::model::THIN,
    record::{Kind, Record, Severity},
    sense::mounts::Mounts,
    thin::{defaults::is_discarding, devices::queues_are_heeded, mounts::Mounted},
};

/// So often in a row somebody may switch discards of a device on again without having changed it before it is left to him.
const PATIENCE: u8 = 1;

impl Daemon {
    /// Counts discards that arrive all the same, while there is a device that they could arrive at.
    pub(super) fn watch_arrivals(&mut self) {
        // Of what nobody can look at for a while the watch goes on.
        let watching = self.thin.arrivals.is_some();
        let any = (self.thin.table.values()).any(|known| match known.class {
            Class::Thin => true,
            Class::Unknown => watching,
            Class::Other => false,
        });
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

    /// Keeps discards of every device on dm-thin off, or switches on again what may be on.
    pub(super) fn keep_discards_off(&mut self, told_of: bool) {
        let numbers: Vec<u32> = self.thin.table.keys().copied().collect();
        for number in numbers {
            self.keep_off(number, told_of);
        }
        let ours: Vec<(u64, journal::Change)> = (self.journal.changes())
            .filter(|(id, change)| match change.kind() {
                journal::Kind::Discards => self.may_be_on(*id as u32),
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

    /// The kernel told of mounts.
    pub(in crate::daemon) fn heard_of_mounts(&mut self, told: io::Result<()>) {
        if let Err(error) = told {
            self.thin.mounts = None;
            return self.note("mounts", format!("mounts are seen late: {error}"));
        }
        let began = Instant::now();
        self.keep_mounts();
        if let Some(mounts) = &mut self.thin.mounts {
            mounts.looked(began.elapsed());
        }
    }

    fn listen_for_mounts(&mut self, wanted: bool) {
        if wanted == self.thin.mounts.is_some() {
            return;
        }
        self.thin.mounts = match wanted.then(Mounts::watch).transpose() {
            Ok(mounts) => mounts,
            Err(error) => return self.note("mounts", format!("mounts are seen late: {error}")),
        };
    }

    /// File systems on dm-thin that discard by themselves, on kernels whose devices cannot be told to take none.
    pub(super) fn keep_mounts(&mut self) {
        let any = (self.thin.table.values()).any(|known| known.class == Class::Thin);
        self.listen_for_mounts(any && self.refuses() && !queues_are_heeded());
        if !any {
            return;
        }
        let mounted = match remount::mounted() {
            Ok(mounted) => mounted,
            Err(error) => return self.note("mounts", error.to_string()),
        };
        let mounted_now: BTreeSet<u32> = mounted.iter().map(|one| one.number).collect();
        let (mut alone, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        for mounted in mounted {
            let Some(on) = mounted.device() else {
                continue;
            };
            if !self.is_known_thin(on) {
                elsewhere.insert(mounted.number);
                continue;
            }
            if on != mounted.number {
                self.classify(mounted.number, Class::Thin);
                alone.insert(mounted.number);
            }
            if self.refuses() && !queues_are_heeded() && self.discards(&mounted) {
                self.stop_discarding(&mounted);
            }
        }
        let unmounted: Vec<u64> = (self.journal.changes())
            .filter(|(id, change)| {
                let is_there = || mounted_now.contains(&(*id as u32));
                change.kind() == journal::Kind::MountDiscard && !is_there()
            })
            .map(|(id, _)| id)
            .collect();
        for id in unmounted {
            if let Err(error) = self.journal.forget(id, journal::Kind::MountDiscard) {
                self.note("journal", error.to_string());
            }
        }
        // Another file system may have such a number next.
        let gone: Vec<u32> = (self.thin.table.keys())
            .filter(|number| is_of_no_device(**number) && !alone.contains(number))
            // One whose device has no name here is where it was.
            .filter(|number| elsewhere.contains(number) || !mounted_now.contains(number))
            .copied()
            .collect();
        for number in gone {
            self.strike_off(number);
        }
    }

    fn discards(&self, mounted: &Mounted) -> bool {
        let block = self.thin.stack.block(mounted.number);
        is_discarding(mounted, block.map(|block| block.name.as_str()))
    }

    fn stop_discarding(&mut self, mounted: &Mounted) {
        let at = mounted.at.display().to_string();
        let stopped = remount::stop_discarding(mounted, &mut self.journal);
        let again = remount::mounted().unwrap_or_default();
        let goes_on = (again.iter()).any(|one| one.number == mounted.number && self.discards(one));
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

    /// Of what was switched off: nobody is to be refused discards any more, or it is known to stand on something else by now. One that is
    /// not listed is not known.
    fn may_be_on(&self, number: u32) -> bool {
        let stack = &self.thin.stack;
        !self.refuses() || stack.block(number).is_some() && stack.alone(number) == Class::Other
    }

    fn is_to_be_off(&self, number: u32) -> bool {
        // Of a btrfs of several those that are elsewhere go on; and what reaches a loop device is no discard any more below it.
        let thin = self.thin.stack.alone(number) == Class::Thin
            && self.thin.table.contains_key(&all_of(number));
        // A part shares its device's queue.
        let own = (self.thin.stack.block(number)).is_some_and(|block| !block.is_partition);
        thin && own && self.refuses()
    }

    /// `told_of`: it has just come or changed.
    pub(super) fn keep_off(&mut self, number: u32, told_of: bool) {
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
}

/// The setting of a device in records.
fn path_of(device: u32) -> String {
    let directory = discards::directory(Path::new(SYS), device);
    directory.join(DISCARD_MAX_BYTES).display().to_string()
}
