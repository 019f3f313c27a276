//! Lost volumes: what a recovery makes on the host is written down first, and goes with it, however it ends.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use super::{Interrupts, RecoverError, call::Call};

/// Begins the names of everything that is made: mapped devices, folders, notes.
const PREFIX: &str = "bulkhead-recover-";
/// A longer note is not ours.
const NOTE_MAX: u64 = 64 << 10;

/// A folder for copies of metadata, and the note by which the next call finds what this one left if it is killed.
#[derive(Debug)]
pub struct Work {
    note: Note,
    path: PathBuf,
    file: Flock<File>,
}

/// What was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    /// Of the mapped device, and of the folder.
    name: String,
    folder: PathBuf,
}

impl Work {
    /// Makes a folder in `parent`, for root alone; the note goes into `notes`.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub fn new(parent: &Path, notes: &Path) -> Result<Self, RecoverError> {
        for folder in [parent, notes] {
            (DirBuilder::new().recursive(true).mode(0o700).create(folder))
                .map_err(RecoverError::io("make the folder", folder))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_micros());
        let name = format!("{PREFIX}{}-{now:x}", std::process::id());
        let folder = (fs::canonicalize(parent))
            .map_err(RecoverError::io("resolve", parent))?
            .join(&name);
        let path = notes.join(&name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(RecoverError::io("make the note", &path))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))
            .map_err(RecoverError::io("lock the note", &path))?;
        let work = Self {
            note: Note {
                name,
                folder: folder.clone(),
            },
            path,
            file,
        };
        work.write()?;
        (DirBuilder::new().mode(0o700).create(&folder))
            .map_err(RecoverError::io("make the folder", &folder))?;
        Ok(work)
    }

    /// The name of a mapped device that may be made.
    pub(super) fn name(&self) -> &str {
        &self.note.name
    }

    /// A file or folder of the folder's.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.note.folder.join(name)
    }

    fn write(&self) -> Result<(), RecoverError> {
        let text = serde_json::to_vec(&self.note).unwrap_or_default();
        let mut file: &File = &self.file;
        (file.set_len(0).and_then(|()| io::Seek::rewind(&mut file)))
            .and_then(|()| file.write_all(&text))
            .map_err(RecoverError::io("write the note", &self.path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.note.folder);
        // As long as something is mapped, the next call is to find it.
        if !is_mapped(&self.note.name) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes away what calls left that were killed: mapped devices, whose loop devices go with them, folders, notes; and folders in `parent` whose
/// notes went with a reboot. What was taken away, in words.
///
/// # Errors
/// A device is still in use.
pub fn clean(
    parent: &Path,
    notes: &Path,
    interrupts: &Interrupts,
) -> Result<Vec<String>, RecoverError> {
    let mut told = Vec::new();
    for entry in fs::read_dir(notes).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its call goes on.
            Err((_, Errno::EWOULDBLOCK)) => continue,
            Err(_) => continue,
            Ok(file) => file,
        };
        let Some(note) = read(&file).filter(|note| is_ours(note, &name)) else {
            let _ = fs::remove_file(&path);
            continue;
        };
        if is_mapped(&note.name) {
            Call::new("dmsetup", ["remove", "--retry", &note.name]).run(interrupts)?;
            told.push(format!("unmapped {}", note.name));
        }
        if note.folder.exists() {
            told.push(remove(&note.folder)?);
        }
        let _ = fs::remove_file(&path);
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // A note is there before its folder.
        if name.to_string_lossy().starts_with(PREFIX) && !notes.join(&name).exists() {
            told.push(remove(&entry.path())?);
        }
    }
    Ok(told)
}

fn remove(folder: &Path) -> Result<String, RecoverError> {
    fs::remove_dir_all(folder).map_err(RecoverError::io("remove the folder", folder))?;
    Ok(format!("removed {}", folder.display()))
}

fn read(file: &File) -> Option<Note> {
    let mut text = Vec::new();
    file.take(NOTE_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether a note names nothing but what a call makes.
fn is_ours(note: &Note, file: &str) -> bool {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    note.name == file
        && note.name.strip_prefix(PREFIX).is_some_and(plain)
        && note.folder.is_absolute()
        && note.folder.file_name().is_some_and(|name| name == file)
}

/// Whether a mapped device of that name is there.
pub(super) fn is_mapped(name: &str) -> bool {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("dm/name")).ok())
        .any(|found| found.trim_end() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_call_left_is_removed_and_what_a_living_one_has_stays() {
        let here = std::env::temp_dir().join(format!("bulkhead-work-{}", std::process::id()));
        let (parent, notes) = (here.join("work"), here.join("notes"));
        let interrupts = Interrupts::hold().unwrap();
        let work = Work::new(&parent, &notes).unwrap();
        fs::write(work.path("metadata"), "x").unwrap();
        assert_eq!(
            clean(&parent, &notes, &interrupts).unwrap(),
            Vec::<String>::new()
        );
        assert!(work.path("metadata").exists());
        // As a killed one leaves it: the lock goes with the process.
        let (folder, name) = (work.path(""), work.name().to_owned());
        fs::create_dir_all(parent.join("killed")).unwrap();
        let killed = format!("{PREFIX}1-a");
        fs::create_dir_all(parent.join(&killed)).unwrap();
        let note = Note {
            name: killed.clone(),
            folder: parent.join(&killed),
        };
        fs::write(notes.join(&killed), serde_json::to_vec(&note).unwrap()).unwrap();
        // A note that names what no call makes.
        let wrong = Note {
            folder: parent.join("killed"),
            ..note
        };
        fs::write(notes.join("wrong"), serde_json::to_vec(&wrong).unwrap()).unwrap();
        // What was there before a reboot.
        let before = parent.join(format!("{PREFIX}2-b"));
        fs::create_dir_all(&before).unwrap();
        assert_eq!(clean(&parent, &notes, &interrupts).unwrap().len(), 2);
        assert!(!parent.join(&killed).exists() && parent.join("killed").exists());
        assert!(!before.exists() && folder.exists());
        drop(work);
        assert!(!folder.exists() && !notes.join(name).exists());
        fs::remove_dir_all(here).unwrap();
    }
}
