//! Mounts: what a container that may mount could have the kernel read, which trusts what it mounts.

use crate::action::{self, Argument};

/// What mount(2) does something else by than to mount a file system of the type that it is told: `MS_REMOUNT`, `MS_BIND`, `MS_MOVE`,
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` (include/uapi/linux/mount.h; `path_mount`, fs/namespace.c).
const OTHERWISE: u64 = 0x20 | 0x1000 | 0x2000 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x10_0000;

/// Whether mount(2) with these flags changes the options of a file system, which is asked about once more before it does.
#[inline(always)]
#[must_use]
pub const fn is_remount(flags: u64) -> bool {
    const MS_REMOUNT: u64 = 0x20;
    const MS_BIND: u64 = 0x1000;
    flags & (MS_REMOUNT | MS_BIND) == MS_REMOUNT
}

/// Whether mount(2) with these flags mounts a file system of the type that it is told.
#[inline(always)]
#[must_use]
pub const fn is_of_its_type(flags: u64) -> bool {
    flags & OTHERWISE == 0
}

/// A type of file system from what was read of its name, NULs behind it: without the subtype that is the file system's own business,
/// as in `fuse.sshfs` (`get_fs_type`, fs/filesystems.c). No type of the kernel's has more than 15 bytes.
#[inline(always)]
#[must_use]
pub const fn without_subtype([low, high]: Argument) -> Argument {
    let low_kept = up_to_dot(low);
    if low_kept == low {
        [low, up_to_dot(high)]
    } else {
        [low_kept, 0]
    }
}

/// What stands before the first dot of eight bytes, and NULs behind it.
#[inline(always)]
const fn up_to_dot(word: u64) -> u64 {
    let others = word ^ u64::from_ne_bytes([b'.'; 8]);
    // The lowest bit that this sets is the highest of the first byte that is a dot.
    let dot = others.wrapping_sub(0x0101_0101_0101_0101) & !others & 0x8080_8080_8080_8080;
    if dot == 0 {
        return word;
    }
    word & ((dot & dot.wrapping_neg()) >> 7).wrapping_sub(1)
}

/// A type of file system from its name; `None`: no kernel has one of that length.
#[must_use]
pub const fn file_system(name: &str) -> Option<Argument> {
    action::name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtype_is_left_out_wherever_the_dot_stands() {
        for (read, expected) in [
            ("fuse.sshfs", "fuse"),
            ("fuseblk.ntfs-3g", "fuseblk"),
            ("seven77.x", "seven77"),
            ("eight888.x", "eight888"),
            ("binfmt_misc.xyz", "binfmt_misc"),
            ("overlay", "overlay"),
            ("binfmt_misc", "binfmt_misc"),
            ("fuse.a.b", "fuse"),
        ] {
            assert_eq!(
                Some(without_subtype(file_system(read).unwrap())),
                file_system(expected),
                "{read}"
            );
        }
        assert_eq!(without_subtype(file_system(".x").unwrap()), [0, 0]);
    }

    #[test]
    fn only_a_plain_mount_is_of_its_type() {
        // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_SILENT and MS_RELATIME.
        assert!(is_of_its_type(0) && is_of_its_type(1 | 2 | 4 | 0x8000 | 0x20_0000));
        for flag in [0x20, 0x1000, 0x2000, 1 << 17, 1 << 18, 1 << 19, 1 << 20] {
            assert!(!is_of_its_type(flag), "{flag:#x}");
        }
        // Of a bind mount alone, nobody is asked again.
        assert!(is_remount(0x21) && !is_remount(0x1020) && !is_remount(1));
    }
}
