//! Lost volumes: a file system is mounted by its own type, read-only, without a replay of its journal.

use serde::Serialize;

use crate::thin::head::{self, number, u32_at};

/// What stands on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FileSystem {
    /// Its type, as mount(2) has it.
    pub kind: &'static str,
    /// Options that keep it from writing, from looking at what is not finished, and from what its own superblock asks the kernel to do
    /// about errors.
    #[serde(skip)]
    pub options: &'static str,
    /// Its size in bytes, if it says one that can be.
    pub size: Option<u64>,
    /// Something stands in its journal that is not in its place. `None`: it does not say.
    pub unfinished: Option<bool>,
}

/// What file system begins with these bytes, if it is one that is mounted.
pub(super) fn probe(head: &[u8]) -> Option<FileSystem> {
    ext(head).or_else(|| xfs(head)).or_else(|| btrfs(head))
}

fn ext(head: &[u8]) -> Option<FileSystem> {
    let block = head::ext(head)?;
    let (journal, incompatible) = (u32_at(block, 0x5c)? & 4 != 0, u32_at(block, 0x60)?);
    let high = if incompatible & 0x80 == 0 {
        0
    } else {
        u64::from(u32_at(block, 0x150)?)
    };
    let blocks = high << 32 | u64::from(u32_at(block, 4)?);
    let size = 1024u64.checked_shl(u32_at(block, 0x18)?.min(32));
    Some(FileSystem {
        // It mounts ext2 and ext3 as well.
        kind: "ext4",
        // The superblock is a container's. It may ask for a panic at the first error (`tune2fs -e panic`; of a file system that is
        // mounted read-only too, from 5.11 on), or for a warning (`-E mount_opts=warn_on_error`), which is one where
        // kernel.panic_on_warn is set. What is said here goes before that. From 4.19 on.
        options: "noload,errors=continue,nowarn_on_error",
        size: size.and_then(|size| size.checked_mul(blocks)),
        unfinished: Some(journal && incompatible & 4 != 0),
    })
}

/// `struct xfs_dsb`, big-endian.
fn xfs(head: &[u8]) -> Option<FileSystem> {
    if !head.starts_with(b"XFSB") {
        return None;
    }
    let size = u64::from(u32::from_be_bytes(number(head, 4)?));
    Some(FileSystem {
        kind: "xfs",
        // Snapshots of a volume all have its number, and one of them may be mounted. What happens at an error is the host's to say
        // (fs.xfs.panic_mask), not the superblock's.
        options: "norecovery,nouuid",
        size: size.checked_mul(u64::from_be_bytes(number(head, 8)?)),
        unfinished: None,
    })
}

fn btrfs(head: &[u8]) -> Option<FileSystem> {
    let block = head::btrfs(head)?;
    Some(FileSystem {
        kind: "btrfs",
        // `fatal_errors=panic` stands in no superblock.
        options: "rescue=nologreplay",
        size: Some(u64::from_le_bytes(number(block, 0x70)?)),
        // `log_root`.
        unfinished: Some(number(block, 0x60)? != [0; 8]),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::thin::head::HEAD;

    fn with(places: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        for (at, bytes) in places {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn file_systems_are_known_with_their_size_and_their_journal() {
        let places: &[(usize, &[u8])] = &[
            (1024 + 0x38, &[0x53, 0xef]),
            (1024 + 4, &[0, 1]),
            (1024 + 0x18, &[2]),
            (1024 + 0x5c, &[4]),
            (1024 + 0x60, &[4]),
        ];
        let ext = probe(&with(places)).unwrap();
        assert_eq!(
            (ext.kind, ext.size, ext.unfinished),
            ("ext4", Some(1 << 20), Some(true))
        );
        let clean = probe(&with(&places[..4])).unwrap();
        assert_eq!(clean.unfinished, Some(false));
        let xfs = probe(&with(&[(0, b"XFSB\0\0\x10\0\0\0\0\0\0\0\0\x02")])).unwrap();
        assert_eq!((xfs.kind, xfs.size), ("xfs", Some(8192)));
        let btrfs = probe(&with(&[(0x1_0040, b"_BHRfS_M"), (0x1_0070, &[0, 16])])).unwrap();
        assert_eq!(
            (btrfs.kind, btrfs.size, btrfs.unfinished),
            ("btrfs", Some(4096), Some(false))
        );
    }

    #[test]
    fn a_superblock_that_asks_for_a_panic_is_not_heeded() {
        // `s_errors` is 3: panic.
        let places: &[(usize, &[u8])] = &[(1024 + 0x38, &[0x53, 0xef]), (1024 + 0x3c, &[3, 0])];
        let options: Vec<&str> = probe(&with(places)).unwrap().options.split(',').collect();
        assert_eq!(options, ["noload", "errors=continue", "nowarn_on_error"]);
    }

    #[test]
    fn what_lvm_or_nothing_stands_on_is_none() {
        assert_eq!(probe(&with(&[(512, b"LABELONE")])), None);
        assert_eq!(probe(&[]), None);
    }

    proptest! {
        #[test]
        fn no_superblock_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 1100)) {
            let mut head = with(&[(0, &bytes), (1024, &bytes), (0x1_0000, &bytes)]);
            head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
            prop_assert!(probe(&head).is_some());
            head[1024 + 0x38] = 0;
            head[..4].copy_from_slice(b"XFSB");
            prop_assert!(probe(&head).is_some());
            head[0] = 0;
            head[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
            prop_assert!(probe(&head).is_some());
        }
    }
}
