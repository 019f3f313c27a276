//! The daemon as a test sees it: started, asked over its own verbs, killed, and its log shown when something is wrong.

use std::{
    fs,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::cgroup::{Cgroup, PATTERNS};

/// Where the pins are.
pub const PINS: &str = "/sys/fs/bpf/bulkhead";
/// What a daemon may take from start to ready, on an emulated processor.
const READY: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Logs of the daemons of the running test.
static LOGS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// What the daemons wrote since the last call, each log's end.
#[must_use]
pub fn take_logs() -> String {
    let logs = LOGS
        .lock()
        .map_or_else(|_| Vec::new(), |mut logs| std::mem::take(&mut *logs));
    let mut text = String::new();
    for log in logs {
        let all = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        text.push_str(&format!("the log of a daemon ({}):\n", log.display()));
        for line in &lines[lines.len().saturating_sub(30)..] {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// A policy, written for one test.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The policy's file.
    pub file: PathBuf,
    /// Its audit log.
    pub audit: PathBuf,
}

impl Policy {
    /// A policy that enforces `rule` (the fields of one rule, as YAML's flow or block lines) on all containers.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn enforce(rule: &str) -> Result<Self> {
        Self::write("enforce", rule, "reserve: {pids: 300}")
    }

    /// The policy that Bulkhead comes with, but for the place of its logs.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn built_in() -> Result<Self> {
        let policy = Self::write("enforce", "deny: [bridge.create]", "reserve: {pids: 300}")?;
        let folder = policy.file.parent().context("no folder")?;
        let text = include_str!("../../policies/default.yaml");
        policy.replace(&text.replace("/var/log/bulkhead", &folder.to_string_lossy()))?;
        Ok(policy)
    }

    /// The same with a mode and the `host` section's fields.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(mode: &str, rule: &str, host: &str) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/run/bulkhead-test-{number}"));
        fs::create_dir_all(&folder)?;
        let policy = Self {
            file: folder.join("policy.yaml"),
            audit: folder.join("audit.jsonl"),
        };
        policy.rewrite(mode, rule, host)?;
        Ok(policy)
    }

    /// Replaces the policy's text.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn rewrite(&self, mode: &str, rule: &str, host: &str) -> Result<()> {
        let text = format!(
            "version: 1\nmode: {mode}\nsubjects:\n  containers:\n    cgroups: {PATTERNS}\nrules:\n  - name: fork-storm\n    subjects: [containers]\n    severity: high\n{}host: {{{host}}}\naudit: {{file: {}}}\n",
            rule.lines()
                .map(|line| format!("    {}\n", line.trim()))
                .collect::<String>(),
            self.audit.display()
        );
        self.replace(&text)
    }

    /// Replaces the policy's file as an editor does.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace(&self, text: &str) -> Result<()> {
        let partial = self.file.with_extension("new");
        fs::write(&partial, text)?;
        Ok(fs::rename(&partial, &self.file)?)
    }

    /// The records so far.
    ///
    /// # Errors
    /// A line is not JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a record: {line}")))
            .collect()
    }
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// It runs on a rung that refuses no fork: `status` says so by its exit code.
    poor: bool,
    gone: bool,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or is not ready in time; its log is in the error.
    pub fn start(policy: &Policy, arguments: &[&str]) -> Result<Self> {
        Self::with(policy, arguments, &[])
    }

    /// The same, with environment variables.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn with(policy: &Policy, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let mut daemon = Self::spawn(policy, arguments, environment)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// The same, where it may never have a capability, as a unit's `CapabilityBoundingSet=` has it.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn without_capability(policy: &Policy, capability: &str) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-{capability}"))
            .arg("bulkhead");
        let mut daemon = Self::spawn_by(command, policy, &[], &[])?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts it as systemd does, and waits for its READY=1: nobody asks it anything meanwhile.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub fn notified(policy: &Policy, arguments: &[&str]) -> Result<Self> {
        let path = policy.file.with_extension("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(READY))?;
        let name = path.to_string_lossy();
        let daemon = Self::spawn(policy, arguments, &[("NOTIFY_SOCKET", &name)])?;
        let mut buffer = [0; 256];
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("the daemon is not ready:\n{}", daemon.log()))?;
        let said = String::from_utf8_lossy(&buffer[..length]);
        ensure!(said.contains("READY=1"), "the daemon said {said}");
        Ok(daemon)
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn spawn(
        policy: &Policy,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn_by(Command::new("bulkhead"), policy, arguments, environment)
    }

    fn spawn_by(
        mut command: Command,
        policy: &Policy,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = PathBuf::from(format!("/run/bulkhead-test-daemon-{number}.log"));
        let file = fs::File::create(&log)?;
        if let Ok(mut logs) = LOGS.lock() {
            logs.push(log.clone());
        }
        command
            .args(["run", "--policy"])
            .arg(&policy.file)
            .args(arguments)
            .args(forced_rung())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        // A terminal's Ctrl-C at the tests is not the daemon's.
        command.process_group(0);
        let child = command.spawn().context("cannot start bulkhead")?;
        Ok(Self {
            child,
            log,
            poor: poor_rung().is_some() || arguments.contains(&"observe"),
            gone: false,
        })
    }

    /// Waits until `status` says that everything is attached, tested and found.
    ///
    /// # Errors
    /// The daemon ended, or is not ready in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.gone = true;
                bail!("the daemon ended with {status}:\n{}", self.log());
            }
            let output = bulkhead(&["status", "--json"])?;
            if output.status.success() || (self.poor && said_ready(&output)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the daemon is not ready: {}{}\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .context("cannot signal the daemon")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on for half a minute.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.gone = true;
                return Ok(status);
            }
            ensure!(
                Instant::now() < until,
                "the daemon does not end:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not end, or not with 0.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        ensure!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            self.log()
        );
        Ok(())
    }

    /// Lets it read its policy again.
    ///
    /// # Errors
    /// It is gone.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let stopped = self.stop();
        if stopped.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Err(error) = stopped {
            println!("    {error:#}");
        }
    }
}

/// Runs a verb.
///
/// # Errors
/// It cannot be executed.
pub fn bulkhead(arguments: &[&str]) -> Result<Output> {
    Command::new("bulkhead")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start bulkhead")
}

/// Runs a verb that must succeed, and returns what it printed.
///
/// # Errors
/// It failed.
pub fn succeed(arguments: &[&str]) -> Result<String> {
    let output = bulkhead(arguments)?;
    ensure!(
        output.status.success(),
        "bulkhead {} failed with {}: {}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A hook was seen to refuse, as a status says.
///
/// # Errors
/// It was not, or there is none of that hazard and name.
pub fn enforcing(status: &Value, hazard: &str, name: &str) -> Result<()> {
    let mut hooks = status["hooks"].as_array().into_iter().flatten();
    let hook = hooks
        .find(|hook| hook["hazard"] == hazard && hook["hook"] == name)
        .with_context(|| format!("no hook {name} of {hazard}"))?;
    ensure!(hook["state"] == "ENFORCING", "{hook}");
    println!("    {name} {} on {}", hook["state"], hook["rung"]);
    Ok(())
}

/// What `status --json` says.
///
/// # Errors
/// It says no JSON.
pub fn status() -> Result<Value> {
    let output = bulkhead(&["status", "--json"])?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "status --json said {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// The rung that this boot forces, as arguments: `bulkhead.rung=observe` on the kernel's command line.
#[must_use]
pub fn forced_rung() -> Vec<String> {
    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("bulkhead.rung="))
        .take(1)
        .flat_map(|rung| ["--rung".to_owned(), rung.to_owned()])
        .collect()
}

/// Arguments that bring a daemon to a rung that refuses no fork, on any boot.
#[must_use]
pub fn lower_rung() -> &'static [&'static str] {
    if poor_rung().is_some() {
        &[]
    } else {
        &["--rung", "observe"]
    }
}

/// The rung on which nothing can be refused on this boot: the forced one, or the last where the kernel is locked down.
#[must_use]
pub fn poor_rung() -> Option<String> {
    let locked = fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|text| text.contains("[confidentiality]"));
    forced_rung()
        .into_iter()
        .nth(1)
        .or_else(|| locked.then(|| "setting".to_owned()))
        .filter(|rung| matches!(rung.as_str(), "observe" | "setting"))
}

fn said_ready(output: &Output) -> bool {
    serde_json::from_slice::<Value>(&output.stdout)
        .is_ok_and(|value| value["ready"].as_bool() == Some(true))
}

/// A container's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Forks allowed.
    pub allowed: u64,
    /// Forks refused, for any reason.
    pub refused: u64,
    /// Forks that enforcing would have refused.
    pub audited: u64,
}

/// A container's counters, from `status --json`; `None` if the daemon does not know it.
///
/// # Errors
/// `status` fails.
pub fn counters(cgroup: &Cgroup) -> Result<Option<Counters>> {
    let status = status()?;
    let sum = |value: &Value| match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Object(reasons) => reasons.values().filter_map(Value::as_u64).sum(),
        Value::Array(reasons) => reasons.iter().filter_map(Value::as_u64).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    };
    Ok(status["containers"]
        .as_array()
        .context("status has no containers")?
        .iter()
        .find(|container| container["cgroup"].as_str() == Some(&cgroup.path))
        .map(|container| Counters {
            allowed: sum(&container["allowed"]),
            refused: sum(&container["refused"]),
            audited: sum(&container["audited"]),
        }))
}

/// Takes away whatever an earlier test left: pins, and with them every program.
pub fn clear() {
    if Path::new(PINS).exists() {
        let _ = fs::remove_dir_all(PINS);
    }
}
