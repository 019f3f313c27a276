//! Thin discard: file systems that discard by themselves what is deleted, as the kernel lists what is mounted.
//!
//! Format: Documentation/filesystems/proc.rst, 3.5.

use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::PathBuf,
};

use guard_common::thin::number;
use nix::sys::stat::{major, minor};

/// A file system that is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number of the mount.
    pub id: u32,
    /// Its device, or for one on several the number that it has by itself.
    pub number: u32,
    /// Its type.
    pub kind: String,
    /// What it was mounted from.
    pub source: PathBuf,
    /// One place where it is mounted.
    pub at: PathBuf,
    /// It may be written.
    pub writable: bool,
    /// It was mounted to discard by itself.
    pub discards: bool,
    /// Options that it has, and loses where it is mounted anew and they are not asked for again.
    pub to_keep: Vec<&'static str>,
}

/// Options that are flags of the file system as well, which ext4 takes as they are asked for then (`ext4_remount`, fs/ext4/super.c of
/// 5.10).
const FLAGS: [&str; 2] = ["lazytime", "i_version"];

impl Mounted {
    /// From a line; `None`: it is not understood.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let id = mount.next()?.parse().ok()?;
        let mut mount = mount.skip(1);
        let (major, minor) = mount.next()?.split_once(':')?;
        let at = mount.nth(1)?;
        let mut words = file_system.split(' ');
        let (kind, source) = (words.next()?, words.next()?);
        let options = words.next()?;
        let has = |option: &str| {
            let mut all = options.split(',');
            all.any(|one| one.split('=').next() == Some(option))
        };
        Some(Self {
            id,
            number: number(major.parse().ok()?, minor.parse().ok()?),
            kind: kind.to_owned(),
            source: plain(source),
            at: plain(at),
            writable: has("rw"),
            discards: has("discard"),
            to_keep: FLAGS.into_iter().filter(|flag| has(flag)).collect(),
        })
    }

    /// The device that it is on; of a btrfs, which may be on several, the one that it was mounted from.
    #[must_use]
    pub fn device(&self) -> Option<u32> {
        if self.number >> 20 != 0 {
            return Some(self.number);
        }
        if self.kind != "btrfs" {
            return None;
        }
        let device = fs::metadata(&self.source).ok()?.rdev();
        Some(number(major(device) as u32, minor(device) as u32))
    }
}

/// All that is mounted, each once.
#[must_use]
pub fn all(mountinfo: &str) -> Vec<Mounted> {
    let mut all: Vec<Mounted> = everywhere(mountinfo).collect();
    all.sort_by_key(|mounted| mounted.number);
    all.dedup_by_key(|mounted| mounted.number);
    all
}

/// The same, each as often as it is mounted.
pub fn everywhere(mountinfo: &str) -> impl Iterator<Item = Mounted> {
    mountinfo.lines().filter_map(Mounted::read)
}

/// A path whose blanks are written as `\040`.
fn plain(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_read_as_the_kernel_lists_it() {
        let text = "36 35 253:1 / /srv/a\\040b rw,relatime shared:1 - ext4 /dev/mapper/v1 rw,lazytime,discard,i_version\n\
                    37 35 0:41 /sub /x ro,nosuid master:2 shared:9 - btrfs /dev/mapper/v2 ro,nodiscard,space_cache\n\
                    38 36 253:1 /a /again rw - ext4 /dev/mapper/v1 rw,discard\n\
                    39 36 0:42 / /z rw - btrfs /dev/loop0 rw,discard=async\n\
                    not a line\n40 1 x:y / / rw - a b c\n";
        let all = all(text);
        let told: Vec<(u32, &str, bool, bool)> = (all.iter())
            .map(|one| (one.number, one.kind.as_str(), one.writable, one.discards))
            .collect();
        assert_eq!(
            told,
            [
                (41, "btrfs", false, false),
                (42, "btrfs", true, true),
                (number(253, 1), "ext4", true, true)
            ]
        );
        assert_eq!(all[2].at, PathBuf::from("/srv/a b"));
        assert_eq!(all[2].id, 36);
        assert_eq!(all[2].to_keep, ["lazytime", "i_version"]);
        assert!(all[1].to_keep.is_empty());
        assert_eq!(plain("\\134\\0"), PathBuf::from("\\\\0"));
    }
}
