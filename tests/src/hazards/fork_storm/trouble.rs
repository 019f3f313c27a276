//! Trouble: a host that hides its type information, a daemon that hangs, a user who makes names without end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::Signal,
};

use super::{RULE, refuses};
use crate::{
    bed,
    cgroup::{Cgroup, folder_of, number, remove_below},
    daemon::{Daemon, Policy, counters, status, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::on_a_plain_kernel_nothing_is_degraded_whatever_is_denied",
        needs: Needs::Compared,
        run: on_a_plain_kernel_nothing_is_degraded_whatever_is_denied,
    },
    Scenario {
        name: "fork_storm::without_type_information_the_pids_controller_holds_the_cap",
        needs: Needs::Ends,
        run: without_type_information_the_pids_controller_holds_the_cap,
    },
    Scenario {
        name: "fork_storm::a_start_that_cannot_recognise_leaves_the_last_ones_enforcement",
        needs: Needs::Ends,
        run: a_start_that_cannot_recognise_leaves_the_last_ones_enforcement,
    },
    Scenario {
        name: "fork_storm::off_works_beside_a_daemon_that_hangs",
        needs: Needs::Ends,
        run: off_works_beside_a_daemon_that_hangs,
    },
    Scenario {
        name: "fork_storm::a_user_takes_no_other_users_room",
        needs: Needs::Ends,
        run: a_user_takes_no_other_users_room,
    },
];

/// Every action, and limits of forks.
pub const EVERYTHING: &str = "forks: {rate: 1000/s, burst: 1000}
deny:
  - kernel_log.read
  - kernel_log.clear
  - kernel_log.write
  - bridge.create
  - net_link.create
  - socket: {families: [vsock]}
  - netlink: {families: [nf_tables]}
  - user_namespace.create
  - module.load
  - module.autoload
  - bpf
  - mount
  - net_namespace.create
  - perf_event_open
  - key.create
  - io_uring
  - userfaultfd
  - ptrace
  - swap
  - reboot
  - sysrq
  - device.open: {devices: ['char 1:5']}
  - device_mapper.control
  - cgroup.move_out
  - discard
  - traffic_control: {kinds: [hfsc]}
  - kernel_setting.write: {paths: ['**/release_agent']}";

const CAPPED: &str = "forks: {rate: 20/s, burst: 40}\npids: {max: 60}";

/// A program that the kernel refuses is told of, and the rest goes on: so nobody would notice.
fn on_a_plain_kernel_nothing_is_degraded_whatever_is_denied() -> Result<()> {
    // Where there is none, its hook has nothing to be tried on.
    let loaded = Command::new("modprobe").arg("dm_mod").status()?;
    ensure!(loaded.success(), "there is no device mapper");
    let policy = Policy::enforce(EVERYTHING)?;
    let _daemon = Daemon::start(&policy, &[])?;
    // What only tells is attached once the daemon is ready.
    std::thread::sleep(Duration::from_secs(3));
    let seen = status()?;
    // `cargo xtask rungs` makes a table of it.
    for hook in seen["hooks"].as_array().context("no hooks")? {
        let word = |key: &str| hook[key].as_str().unwrap_or_default().to_owned();
        println!(
            "rung | {} | {} | {} | {}",
            word("hazard"),
            word("hook"),
            word("rung"),
            word("state")
        );
    }
    let degraded = seen["degraded"].as_array().context("no degraded")?;
    ensure!(degraded.is_empty(), "{degraded:?}");
    ensure!(seen["state"] == "ENFORCING", "{}", seen["state"]);
    Ok(())
}

/// The kernel's type information, hidden behind an empty file.
struct Hidden;

/// Where the kernel shows its type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";

impl Hidden {
    fn new() -> Result<Self> {
        let empty = PathBuf::from("/run/bulkhead-test-empty");
        fs::write(&empty, "")?;
        mount(
            Some(&empty),
            BTF,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("cannot hide {BTF}"))?;
        Ok(Self)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = umount(BTF) {
            println!("    {BTF} stays hidden: {error}");
        }
    }
}

fn without_type_information_the_pids_controller_holds_the_cap() -> Result<()> {
    let hidden = Hidden::new()?;
    let policy = Policy::enforce(CAPPED)?;
    let before = Cgroup::container()?;
    let mut daemon = Daemon::spawn(&policy, &[], &[])?;
    host::wait_for("the daemon", Duration::from_secs(60), || {
        Ok(status().is_ok_and(|status| status["ready"] == true))
    })
    .with_context(|| daemon.log())?;
    let said = status()?;
    println!(
        "    {} on {}: {}",
        said["state"], said["rung"], said["degraded"]
    );
    ensure!(
        said["state"] == "DEGRADED" && said["rung"] == "setting",
        "it says {} on {}",
        said["state"],
        said["rung"]
    );
    ensure!(
        said["degraded"].to_string().contains("type information"),
        "it does not say why: {}",
        said["degraded"]
    );
    // One that was there, one that is new, and what is nobody's.
    let (after, service) = (Cgroup::container()?, Cgroup::service()?);
    for container in [&before, &after] {
        host::wait_for("pids.max", Duration::from_secs(15), || {
            Ok(container.read("pids.max")? == "60")
        })?;
    }
    let (_leak, held) = bed::leak(&after, "--what process --once")?;
    ensure!(held.made == 59, "{} made with a cap of 60", held.made);
    let free = bed::run(&service, "bomb --attempts 200")?;
    ensure!(free.made == 200, "the host was refused: {free:?}");
    daemon.stop()?;
    ensure!(
        before.read("pids.max")? == "max",
        "the stop left pids.max behind"
    );
    drop(hidden);
    // The same host, with its type information again.
    let _daemon = Daemon::start(&policy, &[])?;
    refuses(&before)
}

fn a_start_that_cannot_recognise_leaves_the_last_ones_enforcement() -> Result<()> {
    let policy = Policy::enforce(RULE)?;
    let mut first = Daemon::start(&policy, &["--keep-on-stop"])?;
    first.stop()?;
    let container = Cgroup::container()?;
    refuses(&container).context("after the first daemon's stop")?;
    let hidden = Hidden::new()?;
    let mut second = Daemon::spawn(&policy, &[], &[])?;
    let ended = second.wait()?;
    println!("    {}", second.log().trim_end());
    ensure!(!ended.success(), "it ended with {ended}");
    refuses(&container).context("after the start that failed")?;
    refuses(&Cgroup::container()?).context("a new container after it")?;
    drop(hidden);
    let mut third = Daemon::start(&policy, &[])?;
    refuses(&container).context("after a start that worked")?;
    third.stop()
}

fn off_works_beside_a_daemon_that_hangs() -> Result<()> {
    let policy = Policy::enforce(CAPPED)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    host::wait_for("pids.max", Duration::from_secs(20), || {
        Ok(container.read("pids.max")? == "60")
    })?;
    daemon.signal(Signal::SIGSTOP)?;
    refuses(&container).context("while the daemon hangs")?;
    let said = succeed(&["off"])?;
    println!("    {}", said.replace('\n', "\n    ").trim_end());
    ensure!(
        said.contains("does not answer"),
        "off does not say that a daemon hangs"
    );
    let free = bed::run(&container, "bomb --attempts 300")?;
    ensure!(free.made == 300, "refused after off: {free:?}");
    ensure!(
        container.read("pids.max")? == "max",
        "off left pids.max behind"
    );
    // Come to, it keeps to the switch, and takes it up again when told to.
    daemon.signal(Signal::SIGCONT)?;
    host::wait_for("the daemon to see it", Duration::from_secs(10), || {
        Ok(status()?["state"] == "OFF")
    })?;
    let free = bed::run(&container, "bomb --attempts 300")?;
    ensure!(
        free.made == 300,
        "refused by the daemon that came to: {free:?}"
    );
    ensure!(
        container.read("pids.max")? == "max",
        "the daemon that came to wrote pids.max"
    );
    succeed(&["on"])?;
    daemon.wait_ready()?;
    refuses(&container)?;
    host::wait_for("pids.max again", Duration::from_secs(20), || {
        Ok(container.read("pids.max")? == "60")
    })?;
    daemon.stop()?;
    ensure!(
        container.read("pids.max")? == "max",
        "the stop left pids.max behind"
    );
    Ok(())
}

/// A name that a user can make himself.
fn of_user(user: u32, number: u32) -> String {
    format!(
        "/user.slice/user-{user}.slice/user@{user}.service/user.slice/libpod-{number:064x}.scope"
    )
}

fn a_user_takes_no_other_users_room() -> Result<()> {
    // More than one user may have, and fewer than all users together.
    const NAMES: u32 = 600;
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let first = Cgroup::at(&of_user(1000, number()))?;
    let names: Vec<PathBuf> = (0..NAMES)
        .map(|_| folder_of(&of_user(1000, number())))
        .collect();
    for name in &names {
        fs::create_dir(name).with_context(|| format!("cannot make {}", name.display()))?;
    }
    let known = |user: &str| -> Result<usize> {
        Ok(status()?["containers"].as_array().map_or(0, |containers| {
            containers
                .iter()
                .filter(|one| {
                    one["cgroup"]
                        .as_str()
                        .is_some_and(|path| path.contains(user))
                })
                .count()
        }))
    };
    let losses = status()?["losses"].clone();
    println!(
        "    a user made {}: {} are known, losses {losses}",
        NAMES + 1,
        known("user@1000")?
    );
    ensure!(
        losses["unrecognised"].as_u64().unwrap_or(0) > 0,
        "the user had no limit: {losses}"
    );
    // His first is held; another user's and Docker's find room.
    let others = [Cgroup::at(&of_user(1001, number()))?, Cgroup::container()?];
    for container in others.iter().chain([&first]) {
        refuses(container).with_context(|| container.path.clone())?;
        // One that came untold, among so many, is found with the next tick.
        host::wait_for(&container.path, Duration::from_secs(10), || {
            Ok(counters(container)?.is_some_and(|seen| seen.refused > 0))
        })
        .context("it is not in status")?;
    }
    for name in &names {
        remove(name)?;
    }
    // Given back, his room is his again.
    let again = Cgroup::at(&of_user(1000, number()))?;
    refuses(&again).context("after he removed them")?;
    host::wait_for(
        "those that are gone to be gone",
        Duration::from_secs(10),
        || Ok(known("user@1000")? == 2),
    )
}

fn remove(folder: &Path) -> Result<()> {
    remove_below(folder).with_context(|| format!("cannot remove {}", folder.display()))
}
