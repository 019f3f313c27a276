//! Lost volumes: the pool's own devices are opened for reading alone, and not while somebody writes to them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::O_NONBLOCK;

use super::{
    Interrupts, RecoverError,
    call::Call,
    stands::{Host, Identity, Stands, identity},
};
use crate::record::Text;

/// Devices that stand on devices that stand on a device … so far they are followed.
const DEPTH: usize = 8;

/// One device of a pool, or the file that holds it.
#[derive(Debug)]
pub(super) struct Part {
    pub path: PathBuf,
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// It is a device, not a file.
    pub is_device: bool,
    /// What else goes by another name is the same if these are.
    pub identity: Identity,
    /// The number of the device that it is on, if it is a file.
    on: u64,
}

/// A pool, of which nothing is activated.
#[derive(Debug)]
pub struct Pool {
    pub(super) metadata: Part,
    pub(super) data: Option<Part>,
    /// It is active, and holds a snapshot of its metadata.
    pub(super) held: Option<Held>,
}

/// A snapshot of the metadata of an active pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The pool's name.
    pub pool: Text,
    /// The block that it begins in.
    pub root: String,
}

impl Pool {
    /// Opens what is given. Of an active pool, the snapshot of its metadata that it holds is read.
    ///
    /// # Errors
    /// One cannot be opened, or is no device and no file; the pool is active and holds no snapshot.
    pub fn open(
        metadata: &Path,
        data: Option<&Path>,
        interrupts: &Interrupts,
    ) -> Result<Self, RecoverError> {
        let metadata = Part::open(metadata)?;
        let data = data.map(Part::open).transpose()?;
        let parts = [Some(&metadata), data.as_ref()];
        let held = held(parts.into_iter().flatten(), interrupts)?;
        Ok(Self {
            metadata,
            data,
            held,
        })
    }

    /// Nothing, if the pool is as it was when it was opened: somebody may have activated it since.
    pub(super) fn is_as_it_was(&self, interrupts: &Interrupts) -> Result<(), RecoverError> {
        let parts = [Some(&self.metadata), self.data.as_ref()];
        self.compared(held(parts.into_iter().flatten(), interrupts)?)
    }

    fn compared(&self, now: Option<Held>) -> Result<(), RecoverError> {
        if now == self.held {
            return Ok(());
        }
        let path = Text::from(self.metadata.path.as_path());
        Err(RecoverError::Changed { path })
    }
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Self, RecoverError> {
        let at = |doing| RecoverError::io(doing, path);
        let mut file = (OpenOptions::new().read(true).custom_flags(O_NONBLOCK))
            .open(path)
            .map_err(at("open"))?;
        let found = file.metadata().map_err(at("look at"))?;
        let is_device = found.file_type().is_block_device();
        if !is_device && !found.is_file() {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(at("take for a block device or a file that holds one")(
                error,
            ));
        }
        Ok(Self {
            path: fs::canonicalize(path).map_err(at("resolve"))?,
            size: file.seek(SeekFrom::End(0)).map_err(at("find the end of"))?,
            file,
            is_device,
            identity: identity(&found),
            on: found.dev(),
        })
    }

    /// Bytes that a copy of it takes at most.
    pub(super) fn takes(&self) -> u64 {
        let blocks = self
            .file
            .metadata()
            .map_or(u64::MAX, |found| found.blocks());
        if self.is_device {
            self.size
        } else {
            self.size.min(blocks.saturating_mul(512))
        }
    }

    /// What it stands on, now.
    pub(super) fn stands(&self) -> Stands {
        Host::here().stands(self.identity, self.on)
    }
}

/// The snapshot that the active pool on these parts holds; none: it is not active.
fn held<'a>(
    parts: impl Iterator<Item = &'a Part>,
    interrupts: &Interrupts,
) -> Result<Option<Held>, RecoverError> {
    let mut held = None;
    for part in parts {
        if let Some((pool, root)) = active(part, interrupts)? {
            if root == "-" || !root.bytes().all(|byte| byte.is_ascii_digit()) {
                let path = Text::from(part.path.as_path());
                return Err(RecoverError::Active { pool, path });
            }
            held = Some(Held { pool, root });
        }
    }
    Ok(held)
}

/// The active pool that stands on a part, with the root of the snapshot that it holds, or `-`.
fn active(part: &Part, interrupts: &Interrupts) -> Result<Option<(Text, String)>, RecoverError> {
    let mut level = Host::here().names(&part.stands());
    for _ in 0..DEPTH {
        let mut above = Vec::new();
        for device in &level {
            let holders = fs::read_dir(device.join("holders"));
            for holder in holders.into_iter().flatten().flatten() {
                let holder = Path::new("/sys/class/block").join(holder.file_name());
                if let Some(pool) = pool_at(&holder, interrupts)? {
                    return Ok(Some(pool));
                }
                above.push(holder);
            }
        }
        level = above;
    }
    Ok(None)
}

/// Whether a block device is a thin pool, and what its status says.
fn pool_at(device: &Path, interrupts: &Interrupts) -> Result<Option<(Text, String)>, RecoverError> {
    let Ok(name) = fs::read_to_string(device.join("dm/name")) else {
        return Ok(None);
    };
    let number = fs::read_to_string(device.join("dev")).unwrap_or_default();
    let Some((major, minor)) = number.trim().split_once(':') else {
        return Ok(None);
    };
    let status = Call::new("dmsetup", ["status", "--noflush", "-j", major, "-m", minor]);
    let status = status.run(interrupts)?;
    Ok(held_root(&String::from_utf8_lossy(&status)).map(|root| (Text::from(name.trim()), root)))
}

/// `0 614400 thin-pool 0 225/2048 1363/4800 88 rw …`: transaction, metadata, data, held root (dm-thin.c, `pool_status`).
fn held_root(status: &str) -> Option<String> {
    let words: Vec<&str> = status.split_whitespace().collect();
    (words.get(2) == Some(&"thin-pool")).then(|| words.get(6).unwrap_or(&"-").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pools_status_tells_whether_it_holds_a_snapshot() {
        let root = |text| held_root(text);
        assert_eq!(
            root("0 614400 thin-pool 0 225/2048 1/48 88 rw -").as_deref(),
            Some("88")
        );
        assert_eq!(
            root("0 614400 thin-pool 0 225/2048 1/48 - rw -").as_deref(),
            Some("-")
        );
        assert_eq!(root("0 614400 thin-pool Fail").as_deref(), Some("-"));
        assert_eq!(root("0 1048576 thin 39808 1048575"), None);
        assert_eq!(root(""), None);
    }

    #[test]
    fn a_pool_that_somebody_activated_meanwhile_is_not_the_one_that_was_planned_for() {
        let snapshot = |root: &str| Held {
            pool: Text::from("pool"),
            root: root.to_owned(),
        };
        let file = Path::new("/proc/self/exe");
        let interrupts = Interrupts::hold().unwrap();
        let mut pool = Pool::open(file, None, &interrupts).unwrap();
        assert!(pool.is_as_it_was(&interrupts).is_ok());
        assert!(pool.compared(Some(snapshot("88"))).is_err());
        pool.held = Some(snapshot("88"));
        assert!(pool.compared(Some(snapshot("88"))).is_ok());
        for other in [Some(snapshot("89")), None] {
            let said = pool.compared(other).unwrap_err().to_string();
            assert!(said.contains("call this again"), "{said}");
        }
        assert!(pool.is_as_it_was(&interrupts).is_err());
    }

    #[test]
    fn what_is_no_device_and_no_file_is_refused() {
        assert!(Part::open(Path::new("/dev/null")).is_err());
        assert!(Part::open(Path::new("/tmp")).is_err());
        assert!(Part::open(Path::new("/nowhere/at/all")).is_err());
        assert!(Part::open(Path::new("/proc/self/exe")).is_ok());
    }
}
