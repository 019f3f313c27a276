//! The directory of pins is ours alone: whoever else could write there would own what is enforced.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use nix::unistd::Uid;

use super::load::LoadError;

/// Nobody else has any business in it.
const MODE: u32 = 0o700;
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Makes the directory of pins and the one above it, where they are missing. In a bpffs that is mounted for everybody
/// (mode 1777) anyone may have made them before us: then nothing is made below.
///
/// # Errors
/// [`LoadError::NotOurs`], [`LoadError::Pin`].
pub fn make(pins: &Path) -> Result<(), LoadError> {
    for directory in both(pins) {
        match fs::DirBuilder::new().mode(MODE).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot(directory, error));
            }
            Ok(()) | Err(_) => check_one(directory)?,
        }
    }
    Ok(())
}

/// Whether what stands in the directory of pins can be believed; one that is missing holds nothing.
///
/// # Errors
/// [`LoadError::NotOurs`], [`LoadError::Pin`].
pub fn check(pins: &Path) -> Result<(), LoadError> {
    both(pins).try_for_each(check_one)
}

/// Makes a directory in that of pins.
pub(super) fn make_below(directory: &Path) -> Result<(), LoadError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(directory)
        .map_err(|error| cannot(directory, error))
}

fn both(pins: &Path) -> impl Iterator<Item = &Path> {
    [pins.parent(), Some(pins)].into_iter().flatten()
}

fn cannot(directory: &Path, source: io::Error) -> LoadError {
    LoadError::Pin {
        path: directory.to_owned(),
        source,
    }
}

fn check_one(directory: &Path) -> Result<(), LoadError> {
    // Not followed: bpffs has symbolic links, and anyone's may lead anywhere.
    let data = match fs::symlink_metadata(directory) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(directory, error)),
    };
    let why = if !data.is_dir() {
        "no directory".to_owned()
    } else if data.uid() != Uid::effective().as_raw() {
        format!("user {}'s", data.uid())
    } else if data.mode() & OTHERS_WRITE != 0 {
        format!("writable for others (mode {:o})", data.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(LoadError::NotOurs {
        path: directory.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, chown, symlink},
        path::PathBuf,
    };

    use super::*;

    /// Stands for a bpffs in which anyone may make a directory.
    struct Mounted(PathBuf);

    impl Mounted {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("bulkhead-pins-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
            Self(path)
        }

        fn pins(&self) -> PathBuf {
            self.0.join("bulkhead/v1")
        }

        fn above(&self) -> PathBuf {
            self.0.join("bulkhead")
        }

        /// Refused, for a reason, and nothing is made.
        fn refuses(&self, reason: &str) {
            for result in [make(&self.pins()), check(&self.pins())] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(reason), "{error}");
                assert_eq!(error.lines().count(), 1, "{error}");
            }
            assert!(!self.pins().exists());
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_we_make_is_ours_alone_and_made_once() {
        let mounted = Mounted::new("made");
        check(&mounted.pins()).unwrap();
        make(&mounted.pins()).unwrap();
        make(&mounted.pins()).unwrap();
        let links = mounted.pins().join("links-1");
        make_below(&links).unwrap();
        for path in [mounted.above(), mounted.pins(), links] {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        }
        check(&mounted.pins()).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_read_is_taken_and_one_that_they_may_write_is_not() {
        let mounted = Mounted::new("modes");
        fs::create_dir(mounted.above()).unwrap();
        let set = |mode| {
            fs::set_permissions(mounted.above(), fs::Permissions::from_mode(mode)).unwrap();
        };
        for mode in [0o777, 0o1777, 0o775, 0o702] {
            set(mode);
            mounted.refuses(&format!("mode {mode:o}"));
        }
        set(0o755);
        make(&mounted.pins()).unwrap();
    }

    #[test]
    fn a_directory_below_ours_is_looked_at_as_well() {
        let mounted = Mounted::new("below");
        make(&mounted.pins()).unwrap();
        fs::set_permissions(mounted.pins(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            make(&mounted.pins()),
            Err(LoadError::NotOurs { .. })
        ));
    }

    #[test]
    fn a_link_is_not_followed() {
        let mounted = Mounted::new("link");
        let elsewhere = Mounted::new("elsewhere");
        symlink(&elsewhere.0, mounted.above()).unwrap();
        mounted.refuses("no directory");
        assert!(!elsewhere.0.join("v1").exists());
    }

    #[test]
    fn another_users_directory_is_refused() {
        let mounted = Mounted::new("user");
        fs::create_dir(mounted.above()).unwrap();
        if let Err(error) = chown(mounted.above(), Some(1000), Some(1000)) {
            eprintln!("skipping: cannot give a directory away: {error}");
            return;
        }
        mounted.refuses("user 1000's");
    }
}
