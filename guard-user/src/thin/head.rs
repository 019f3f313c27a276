//! What a block device begins with: by that file systems are known.

/// Bytes from its beginning that must be read: those of the last superblock that is looked for.
pub const HEAD: usize = 0x1_0000 + 4096;
/// Where ext2, ext3, ext4 and f2fs have theirs.
pub const AT_1024: usize = 1024;
/// Where btrfs has its.
const AT_64_KIB: usize = 0x1_0000;

/// `struct ext4_super_block` (fs/ext4/ext4.h), if it is one.
#[must_use]
pub fn ext(head: &[u8]) -> Option<&[u8]> {
    let block = head.get(AT_1024..AT_1024 + 1024)?;
    (number(block, 0x38)? == 0xef53u16.to_le_bytes()).then_some(block)
}

/// `struct btrfs_super_block` (include/uapi/linux/btrfs_tree.h), if it is one.
#[must_use]
pub fn btrfs(head: &[u8]) -> Option<&[u8]> {
    let block = head.get(AT_64_KIB..)?;
    (number(block, 0x40)? == *b"_BHRfS_M").then_some(block)
}

/// So many bytes from there on, if there are.
#[must_use]
pub fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A little-endian number.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}
