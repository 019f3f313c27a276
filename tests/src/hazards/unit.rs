//! The unit that comes with Bulkhead: within its bounds the daemon does all that it does without.

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
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, status},
    host::wait_for,
};

/// All scenarios.
pub const SCENARIOS: &[&[Scenario]] = &[&[Scenario {
    name: "unit::within_its_bounds_nothing_is_degraded_and_a_stop_or_a_kill_opens_no_gap",
    needs: Needs::Ends,
    run: unit,
}]];

const UNIT: &str = include_str!("../../../packaging/bulkhead.service");
/// Where the policy is that the unit's daemon reads.
const POLICY: &str = "/etc/bulkhead/policy.yaml";
const RUNTIME: &str = "/run/user/0";

/// systemd as a user's manager, root's: one for the whole host must be its first process.
struct Manager(Child);

impl Manager {
    fn start() -> Result<Self> {
        let units = PathBuf::from(RUNTIME).join("systemd/user");
        fs::create_dir_all(&units)?;
        // Without that it says that the host has no systemd.
        fs::create_dir_all("/run/systemd/system")?;
        let own = UNIT.replace("/usr/bin/bulkhead", "/usr/local/bin/bulkhead");
        fs::write(units.join("bulkhead.service"), own)?;
        let cgroup = Cgroup::at("/manager")?;
        let mut command = Command::new("/lib/systemd/systemd");
        command
            .args(["--user", "--log-target=console"])
            .env("XDG_RUNTIME_DIR", RUNTIME)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        cgroup.enter(&mut command)?;
        let manager = Self(command.spawn().context("systemd")?);
        std::mem::forget(cgroup);
        wait_for("systemd", Duration::from_secs(60), || {
            Ok(systemctl("is-system-running").is_ok() || systemctl("list-jobs").is_ok())
        })?;
        Ok(manager)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = systemctl("stop bulkhead");
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_file(POLICY);
        let _ = must("rmdir /sys/fs/cgroup/manager/*/ /sys/fs/cgroup/manager");
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
    let manager = Manager::start()?;
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
