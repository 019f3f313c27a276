//! Boot loop: a pool whose activation crashes the kernel is activated once, and held back on the next boot.
//!
//! A marker is on the disk before the activation begins, and goes when it has ended. One that an earlier boot left says
//! that the kernel did not live to see the end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::record::Text;

/// Where the markers are.
pub const FOLDER: &str = "/var/lib/bulkhead/thin/activating";
/// A longer marker is not ours.
const LONGEST: u64 = 64 << 10;

/// An activation that began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The pool's name, as it was given.
    pub pool: Text,
    /// The boot on which it began (/proc/sys/kernel/random/boot_id); none: the marker cannot be read.
    pub boot_id: Text,
    /// When, by RFC 3339.
    pub time: Text,
    /// What activates it.
    pub command: Text,
    /// The kernel had died of something already on that boot, as [`has_died`] says: what dies later cannot be told from that.
    #[serde(default)]
    pub had_died: bool,
}

/// Whether the kernel has died of something on this boot and gone on (`TAINT_DIE`, include/linux/panic.h): a task that activates a pool
/// ends then as if by a signal, or never.
#[must_use]
pub fn has_died() -> bool {
    const DIE: u64 = 1 << 7;
    let text = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    text.trim()
        .parse::<u64>()
        .is_ok_and(|taints| taints & DIE != 0)
}

/// Whether the kernel died while this pool was being activated, and lives on: `died` as [`has_died`] says now.
#[must_use]
pub fn is_to_stay(folder: &Path, pool: &str, died: bool) -> bool {
    died && read(&file(folder, pool)).is_some_and(|marker| !marker.had_died)
}

/// A marker cannot be kept.
#[derive(Debug, Error)]
#[error("cannot {doing} the marker {path}")]
pub struct MarkerError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The marker that an earlier boot than `boot_id` left of a pool: it is held back. What of it cannot be read counts as left.
#[must_use]
pub fn held(folder: &Path, pool: &str, boot_id: &str) -> Option<Marker> {
    let path = file(folder, pool);
    path.symlink_metadata().ok()?;
    let marker = read(&path).unwrap_or_else(|| Marker {
        pool: Text::from(pool),
        boot_id: Text::default(),
        time: Text::from("an unknown time"),
        command: Text::from("unknown"),
        had_died: false,
    });
    (marker.boot_id.as_str() != boot_id).then_some(marker)
}

/// All pools that are held back.
#[must_use]
pub fn all_held(folder: &Path, boot_id: &str) -> Vec<Marker> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut markers: Vec<Marker> = (entries.filter_map(|entry| read(&entry.path())))
        .filter(|marker| marker.boot_id.as_str() != boot_id)
        .collect();
    markers.sort_unstable_by(|one, other| one.pool.cmp(&other.pool));
    markers
}

/// Writes a marker, down to the disk.
///
/// # Errors
/// It cannot be written: a crash of what comes would not be known at the next boot.
pub fn begin(folder: &Path, marker: &Marker, pool: &str) -> Result<(), MarkerError> {
    let path = file(folder, pool);
    let at = |doing| {
        let path = path.clone();
        move |source| MarkerError {
            doing,
            path,
            source,
        }
    };
    (DirBuilder::new().recursive(true).mode(0o700).create(folder))
        .map_err(at("make the folder of"))?;
    let partial = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    let mut written = (options.write(true).create(true).truncate(true).mode(0o600))
        .open(&partial)
        .map_err(at("write"))?;
    let text = serde_json::to_vec(marker)
        .map_err(io::Error::from)
        .map_err(at("write"))?;
    (written.write_all(&text).and_then(|()| written.sync_all()))
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(at("write"))?;
    // The folder's own entry as well, which this call may have made.
    for folder in folder.ancestors().take(3) {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(at("bring to the disk"))?;
    }
    Ok(())
}

/// Takes the marker away that this boot made; `any`: whoever made it. Whether there was one.
///
/// # Errors
/// It cannot be removed: the pool will be held back.
pub fn end(folder: &Path, pool: &str, boot_id: &str, any: bool) -> Result<bool, MarkerError> {
    let path = file(folder, pool);
    let found = path.symlink_metadata().is_ok();
    if !found || !any && held(folder, pool, boot_id).is_some() {
        return Ok(false);
    }
    fs::remove_file(&path).map_err(|source| MarkerError {
        doing: "remove",
        path,
        source,
    })?;
    // A marker that comes back after a power cut holds the pool back once too often, and no more.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(true)
}

/// A file of its own for each name, whatever is in it.
fn file(folder: &Path, pool: &str) -> PathBuf {
    let mut name = String::new();
    for byte in pool.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    folder.join(name)
}

fn read(path: &Path) -> Option<Marker> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bulkhead-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path.join("thin/activating"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.ancestors().nth(2).unwrap());
        }
    }

    fn marker(pool: &str, boot: &str) -> Marker {
        Marker {
            pool: Text::from(pool),
            boot_id: Text::from(boot),
            time: Text::from("2026-01-31T03:00:00Z"),
            command: Text::from("lvchange -ay vg/pool"),
            had_died: false,
        }
    }

    #[test]
    fn where_the_kernel_died_meanwhile_and_lives_on_the_marker_stays() {
        let Folder(folder) = &Folder::new("died");
        assert!(!is_to_stay(folder, "vg/pool", true));
        begin(folder, &marker("vg/pool", "one"), "vg/pool").unwrap();
        assert!(is_to_stay(folder, "vg/pool", true));
        assert!(!is_to_stay(folder, "vg/pool", false));
        let had_died = Marker {
            had_died: true,
            ..marker("vg/pool", "one")
        };
        begin(folder, &had_died, "vg/pool").unwrap();
        assert!(!is_to_stay(folder, "vg/pool", true));
    }

    #[test]
    fn a_pool_is_held_back_on_the_next_boot_and_not_on_the_same() {
        let Folder(folder) = &Folder::new("held");
        assert_eq!(held(folder, "vg/pool", "one"), None);
        begin(folder, &marker("vg/pool", "one"), "vg/pool").unwrap();
        assert_eq!(held(folder, "vg/pool", "one"), None);
        assert_eq!(
            held(folder, "vg/pool", "two"),
            Some(marker("vg/pool", "one"))
        );
        assert_eq!(held(folder, "vg-pool", "two"), None);
        assert_eq!(all_held(folder, "two").len(), 1);
        assert_eq!(all_held(folder, "one"), []);
    }

    #[test]
    fn what_ended_is_not_held_and_another_boots_marker_stays_unless_it_is_overridden() {
        let Folder(folder) = &Folder::new("end");
        begin(folder, &marker("pool", "one"), "pool").unwrap();
        assert!(!end(folder, "pool", "two", false).unwrap());
        assert!(held(folder, "pool", "two").is_some());
        assert!(end(folder, "pool", "two", true).unwrap());
        assert_eq!(held(folder, "pool", "two"), None);
        begin(folder, &marker("pool", "two"), "pool").unwrap();
        assert!(end(folder, "pool", "two", false).unwrap());
        assert_eq!(held(folder, "pool", "three"), None);
    }

    #[test]
    fn a_marker_that_cannot_be_read_holds_and_a_name_leads_nowhere_else() {
        let Folder(folder) = &Folder::new("wrong");
        begin(folder, &marker("../x", "one"), "../x").unwrap();
        assert!(folder.join("%2e%2e%2fx").exists());
        fs::write(folder.join("pool"), "{").unwrap();
        assert!(held(folder, "pool", "one").is_some());
    }
}
