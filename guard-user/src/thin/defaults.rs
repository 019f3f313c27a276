//! Thin discard: file systems that discard what is deleted though nobody asks for that as they are mounted.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    head::{self, AT_1024},
    mounts::Mounted,
};

/// Why a file system discards if it is mounted without a word about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unasked {
    /// `discard` is among the options that stand in the superblock of ext2, ext3 or ext4 (`tune2fs -o`, `-E mount_opts=`).
    Ext4Stored,
    /// f2fs does (`default_options`, fs/f2fs/super.c).
    F2fs,
    /// btrfs does from 6.2 on (`open_ctree`, fs/btrfs/disk-io.c).
    Btrfs,
}

/// From when on btrfs does.
const BTRFS_DOES: (u32, u32) = (6, 2);
/// `F2FS_SUPER_MAGIC`.
const F2FS: u32 = 0xf2f5_2010;

impl Unasked {
    /// Of the file system that begins with these bytes, on a kernel of this release; `None`: it does not, or is none that could.
    #[must_use]
    pub fn of(head: &[u8], release: (u32, u32)) -> Option<Self> {
        if let Some(block) = head::ext(head) {
            ext_asks(block).then_some(Self::Ext4Stored)
        } else if head::u32_at(head, AT_1024) == Some(F2FS) {
            Some(Self::F2fs)
        } else {
            (head::btrfs(head).is_some() && release >= BTRFS_DOES).then_some(Self::Btrfs)
        }
    }

    /// In words, and what to do about it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ext4Stored => {
                "ext4 that discards unless it is mounted with nodiscard: its superblock says so (tune2fs -o ^discard, -E mount_opts=)"
            }
            Self::F2fs => "f2fs, which discards unless it is mounted with nodiscard",
            Self::Btrfs => "btrfs, which discards unless it is mounted with nodiscard",
        }
    }
}

/// `s_default_mount_opts` with `EXT4_DEFM_DISCARD`, and `s_mount_opts` (`struct ext4_super_block`, fs/ext4/ext4.h).
fn ext_asks(block: &[u8]) -> bool {
    let flags = head::u32_at(block, 0x100).unwrap_or_default();
    let text = block.get(0x200..0x240).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut asked = flags & 0x400 != 0;
    // The last word counts.
    for option in text.split(|byte| *byte == b',') {
        match option {
            b"discard" => asked = true,
            b"nodiscard" => asked = false,
            _ => {}
        }
    }
    asked
}

/// Whether a file system that is mounted discards by itself: ext4 also if that stands in its superblock, which is not listed with what it
/// was mounted with. `device`: as the kernel calls what it is on.
#[must_use]
pub fn is_discarding(mounted: &Mounted, device: Option<&str>) -> bool {
    let by_default = || {
        let options = Path::new("/proc/fs/ext4").join(device?).join("options");
        let text = fs::read_to_string(options).ok()?;
        Some(text.lines().any(|line| line == "discard"))
    };
    // One driver for all three.
    let is_ext = matches!(mounted.kind.as_str(), "ext2" | "ext3" | "ext4");
    let asked = || mounted.discards || is_ext && by_default() == Some(true);
    mounted.writable && asked()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(places: &[(usize, &[u8])], release: (u32, u32)) -> Option<Unasked> {
        let mut head = vec![0; head::HEAD];
        for (at, bytes) in places {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        Unasked::of(&head, release)
    }

    const EXT: (usize, &[u8]) = (AT_1024 + 0x38, &[0x53, 0xef]);
    const OPTIONS: usize = AT_1024 + 0x200;

    #[test]
    fn ext4_does_where_its_superblock_says_so() {
        let flag: (usize, &[u8]) = (AT_1024 + 0x100, &[0x0c, 0x04]);
        for (places, does) in [
            (&[EXT][..], false),
            (&[EXT, (AT_1024 + 0x100, &[0x0c, 0x00])], false),
            (&[EXT, flag], true),
            (&[EXT, (OPTIONS, b"errors=continue,discard")], true),
            (&[EXT, (OPTIONS, b"nodiscard")], false),
            (&[EXT, flag, (OPTIONS, b"nodiscard")], false),
            (&[EXT, (OPTIONS, b"discardx\0,discard")], false),
            // No file system.
            (&[flag], false),
        ] {
            let found = of(places, (5, 10));
            assert_eq!(found, does.then_some(Unasked::Ext4Stored), "{places:?}");
        }
    }

    #[test]
    fn f2fs_always_does_and_btrfs_from_a_release_on() {
        let f2fs: (usize, &[u8]) = (AT_1024, &[0x10, 0x20, 0xf5, 0xf2]);
        assert_eq!(of(&[f2fs], (5, 10)), Some(Unasked::F2fs));
        let btrfs: (usize, &[u8]) = (0x1_0040, b"_BHRfS_M");
        assert_eq!(of(&[btrfs], (6, 1)), None);
        assert_eq!(of(&[btrfs], (6, 2)), Some(Unasked::Btrfs));
    }

    #[test]
    fn what_is_too_short_is_none() {
        for length in [0, AT_1024, AT_1024 + 0x3a, AT_1024 + 0x220] {
            let mut head = vec![0; length];
            if let Some(magic) = head.get_mut(AT_1024 + 0x38..AT_1024 + 0x3a) {
                magic.copy_from_slice(&[0x53, 0xef]);
            }
            assert_eq!(Unasked::of(&head, (7, 3)), None, "{length}");
        }
    }
}
