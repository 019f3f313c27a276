//! Lost volumes: bytes are read from where a map says and written sparsely, with no device mapped for it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{Interrupts, RecoverError, map::Map};

/// Bytes at a time.
const CHUNK: usize = 1 << 20;
/// Zeros of this length, where they begin at a multiple of it, are left out.
const HOLE: usize = 64 << 10;

/// A copy that ended before its end.
pub(super) enum Broken {
    /// What it is read from.
    Reading(io::Error),
    /// What it is written to.
    Writing(io::Error),
    /// By a signal.
    Stopped(RecoverError),
}

impl Broken {
    /// The error, on what was read and what was written.
    pub(super) fn on(self, from: &Path, to: &Path) -> RecoverError {
        match self {
            Self::Reading(error) => RecoverError::io("read", from)(error),
            Self::Writing(error) => RecoverError::io("write", to)(error),
            Self::Stopped(error) => error,
        }
    }
}

/// Copies `size` bytes from the same place of one to the other, without their zeros. The latter is empty.
pub(super) fn whole(
    from: &File,
    to: &File,
    size: u64,
    interrupts: &Interrupts,
) -> Result<(), Broken> {
    to.set_len(size).map_err(Broken::Writing)?;
    range(from, 0, to, 0, size, interrupts).map(drop)
}

/// Writes a volume as an image into an empty file. How many bytes were not zeros.
pub(super) fn image(
    map: &Map,
    data: &File,
    to: &File,
    interrupts: &Interrupts,
) -> Result<u64, Broken> {
    to.set_len(map.size() * 512).map_err(Broken::Writing)?;
    let mut written = 0;
    for piece in map.pieces() {
        if let Some(from) = piece.data {
            let [from, at, length] = [from, piece.start, piece.length].map(|sectors| sectors * 512);
            written += range(data, from, to, at, length, interrupts)?;
        }
    }
    to.sync_all().map_err(Broken::Writing)?;
    Ok(written)
}

fn range(
    from: &File,
    first: u64,
    to: &File,
    at: u64,
    length: u64,
    interrupts: &Interrupts,
) -> Result<u64, Broken> {
    let (mut buffer, mut done, mut written) = (vec![0; CHUNK], 0, 0);
    while done < length {
        interrupts.check().map_err(Broken::Stopped)?;
        let chunk = &mut buffer[..below(length - done)];
        (from.read_exact_at(chunk, first + done)).map_err(Broken::Reading)?;
        for (index, part) in chunk.chunks(HOLE).enumerate() {
            if part.iter().any(|byte| *byte != 0) {
                let place = at + done + (index * HOLE) as u64;
                to.write_all_at(part, place).map_err(Broken::Writing)?;
                written += part.len() as u64;
            }
        }
        done += chunk.len() as u64;
    }
    Ok(written)
}

/// Writes a volume onto a device that may hold something: what is there already as it should be is not written.
pub(super) fn device(
    map: &Map,
    data: &File,
    to: &File,
    interrupts: &Interrupts,
) -> Result<u64, Broken> {
    let (mut wanted, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut written = 0;
    for piece in map.pieces() {
        let mut done = 0;
        let length = piece.length * 512;
        while done < length {
            interrupts.check().map_err(Broken::Stopped)?;
            let now = below(length - done);
            let (wanted, there) = (&mut wanted[..now], &mut there[..now]);
            let at = piece.start * 512 + done;
            match piece.data {
                Some(from) => {
                    (data.read_exact_at(wanted, from * 512 + done)).map_err(Broken::Reading)?
                }
                None => wanted.fill(0),
            }
            to.read_exact_at(there, at).map_err(Broken::Writing)?;
            if wanted != there {
                to.write_all_at(wanted, at).map_err(Broken::Writing)?;
                written += now as u64;
            }
            done += now as u64;
        }
    }
    to.sync_all().map_err(Broken::Writing)?;
    Ok(written)
}

/// The first bytes of a volume, or as many as it has.
pub(super) fn head(map: &Map, data: &File, length: usize) -> io::Result<Vec<u8>> {
    let length = length.min(usize::try_from(map.size() * 512).unwrap_or(usize::MAX));
    let mut head = vec![0; length];
    for piece in map.pieces() {
        let start = piece.start * 512;
        let Some(room) = usize::try_from(start)
            .ok()
            .and_then(|start| head.get_mut(start..))
        else {
            break;
        };
        let now = room
            .len()
            .min(usize::try_from(piece.length * 512).unwrap_or(usize::MAX));
        if let Some(from) = piece.data {
            data.read_exact_at(&mut room[..now], from * 512)?;
        }
    }
    Ok(head)
}

fn below(length: u64) -> usize {
    usize::try_from(length).map_or(CHUNK, |length| length.min(CHUNK))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::{super::dump::Extent, *};

    /// A file that is gone from its folder already.
    fn file() -> File {
        let at = std::env::temp_dir();
        let path = at.join(format!("bulkhead-copy-{:?}", std::thread::current().id()));
        let mut options = fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        fs::remove_file(path).unwrap();
        file.unwrap()
    }

    fn bytes(of: &File, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; length];
        of.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_volume_comes_out_as_its_map_says_as_an_image_and_on_a_device_that_held_something() {
        let interrupts = Interrupts::hold().unwrap();
        let data = file();
        let block = 65_536;
        for number in 0..4u8 {
            data.write_all_at(&vec![number + 1; block], u64::from(number) * block as u64)
                .unwrap();
        }
        let extents = [(0, 3), (2, 1)].map(|(origin, data)| Extent {
            origin,
            data,
            length: 1,
        });
        let map = Map::new(extents.to_vec(), 128, 128 * 3 + 64, 128 * 4).unwrap();
        let expected = [
            vec![4; block],
            vec![0; block],
            vec![2; block],
            vec![0; block / 2],
        ]
        .concat();
        let out = file();
        let written = image(&map, &data, &out, &interrupts).unwrap_or_default();
        assert_eq!(written, 2 * block as u64);
        assert_eq!(bytes(&out, expected.len()), expected);
        assert!(out.metadata().unwrap().blocks() * 512 < 3 * block as u64);
        let held = file();
        held.write_all_at(&vec![9; expected.len()], 0).unwrap();
        assert!(device(&map, &data, &held, &interrupts).is_ok());
        assert_eq!(bytes(&held, expected.len()), expected);
        let again = device(&map, &data, &held, &interrupts).unwrap_or(1);
        assert_eq!(again, 0);
        assert_eq!(head(&map, &data, block + 1).unwrap(), expected[..block + 1]);
        assert_eq!(head(&map, &data, 1 << 30).unwrap(), expected);
    }

    #[test]
    fn data_that_ends_too_early_is_an_error_of_reading() {
        let interrupts = Interrupts::hold().unwrap();
        let data = file();
        data.set_len(65_536).unwrap();
        let extent = Extent {
            origin: 0,
            data: 0,
            length: 2,
        };
        let map = Map::new(vec![extent], 128, 256, 256).unwrap();
        let broken = image(&map, &data, &file(), &interrupts);
        assert!(matches!(broken, Err(Broken::Reading(_))));
        assert!(head(&map, &data, 100_000).is_err());
    }
}
