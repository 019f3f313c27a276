//! The cgroup tree of this host: which hierarchy tells containers apart, what stands in it, and a door to each by its id.

use std::{
    ffi::{CStr, CString, OsStr},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    fcntl::{AtFlags, OFlag},
    libc,
    sys::stat::{Mode, fstat, fstatat, lstat},
};
use thiserror::Error;

use super::names::Names;

/// Type of a kernfs file handle whose eight bytes are the node's id (`FILEID_KERNFS`, include/linux/exportfs.h, 5.5).
const FILEID_KERNFS: i32 = 0xfe;
/// Deeper directories are not walked; the kernel side finds their container through their ancestors.
const DEPTH: usize = 256;

/// Version of a cgroup hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The pids controller's own.
    V1,
    /// The unified one.
    V2,
}

impl Version {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Why there is no hierarchy to tell containers apart in.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A file of /proc.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is mounted.
    #[error("no cgroup hierarchy is mounted whole: mount cgroup2 at /sys/fs/cgroup")]
    NotMounted,
    /// A directory of the tree.
    #[error("cannot open the cgroup hierarchy {path}")]
    Open {
        /// Its mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The hierarchy in which containers are told apart.
#[derive(Debug)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which kind it is.
    pub version: Version,
    /// The kernel's number of it.
    pub number: u32,
    /// On v1, where the freezer's hierarchy is mounted.
    pub freezer: Option<PathBuf>,
    root: OwnedFd,
}

/// A cgroup that belongs to a container.
#[derive(Debug)]
pub struct Found<'a> {
    /// Path from the hierarchy's root.
    pub path: &'a [u8],
    /// Its id.
    pub id: u64,
    /// The container's id; the same for the container's own cgroup.
    pub container: u64,
    /// The container's label.
    pub label: u16,
}

impl Hierarchy {
    /// The hierarchy of this host: v2, unless the pids controller is on a v1 hierarchy.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn of_this_host() -> Result<Self, TreeError> {
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(|source| TreeError::Read { path, source })
        };
        let (version, number, mount, freezer) =
            choose(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
                .ok_or(TreeError::NotMounted)?;
        let root = fs::File::open(&mount).map_err(|source| TreeError::Open {
            path: mount.clone(),
            source,
        })?;
        Ok(Self {
            mount,
            version,
            number,
            freezer,
            root: root.into(),
        })
    }

    /// The root of the v2 hierarchy, in which every task of the host stands whatever the version; `None`: it is not mounted
    /// whole.
    ///
    /// # Errors
    /// It cannot be opened, or what is mounted cannot be read.
    pub fn unified(&self) -> io::Result<Option<OwnedFd>> {
        if self.version == Version::V2 {
            return self.root.try_clone().map(Some);
        }
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        let at = mounts(&text).find(|(kind, _, _)| *kind == "cgroup2");
        at.map(|(_, at, _)| Ok(fs::File::open(unescape(at))?.into()))
            .transpose()
    }

    /// Walks the whole tree and tells of every cgroup that is a container or in one. Directories that vanish meanwhile
    /// are passed over.
    ///
    /// # Errors
    /// A directory that is there cannot be read: what was not told of is then no evidence that it is not there.
    pub fn scan(&self, names: &Names, tell: &mut dyn FnMut(Found<'_>)) -> Result<(), TreeError> {
        let mut path = Vec::new();
        let dir = self
            .root
            .try_clone()
            .and_then(|fd| Ok(Dir::openat(fd.as_fd(), ".", flags(), Mode::empty())?));
        dir.and_then(|dir| walk(dir, &mut path, None, names, tell, 0))
            .map_err(|source| TreeError::Open {
                path: self.mount.join(to_relative(&path)),
                source,
            })
    }

    /// Opens a cgroup's directory by its id, never by its path: a path comes back, an id does not.
    ///
    /// # Errors
    /// ESTALE: it is gone.
    pub fn open(&self, id: u64) -> io::Result<OwnedFd> {
        open_below(self.root.as_fd(), id)
    }

    /// The path of an open cgroup from the hierarchy's root; `None` if it is gone.
    ///
    /// What is gone reads as its path and ` (deleted)`, which is a name that a cgroup may have as well, and a removed
    /// directory of kernfs keeps its links. So the path counts if it leads back to the cgroup: its inode is its id.
    #[must_use]
    pub fn path_of(&self, cgroup: BorrowedFd<'_>) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd())).ok()?;
        let (open, there) = (fstat(cgroup).ok()?, lstat(&path).ok()?);
        if (open.st_dev, open.st_ino) != (there.st_dev, there.st_ino) {
            return None;
        }
        let below = path.strip_prefix(&self.mount).ok()?;
        Some(Path::new("/").join(below))
    }
}

/// A `struct file_handle` with eight bytes.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

impl Handle {
    const fn new() -> Self {
        Self {
            bytes: 8,
            kind: 0,
            id: [0; 8],
        }
    }
}

/// Opens a cgroup's directory by its id in the hierarchy that `root` is a directory of.
///
/// # Errors
/// ESTALE: it is gone.
pub fn open_below(root: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let mut handle = Handle::new();
    handle.kind = FILEID_KERNFS;
    handle.id = id.to_ne_bytes();
    // SAFETY: `handle` is a file_handle with room for the eight bytes that `handle_bytes` announces.
    let fd = unsafe {
        libc::open_by_handle_at(
            root.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    let directory = unsafe { OwnedFd::from_raw_fd(fd) };
    // 5.10 opens what was removed as long as somebody else has it open (kernfs_find_and_get_node_by_id looks at the
    // reference count alone); but nothing is in it any more.
    // SAFETY: the descriptor is open, and the name is a C string.
    if unsafe { libc::faccessat(fd, c"cgroup.procs".as_ptr(), libc::F_OK, 0) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(directory)
}

/// Id of a cgroup's directory.
///
/// # Errors
/// It is not in a cgroup hierarchy, or gone.
pub fn id_of(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    id_at(libc::AT_FDCWD, &path, 0)
}

fn id_at(dir: i32, name: &CStr, flags: i32) -> io::Result<u64> {
    let mut handle = Handle::new();
    let mut mount = 0;
    // SAFETY: `handle` is a file_handle with room for the eight bytes that `handle_bytes` announces; `name` is a C string.
    let result = unsafe {
        libc::name_to_handle_at(
            dir,
            name.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            flags,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if handle.kind != FILEID_KERNFS {
        return Err(io::Error::other("not a cgroup"));
    }
    Ok(u64::from_ne_bytes(handle.id))
}

fn flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn walk(
    mut dir: Dir,
    path: &mut Vec<u8>,
    inside: Option<(u64, u16)>,
    names: &Names,
    tell: &mut dyn FnMut(Found<'_>),
    depth: usize,
) -> io::Result<()> {
    let fd = dir.as_raw_fd();
    let mut below = Vec::new();
    for entry in dir.iter() {
        let Some(entry) = unless_gone(entry.map_err(io::Error::from))? else {
            break;
        };
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && !matches!(name.to_bytes(), b"." | b"..") {
            below.push(name.to_owned());
        }
    }
    for name in below {
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(name.to_bytes());
        let mut inside = inside;
        let label = names.label(path);
        if (inside.is_some() || label != 0)
            && let Some(id) = unless_gone(id_at(fd, &name, 0))?
        {
            let (container, label) = *inside.get_or_insert((id, label));
            tell(Found {
                path,
                id,
                container,
                label,
            });
        }
        // The directory is told of before it is read: what is made in it afterwards inherits in the kernel. Most have none below
        // them, and some sixty files, which are not listed for nothing.
        if depth < DEPTH && unless_gone(has_directories(dir.as_fd(), &name))? == Some(true) {
            let name = OsStr::from_bytes(name.to_bytes());
            let next = Dir::openat(dir.as_fd(), name, flags(), Mode::empty());
            if let Some(next) = unless_gone(next.map_err(io::Error::from))? {
                walk(next, path, inside, names, tell, depth + 1)?;
            }
        }
        path.truncate(length);
    }
    Ok(())
}

/// Whether there are directories in one of kernfs: it has a link from each, and two more (`kernfs_refresh_inode`, fs/kernfs/inode.c,
/// the same on 5.10 to 7.3).
fn has_directories(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    Ok(fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_nlink != 2)
}

/// What a removed directory says is no error: `None`.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENODEV | libc::ESTALE)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn to_relative(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

type Choice = (Version, u32, PathBuf, Option<PathBuf>);

/// Chooses by the texts of /proc/self/mountinfo (proc(5)) and /proc/self/cgroup (cgroups(7)).
fn choose(mountinfo: &str, cgroups: &str) -> Option<Choice> {
    let mounts: Vec<(&str, &str, &str)> = mounts(mountinfo).collect();
    let v1 = |controller: &str| {
        mounts
            .iter()
            .find(|(kind, _, options)| {
                *kind == "cgroup" && options.split(',').any(|option| option == controller)
            })
            .map(|(_, at, _)| unescape(at))
    };
    let number = cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers) = (parts.next()?, parts.next()?);
        controllers
            .split(',')
            .any(|name| name == "pids")
            .then(|| number.parse::<u32>().ok())?
    });
    if let (Some(number), Some(mount)) = (number, v1("pids")) {
        return Some((Version::V1, number, mount, v1("freezer")));
    }
    let v2 = mounts.iter().find(|(kind, _, _)| *kind == "cgroup2")?;
    Some((Version::V2, 0, unescape(v2.1), None))
}

/// File system, mount point and options of each mount; one that shows only a part of its file system is of no use.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, at) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        (root == "/").then_some((kind, at, options))
    })
}

/// Blanks, tabs, newlines and backslashes stand in mountinfo as `\040` and so on.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
    const HYBRID: &str = "31 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
36 25 0:33 / /sys/fs/cgroup/my\\040pids rw - cgroup cgroup rw,pids
37 25 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer";

    #[test]
    fn v2_is_chosen_where_it_has_the_pids_controller_and_v1_where_that_has_it() {
        assert_eq!(
            choose(V2, "0::/x"),
            Some((Version::V2, 0, "/sys/fs/cgroup".into(), None))
        );
        assert_eq!(
            choose(HYBRID, "9:pids:/\n3:freezer:/\n0::/"),
            Some((
                Version::V1,
                9,
                "/sys/fs/cgroup/my pids".into(),
                Some("/sys/fs/cgroup/freezer".into())
            ))
        );
    }

    #[test]
    fn a_cgroup_is_gone_when_its_path_leads_elsewhere_whatever_its_name() {
        let mount = std::env::temp_dir().join(format!("bulkhead-tree-{}", std::process::id()));
        fs::create_dir(&mount).unwrap();
        let hierarchy = Hierarchy {
            root: fs::File::open(&mount).unwrap().into(),
            mount,
            version: Version::V1,
            number: 0,
            freezer: None,
        };
        let make = |name: &str| {
            let path = hierarchy.mount.join(name);
            fs::create_dir(&path).unwrap();
            fs::File::open(path).unwrap()
        };
        let (gone, there) = (make("x"), make("x (deleted)"));
        let named = |name| Some(PathBuf::from(name));
        assert_eq!(hierarchy.path_of(gone.as_fd()), named("/x"));
        fs::remove_dir(hierarchy.mount.join("x")).unwrap();
        assert_eq!(hierarchy.path_of(gone.as_fd()), None);
        assert_eq!(hierarchy.path_of(there.as_fd()), named("/x (deleted)"));
        // One that is made again under the same name is another.
        let again = make("x");
        assert_eq!(hierarchy.path_of(gone.as_fd()), None);
        assert_eq!(hierarchy.path_of(again.as_fd()), named("/x"));
        fs::remove_dir_all(&hierarchy.mount).unwrap();
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_is_not_taken() {
        assert_eq!(
            choose(
                "30 24 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/"
            ),
            None
        );
        assert_eq!(choose("", ""), None);
    }
}
