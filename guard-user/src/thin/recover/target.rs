//! Lost volumes: nothing that is there already is written over by what comes back.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::{O_EXCL, O_NONBLOCK};

use super::{
    Pool, RecoverError,
    map::Map,
    space,
    stands::{Host, Identity, identity},
};
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
                apart_from_folder(path, pool)?;
                space::need(path, needed, "--to")
            }
            Self::Device(_, overwrite) => {
                let (file, _) = open(path, false)?;
                apart(path, &file, pool)?;
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

/// Nothing, if what is written to a device comes out nowhere in the pool, by whichever name.
pub(super) fn apart(path: &Path, file: &File, pool: &Pool) -> Result<(), RecoverError> {
    let found = file.metadata().map_err(RecoverError::io("look at", path))?;
    apart_by(path, identity(&found), found.dev(), pool)
}

/// The same of a file or a folder that is to be made: by the file system that it will be on, which may be on a volume of the pool.
fn apart_from_folder(path: &Path, pool: &Pool) -> Result<(), RecoverError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let found = folder
        .metadata()
        .map_err(RecoverError::io("look at", folder))?;
    apart_by(path, identity(&found), found.dev(), pool)
}

fn apart_by(path: &Path, identity: Identity, on: u64, pool: &Pool) -> Result<(), RecoverError> {
    let stands = Host::here().stands(identity, on);
    for part in [Some(&pool.metadata), pool.data.as_ref()]
        .into_iter()
        .flatten()
    {
        if stands.touches(&part.stands()) {
            let part = part.path.display();
            return Err(refused(
                path,
                &format!(
                    "is the pool's own: {part} is the same, or one of the two stands on the other"
                ),
            ));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::{
        super::{Interrupts, dump::Extent},
        *,
    };

    /// A loop device over a file, while this is there.
    struct Looped(PathBuf);

    impl Looped {
        fn over(file: &Path) -> Option<Self> {
            let mut make = Command::new("losetup");
            let made = make.args(["--find", "--show"]).arg(file).output().ok()?;
            let node = String::from_utf8(made.stdout).ok()?;
            made.status.success().then(|| Self(node.trim().into()))
        }
    }

    impl Drop for Looped {
        fn drop(&mut self) {
            let _ = Command::new("losetup")
                .arg("--detach")
                .arg(&self.0)
                .status();
        }
    }

    #[test]
    fn what_comes_back_is_not_written_to_the_pool_by_another_name_and_is_to_another_device() {
        let here = std::env::temp_dir().join(format!("bulkhead-target-{}", std::process::id()));
        fs::create_dir_all(&here).unwrap();
        let [metadata, data, other] = ["metadata", "data", "other"].map(|name| {
            let path = here.join(name);
            fs::write(&path, vec![1; 1 << 20]).unwrap();
            path
        });
        let interrupts = Interrupts::hold().unwrap();
        let open = |data: &Path| Pool::open(&metadata, Some(data), &interrupts).unwrap();
        let extent = Extent {
            origin: 0,
            data: 0,
            length: 1,
        };
        let map = Map::new(vec![extent], 128, 128, 2048).unwrap();
        let check = |pool: &Pool, to: &Looped| {
            let checked = Target::Device(to.0.clone(), true).check(pool, &map);
            checked.map_err(|error| error.to_string())
        };
        if let Some(leftover) = Looped::over(&data)
            && let Some(again) = Looped::over(&data)
            && let Some(of_metadata) = Looped::over(&metadata)
            && let Some(another) = Looped::over(&other)
        {
            for pool in [open(&data), open(&again.0)] {
                for to in [&leftover, &of_metadata] {
                    let said = check(&pool, to).unwrap_err();
                    assert!(said.contains("is the pool's own"), "{said}");
                }
                assert_eq!(check(&pool, &another), Ok(()));
            }
        } else {
            println!("skipping: a target by another name: no loop device can be made here");
        }
        fs::remove_dir_all(here).unwrap();
    }
}
