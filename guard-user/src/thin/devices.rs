//! Thin discard: what block devices say of themselves, where sysfs does not.

use std::path::Path;

use super::stack::Ask;
use crate::kernel::{
    attach::release,
    loops::below_loop,
    mapper::{Asked, Mapper},
};

/// The device mapper, if there is one, and the loop devices.
pub struct Devices(Option<Mapper>);

impl Devices {
    /// Those of this host.
    #[must_use]
    pub fn open() -> Self {
        Self(Mapper::is_there().then(Mapper::open).and_then(Result::ok))
    }

    /// How the first target of a device is, in the kernel's words; `None`: it cannot be told.
    #[must_use]
    pub fn status(&self, number: u32) -> Option<String> {
        let targets = self.0.as_ref()?.targets(number, Asked::Status).ok()?;
        targets.into_iter().next().map(|target| target.says)
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
