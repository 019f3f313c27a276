//! Lost volumes: a recovery either ends with the whole volume where it was to go, or leaves nothing.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};
use serde::Serialize;

use super::{
    Interrupts, Plan, Pool, RecoverError, Target, Work, copy,
    filesystem::FileSystem,
    metadata,
    mounted::{self, Mounted},
    pool::Part,
    target,
};
use crate::record::Text;

/// What was recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The volume's number.
    pub volume: u64,
    /// Where it is.
    pub to: Text,
    /// Files, folders and links in it; none of an image.
    pub files: Option<u64>,
    /// Bytes of its files, or bytes that were written.
    pub bytes: u64,
    /// Folders of a btrfs that are subvolumes of their own: they are there, and empty.
    pub left_out: Vec<Text>,
}

/// What came back of a volume's files.
#[derive(Default)]
struct Files {
    files: u64,
    bytes: u64,
    left_out: Vec<Text>,
}

/// Does what a plan says.
///
/// # Errors
/// The pool or the target is not as it was planned for, it cannot be read, written, mapped or mounted, or somebody stopped it.
/// What was made so far is taken away.
pub fn execute(
    plan: &Plan,
    pool: &Pool,
    work: &Work,
    interrupts: &Interrupts,
) -> Result<Done, RecoverError> {
    let Some(data) = &pool.data else {
        return Err(RecoverError::Map {
            volume: plan.volume.id,
            what: "no data device was given (--data)".to_owned(),
        });
    };
    // Somebody read the plan meanwhile, for as long as that took.
    pool.is_as_it_was(interrupts)?;
    plan.target.check(pool, &plan.map)?;
    let mut left_out = Vec::new();
    let (to, files, bytes) = match &plan.target {
        Target::Folder(path) => {
            let found = plan.file_system.ok_or(RecoverError::NoFileSystem {
                volume: plan.volume.id,
                what: "no file system",
            })?;
            let came = folder(plan, pool, data, &found, path, work, interrupts)?;
            left_out = came.left_out;
            (path.join("files"), Some(came.files), came.bytes)
        }
        Target::Image(path) => (
            path.clone(),
            None,
            image(plan, pool, data, path, interrupts)?,
        ),
        Target::Device(path, _) => {
            let (file, _) = target::open(path, true)?;
            target::apart(path, &file, pool)?;
            let written = copy::device(&plan.map, &data.file, &file, interrupts)
                .map_err(|broken| broken.on(&data.path, path))?;
            pool.is_as_it_was(interrupts)?;
            (path.clone(), None, written)
        }
    };
    Ok(Done {
        volume: plan.volume.id,
        to: Text::from(to.as_path()),
        files,
        bytes,
        left_out,
    })
}

/// Under another name until it is whole.
fn image(
    plan: &Plan,
    pool: &Pool,
    data: &Part,
    path: &Path,
    interrupts: &Interrupts,
) -> Result<u64, RecoverError> {
    let partial = partial(path);
    let file = metadata::create(&partial)?;
    let result = copy::image(&plan.map, &data.file, &file, interrupts)
        .map_err(|broken| broken.on(&data.path, &partial))
        .and_then(|written| {
            // Where it was activated meanwhile, blocks may have become another volume's.
            pool.is_as_it_was(interrupts)?;
            name(&partial, path).map_err(RecoverError::io("name the image", path))?;
            Ok(written)
        });
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

/// Gives a file its name, unless something has that already.
fn name(partial: &Path, path: &Path) -> io::Result<()> {
    match renameat2(
        AT_FDCWD,
        partial,
        AT_FDCWD,
        path,
        RenameFlags::RENAME_NOREPLACE,
    ) {
        // NFS and some of FUSE's do not know the flag. What is renamed over then is what was made here.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            File::create_new(path)?;
            fs::rename(partial, path).inspect_err(|_| drop(fs::remove_file(path)))
        }
        done => done.map_err(io::Error::from),
    }
}

/// The folder is root's alone: what containers made set-user-id is not to be run by whoever is on this host.
fn folder(
    plan: &Plan,
    pool: &Pool,
    data: &Part,
    found: &FileSystem,
    path: &Path,
    work: &Work,
    interrupts: &Interrupts,
) -> Result<Files, RecoverError> {
    (DirBuilder::new().mode(0o700).create(path))
        .map_err(RecoverError::io("make the folder", path))?;
    let result = mounted(plan, pool, data, found, path, work, interrupts);
    result.map_err(|why| match fs::remove_dir_all(path) {
        Ok(()) => why,
        // Folders in folders, more than can be open at a time.
        Err(source) => RecoverError::Remains {
            path: Text::from(path),
            source,
            why: Box::new(why),
        },
    })
}

fn mounted(
    plan: &Plan,
    pool: &Pool,
    data: &Part,
    found: &FileSystem,
    path: &Path,
    work: &Work,
    interrupts: &Interrupts,
) -> Result<Files, RecoverError> {
    let (whole, part) = (path.join("files"), partial(&path.join("files")));
    let mut mounted = Mounted::new(&plan.map, data, found, work, interrupts)?;
    let copied = mounted::copy(mounted.at(), &part).run(interrupts);
    let mut came = Files::default();
    if copied.is_ok() && found.kind == "btrfs" {
        came.left_out = subvolumes(mounted.at());
    }
    let released = mounted.release();
    copied?;
    released?;
    pool.is_as_it_was(interrupts)?;
    fs::rename(&part, &whole).map_err(RecoverError::io("name the folder", &whole))?;
    count(&whole, &mut came.files, &mut came.bytes).map_err(RecoverError::io("list", &whole))?;
    Ok(came)
}

/// So many are named.
const NAMED: usize = 20;

/// The folders that begin something else than what is mounted there, which `cp --one-file-system` leaves empty. What cannot be listed
/// cp would have told of.
fn subvolumes(root: &Path) -> Vec<Text> {
    let Ok(own) = fs::metadata(root).map(|found| found.dev()) else {
        return Vec::new();
    };
    let (mut left, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let path = entry.path();
            if found.is_dir() && found.dev() != own {
                let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                left.push(Text::from(path.as_path()));
                if left.len() == NAMED {
                    return left;
                }
            } else if found.is_dir() {
                folders.push(path);
            }
        }
    }
    left
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn count(folder: &Path, files: &mut u64, bytes: &mut u64) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            *files += 1;
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.is_file() {
                *bytes += found.len();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Owner, dump::Extent, list::Line, map::Map, pool::Held},
        *,
    };

    /// Two files of a pool, a plan for an image of its one volume, and where copies go.
    struct Bed {
        here: PathBuf,
        pool: Pool,
        plan: Plan,
        work: Work,
        interrupts: Interrupts,
    }

    impl Bed {
        fn new(name: &str) -> Self {
            let here = format!("bulkhead-execute-{name}-{}", std::process::id());
            let here = std::env::temp_dir().join(here);
            let _ = fs::remove_dir_all(&here);
            fs::create_dir_all(&here).unwrap();
            let [metadata, data] = ["metadata", "data"].map(|name| {
                let path = here.join(name);
                fs::write(&path, vec![7; 1 << 17]).unwrap();
                path
            });
            let interrupts = Interrupts::hold().unwrap();
            let extent = Extent {
                origin: 0,
                data: 1,
                length: 1,
            };
            let to = here.join("volume.img");
            let plan = Plan {
                volume: Line {
                    id: 3,
                    size: None,
                    mapped: 1 << 16,
                    transaction: 1,
                    owner: Some(Owner::Nobody),
                    docker: None,
                    deleted: false,
                    doubt: None,
                },
                size: 1 << 16,
                mapped: 1 << 16,
                file_system: None,
                to: Text::from(to.as_path()),
                needed: 0,
                free: 0,
                steps: Vec::new(),
                warnings: Vec::new(),
                target: Target::to(to),
                map: Map::new(vec![extent], 128, 128, 256).unwrap(),
            };
            Self {
                pool: Pool::open(&metadata, Some(&data), &interrupts).unwrap(),
                plan,
                work: Work::new(&here.join("work"), &here.join("notes")).unwrap(),
                interrupts,
                here,
            }
        }

        fn execute(&self) -> Result<Done, RecoverError> {
            execute(&self.plan, &self.pool, &self.work, &self.interrupts)
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.here);
        }
    }

    #[test]
    fn a_plan_is_done_and_not_if_the_pool_is_another_than_it_was_made_for() {
        let mut bed = Bed::new("pool");
        bed.pool.held = Some(Held {
            pool: Text::from("pool"),
            root: "88".to_owned(),
        });
        let said = bed.execute().unwrap_err().to_string();
        assert!(said.contains("since its metadata was read"), "{said}");
        let image = bed.plan.target.path().to_owned();
        assert!(!image.exists());
        bed.pool.held = None;
        assert_eq!(bed.execute().unwrap().bytes, 1 << 16);
        assert_eq!(fs::read(image).unwrap(), vec![7; 1 << 16]);
    }

    /// Between the look at the target and the end of a long copy.
    #[test]
    fn an_image_takes_no_name_that_something_got_meanwhile() {
        let bed = Bed::new("name");
        let path = bed.plan.target.path();
        let data = bed.pool.data.as_ref().unwrap();
        fs::write(path, "mine").unwrap();
        assert!(image(&bed.plan, &bed.pool, data, path, &bed.interrupts).is_err());
        assert_eq!(fs::read(path).unwrap(), b"mine");
        assert!(!partial(path).exists());
        fs::remove_file(path).unwrap();
        assert!(image(&bed.plan, &bed.pool, data, path, &bed.interrupts).is_ok());
        assert!(path.exists() && !partial(path).exists());
    }
}
