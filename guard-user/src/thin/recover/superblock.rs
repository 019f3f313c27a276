//! Lost volumes: garbage is not taken for a pool, and a pool whose first block is damaged is not taken for garbage.

use crate::record::Text;

/// The kernel's metadata block, in bytes (`THIN_METADATA_BLOCK_SIZE`, drivers/md/dm-thin-metadata.c).
pub(super) const BLOCK: usize = 4096;
/// `THIN_SUPERBLOCK_MAGIC`.
const MAGIC: u64 = 27_022_010;
/// `SUPERBLOCK_CSUM_XOR`.
const SALT: u32 = 160_774;
/// Sectors of a data block: multiples of 64 KiB, up to 1 GiB (`DATA_DEV_BLOCK_SIZE_MIN_SECTORS` and `_MAX_`, dm-thin.c).
pub(super) const DATA_BLOCK_MIN: u64 = 128;
const DATA_BLOCK_MAX: u64 = 2 << 20;

/// What of `struct thin_disk_superblock` is needed: the same in all kernels. All fields are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The pool's transaction.
    pub transaction: u64,
    /// Sectors of a data block.
    pub data_block: u64,
    /// Its checksum holds.
    pub sealed: bool,
}

/// The fields, if these are the first bytes of a pool's metadata.
pub(super) fn read(bytes: &[u8]) -> Option<Superblock> {
    let block = bytes.get(..BLOCK)?;
    let data_block = u64::from(u32_at(block, 336)?);
    (u64_at(block, 32)? == MAGIC && is_data_block(data_block)).then_some(Superblock {
        transaction: u64_at(block, 48)?,
        data_block,
        sealed: u32_at(block, 0)? == seal(block),
    })
}

/// What the kernel would write into its first four bytes.
pub(super) fn seal(block: &[u8]) -> u32 {
    crc32c(&block[4..BLOCK]) ^ SALT
}

/// Whether a pool may have data blocks of so many sectors.
pub(super) fn is_data_block(sectors: u64) -> bool {
    (DATA_BLOCK_MIN..=DATA_BLOCK_MAX).contains(&sectors) && sectors.is_multiple_of(DATA_BLOCK_MIN)
}

/// As `dm_bm_checksum()` has it: begun with all ones, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// In words, for a plan.
pub(super) fn words(block: &Superblock) -> Text {
    let seal = if block.sealed { "holds" } else { "is wrong" };
    Text::from(format!(
        "transaction {}, data blocks of {} sectors, the superblock's checksum {seal}",
        block.transaction, block.data_block
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[32..40].copy_from_slice(&MAGIC.to_le_bytes());
        block[48..56].copy_from_slice(&7u64.to_le_bytes());
        block[336..340].copy_from_slice(&128u32.to_le_bytes());
        let sum = seal(&block);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        block
    }

    #[test]
    fn a_pool_is_known_by_its_magic_and_its_checksum_is_judged() {
        let mut bytes = block();
        let whole = read(&bytes).unwrap();
        assert_eq!(
            (whole.transaction, whole.data_block, whole.sealed),
            (7, 128, true)
        );
        bytes[0] ^= 1;
        assert!(!read(&bytes).unwrap().sealed);
        bytes[32] ^= 1;
        assert_eq!(read(&bytes), None);
        assert_eq!(read(&bytes[..BLOCK - 1]), None);
    }

    #[test]
    fn a_data_block_that_no_pool_can_have_is_no_pools() {
        for (sectors, may) in [
            (0, false),
            (127, false),
            (128, true),
            (192, false),
            (2 << 20, true),
            (4 << 20, false),
        ] {
            assert_eq!(is_data_block(sectors), may, "{sectors}");
        }
    }

    /// The checksum of 4,092 zeros as the tools print it: `bad checksum in superblock, wanted 1490015127`.
    #[test]
    fn the_checksum_is_the_one_that_thin_check_wants() {
        assert_eq!(seal(&vec![0; BLOCK]), 1_490_015_127);
    }
}
