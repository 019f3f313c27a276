//! Thin discard: the host's thin pools and all that stands on them, as whoever is woken up needs to see it.

use std::{fs, io, path::Path, time::Duration};

use guard_common::{
    device::Device as Number,
    thin::{Class, OfTheHost},
};
use serde::Serialize;

use super::{
    activate::{self, Marker},
    defaults::{Unasked, is_discarding},
    devices::{Devices, open_here, queues_are_heeded},
    mounts::Mounted,
    origin::{self, From},
    pool::Pool,
    stack::{Block, Stack},
    user::User,
};
use crate::{
    act::{
        discards::{SYS, most},
        remount,
    },
    control::status::PoolStatus,
    kernel::pinned::Pinned,
    record::Text,
    sense::asked::{pools_now, unasked_now},
};

/// What takes longer to say how it is hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `refused`, `audited` or `left`: what becomes of a discard whoever asks for it. `unguarded`: no daemon has left anything here.
    pub discards: &'static str,
    /// Whether a device that is told to take none takes none on this kernel.
    pub queues_are_heeded: bool,
    /// The pools.
    pub pools: Vec<PoolReport>,
    /// Thin volumes, and what stands on them.
    pub devices: Vec<DeviceReport>,
    /// Pools that are held back, since an earlier boot did not live to see the end of their activation.
    pub held_back: Vec<Marker>,
    /// Ways that stay open on this kernel.
    pub open: Vec<&'static str>,
    /// Programs that may fail where discards are refused, and what to tell them.
    pub advice: Vec<&'static str>,
}

/// It runs `blkdiscard`, and takes its failure for its own (containerd, snapshots/devmapper/pool_device.go, `DeactivateDevice`).
const CONTAINERD: &str = "containerd removes no snapshot while discards are off if its config.toml says `discard_blocks = true`, and says \
    `failed to deactivate device`: say false, and start it anew; with the next one that it removes these go";

/// A pool.
#[derive(Debug, Serialize)]
pub struct PoolReport {
    /// As the kernel calls it.
    pub name: String,
    /// As the device mapper does.
    pub mapped: Text,
    /// Who made it, where its name tells.
    pub user: Option<User>,
    /// How it is; absent where its status cannot be had.
    pub status: Option<Pool>,
    /// Seconds until it is full; absent where it does not fill steadily, or no daemon watches it.
    pub full_in: Option<i64>,
}

/// A device that stands on dm-thin, or may.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// As the kernel calls it.
    pub name: String,
    /// As the device mapper does, if it is one of its.
    pub mapped: Option<Text>,
    /// `block MAJOR:MINOR`.
    pub number: String,
    /// Who made it, where its name tells.
    pub user: Option<User>,
    /// `thin`, `on thin` or `unknown`.
    pub class: &'static str,
    /// What it stands on directly.
    pub below: Vec<String>,
    /// The most that it takes in one discard, in bytes; 0: they are off. Absent for a partition.
    pub discard_max_bytes: Option<u64>,
    /// Where it is mounted, as the host sees it.
    pub mounted: Vec<Text>,
    /// What is mounted there discards by itself.
    pub mounted_with_discard: bool,
    /// Why what stands there discards as soon as it is mounted without a word about that; absent where it does not, is mounted, or does
    /// not say so within three seconds.
    pub unasked: Option<Unasked>,
    /// Discards that were refused to who is in no container that a rule refuses them.
    pub refused: u64,
    /// The same that were let through and counted.
    pub audited: u64,
    /// Discards that reached it while they were off.
    pub arrived: u64,
    /// Of these, those that a kernel thread gave it.
    pub by_kernel: u64,
    /// Who gave it those.
    pub origins: Vec<From>,
}

impl Report {
    /// Of this host, by what is pinned in the kernel, if anything is, and by what a daemon says of the pools, if one answers.
    ///
    /// # Errors
    /// sysfs does not list its block devices.
    pub fn of_this_host(pinned: Option<&Pinned>, watched: &[PoolStatus]) -> io::Result<Self> {
        let (sys, devices) = (Path::new(SYS), Devices::open());
        let stack = Stack::of(sys, &devices)?;
        let counted = pinned.map(Pinned::devices).unwrap_or_default();
        let origins = pinned.map(Pinned::origins).unwrap_or_default();
        let mounted: Vec<(u32, Mounted)> = (remount::mounted().unwrap_or_default().into_iter())
            .filter_map(|mounted| Some((mounted.device()?, mounted)))
            .collect();
        let read = pools_now(PATIENCE);
        let is_pool = |name: &str| {
            let mut pools = stack.blocks().filter(|(_, block)| block.is_pool);
            pools.any(|(_, block)| block.mapped.as_deref() == Some(name))
        };
        let user = |block: &Block| {
            let uuid = sys.join("class/block").join(&block.name).join("dm/uuid");
            let uuid = fs::read_to_string(uuid).unwrap_or_default();
            User::of(block.mapped.as_deref()?, &uuid, is_pool)
        };
        let not_mounted: Vec<String> = (stack.blocks())
            .filter(|(number, _)| stack.class(*number) == Class::Thin)
            .filter(|(number, _)| !mounted.iter().any(|(on, _)| on == number))
            .map(|(_, block)| block.name.clone())
            .collect();
        let unasked = unasked_now(&not_mounted, PATIENCE);
        let pools = (stack.blocks())
            .filter(|(_, block)| block.is_pool)
            .map(|(number, block)| PoolReport {
                name: block.name.clone(),
                mapped: block.mapped.as_deref().unwrap_or_default().into(),
                user: user(block),
                full_in: (watched.iter())
                    .find(|pool| {
                        block.mapped.as_deref().map(Text::from).as_ref() == Some(&pool.name)
                    })
                    .and_then(|pool| pool.full_in),
                status: (read.iter())
                    .find(|one| one.number == number)
                    .and_then(|one| one.status),
            })
            .collect();
        let devices: Vec<DeviceReport> = (stack.blocks())
            .filter(|(number, _)| stack.class(*number) != Class::Other)
            .map(|(number, block)| {
                let counts = counted.get(&number).copied().unwrap_or_default();
                let here = || mounted.iter().filter(|(on, _)| *on == number);
                DeviceReport {
                    name: block.name.clone(),
                    mapped: block.mapped.as_deref().map(Text::from),
                    number: Number::of(true, number).to_string(),
                    user: user(block),
                    class: match (block.is_thin, stack.class(number)) {
                        (true, _) => "thin",
                        (false, Class::Thin) => "on thin",
                        (false, Class::Other | Class::Unknown) => "unknown",
                    },
                    below: (block.below.iter())
                        .filter_map(|below| Some(stack.block(*below)?.name.clone()))
                        .collect(),
                    discard_max_bytes: most(sys, number).ok().flatten(),
                    mounted: here()
                        .map(|(_, one)| Text::from(one.at.as_path()))
                        .collect(),
                    mounted_with_discard: here()
                        .any(|(_, one)| is_discarding(one, Some(&block.name))),
                    unasked: unasked.get(&block.name).copied(),
                    refused: counts.refused,
                    audited: counts.audited,
                    arrived: counts.arrived,
                    by_kernel: counts.by_kernel,
                    origins: origin::of(&origins, number),
                }
            })
            .collect();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let is_containerds = |device: &DeviceReport| device.user == Some(User::Containerd);
        let is_refused =
            pinned.is_some_and(|pinned| pinned.host().thin_discard == OfTheHost::Refused as u32);
        let advice = (is_refused && devices.iter().any(is_containerds)).then_some(CONTAINERD);
        Ok(Self {
            discards: match pinned.map(|pinned| pinned.host().thin_discard) {
                None => "unguarded",
                Some(what) if what == OfTheHost::Refused as u32 => "refused",
                Some(what) if what == OfTheHost::Audited as u32 => "audited",
                Some(_) => "left",
            },
            queues_are_heeded: queues_are_heeded(),
            pools,
            devices,
            held_back: activate::all_held(Path::new(activate::FOLDER), boot_id.trim()),
            open: open_here(),
            advice: advice.into_iter().collect(),
        })
    }
}
