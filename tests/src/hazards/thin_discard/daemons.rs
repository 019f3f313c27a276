//! Debian's dockerd, containerd and podman with their volumes in a thin pool, told to discard what they remove: switched off for the host they
//! go on, and nothing reaches the pool's data. That is a loop device's file, and grows smaller by what it is told.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    OFF,
    pool::{Pool, must},
};
use crate::{
    daemon::{Daemon, Policy, succeed},
    docker::{Docker, IMAGE, LONG, make_image_root},
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "thin_discard::dockerd_on_a_pool_goes_on_and_discards_nothing",
        needs: Needs::Runtimes,
        run: dockerd,
    },
    Scenario {
        name: "thin_discard::containerd_on_a_pool_discards_nothing_and_is_told_what_to_say",
        needs: Needs::Runtimes,
        run: containerd,
    },
    Scenario {
        name: "thin_discard::podman_on_a_pool_goes_on_and_discards_nothing",
        needs: Needs::Runtimes,
        run: podman,
    },
];

/// Bytes of a block of the pool.
const BLOCK: u64 = 64 << 10;
/// How long a volume may take to go after its device, on an emulated processor that others use too.
const SOON: Duration = Duration::from_secs(60);
/// MiB that are written into what is removed then, and what the file grows smaller by at least when they are discarded.
const WRITTEN: u64 = 24;
const GIVEN_BACK: u64 = 16 << 20;

/// What becomes of the pool's blocks of so many bytes, and of the file below it, while something is removed: whether each gets them back.
fn removed(pool: &Pool, block: u64, remove: impl FnOnce() -> Result<()>) -> Result<[bool; 2]> {
    must("sync")?;
    let (used, taken) = (pool.used()?, pool.taken("data")?);
    remove()?;
    let is_free = || Ok(used.saturating_sub(pool.used()?) * block > GIVEN_BACK);
    let blocks = wait_for("blocks to be free", SOON, is_free).is_ok();
    Ok([
        blocks,
        taken.saturating_sub(pool.taken("data")?) > GIVEN_BACK,
    ])
}

/// `thin status` says whose a volume is.
fn used_by(program: &str) -> Result<()> {
    let said = succeed(&["thin", "status"])?;
    let is_named = |line: &str| {
        line.trim_start().starts_with("thin ") && line.contains(&format!(", {program})"))
    };
    ensure!(said.lines().any(is_named), "no volume of {program}: {said}");
    Ok(())
}

fn dockerd() -> Result<()> {
    let run = |pool: &Pool| -> Result<[bool; 2]> {
        let device = format!("dm.thinpooldev=/dev/mapper/{}", pool.name());
        let mut arguments = vec!["--storage-driver=devicemapper"];
        for option in [
            &device,
            "dm.basesize=300M",
            "dm.fs=ext4",
            "dm.blkdiscard=true",
            "dm.override_udev_sync_check=true",
        ] {
            arguments.extend(["--storage-opt", option]);
        }
        let docker = Docker::start_with(&arguments)?;
        docker.done(&["create", "--name=web", IMAGE, "sh"])?;
        must(&format!(
            "dd if=/dev/urandom of=/tmp/big bs=1M count={WRITTEN} status=none"
        ))?;
        docker.done(&["cp", "/tmp/big", "web:/big"])?;
        fs::remove_file("/tmp/big")?;
        let came = removed(pool, BLOCK, || docker.done(&["rm", "web"]).map(drop))?;
        // And goes on: what comes next has a volume, and runs.
        let said = docker.done(&["run", "--rm", "--network=none", IMAGE, "echo", "alive"])?;
        ensure!(said.trim() == "alive", "{said}");
        let sleeps = ["-d", "--name=up", "--network=none", IMAGE, "sleep", LONG];
        docker.done(&[&["run"], &sleeps[..]].concat())?;
        used_by("docker")?;
        docker.done(&["rm", "-f", "up"])?;
        Ok(came)
    };
    let came = run(&Pool::make()?).context("without Bulkhead")?;
    ensure!(came == [true, true], "without Bulkhead: {came:?}");
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let came = run(&Pool::make()?)?;
    ensure!(came == [true, false], "off for the host: {came:?}");
    Ok(())
}

/// A containerd of its own, which is none of docker's.
struct Containerd {
    daemon: Child,
    /// The pool's, and gone with it: the next one finds there what this one had.
    folder: PathBuf,
}

const SOCKET: &str = "/run/bulkhead-containerd.sock";

impl Containerd {
    fn start(pool: &Pool, discards: bool) -> Result<Self> {
        let folder = pool.place()?.with_file_name("containerd");
        fs::create_dir_all(&folder)?;
        let (at, name) = (folder.display(), pool.name());
        let config = folder.join("config.toml");
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{SOCKET}\"\n\
                 [plugins.\"io.containerd.snapshotter.v1.devmapper\"]\nroot_path = \"{at}/devmapper\"\n\
                 pool_name = \"{name}\"\nbase_image_size = \"300MB\"\ndiscard_blocks = {discards}\n"
            ),
        )?;
        let log = fs::File::create(folder.join("log"))?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .env("DM_DISABLE_UDEV", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let containerd = Self { daemon, folder };
        wait_for("containerd", Duration::from_secs(60), || {
            Ok(must(&format!("ctr --address {SOCKET} version")).is_ok())
        })?;
        Ok(containerd)
    }

    fn snapshots(&self, what: &str) -> Result<String> {
        must(&format!(
            "ctr --address {SOCKET} snapshots --snapshotter devmapper {what}"
        ))
    }
}

impl Containerd {
    fn wait_until_gone(&self, device: &str) -> Result<()> {
        wait_for("the snapshot to go", Duration::from_secs(15), || {
            Ok(!must("dmsetup ls")?.contains(device))
        })
        .with_context(|| fs::read_to_string(self.folder.join("log")).unwrap_or_default())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// With blocks to be discarded it takes a blkdiscard that fails for a failure, whoever switched discards off, and removes nothing. What
/// to do about that is said, and helps.
fn containerd() -> Result<()> {
    let pool = Pool::make()?;
    let came = snapshot(&pool, true)?;
    ensure!(came == [true, true], "without Bulkhead: {came:?}");
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let pool = Pool::make()?;
    ensure!(
        snapshot(&pool, true)
            .is_err_and(|error| format!("{error:#}").contains("failed to deactivate device")),
        "it removes a snapshot whose blocks it may not discard: then the advice can go"
    );
    let said = succeed(&["thin", "status"])?;
    ensure!(said.contains("discard_blocks = true"), "{said}");
    let (used, taken) = (pool.used()?, pool.taken("data")?);
    let containerd = Containerd::start(&pool, false)?;
    // It removes what is left when it next has something to remove.
    containerd.snapshots("prepare other ''")?;
    containerd.snapshots("rm other")?;
    containerd.wait_until_gone(&format!("{}-snap-", pool.name()))?;
    wait_for("the blocks of what was left", SOON, || {
        Ok(used.saturating_sub(pool.used()?) * BLOCK > GIVEN_BACK)
    })?;
    ensure!(pool.taken("data")? >= taken, "they were discarded");
    drop(containerd);
    let pool = Pool::make()?;
    let came = snapshot(&pool, false)?;
    ensure!(came == [true, false], "told not to: {came:?}");
    Ok(())
}

/// A snapshot with something in it that is removed.
fn snapshot(pool: &Pool, discards: bool) -> Result<[bool; 2]> {
    let containerd = Containerd::start(pool, discards)?;
    containerd.snapshots("prepare snapshot ''")?;
    let device = format!("{}-snap-1", pool.name());
    let at = pool.place()?.display().to_string();
    must(&format!(
        "mount -o nodiscard /dev/mapper/{device} {at}
         dd if=/dev/urandom of={at}/big bs=1M count={WRITTEN} conv=fsync status=none; umount {at}"
    ))?;
    used_by("containerd")?;
    removed(pool, BLOCK, || {
        containerd.snapshots("rm snapshot")?;
        containerd.wait_until_gone(&device)
    })
}

/// podman with a thin pool of its own making, on a device that it is given.
struct Podman {
    pool: Pool,
    device: String,
}

/// Where it keeps images and containers.
const STORE: &str = "/tmp/bulkhead-podman";
/// What it calls the volume group of its pool, and the device mapper that.
const GROUP: &str = "storage";
const THINPOOL: &str = "storage-thinpool";
/// Bytes of a block there.
const LARGE: u64 = 512 << 10;

impl Podman {
    fn make() -> Result<Self> {
        let mut pool = Pool::none()?;
        let device = pool.attach("data", 2 << 30)?;
        pool.is_called(THINPOOL);
        let podman = Self { pool, device };
        let root = format!("{STORE}-image");
        make_image_root(Path::new(&root))?;
        podman.done(
            &format!("import - {IMAGE}"),
            &format!("tar -C {root} -c . |"),
        )?;
        Ok(podman)
    }

    /// Runs it with these arguments, behind what feeds it.
    fn done(&self, arguments: &str, fed_by: &str) -> Result<String> {
        let mut options = String::new();
        for option in [
            &format!("directlvm_device={}", self.device),
            "directlvm_device_force=true",
            "basesize=300M",
            "fs=ext4",
            "blkdiscard=true",
            "override_udev_sync_check=true",
        ] {
            options.push_str(&format!(" --storage-opt dm.{option}"));
        }
        must(&format!(
            "{fed_by} podman --root {STORE} --runroot {STORE}-run --storage-driver devicemapper {options} {arguments}"
        ))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.done("rm -af", "");
        let _ = self.done("rmi -af", "");
        let _ = must(&format!("vgremove -fy {GROUP}; pvremove {}", self.device));
        for folder in ["", "-run", "-image"] {
            let _ = fs::remove_dir_all(format!("{STORE}{folder}"));
        }
    }
}

fn podman() -> Result<()> {
    let run = || -> Result<[bool; 2]> {
        let podman = Podman::make()?;
        let done = |arguments: &str| podman.done(arguments, "");
        done(&format!("create --name web {IMAGE} sh"))?;
        let at = done("mount web")?;
        must(&format!(
            "dd if=/dev/urandom of={at}/big bs=1M count={WRITTEN} conv=fsync status=none"
        ))?;
        used_by("containers/storage (podman, CRI-O)")?;
        done("umount web")?;
        let came = removed(&podman.pool, LARGE, || done("rm web").map(drop))?;
        let said = done(&format!(
            "run --rm --network=none --cgroups=disabled {IMAGE} echo alive"
        ))?;
        ensure!(said == "alive", "{said}");
        Ok(came)
    };
    let came = run().context("without Bulkhead")?;
    ensure!(came == [true, true], "without Bulkhead: {came:?}");
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let came = run()?;
    ensure!(came == [true, false], "off for the host: {came:?}");
    Ok(())
}
