//! Lost volumes: what a device stands on is followed to its end, so that the pool is known by any other name that it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, makedev, minor};

use crate::kernel::loops::behind_loop;

/// A file, by its device and inode; a block device, by `u64::MAX` and its number. Two names of one thing have the same.
pub(super) type Identity = (u64, u64);

/// The identity of what stat(2) found.
pub(super) fn identity(found: &fs::Metadata) -> Identity {
    if found.file_type().is_block_device() {
        (u64::MAX, found.rdev())
    } else {
        (found.dev(), found.ino())
    }
}

/// Where it is asked what stands on what.
pub(super) struct Host<'a> {
    sys: &'a Path,
    /// What is behind the loop device of this name. `None`: nothing.
    behind: &'a dyn Fn(&str) -> Option<Identity>,
}

/// A device, or a file that holds one, and all that it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stands {
    itself: Identity,
    all: BTreeSet<Identity>,
    /// What is behind each loop device among them, by its number.
    looped: BTreeMap<u64, Identity>,
}

impl Host<'static> {
    /// This one.
    pub(super) fn here() -> Self {
        Self {
            sys: Path::new("/sys"),
            behind: &behind,
        }
    }
}

impl Host<'_> {
    /// What a device or a file stands on. `on`: the number of the device that the file is on.
    pub(super) fn stands(&self, itself: Identity, on: u64) -> Stands {
        let mut stands = Stands {
            itself,
            all: BTreeSet::from([itself]),
            looped: BTreeMap::new(),
        };
        let (seen, looped) = (&mut BTreeSet::new(), &mut stands.looped);
        let mut next = vec![if itself.0 == u64::MAX { itself.1 } else { on }];
        while let Some(number) = next.pop() {
            // A file system without a device of its own has none.
            let Ok(at) = fs::canonicalize(self.folder(number)) else {
                continue;
            };
            if !seen.insert(number) {
                continue;
            }
            let slaves = fs::read_dir(at.join("slaves"))
                .into_iter()
                .flatten()
                .flatten();
            next.extend(slaves.filter_map(|slave| number_in(&slave.path().join("dev"))));
            if at.join("partition").exists() {
                next.extend(at.parent().and_then(|whole| number_in(&whole.join("dev"))));
            }
            let name = at.file_name().and_then(|name| name.to_str());
            if at.join("loop").is_dir()
                && let Some(behind) = name.and_then(self.behind)
            {
                looped.insert(number, behind);
                if behind.0 == u64::MAX {
                    next.push(behind.1);
                }
            }
        }
        (stands.all).extend(seen.iter().map(|number| (u64::MAX, *number)));
        stands.all.extend(stands.looped.values());
        stands
    }

    /// The folders of the block devices that something of a pool's is, or is behind: itself, and each loop device over the same.
    pub(super) fn names(&self, part: &Stands) -> Vec<PathBuf> {
        let mut names = Vec::new();
        if part.itself.0 == u64::MAX {
            names.push(self.folder(part.itself.1));
        }
        let entries = fs::read_dir(self.sys.join("block"));
        for entry in entries.into_iter().flatten().flatten() {
            let at = entry.path();
            if !at.join("loop").is_dir() {
                continue;
            }
            let behind = entry.file_name().to_str().and_then(self.behind);
            let Some((behind, number)) = behind.zip(number_in(&at.join("dev"))) else {
                continue;
            };
            // What it stands on itself carries others too, as a volume group does.
            let other = !part.looped.contains_key(&number)
                && part.looped.values().any(|file| *file == behind);
            if behind == part.itself || other {
                names.push(at);
            }
        }
        names
    }

    /// Where sysfs has a block device.
    fn folder(&self, number: u64) -> PathBuf {
        (self.sys).join(format!("dev/block/{}:{}", major(number), minor(number)))
    }
}

impl Stands {
    /// Whether what is written to the one may come out in the other. Both may stand on a third.
    pub(super) fn touches(&self, other: &Self) -> bool {
        // Two loop devices over the same.
        let twice = self.looped.iter().any(|(number, behind)| {
            let mut others = other.looped.iter();
            others.any(|(with, file)| with != number && file == behind)
        });
        twice || self.all.contains(&other.itself) || other.all.contains(&self.itself)
    }
}

/// By the kernel's own account: a name that sysfs tells may be another file's by now, or one of another mount namespace.
fn behind(name: &str) -> Option<Identity> {
    if let Ok(Some(behind)) = behind_loop(&Path::new("/dev").join(name)) {
        let encoded = |number: u32| makedev((number >> 20).into(), (number & 0xf_ffff).into());
        return Some(match behind.is {
            Some(number) => (u64::MAX, encoded(number)),
            None => (encoded(behind.on), behind.inode),
        });
    }
    // Without its node.
    let path = Path::new("/sys/block").join(name).join("loop/backing_file");
    let path = fs::read_to_string(path).ok()?;
    let found = fs::metadata(path.trim_end_matches('\n')).ok()?;
    Some(identity(&found))
}

/// `MAJOR:MINOR`.
fn number_in(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests;
