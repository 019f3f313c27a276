//! Lost volumes: nothing that is there already is written over by what comes back.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::{O_EXCL, O_NONBLOCK};

use super::{Pool, RecoverError, map::Map, space};
use crate::record::Text;

/// So much of a device must be empty, else it holds something.
const EMPTY: u64 = 1 << 20;

/// Where a volume goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its files, into `files` of a new folder.
    Folder(PathBuf),
    /// Its bytes, into a new sparse file.
    Image(PathBuf),
    /// Its bytes, onto a device; whether that may hold something.
    Device(PathBuf, bool),
}

impl Target {
    /// What `--to` names: a file that ends in `.img` or `.raw`, else a folder.
    #[must_use]
    pub fn to(path: PathBuf) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("img" | "raw")) {
            Self::Image(path)
        } else {
            Self::Folder(path)
        }
    }

    /// The file, folder or device.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Image(path) | Self::Device(path, _) => path,
        }
    }

    /// Bytes that are needed there, and that are free.
    pub(super) fn room(&self, map: &Map) -> Result<(u64, u64), RecoverError> {
        match self {
            Self::Folder(path) | Self::Image(path) => Ok((map.mapped() * 512, space::free(path)?)),
            Self::Device(path, _) => Ok((map.size() * 512, open(path, false)?.1)),
        }
    }

    /// Whether it can go there.
    pub(super) fn check(&self, pool: &Pool, map: &Map) -> Result<(), RecoverError> {
        let path = self.path();
        let (needed, free) = self.room(map)?;
        match self {
            Self::Folder(_) | Self::Image(_) => {
                if path.symlink_metadata().is_ok() {
                    return Err(refused(path, "is there already: name one that is not"));
                }
                space::need(path, needed, "--to")
            }
            Self::Device(_, overwrite) => {
                let (file, _) = open(path, false)?;
                let found = file.metadata().map_err(RecoverError::io("look at", path))?;
                let own = [Some(&pool.metadata), pool.data.as_ref()]
                    .into_iter()
                    .flatten();
                if own
                    .into_iter()
                    .any(|part| part.identity == (u64::MAX, found.rdev()))
                {
                    return Err(refused(path, "is the pool's own"));
                }
                if needed > free {
                    return Err(refused(
                        path,
                        &format!("has {free} bytes, and the volume has {needed}"),
                    ));
                }
                let mut first = Vec::new();
                (file.take(EMPTY).read_to_end(&mut first))
                    .map_err(RecoverError::io("read", path))?;
                if !overwrite && first.iter().any(|byte| *byte != 0) {
                    let what = "holds something: name a new one, or say --overwrite";
                    return Err(refused(path, what));
                }
                Ok(())
            }
        }
    }
}

fn refused(path: &Path, what: &str) -> RecoverError {
    RecoverError::Target {
        path: Text::from(path),
        what: what.to_owned(),
    }
}

/// A device that nothing else holds, and its bytes.
pub(super) fn open(path: &Path, write: bool) -> Result<(File, u64), RecoverError> {
    let at = |doing| RecoverError::io(doing, path);
    let is_device = path
        .metadata()
        .map_err(at("look at"))?
        .file_type()
        .is_block_device();
    if !is_device {
        return Err(refused(
            path,
            "is no block device: --to FILE.img writes into a file",
        ));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(write)
        // Of a block device: EBUSY where something is mounted from it or stands on it.
        .custom_flags(O_EXCL | O_NONBLOCK)
        .open(path)
        .map_err(at("open for ourselves alone"))?;
    let size = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0));
    let size = size.map_err(at("find the end of"))?;
    std::io::Seek::rewind(&mut file).map_err(at("read"))?;
    Ok((file, size))
}
