//! Thin discard: what each block device stands on, so that none that leads to dm-thin is taken for one that does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use guard_common::thin::{Class, number};

/// What is asked of others than sysfs.
pub trait Ask {
    /// The types of the targets of a device mapper's device; `None`: it cannot be told. None at all: it has no table yet.
    fn targets(&self, number: u32) -> Option<Vec<String>>;
    /// What a loop device's file is, or is on.
    fn below_loop(&self, name: &str) -> Below;
}

/// What a loop device is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// The device with this number.
    On(u32),
    /// None: it has no file, or one that is on no device.
    Nothing,
    /// It does not say.
    Unknown,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// As the kernel calls it, `dm-3`.
    pub name: String,
    /// Its own name in the device mapper, if it is one of its.
    pub mapped: Option<String>,
    /// Whether it is a thin volume itself.
    pub is_thin: bool,
    /// Whether it is one of the pools that thin volumes are in.
    pub is_pool: bool,
    /// It is the device mapper's and has no table yet, or none that can be read; or a loop device, or sysfs, that does not say what it is on.
    pub is_unknown: bool,
    /// Whether it is a part of another device, whose queue it shares.
    pub is_partition: bool,
    /// The numbers of what it stands on.
    pub below: Vec<u32>,
}

/// All block devices, by number.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    blocks: BTreeMap<u32, Block>,
    /// Devices of one file system of several: what is asked of the file system is asked of any.
    together: Vec<BTreeSet<u32>>,
}

impl Stack {
    /// All that sysfs, mounted at `sys`, lists.
    ///
    /// # Errors
    /// It does not list them: nothing is known of any.
    pub fn of(sys: &Path, ask: &dyn Ask) -> io::Result<Self> {
        let mut stack = Self::default();
        let class = sys.join("class/block");
        // That there is none says nothing of devices: whoever lists them then has another sysfs, or none.
        fs::metadata(&class)?;
        for name in names(&class)? {
            let read = stack.read(sys, ask, &name);
            // What has gone meanwhile has no link any more; a disk that nobody may open (a path of NVMe's) has no number.
            let at = class.join(&name);
            if read.is_none() && at.symlink_metadata().is_ok() {
                fs::metadata(&at)?;
            }
        }
        stack.together = together(sys);
        Ok(stack)
    }

    /// Reads one device anew, and all that stands on it; one that is gone is taken out. Gives the numbers of those that were read.
    pub fn renew(&mut self, sys: &Path, ask: &dyn Ask, name: &str) -> Vec<u32> {
        let mut renewed = Vec::new();
        let mut next = vec![name.to_owned()];
        while let Some(name) = next.pop() {
            let Some(number) = self.read(sys, ask, &name) else {
                let gone = (self.blocks.iter()).find(|(_, block)| block.name == name);
                let gone = gone.filter(|_| is_gone(sys, &name));
                if let Some(number) = gone.map(|(number, _)| *number) {
                    self.blocks.remove(&number);
                    renewed.push(number);
                }
                continue;
            };
            if renewed.contains(&number) {
                continue;
            }
            renewed.push(number);
            let at = sys.join("class/block").join(&name);
            next.extend(names(&at.join("holders")).unwrap_or_default());
            next.extend(parts(&at));
        }
        renewed
    }

    fn read(&mut self, sys: &Path, ask: &dyn Ask, name: &str) -> Option<u32> {
        let at = sys.join("class/block").join(name);
        let number = number_in(&at.join("dev"))?;
        let mapped = fs::read_to_string(at.join("dm/name")).ok();
        let targets = mapped.as_ref().map(|_| ask.targets(number));
        let has = |kind: &str| {
            let mut targets = targets.iter().flatten().flatten();
            targets.any(|target| target == kind)
        };
        let is_partition = at.join("partition").exists();
        let slaves = names(&at.join("slaves"));
        let mut is_silent = slaves.is_err();
        let mut on = |number: Option<u32>| {
            is_silent |= number.is_none();
            number
        };
        let mut below: Vec<u32> = slaves
            .unwrap_or_default()
            .into_iter()
            .filter_map(|slave| on(number_in(&sys.join("class/block").join(slave).join("dev"))))
            .collect();
        if is_partition {
            // The link leads into the directory of the device that it is a part of.
            let whole = fs::canonicalize(&at).ok();
            below.extend(on(whole.and_then(|at| number_in(&at.parent()?.join("dev")))));
        }
        if at.join("loop").is_dir() {
            match ask.below_loop(name) {
                Below::On(number) => below.push(number),
                Below::Nothing => {}
                Below::Unknown => is_silent = true,
            }
        }
        let block = Block {
            name: name.to_owned(),
            is_thin: has("thin"),
            is_pool: has("thin-pool"),
            is_unknown: is_silent
                || matches!(&targets, Some(None))
                || matches!(&targets, Some(Some(all)) if all.is_empty()),
            mapped: mapped.map(|name| name.trim_end().to_owned()),
            is_partition,
            below,
        };
        self.blocks.insert(number, block);
        Some(number)
    }

    /// What is known of a device.
    #[must_use]
    pub fn class(&self, number: u32) -> Class {
        let alone = self.alone(number);
        if alone == Class::Thin {
            return alone;
        }
        // Of a file system on several devices the kernel side sees one.
        let with = self.together.iter().filter(|all| all.contains(&number));
        let thin = (with.flatten()).any(|other| self.alone(*other) == Class::Thin);
        if thin { Class::Thin } else { alone }
    }

    /// The same, by what it stands on itself.
    #[must_use]
    pub fn alone(&self, number: u32) -> Class {
        let (mut seen, mut next) = (BTreeSet::new(), vec![number]);
        let mut class = Class::Other;
        while let Some(number) = next.pop() {
            let Some(block) = self.blocks.get(&number) else {
                // A file system's own number is listed nowhere.
                if !seen.is_empty() && number >> 20 != 0 {
                    class = Class::Unknown;
                }
                continue;
            };
            if block.is_thin {
                return Class::Thin;
            }
            if block.is_unknown {
                class = Class::Unknown;
            }
            // Below a pool as well: it hands on what it is asked to its data, which may be a volume of another's.
            if seen.insert(number) {
                next.extend(&block.below);
            }
        }
        class
    }

    /// All devices, by number.
    pub fn blocks(&self) -> impl Iterator<Item = (u32, &Block)> {
        self.blocks.iter().map(|(number, block)| (*number, block))
    }

    /// One of them.
    #[must_use]
    pub fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get(&number)
    }

    /// What stands directly on a device.
    pub fn above(&self, number: u32) -> impl Iterator<Item = &Block> {
        (self.blocks.values()).filter(move |block| block.below.contains(&number))
    }
}

/// The thin pools that sysfs, mounted at `sys`, lists: the number of each, and its name in the device mapper.
#[must_use]
pub fn pools(sys: &Path, ask: &dyn Ask) -> Vec<(u32, String)> {
    let blocks = sys.join("class/block");
    let pool = |name: String| {
        let mapped = fs::read_to_string(blocks.join(&name).join("dm/name")).ok()?;
        let number = number_in(&blocks.join(&name).join("dev"))?;
        let targets = ask.targets(number)?;
        let is_pool = targets.iter().any(|target| target == "thin-pool");
        is_pool.then(|| (number, mapped.trim_end().to_owned()))
    };
    let names = names(&blocks).unwrap_or_default();
    names.into_iter().filter_map(pool).collect()
}

/// Major numbers whose new devices may stand on dm-thin before anybody has looked: of the device mapper and of md, as
/// `/proc/devices` lists them.
#[must_use]
pub fn majors(devices: &str) -> Vec<u32> {
    let block = devices
        .split_once("Block devices:")
        .map_or("", |(_, of)| of);
    (block.lines())
        .filter_map(|line| {
            let (major, name) = line.trim().split_once(' ')?;
            matches!(name, "device-mapper" | "md" | "mdp").then(|| major.parse().ok())?
        })
        .collect()
}

/// The names in a directory; none where there is no such.
fn names(at: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(at) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Whether a device that cannot be read is gone: others are listed, and it is not.
fn is_gone(sys: &Path, name: &str) -> bool {
    let listed = names(&sys.join("class/block")).unwrap_or_default();
    !listed.is_empty() && !listed.iter().any(|one| one == name)
}

/// The parts of a device, which are directories below its own.
fn parts(at: &Path) -> Vec<String> {
    let is_part = |name: &String| at.join(name).join("partition").exists();
    let names = names(at).unwrap_or_default();
    names.into_iter().filter(is_part).collect()
}

/// `MAJOR:MINOR`.
fn number_in(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(number(major.parse().ok()?, minor.parse().ok()?))
}

/// The devices of each btrfs of several.
fn together(sys: &Path) -> Vec<BTreeSet<u32>> {
    let root = sys.join("fs/btrfs");
    let of = |name: String| -> PathBuf { root.join(name).join("devices") };
    let all = |at: &Path| names(at).unwrap_or_default();
    (all(&root).into_iter().map(of))
        .map(|devices| {
            (all(&devices).into_iter())
                .filter_map(|name| number_in(&devices.join(name).join("dev")))
                .collect::<BTreeSet<u32>>()
        })
        .filter(|all| all.len() > 1)
        .collect()
}

#[cfg(test)]
mod tests;
