//! Runs a probe in a cgroup and reads its counts.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::{
    cgroup::Cgroup,
    host::release,
    probe::{cost::Costs, tally::Counted},
};

/// The program of all probes.
pub const PROBE: &str = "/usr/local/bin/bulkhead-probe";

/// A probe that runs.
pub struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

/// Starts a probe (`bomb --how fork --seconds 10`) in a cgroup; on the host's own if there is none.
///
/// # Errors
/// It cannot be started.
pub fn start(cgroup: Option<&Cgroup>, arguments: &str) -> Result<Running> {
    let mut command = Command::new(PROBE);
    command.args(arguments.split_whitespace());
    start_by(cgroup, command).with_context(|| format!("cannot start the probe {arguments}"))
}

/// Runs a program to its end, in a cgroup or on the host's own, with no input; what it says to its errors is kept.
///
/// # Errors
/// It cannot be started.
pub fn output(cgroup: Option<&Cgroup>, mut command: Command) -> Result<Output> {
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(cgroup) = cgroup {
        cgroup.enter(&mut command)?;
    }
    Ok(command.spawn()?.wait_with_output()?)
}

/// Whether a script of the shell does what it is to, or is refused with EPERM.
///
/// # Errors
/// It fails for another reason.
pub fn may(cgroup: Option<&Cgroup>, script: &str) -> Result<bool> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let output = output(cgroup, command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // In conntrack's words for it as well, in mount's, and in those of unshare(2) before 6.1.
    let is_refused = [
        "Operation not permitted",
        "permission denied.",
        "you must be root or get CAP_NET_ADMIN",
    ];
    let as_memory = release() < (6, 1) && said.contains("Cannot allocate memory");
    if !output.status.success()
        && !as_memory
        && !is_refused.iter().any(|words| said.contains(words))
    {
        bail!("{script}: {} {said}", output.status);
    }
    Ok(output.status.success())
}

/// Runs a probe to its end that a shell starts, after whatever it does first.
///
/// # Errors
/// It failed.
pub fn run_by(cgroup: &Cgroup, script: &str) -> Result<Counted> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    start_by(Some(cgroup), command)?.finish()
}

fn start_by(cgroup: Option<&Cgroup>, mut command: Command) -> Result<Running> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(cgroup) = cgroup {
        cgroup.enter(&mut command)?;
    }
    let mut child = command.spawn()?;
    let output = child.stdout.take().context("the probe has no output")?;
    Ok(Running {
        child,
        output: BufReader::new(output),
    })
}

/// Runs a probe in a cgroup to its end.
///
/// # Errors
/// It failed.
pub fn run(cgroup: &Cgroup, arguments: &str) -> Result<Counted> {
    start(Some(cgroup), arguments)?.finish()
}

/// Starts a leak, and waits until it has all that it is to have or is refused for the first time.
///
/// # Errors
/// It failed.
pub fn leak(cgroup: &Cgroup, arguments: &str) -> Result<(Running, Counted)> {
    let mut running = start(Some(cgroup), &format!("leak {arguments}"))?;
    let counted = running.counted()?;
    Ok((running, counted))
}

/// Runs a cost probe to its end.
///
/// # Errors
/// It failed.
pub fn costs(cgroup: Option<&Cgroup>, arguments: &str) -> Result<Costs> {
    start(cgroup, arguments)?.line()
}

impl Running {
    /// The next line of counts.
    ///
    /// # Errors
    /// The probe ended without one.
    pub fn counted(&mut self) -> Result<Counted> {
        self.line()
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            !line.is_empty(),
            "the probe said nothing and ended: {:?}",
            self.child.wait()
        );
        serde_json::from_str(&line).with_context(|| format!("the probe said {line}"))
    }

    /// Tells it to come to an end, and reads its last counts.
    ///
    /// # Errors
    /// The probe failed.
    pub fn finish(mut self) -> Result<Counted> {
        drop(self.child.stdin.take());
        let counted = self.counted()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the probe ended with {status}");
        Ok(counted)
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// What wait(2) said.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
