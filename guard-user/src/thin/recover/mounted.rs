//! Lost volumes: a volume is mapped and mounted read-only, in a mount namespace of our own, so that the kernel takes it
//! all away when we end, even by kill -9.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::{major, minor},
};

use super::{
    Interrupts, RecoverError, Work, call::Call, filesystem::FileSystem, map::Map, pool::Part,
    work::is_mapped,
};
use crate::kernel::loops::Loop;

/// How long a device may take to go after its last user.
const GOING: Duration = Duration::from_secs(10);

/// A volume that is mounted.
pub(super) struct Mounted<'a> {
    name: String,
    at: PathBuf,
    is_mounted: bool,
    /// It goes with its last user.
    is_going: bool,
    looped: Option<Loop>,
    interrupts: &'a Interrupts,
}

impl<'a> Mounted<'a> {
    /// What is going to be called, in words.
    pub(super) fn calls(
        data: &Part,
        name: &str,
        found: &FileSystem,
        to: &Path,
    ) -> Vec<(&'static str, Call)> {
        let mut calls = Vec::new();
        if !data.is_device {
            calls.push((
                "make a read-only loop device of the data, which goes with its last user",
                attach(&data.path),
            ));
        }
        let device = format!("/dev/mapper/{name}");
        let options = format!("ro,nosuid,nodev,noexec,{}", found.options);
        calls.extend([
            (
                "map the volume read-only, from `linear` and `zero` targets: dm-thin takes no part",
                create(name),
            ),
            (
                "mount it read-only, without a replay, in a mount namespace of its own",
                Call::new(
                    "mount",
                    ["-t", found.kind, "-o", &options, &device, "…/volume"],
                ),
            ),
            ("let it go with its last user, whatever comes", remove(name)),
            (
                "copy everything, with owners, modes, times, links and extended attributes",
                copy(Path::new("…/volume"), &to.join("files")),
            ),
            ("unmount it", Call::new("umount", ["…/volume"])),
        ]);
        calls
    }

    /// Maps and mounts it.
    pub(super) fn new(
        map: &Map,
        data: &Part,
        found: &FileSystem,
        work: &Work,
        interrupts: &'a Interrupts,
    ) -> Result<Self, RecoverError> {
        let mut mounted = Self {
            name: work.name().to_owned(),
            at: work.path("volume"),
            is_mounted: false,
            is_going: false,
            looped: None,
            interrupts,
        };
        let result = mounted.make(map, data, found);
        match result {
            Ok(()) => Ok(mounted),
            Err(error) => match mounted.release() {
                Err(left) => Err(RecoverError::Left {
                    what: format!("{left}, after {error}"),
                }),
                Ok(()) => Err(error),
            },
        }
    }

    /// Where it is mounted.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    fn make(&mut self, map: &Map, data: &Part, found: &FileSystem) -> Result<(), RecoverError> {
        (DirBuilder::new().mode(0o700).create(&self.at))
            .map_err(RecoverError::io("make the folder", &self.at))?;
        let device = if data.is_device {
            format!("{}:{}", major(data.identity.1), minor(data.identity.1))
        } else {
            if !Path::new("/dev/loop-control").exists() {
                // systemd makes the node, whose opening brings the module. Where it is missing, nothing else brings it.
                let _ = Call::new("modprobe", ["loop"]).run(self.interrupts);
            }
            let made = Loop::over(&data.file)
                .map_err(RecoverError::io("make a loop device of", &data.path))?;
            let node = made.node().display().to_string();
            self.looped = Some(made);
            node
        };
        let create = create(&self.name).reading(map.table(&device).into_bytes());
        create.run(self.interrupts)?;
        // From now on it goes with the mapped device.
        self.looped = None;
        self.mount(found)?;
        remove(&self.name).run(self.interrupts)?;
        self.is_going = true;
        Ok(())
    }

    fn mount(&mut self, found: &FileSystem) -> Result<(), RecoverError> {
        let at = |doing| RecoverError::io(doing, &self.at);
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .map_err(at("make a mount namespace for"))?;
        // What the host mounts and unmounts goes on here, and not the other way.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .map_err(io::Error::from)
            .map_err(at("make a mount namespace for"))?;
        let device = Path::new("/dev/mapper").join(&self.name);
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some(&device),
            &self.at,
            Some(found.kind),
            flags,
            Some(found.options),
        )
        .map_err(io::Error::from)
        .map_err(RecoverError::io("mount the file system of", &device))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Unmounts and unmaps it, and waits until all of it is gone.
    pub(super) fn release(&mut self) -> Result<(), RecoverError> {
        let mut troubles = Vec::new();
        if self.is_mounted {
            let left = umount2(&self.at, MntFlags::empty())
                .or_else(|_| umount2(&self.at, MntFlags::MNT_DETACH));
            match left {
                Ok(()) => self.is_mounted = false,
                Err(errno) => troubles.push(format!("{}: {errno}", self.at.display())),
            }
        }
        // A signal that is pending has been told, and is not to keep us from this.
        let call = |call: Call| {
            let tried = call.run(self.interrupts);
            if let Err(RecoverError::Interrupted { .. }) = tried {
                return call.run(self.interrupts).map(drop);
            }
            tried.map(drop)
        };
        if !self.is_going
            && is_mapped(&self.name)
            && let Err(error) = call(remove(&self.name))
        {
            troubles.push(error.to_string());
        }
        self.looped = None;
        // The kernel takes it away in a worker of its own.
        let until = Instant::now() + GOING;
        while is_mapped(&self.name) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        if is_mapped(&self.name) {
            troubles.push(format!("the device {}", self.name));
        }
        let _ = fs::remove_dir(&self.at);
        if troubles.is_empty() {
            return Ok(());
        }
        Err(RecoverError::Left {
            what: troubles.join("; "),
        })
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn attach(data: &Path) -> Call {
    let (find, show) = ("--find".as_ref(), "--show".as_ref());
    Call::new(
        "losetup",
        [find, show, "--read-only".as_ref(), data.as_os_str()],
    )
}

fn create(name: &str) -> Call {
    Call::new("dmsetup", ["create", name, "--readonly"])
}

fn remove(name: &str) -> Call {
    Call::new("dmsetup", ["remove", "--deferred", name])
}

/// `setpriv`: it does not outlive us.
pub(super) fn copy(from: &Path, to: &Path) -> Call {
    let options = [
        "--pdeathsig",
        "KILL",
        "cp",
        "--recursive",
        "--no-dereference",
        "--preserve=mode,ownership,timestamps,links,xattr",
        "--sparse=always",
        "--one-file-system",
        "--no-target-directory",
        "--",
    ];
    let paths = [from.as_os_str(), to.as_os_str()];
    let options = options.iter().map(|option| option.as_ref());
    Call::new(
        "setpriv",
        options.chain(paths).collect::<Vec<&std::ffi::OsStr>>(),
    )
}
