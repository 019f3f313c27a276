//! The units that come with Bulkhead: within the bounds of its own the daemon does all that it does without; those that activate thin pools
//! do so once where that crashes the kernel.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Needs, Scenario,
    thin_discard::pool::{Came, Pool, came, most, must},
    thin_recover::activate::{FOLDER, crash},
};
use crate::{
    cgroup::{Cgroup, number, remove_below},
    daemon::{Daemon, Policy, status, succeed},
    host::wait_for,
};

/// All scenarios.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "unit::within_its_bounds_nothing_is_degraded_and_a_stop_or_a_kill_opens_no_gap",
        needs: Needs::Ends,
        run: unit,
    },
    Scenario {
        name: "unit::a_pool_of_lvms_that_crashed_the_kernel_is_not_activated_on_the_next_boot",
        needs: Needs::Ends,
        run: activates,
    },
    Scenario {
        name: "unit::a_docker_that_crashed_the_kernel_does_not_start_on_the_next_boot",
        needs: Needs::Ends,
        run: starts_docker,
    },
]];

const UNIT: (&str, &str) = (
    "bulkhead.service",
    include_str!("../../../packaging/bulkhead.service"),
);
const THIN: (&str, &str) = (
    "bulkhead-thin@.service",
    include_str!("../../../packaging/bulkhead-thin@.service"),
);
const DOCKER: (&str, &str) = (
    "docker.service.d/docker-thin.conf",
    include_str!("../../../packaging/docker-thin.conf"),
);
/// Where the policy is that the unit's daemon reads.
const POLICY: &str = "/etc/bulkhead/policy.yaml";
const RUNTIME: &str = "/run/user/0";

/// systemd as a user's manager, root's: one for the whole host must be its first process.
struct Manager {
    process: Child,
    cgroup: Cgroup,
}

impl Manager {
    /// With these units, by the names of their files.
    fn start(units: &[(&str, &str)]) -> Result<Self> {
        // Without that it says that the host has no systemd.
        fs::create_dir_all("/run/systemd/system")?;
        for (name, text) in units {
            let file = PathBuf::from(RUNTIME).join("systemd/user").join(name);
            fs::create_dir_all(file.parent().context("no folder")?)?;
            fs::write(
                file,
                text.replace("/usr/bin/bulkhead", "/usr/local/bin/bulkhead"),
            )?;
        }
        let cgroup = Cgroup::at(&format!("/manager-{}", number()))?;
        let mut command = Command::new("/lib/systemd/systemd");
        command
            .args(["--user", "--log-target=console"])
            .env("XDG_RUNTIME_DIR", RUNTIME)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        cgroup.enter(&mut command)?;
        let process = command.spawn().context("systemd")?;
        let manager = Self { process, cgroup };
        wait_for("systemd", Duration::from_secs(60), || {
            Ok(systemctl("is-system-running").is_ok() || systemctl("list-jobs").is_ok())
        })?;
        Ok(manager)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = systemctl("stop '*.service'");
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(POLICY);
        let _ = fs::remove_dir_all(PathBuf::from(RUNTIME).join("systemd/user"));
        // Nor has it one: Docker would ask it for scopes.
        let _ = fs::remove_dir("/run/systemd/system");
        let _ = remove_below(self.cgroup.folder());
    }
}

fn systemctl(verb: &str) -> Result<String> {
    must(&format!(
        "XDG_RUNTIME_DIR={RUNTIME} systemctl --user --no-pager {verb} 2>&1"
    ))
}

fn main_pid() -> Result<u64> {
    Ok(systemctl("show --property MainPID --value bulkhead")?
        .trim()
        .parse()?)
}

fn unit() -> Result<()> {
    let mut pool = Pool::small()?;
    let thin = pool.volume()?;
    fs::create_dir_all(Path::new(POLICY).parent().context("no folder")?)?;
    let text = "version: 1\nmode: enforce\nsubjects: {all: {cgroups: [\"/bulkhead-test/*\"]}}\nrules:\n\
                - {name: leaks, subjects: [all], pids: {max: 4000}, forks: {rate: 1000/s}}\n\
                - {name: bridges, subjects: [all], deny: [bridge.create, sysrq, mount, user_namespace.create]}\n\
                - {name: discards, subjects: [all], deny: [discard], when: {device: dm-thin}}\n\
                host: {thin: {discard: off}}\n";
    fs::write(POLICY, text)?;
    let manager = Manager::start(&[UNIT])?;
    systemctl("start bulkhead")?;
    let seen = status()?;
    ensure!(seen["state"] == "ENFORCING", "{seen:#}");
    ensure!(
        seen["degraded"].as_array().is_some_and(Vec::is_empty),
        "{:#}",
        seen["degraded"]
    );
    // It hears of new devices.
    let new = pool.volume()?;
    wait_for(
        "discards of a new device to be off",
        Duration::from_secs(3),
        || Ok(most(&new)? == 0),
    )?;
    let refused = || -> Result<()> {
        let script = format!("blkdiscard {thin}");
        ensure!(
            came(None, &script)? == Came::Unsupported,
            "not refused: {script}"
        );
        Ok(())
    };
    refused()?;
    // A policy that is wrong fails the reload, and changes nothing.
    fs::write(POLICY, text.replace("max: 4000", "max: many"))?;
    ensure!(
        systemctl("reload bulkhead").is_err(),
        "a wrong policy is taken"
    );
    refused()?;
    fs::write(POLICY, text)?;
    systemctl("reload bulkhead")?;
    // A kill opens no gap, and another daemon comes.
    let first = main_pid()?;
    must(&format!("kill -9 {first}"))?;
    refused()?;
    wait_for("another daemon", Duration::from_secs(60), || {
        let now = main_pid()?;
        Ok(now != 0 && now != first && status()?["pid"].as_u64() == Some(now))
    })?;
    let seen = status()?;
    ensure!(
        seen["degraded"].as_array().is_some_and(Vec::is_empty),
        "{:#}",
        seen["degraded"]
    );
    // What hangs with a pool's disk, and cannot be killed, is not waited for.
    let name = pool.name().to_owned();
    must(&format!(
        "dmsetup suspend --noflush --nolockfs {name}-metadata; \
         dd if=/dev/zero of={thin} bs=64K count=4 oflag=direct conv=fsync status=none > /dev/null 2>&1 & sleep 3"
    ))?;
    let began = Instant::now();
    systemctl("restart bulkhead")?;
    let took = began.elapsed();
    println!("    a restart beside a pool that hangs took {took:?}");
    ensure!(took < Duration::from_secs(60), "{took:?}");
    must(&format!("dmsetup resume {name}-metadata"))?;
    // Nor does a stop.
    systemctl("stop bulkhead")?;
    refused()?;
    drop(manager);
    // One that releases everything takes it over.
    let policy = Policy::enforce("pids: {max: 4000}")?;
    Daemon::start(&policy, &[])?.stop()?;
    ensure!(came(None, &format!("blkdiscard {thin}"))? == Came::Done);
    Ok(())
}

/// Whether this boot has begun to activate anything and is not done.
fn markers() -> usize {
    fs::read_dir(FOLDER).map_or(0, Iterator::count)
}

fn activates() -> Result<()> {
    const GROUP: &str = "bulkhead_group";
    let _ = fs::remove_dir_all(FOLDER);
    let mut pool = Pool::none()?;
    let device = pool.attach("volumes", 256 << 20)?;
    must(&format!(
        "pvcreate -q {device}; vgcreate -q {GROUP} {device}; lvcreate -q -L 64M --thinpool pool {GROUP}; lvchange -an {GROUP}/pool"
    ))?;
    let manager = Manager::start(&[THIN])?;
    must(&format!(
        "XDG_RUNTIME_DIR={RUNTIME} systemctl --user set-environment DM_DISABLE_UDEV=1"
    ))?;
    let unit = format!("bulkhead-thin@{GROUP}-pool");
    let is_active = || -> Result<bool> {
        Ok(must(&format!("lvs --noheadings -o lv_active {GROUP}/pool"))?.trim() == "active")
    };
    let tried = (|| {
        ensure!(!is_active()?, "it is active before");
        systemctl(&format!("start {unit}"))?;
        ensure!(is_active()? && markers() == 0, "{} markers", markers());
        systemctl(&format!("stop {unit}"))?;
        must(&format!("lvchange -an {GROUP}/pool"))?;
        // As a kernel that died meanwhile leaves it.
        succeed(&["thin", "activate", &format!("{GROUP}/pool"), "--begin"])?;
        crash()?;
        ensure!(systemctl(&format!("start {unit}")).is_err(), "it starts");
        ensure!(!is_active()? && markers() == 1, "it is active");
        let said = systemctl(&format!("status {unit}"))
            .err()
            .map(|error| format!("{error:#}"));
        println!(
            "    {}",
            said.unwrap_or_default().lines().last().unwrap_or_default()
        );
        // Until somebody says otherwise.
        let pool = format!("{GROUP}/pool");
        succeed(&["thin", "activate", &pool, "--override", "--", "true"])?;
        systemctl(&format!(
            "reset-failed {unit}; XDG_RUNTIME_DIR={RUNTIME} systemctl --user start {unit}"
        ))?;
        ensure!(is_active()? && markers() == 0);
        Ok(())
    })();
    drop(manager);
    must(&format!(
        "vgchange -an {GROUP}; vgremove -fy {GROUP}; pvremove {device}"
    ))?;
    tried
}

fn starts_docker() -> Result<()> {
    const DATA: &str = "/tmp/bulkhead-unit-docker";
    let _ = fs::remove_dir_all(FOLDER);
    let own = format!(
        "[Service]\nType=notify\nExecStart=/usr/sbin/dockerd --storage-driver=vfs --iptables=false --bridge=none --data-root={DATA} \
         --exec-root={DATA}/run --pidfile={DATA}/pid --host=unix://{DATA}/socket\nTimeoutStartSec=120\n"
    );
    let manager = Manager::start(&[("docker.service", &own), DOCKER])?;
    let answers = || {
        must(&format!(
            "timeout 60 docker --host unix://{DATA}/socket version"
        ))
        .is_ok()
    };
    let tried = (|| {
        systemctl("start docker")?;
        ensure!(answers() && markers() == 0, "{} markers", markers());
        systemctl("stop docker")?;
        // A start that fails is no crash.
        let wrong = own.replace("--storage-driver=vfs", "--storage-driver=none");
        let file = PathBuf::from(RUNTIME).join("systemd/user/docker.service");
        fs::write(&file, wrong)?;
        systemctl("daemon-reload")?;
        ensure!(systemctl("start docker").is_err() && markers() == 0);
        fs::write(&file, &own)?;
        systemctl(
            "daemon-reload; XDG_RUNTIME_DIR=/run/user/0 systemctl --user reset-failed docker",
        )?;
        // A kernel that dies while it starts leaves a marker.
        succeed(&["thin", "activate", "docker", "--begin"])?;
        crash()?;
        ensure!(systemctl("start docker").is_err(), "it starts");
        ensure!(!answers() && markers() == 1, "{} markers", markers());
        succeed(&["thin", "activate", "docker", "--override", "--", "true"])?;
        systemctl(
            "reset-failed docker; XDG_RUNTIME_DIR=/run/user/0 systemctl --user start docker",
        )?;
        ensure!(answers() && markers() == 0);
        systemctl("stop docker").map(drop)
    })();
    drop(manager);
    let _ = fs::remove_dir_all(DATA);
    tried
}
