//! Lost volumes: every sector of a volume is read from where the pool's metadata says, and from nowhere else.

use super::dump::Extent;

/// Sectors of a thin volume, at most: 1 PiB, more than a pool can map.
pub(super) const SECTORS_MAX: u64 = 1 << 41;
/// Lines of a table, at most: as many as kernels from 6.8 on take (`DM_MAX_TARGETS`, drivers/md/dm-core.h).
pub(super) const TARGETS_MAX: usize = 1 << 20;

/// A part of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first sector.
    pub start: u64,
    /// Its sectors.
    pub length: u64,
    /// Its first sector on the data device; none: it was never written, and reads as zeros.
    pub data: Option<u64>,
}

/// Where a volume's sectors lie, sorted, without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    pieces: Vec<Piece>,
}

impl Map {
    /// The map of a volume of `size` sectors: what is mapped beyond it is left out, what is not mapped reads as zeros.
    /// `block` is the sectors of a data block, `data` those of the data device. What is wrong with it, in words.
    pub(super) fn new(
        mut extents: Vec<Extent>,
        block: u64,
        size: u64,
        data: u64,
    ) -> Result<Self, String> {
        extents.sort_unstable();
        let mut map = Self::default();
        let mut at = 0;
        for extent in &extents {
            let [start, from, length] = sectors(extent, block).ok_or_else(|| {
                format!("block {} lies beyond what a volume can have", extent.origin)
            })?;
            if start < at {
                return Err(format!("block {} is mapped twice", extent.origin));
            }
            if from + length > data {
                return Err(format!(
                    "block {} lies at block {} of the data device, which has {}",
                    extent.origin,
                    extent.data,
                    data / block
                ));
            }
            if start >= size {
                break;
            }
            map.add(at, start - at, None);
            at = size.min(start + length);
            map.add(start, at - start, Some(from));
        }
        map.add(at, size.saturating_sub(at), None);
        Ok(map)
    }

    fn add(&mut self, start: u64, length: u64, data: Option<u64>) {
        match self.pieces.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.data.map(|data| data + last.length) == data && data.is_some() => {
                last.length += length;
            }
            _ => self.pieces.push(Piece {
                start,
                length,
                data,
            }),
        }
    }

    /// The parts, in their order.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Sectors of the volume.
    pub(super) fn size(&self) -> u64 {
        (self.pieces.last()).map_or(0, |piece| piece.start + piece.length)
    }

    /// Sectors that are mapped.
    pub(super) fn mapped(&self) -> u64 {
        let mapped = self.pieces.iter().filter(|piece| piece.data.is_some());
        mapped.map(|piece| piece.length).sum()
    }

    /// The table that dmsetup reads: `linear` where the data lies, `zero` where nothing was written.
    pub(super) fn table(&self, data: &str) -> String {
        let lines = self.pieces.iter().map(|piece| match piece.data {
            Some(from) => format!("{} {} linear {data} {from}\n", piece.start, piece.length),
            None => format!("{} {} zero\n", piece.start, piece.length),
        });
        lines.collect()
    }
}

/// The sector after the last one that is mapped, if the mapping is such as a volume can have.
pub(super) fn end(extents: &[Extent], block: u64) -> Option<u64> {
    extents.iter().try_fold(0, |end, extent| {
        sectors(extent, block).map(|[start, _, length]| end.max(start + length))
    })
}

/// First sector in the volume, first sector of the data, sectors; `None` where they are beyond all bounds.
fn sectors(extent: &Extent, block: u64) -> Option<[u64; 3]> {
    let sectors = |blocks: u64| {
        blocks
            .checked_mul(block)
            .filter(|sectors| *sectors <= SECTORS_MAX)
    };
    let all = [extent.origin, extent.data, extent.length].map(sectors);
    let [start, from, length] = [all[0]?, all[1]?, all[2]?];
    (length > 0 && start + length <= SECTORS_MAX).then_some([start, from, length])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: u64 = 1 << 30;

    fn extent(origin: u64, data: u64, length: u64) -> Extent {
        Extent {
            origin,
            data,
            length,
        }
    }

    #[test]
    fn a_table_has_linear_where_data_lies_and_zero_between() {
        let extents = vec![extent(4, 0, 1), extent(0, 7, 2)];
        let map = Map::new(extents, 128, 128 * 6, DATA).unwrap();
        assert_eq!(
            map.table("7:1"),
            "0 256 linear 7:1 896\n256 256 zero\n512 128 linear 7:1 0\n640 128 zero\n"
        );
        assert_eq!((map.size(), map.mapped()), (768, 384));
    }

    #[test]
    fn runs_that_go_on_are_one_and_a_size_cuts_the_last() {
        let extents = vec![
            extent(0, 7, 1),
            extent(1, 8, 1),
            extent(2, 20, 1),
            extent(3, 0, 1),
        ];
        let map = Map::new(extents, 128, 300, DATA).unwrap();
        assert_eq!(map.table("d"), "0 256 linear d 896\n256 44 linear d 2560\n");
    }

    #[test]
    fn the_last_block_of_the_data_is_mapped_and_one_beyond_is_refused() {
        assert!(Map::new(vec![extent(0, 9, 1)], 128, 128, 1280).is_ok());
        let words = Map::new(vec![extent(0, 10, 1)], 128, 128, 1280).unwrap_err();
        assert!(
            words.contains("block 10 of the data device, which has 10"),
            "{words}"
        );
    }

    #[test]
    fn what_no_volume_can_have_is_refused() {
        for wrong in [
            vec![extent(0, 0, 2), extent(1, 9, 1)],
            vec![extent(0, 0, 0)],
            vec![extent(u64::MAX, 0, 1)],
            vec![extent(0, u64::MAX / 128, 1)],
            vec![extent(0, 0, u64::MAX)],
        ] {
            assert!(
                Map::new(wrong.clone(), 128, 1 << 20, DATA).is_err(),
                "{wrong:?}"
            );
        }
        assert_eq!(end(&[extent(u64::MAX, 0, 1)], 128), None);
        assert_eq!(end(&[extent(1, 0, 2), extent(0, 3, 1)], 128), Some(384));
    }

    proptest! {
        /// Gaps and lengths make extents that do not overlap; each sector of the volume stands in the table once, and
        /// leads to where its extent says.
        #[test]
        fn a_table_covers_each_sector_of_the_volume_once(
            runs in prop::collection::vec((0u64..5, 1u64..6, 0u64..1000), 0..30),
            cut in 0u64..20_000,
            turn in any::<prop::sample::Index>(),
        ) {
            let (mut extents, mut at) = (Vec::new(), 0);
            for (gap, length, data) in runs {
                extents.push(extent(at + gap, data, length));
                at += gap + length;
            }
            let said = extents.clone();
            if !extents.is_empty() {
                let by = turn.index(extents.len());
                extents.rotate_left(by);
            }
            let map = Map::new(extents, 128, cut, DATA).unwrap();
            let mut next = 0;
            for piece in map.pieces() {
                prop_assert_eq!(piece.start, next);
                prop_assert!(piece.length > 0);
                next += piece.length;
                for sector in [piece.start, next - 1] {
                    let block = sector / 128;
                    let of = said.iter().find(|e| (e.origin..e.origin + e.length).contains(&block));
                    let expected = of.map(|e| (e.data + block - e.origin) * 128 + sector % 128);
                    prop_assert_eq!(piece.data.map(|data| data + sector - piece.start), expected);
                }
            }
            prop_assert_eq!(next, cut);
            let sum: u64 = map.table("d").lines()
                .map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum();
            prop_assert_eq!(sum, cut);
        }

        #[test]
        fn no_extents_make_it_panic(
            numbers in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..5),
            size in 0u64..=SECTORS_MAX,
        ) {
            let extents: Vec<Extent> = numbers.into_iter().map(|(a, b, c)| extent(a, b, c)).collect();
            let _ = end(&extents, 128);
            let _ = Map::new(extents, 128, size, DATA);
        }
    }
}
