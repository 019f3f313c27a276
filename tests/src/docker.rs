//! Docker as people run it: Debian's `dockerd` on the host, and one more in a container of its.

use std::{
    fs::{self, File},
    os::unix,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{host::wait_for, runtimes::make_root};

/// The file system that every image is made of: programs of busybox, and below `/usr` room for the host's.
pub const ROOT: &str = "/run/bulkhead-docker-root";
/// The image that is made of it.
pub const IMAGE: &str = "stock";
/// The socket of the host's containerd, which `dockerd` starts.
pub const CONTAINERD: &str = "/var/run/docker/containerd/containerd.sock";
/// Where it keeps images and containers.
const DATA: &str = "/tmp/bulkhead-docker";
/// What it writes.
const LOG: &str = "/run/bulkhead-docker.log";
/// Seconds that anything of it may take, on an emulated processor that others use as well.
pub const LONG: &str = "300";
/// How long it may take to be there, on an emulated processor.
const READY: Duration = Duration::from_secs(120);

/// A shell's script that starts `dockerd` in a container, as people do who want Docker in Docker, and waits until it answers or has
/// ended. What it writes is in `/tmp/log`.
pub const DOCKERD: &str = "dockerd > /tmp/log 2>&1 & \
    while kill -0 $! 2> /dev/null && ! docker version > /dev/null 2>&1; do sleep 0.2; done";

/// Arguments for a container that has the host's programs, of which `dockerd` is one, and a place for its images.
pub const WITH_PROGRAMS: [&str; 5] = [
    "--privileged",
    "--volume=/usr:/usr:ro",
    "--volume=/run/bulkhead-docker-root:/root-of-image:ro",
    "--volume=/var/lib/docker",
    "--rm",
];

/// The host's Docker, with the image [`IMAGE`].
pub struct Docker {
    daemon: Child,
}

impl Docker {
    /// Starts it, waits until it answers, and gives it an image.
    ///
    /// # Errors
    /// It ended, or does not answer in time; its log is in the error.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        make_image_root(Path::new(ROOT))?;
        let docker = Self {
            daemon: spawn(arguments)?,
        };
        let import = format!("tar -C {ROOT} -c . | docker import - {IMAGE}");
        let output = Command::new("sh").args(["-c", &import]).output()?;
        ensure!(output.status.success(), "no image: {output:?}");
        Ok(docker)
    }

    /// Runs `docker` with these arguments to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn tell(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new("timeout")
            .args([LONG, "docker"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?)
    }

    /// The same, where it must succeed; what it says.
    ///
    /// # Errors
    /// It failed.
    pub fn done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.tell(arguments)?;
        ensure!(
            output.status.success(),
            "docker {}: {} {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops it, and leaves everything as it is then.
    ///
    /// # Errors
    /// It cannot be stopped.
    pub fn leave(self) -> Result<()> {
        std::mem::ManuallyDrop::new(self).stop()
    }

    fn stop(&mut self) -> Result<()> {
        kill(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        self.daemon.wait()?;
        remove_link("docker0");
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let script = "docker rm --force $(docker ps --all --quiet); docker network prune --force";
        let _ = Command::new("sh").args(["-c", script]).output();
        if let Err(error) = self.stop() {
            println!("    dockerd does not stop: {error:#}");
        }
        let _ = fs::remove_dir_all(DATA);
    }
}

fn spawn(arguments: &[&str]) -> Result<Child> {
    let log = File::create(LOG)?;
    let mut daemon = Command::new("dockerd")
        .args(["--data-root", DATA])
        .args(arguments)
        // Nobody answers for udev here: the device mapper makes its nodes itself.
        .env("DM_DISABLE_UDEV", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start dockerd")?;
    let answers = wait_for("dockerd", READY, || {
        if let Some(status) = daemon.try_wait()? {
            bail!("dockerd ended with {status}");
        }
        let asked = Command::new("docker").arg("version").output()?;
        Ok(asked.status.success())
    });
    if answers.is_err() {
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
    answers.with_context(|| last_lines(LOG))?;
    Ok(daemon)
}

/// The last that it wrote.
fn last_lines(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether the host's first network namespace has this link.
#[must_use]
pub fn has_link(name: &str) -> bool {
    PathBuf::from("/sys/class/net").join(name).exists()
}

/// Takes a link away, if it is there.
pub fn remove_link(name: &str) {
    let _ = Command::new("ip").args(["link", "delete", name]).output();
}

/// A file system for containers that need none of the host's programs.
///
/// # Errors
/// It cannot be made.
pub fn make_image_root(root: &Path) -> Result<()> {
    make_root(root)?;
    fs::create_dir_all(root.join("var/lib"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::copy("/usr/bin/busybox", root.join("usr/bin/busybox"))?;
    for name in ["sh", "cat", "ip", "sleep", "echo", "id", "ls"] {
        let link = root.join("usr/bin").join(name);
        if link.symlink_metadata().is_err() {
            unix::fs::symlink("busybox", link)?;
        }
    }
    Ok(())
}
