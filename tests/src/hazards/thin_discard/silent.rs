//! A loop device that does not say what it is on, since nobody serves its file, hangs nobody and counts as one on dm-thin.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    OFF, plain_goes_on,
    pool::{Came, Pool, came, must},
};
use crate::{
    daemon::{Daemon, Policy, status},
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_discard::a_loop_device_whose_file_nobody_serves_hangs_nobody",
    needs: Needs::Ends,
    run: silent,
}];

/// A file system that a program serves, with a loop device over a file there.
struct Served {
    server: Child,
    device: String,
}

const AT: &str = "/tmp/served";

impl Served {
    fn new() -> Result<Self> {
        must(&format!(
            "modprobe fuse || grep -qw fuse /proc/filesystems; mkdir -p {AT} {AT}-from; truncate -s 8M {AT}-from/file"
        ))?;
        let server = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0", &format!("{AT}-from"), AT])
            .spawn()
            .context("bindfs")?;
        let mut served = Self {
            server,
            device: String::new(),
        };
        wait_for("the file system", Duration::from_secs(30), || {
            Ok(Path::new(AT).join("file").exists())
        })?;
        served.device = must(&format!("losetup --find --show {AT}/file"))?;
        Ok(served)
    }

    fn tell(&self, signal: Signal) -> Result<()> {
        let server = Pid::from_raw(self.server.id() as i32);
        Ok(kill(server, signal)?)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.tell(Signal::SIGCONT);
        let _ = must(&format!("losetup -d {}; umount {AT}", self.device));
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(format!("{AT}-from"));
    }
}

fn silent() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let plain = pool.attach("plain", 16 << 20)?;
    let served = Served::new()?;
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    // It is asked, and says so.
    let mut daemon = Daemon::start(&policy, &[])?;
    ensure!(came(None, &format!("blkdiscard {}", served.device))? == Came::Done);
    daemon.stop()?;
    served.tell(Signal::SIGSTOP)?;
    // Neither the start hangs nor what follows.
    let mut daemon = Daemon::start(&policy, &[])?;
    ensure!(status()?["ready"] == true);
    plain_goes_on(&pool, None, &plain)?;
    for device in [&thin, &served.device] {
        let script = format!("blkdiscard {device}");
        ensure!(
            came(None, &script)? == Came::Unsupported,
            "not refused: {script}"
        );
    }
    let other = pool.attach("other", 16 << 20)?;
    // What is asked after the one that is silent is asked all the same.
    wait_for("it to be known", Duration::from_secs(10), || {
        Ok(came(None, &format!("blkdiscard {other}"))? == Came::Done)
    })?;
    daemon.stop()
}
