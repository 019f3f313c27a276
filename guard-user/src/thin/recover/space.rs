//! Lost volumes: a copy that cannot end is not begun.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use super::RecoverError;
use crate::record::Text;

/// Bytes that may be written below a path, in the nearest folder above that is there.
pub(super) fn free(path: &Path) -> Result<u64, RecoverError> {
    let there = nearest(path);
    let found = statvfs(&there)
        .map_err(io::Error::from)
        .map_err(RecoverError::io("ask for the free space of", &there))?;
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size()))
}

/// Nothing, if there is room.
pub(super) fn need(path: &Path, needed: u64, option: &'static str) -> Result<(), RecoverError> {
    let free = free(path)?;
    if needed <= free {
        return Ok(());
    }
    Err(RecoverError::NoRoom {
        path: Text::from(path),
        free,
        needed,
        option,
    })
}

fn nearest(path: &Path) -> PathBuf {
    let above = path.ancestors().filter(|path| *path != Path::new(""));
    above
        .map(Path::to_owned)
        .find(|path| path.exists())
        .unwrap_or_else(|| ".".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_the_one_above() {
        let room = free(Path::new("/tmp/not/there/yet")).unwrap();
        assert!(room > 0);
        assert!(need(Path::new("/tmp/not"), 1, "--to").is_ok());
        let words = need(Path::new("/tmp/not"), u64::MAX, "--to")
            .unwrap_err()
            .to_string();
        assert!(words.contains("name another place (--to)"), "{words}");
    }
}
