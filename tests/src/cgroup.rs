//! Containers as far as the kernel is concerned: cgroups named as the runtimes name them, on v2 and on v1.

use std::{
    fs, io,
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The controllers that a container gets on v1, one hierarchy each, as far as they are mounted; the first tells containers apart.
const V1: [&str; 3] = ["pids", "freezer", "memory"];

/// Whether this host has cgroup v2.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Who would have made the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, for a kubelet.
    Kubernetes,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Kubernetes];

    /// The cgroup that this runtime gives to its container with this number: systemd's names on v2, its own on v1.
    #[must_use]
    pub fn path(self, number: u32) -> String {
        let id = format!("{number:064x}");
        if is_v2() {
            match self {
                Self::Docker => format!("/system.slice/docker-{id}.scope"),
                Self::Podman => format!("/machine.slice/libpod-{id}.scope"),
                Self::Kubernetes => format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{number:08x}.slice/cri-containerd-{id}.scope"
                ),
            }
        } else {
            match self {
                Self::Docker => format!("/docker/{id}"),
                Self::Podman => format!("/libpod_parent/libpod-{id}"),
                Self::Kubernetes => format!("/kubepods/burstable/pod{number:08x}/{id}"),
            }
        }
    }
}

/// The patterns of [`Runtime`]'s names, as the policy writes them.
pub const PATTERNS: &str = r#"["/system.slice/docker-*.scope", "/machine.slice/libpod-*.scope", "/kubepods.slice/**/cri-containerd-*.scope", "/docker/*", "/libpod_parent/libpod-*", "/kubepods/**/pod*/*", "/user.slice/**/libpod-*.scope"]"#;

/// A cgroup of a test. Dropped, everything in it is killed and it is removed.
#[derive(Debug)]
pub struct Cgroup {
    /// Path from the root of the hierarchy.
    pub path: String,
    folders: Vec<PathBuf>,
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A number that no container of this run has had.
#[must_use]
pub fn number() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed) + 0x1000 * (std::process::id() & 0xffff)
}

impl Cgroup {
    /// A container of Docker's.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn container() -> Result<Self> {
        Self::of(Runtime::Docker)
    }

    /// A container of this runtime's.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn of(runtime: Runtime) -> Result<Self> {
        Self::at(&runtime.path(number()))
    }

    /// A service of the host's, which no policy names.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn service() -> Result<Self> {
        Self::at(&format!("/system.slice/service-{}.service", number()))
    }

    /// A cgroup with this path, and all that lies above it with every controller switched on.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn at(path: &str) -> Result<Self> {
        let mut folders = Vec::new();
        if is_v2() {
            let mut folder = PathBuf::from(MOUNT);
            for name in path.trim_start_matches('/').split('/') {
                controllers(&folder)?;
                folder.push(name);
                make(&folder)?;
            }
            folders.push(folder);
        } else {
            for controller in V1 {
                if !Path::new(MOUNT)
                    .join(controller)
                    .join("cgroup.procs")
                    .exists()
                {
                    continue;
                }
                let folder = PathBuf::from(format!("{MOUNT}/{controller}{path}"));
                fs::create_dir_all(&folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                folders.push(folder);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            folders,
        })
    }

    /// The folder in the hierarchy that tells containers apart.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folders[0]
    }

    /// The cgroup id.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn id(&self) -> io::Result<u64> {
        fs::metadata(self.folder()).map(|data| data.ino())
    }

    /// Lets a command run in this cgroup from its first instruction: it is moved there between fork and exec.
    ///
    /// # Errors
    /// The cgroup cannot be opened.
    pub fn enter<'c>(&self, command: &'c mut Command) -> Result<&'c mut Command> {
        let mut files = Vec::new();
        for folder in &self.folders {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(folder.join("cgroup.procs"))
                .with_context(|| format!("cannot open {}", folder.display()))?;
            files.push(file);
        }
        // SAFETY: the closure only writes to files that are already open.
        unsafe {
            command.pre_exec(move || {
                for mut file in &files {
                    file.write_all(b"0")?;
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// What a file of the cgroup says, without the newline.
    ///
    /// # Errors
    /// There is no such file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path_of(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes a file of the cgroup.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path_of(file);
        fs::write(&path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    }

    fn path_of(&self, file: &str) -> PathBuf {
        self.folders
            .iter()
            .map(|folder| folder.join(file))
            .find(|path| path.exists())
            .unwrap_or_else(|| self.folder().join(file))
    }

    /// Tasks in the container, nested cgroups included.
    ///
    /// # Errors
    /// The cgroup has no pids controller.
    pub fn pids(&self) -> Result<u64> {
        self.read("pids.current")?
            .parse()
            .context("pids.current is no number")
    }

    /// Whether a freezer has stopped it.
    ///
    /// # Errors
    /// There is no freezer.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(if is_v2() {
            self.read("cgroup.events")?.contains("frozen 1")
        } else {
            self.read("freezer.state")? == "FROZEN"
        })
    }

    /// Asks the freezer, as `docker pause` does.
    ///
    /// # Errors
    /// There is no freezer.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        match (is_v2(), frozen) {
            (true, true) => self.write("cgroup.freeze", "1"),
            (true, false) => self.write("cgroup.freeze", "0"),
            (false, true) => self.write("freezer.state", "FROZEN"),
            (false, false) => self.write("freezer.state", "THAWED"),
        }
    }

    /// Whether a process is in it or below it.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        !processes(self.folder()).is_empty()
    }

    /// Kills all that is in it.
    ///
    /// # Errors
    /// Something stays alive for ten seconds.
    pub fn kill(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        let _ = self.freeze(false);
        while self.is_populated() {
            ensure!(Instant::now() < until, "{} does not die", self.path);
            if fs::write(self.folder().join("cgroup.kill"), "1").is_err() {
                for pid in processes(self.folder()) {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            println!("    {error:#}");
        }
        for folder in &self.folders {
            // A task that has just ended is still leaving.
            for _ in 0..50 {
                if remove_below(folder).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Removes a cgroup and all below it, which are empty.
///
/// # Errors
/// One of them is not empty.
pub fn remove_below(folder: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Processes in a cgroup and below it.
#[must_use]
pub fn processes(folder: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(folder.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        // A task that is just leaving has no number any more, and kill(0) is for one's own group.
        .filter(|pid| *pid > 0)
        .collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

fn controllers(folder: &Path) -> Result<()> {
    let file = folder.join("cgroup.subtree_control");
    for name in ["pids", "cpu", "memory"] {
        let _ = fs::write(&file, format!("+{name}"));
    }
    let on =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if !on.split_whitespace().any(|name| name == "pids") {
        bail!("{} gives no pids controller", folder.display());
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The folder of a path in the hierarchy that tells containers apart.
#[must_use]
pub fn folder_of(path: &str) -> PathBuf {
    PathBuf::from(if is_v2() {
        format!("{MOUNT}{path}")
    } else {
        format!("{MOUNT}/{}{path}", V1[0])
    })
}
