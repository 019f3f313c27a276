//! A program may be put into a container before the kernel is through with the exec by which it comes: a parent goes on as soon as
//! its child has memory of its own (vfork), and runc's moves it at once. The exec is then not the end of setting up.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::{Needs, RULE, Scenario, setup::Stopped};
use crate::{
    bed::PROBE,
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
    hazards::thin_discard::pool::{Pool, must},
    host::wait_for,
};

/// Put there in the midst of an exec.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "user_namespace::who_puts_a_program_there_as_soon_as_it_comes_sets_it_up",
    needs: Needs::Refusing,
    run: as_it_comes,
}];

/// How long something is waited for that comes soon or not at all.
const LONGEST: Duration = Duration::from_secs(2);

fn as_it_comes() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    for (steps, made) in [
        (&["stop"][..], true),
        (&["stop", "memfd"], true),
        (&["stop", "exec"], false),
        (&["stop", "memfd", "exec"], false),
    ] {
        let disk = Disk::new()?;
        disk.suspend()?;
        let coming = Stopped::coming(&disk.probe(), steps)?;
        // With memory of its own, which has no arguments yet.
        let waits = || {
            let arguments = fs::read(format!("/proc/{}/cmdline", coming.number()))?;
            Ok(arguments.is_empty())
        };
        wait_for("its memory", LONGEST, waits)?;
        thread::scope(|scope| {
            let mover = scope.spawn(|| coming.move_to(&container));
            // That memory may be what 5.10 wants to lock to have it there (`mpol_rebind_mm`): then it is on its way.
            let _ = wait_for("it to be there", LONGEST, || Ok(mover.is_finished()));
            let waits = waits();
            disk.resume()?;
            ensure!(matches!(mover.join(), Ok(Ok(()))), "not moved");
            ensure!(waits?, "the exec did not wait");
            Ok(())
        })?;
        coming.stops()?;
        ensure!(coming.goes_on()? == made, "{steps:?}: not {made}");
    }
    Ok(())
}

/// A disk with the probe on it, of which nothing was read but where it begins: it is loaded when the disk answers.
struct Disk {
    at: &'static Path,
    name: String,
    _devices: Pool,
}

impl Disk {
    fn new() -> Result<Self> {
        let mut devices = Pool::none()?;
        let name = devices.name().to_owned();
        let below = devices.attach("disk", 16 << 20)?;
        let device = devices.map(&name, &format!("0 32768 linear {below} 0"))?;
        let disk = Self {
            at: Path::new("/tmp/slow"),
            name,
            _devices: devices,
        };
        let (at, probe) = (disk.at.display(), disk.probe());
        must(&format!(
            "mkdir -p {at}; mkfs.ext4 -q {device}; mount {device} {at}; cp {PROBE} {at}/probe; umount {at}; \
             mount -o noatime {device} {at}"
        ))?;
        let mut beginning = File::open(probe)?;
        posix_fadvise(&beginning, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
        beginning.read_exact(&mut [0; 4096])?;
        Ok(disk)
    }

    fn probe(&self) -> PathBuf {
        self.at.join("probe")
    }

    /// From now on whoever reads from it waits.
    fn suspend(&self) -> Result<()> {
        must(&format!("dmsetup suspend --nolockfs {}", self.name)).map(drop)
    }

    fn resume(&self) -> Result<()> {
        must(&format!("dmsetup resume {}", self.name)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.resume();
        let _ = must(&format!("umount {}", self.at.display()));
    }
}
