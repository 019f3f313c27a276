//! What is done before anything is executed in a container is its runtime's: not refused, and not counted.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ACTION, Needs, RULE, Scenario, count};
use crate::{
    bed::{PROBE, may},
    cgroup::{Cgroup, is_v2},
    daemon::{Daemon, Policy, status},
    host::wait_for,
};

/// Setting up.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "user_namespace::until_something_is_executed_a_container_is_being_set_up",
        needs: Needs::Refusing,
        run: until_executed,
    },
    Scenario {
        name: "user_namespace::moving_about_in_a_container_does_not_set_it_up_again",
        needs: Needs::Refusing,
        run: moved_about,
    },
    Scenario {
        name: "user_namespace::a_process_number_that_comes_again_is_another_process",
        needs: Needs::Ordinary,
        run: number_again,
    },
];

/// Before anything is executed that has a path.
const SETTING_UP: [&str; 8] = [
    "--way unshare",
    "--way unshare32",
    "--way clone",
    "--way clone3",
    "--then fork",
    "--then mounts",
    "--then memfd",
    "--then fork --then memfd --way clone",
];

/// Afterwards, or from another mount namespace.
const SET_UP: [&str; 6] = [
    "--then exec",
    "--then exec --way clone3",
    "--then memfd --then exec",
    "--then fork --then exec",
    "--then exec --then memfd",
    "--then mounts --then memfd",
];

fn until_executed() -> Result<()> {
    let container = Cgroup::container()?;
    let folder = container.folder().display();
    let policy = Policy::enforce(RULE)?;
    let joined = |rest: &str| format!("bulkhead-probe user-namespace --join {folder} {rest}");
    let made_in =
        |rest: &str| format!("bulkhead-probe user-namespace --into {folder} --then into {rest}");
    for rest in SETTING_UP.iter().chain(&SET_UP) {
        ensure!(may(None, &joined(rest))?, "without Bulkhead: {rest}");
    }
    let _daemon = Daemon::start(&policy, &[])?;
    for rest in SETTING_UP {
        ensure!(may(None, &joined(rest))?, "refused: {rest}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, ACTION, "refused")? == 0);
    for rest in SET_UP {
        ensure!(!may(None, &joined(rest))?, "not refused: {rest}");
    }
    if is_v2() {
        ensure!(may(None, &made_in(""))?, "refused: made in it");
        ensure!(!may(None, &made_in("--then exec"))?, "made in it, executed");
    }
    let refused = SET_UP.len() as u64 + u64::from(is_v2());
    ensure!(count(&status()?, &container, ACTION, "refused")? == refused);
    Ok(())
}

fn moved_about() -> Result<()> {
    let container = Cgroup::container()?;
    let nested = ["one", "two"].map(|name| Cgroup::at(&format!("{}/{name}", container.path)));
    let [Ok(one), Ok(two)] = nested else {
        bail!("the container has no nested cgroups");
    };
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    // By the host, into the container and within it.
    let from_outside = Stopped::start(None, &["stop"])?;
    from_outside.move_to(&one)?;
    ensure!(from_outside.goes_on()?, "it was put there, and is refused");
    // In another mount namespace than who puts it there: what it executes then is not its runtime's.
    for (steps, made) in [
        (&["mounts", "stop"][..], true),
        (&["mounts", "stop", "memfd"], false),
    ] {
        let apart = Stopped::start(None, steps)?;
        apart.move_to(&one)?;
        ensure!(apart.goes_on()? == made, "{steps:?}: not {made}");
    }
    let within = Stopped::start(Some(&one), &["stop"])?;
    within.move_to(&two)?;
    ensure!(!within.goes_on()?, "it executed something, and was moved");
    // By itself.
    let script = format!(
        "bulkhead-probe user-namespace --join {}",
        two.folder().display()
    );
    ensure!(!may(Some(&one), &script)?, "it moved itself");
    Ok(())
}

fn number_again() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    for _ in 0..20 {
        let first = Stopped::start(None, &["stop"])?;
        first.move_to(&container)?;
        let number = first.number();
        drop(first);
        let second = Stopped::start(Some(&container), &["stop", "fork"])?;
        fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string())?;
        let (made, said) = second.ends()?;
        if said.trim() == number.to_string() {
            ensure!(!made, "another process with the number {number} is set up");
            return Ok(());
        }
    }
    bail!("no process got the number of another in twenty attempts");
}

/// A probe that has stopped itself.
pub struct Stopped(Child);

impl Stopped {
    fn start(cgroup: Option<&Cgroup>, steps: &[&str]) -> Result<Self> {
        let mut command = Self::command(Path::new(PROBE), steps);
        if let Some(cgroup) = cgroup {
            cgroup.enter(&mut command)?;
        }
        let stopped = Self(command.spawn()?);
        stopped.stops()?;
        Ok(stopped)
    }

    /// One that will stop itself, as soon as its exec is through.
    pub fn coming(probe: &Path, steps: &[&str]) -> Result<Self> {
        Ok(Self(Self::command(probe, steps).spawn()?))
    }

    fn command(probe: &Path, steps: &[&str]) -> Command {
        let mut command = Command::new(probe);
        command.arg("user-namespace").stdout(Stdio::piped());
        for step in steps {
            command.args(["--then", step]);
        }
        command
    }

    /// Waits until it does.
    pub fn stops(&self) -> Result<()> {
        let path = format!("/proc/{}/stat", self.0.id());
        wait_for("it to stop", Duration::from_secs(20), || {
            let stat = fs::read_to_string(&path)?;
            Ok(stat
                .rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T')))
        })
    }

    /// Of its process.
    pub fn number(&self) -> i32 {
        self.0.id() as i32
    }

    /// Moves it into a cgroup.
    pub fn move_to(&self, cgroup: &Cgroup) -> Result<()> {
        cgroup.write("cgroup.procs", &self.number().to_string())
    }

    /// Whether it makes one.
    pub fn goes_on(self) -> Result<bool> {
        Ok(self.ends()?.0)
    }

    fn ends(mut self) -> Result<(bool, String)> {
        kill(Pid::from_raw(self.number()), Signal::SIGCONT)?;
        let mut said = String::new();
        (self.0.stdout.take())
            .context("no output")?
            .read_to_string(&mut said)?;
        Ok((self.0.wait()?.success(), said))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
