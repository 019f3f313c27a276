//! The kernel log refused to it, a logger in a container goes on with everything else, says what it lacks, and does not spin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, lower_rung},
    hazards::{Needs, Scenario, has},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::rsyslogd_in_a_container_goes_on_without_it",
        needs: Needs::Patience,
        run: rsyslogd_in_a_container_goes_on_without_it,
    },
    Scenario {
        name: "kernel_log::lower_rung_lets_rsyslogd_in_a_container_go_on",
        needs: Needs::Patience,
        run: lower_rung_lets_rsyslogd_in_a_container_go_on,
    },
    Scenario {
        name: "kernel_log::journald_in_a_container_goes_on_without_it",
        needs: Needs::Patience,
        run: journald_in_a_container_goes_on_without_it,
    },
    Scenario {
        name: "kernel_log::lower_rung_lets_journald_in_a_container_go_on",
        needs: Needs::Patience,
        run: lower_rung_lets_journald_in_a_container_go_on,
    },
];

const RULE: &str = "deny: [kernel_log.read, kernel_log.clear, kernel_log.write]";
const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";
/// How long anything may take on an emulated processor.
const LONG: Duration = Duration::from_secs(30);
/// How long a logger is watched for what it uses of a processor, and what it may.
const WATCHED: Duration = Duration::from_secs(5);
const MAY_USE: Duration = Duration::from_secs(1);

/// What a logger says when a read, or an open, of the kernel log is refused.
const REFUSED: &str = "Operation not permitted";

/// Which logger, by the way in which it reads the kernel log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    /// rsyslogd, from `/proc/kmsg`.
    Imklog,
    /// rsyslogd, from `/dev/kmsg`.
    Imkmsg,
    /// systemd-journald, from `/dev/kmsg`.
    Journald,
}

impl With {
    const fn name(self) -> &'static str {
        match self {
            Self::Imklog => "rsyslogd with imklog",
            Self::Imkmsg => "rsyslogd with imkmsg",
            Self::Journald => "systemd-journald",
        }
    }
}

/// A logger in a container, and what runs in the same mount namespace.
struct Logger {
    with: With,
    child: Child,
    folder: PathBuf,
    lines: u32,
}

impl Logger {
    fn start(container: &Cgroup, with: With) -> Result<Self> {
        let folder = PathBuf::from(format!("/run/logger-{}", crate::cgroup::number()));
        fs::create_dir_all(&folder)?;
        let script = match with {
            With::Imklog | With::Imkmsg => {
                let module = if with == With::Imklog {
                    "imklog"
                } else {
                    "imkmsg"
                };
                fs::write(
                    folder.join("conf"),
                    format!(
                        "module(load=\"imuxsock\")\nmodule(load=\"{module}\")\n\
                         action(type=\"omfile\" file=\"{folder}/out\")\n",
                        folder = folder.display()
                    ),
                )?;
                format!(
                    "rm -f /dev/log; exec rsyslogd -n -f {folder}/conf -i {folder}/pid",
                    folder = folder.display()
                )
            }
            // In a place of its own for what it makes below /run and /var.
            With::Journald => format!(
                "mount -t tmpfs none /var/log; mkdir -p /run/systemd/journal {folder}/run; \
                 mount --bind {folder}/run /run/systemd; mkdir -p /run/systemd/journal /run/log/journal; \
                 ln -sfn /run/systemd/journal/dev-log /dev/log; \
                 test -s /etc/machine-id || echo 0123456789abcdef0123456789abcdef > /etc/machine-id; \
                 exec {JOURNALD}",
                folder = folder.display()
            ),
        };
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.join("said"))?)
            .stderr(fs::File::options().append(true).open(folder.join("said"))?);
        let child = container.enter(&mut command)?.spawn()?;
        let mut logger = Self {
            with,
            child,
            folder,
            lines: 0,
        };
        logger.takes_lines(container).context("at its start")?;
        Ok(logger)
    }

    /// All that it has logged.
    fn out(&self) -> Result<String> {
        match self.with {
            With::Imklog | With::Imkmsg => {
                Ok(fs::read_to_string(self.folder.join("out")).unwrap_or_default())
            }
            With::Journald => {
                let output = Command::new("journalctl")
                    .args([
                        "--directory=/run/log/journal",
                        "--output=short-monotonic",
                        "--no-pager",
                    ])
                    .output()
                    .context("cannot start journalctl")?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("said")).unwrap_or_default()
    }

    /// A line that a program in the container logs arrives.
    fn takes_lines(&mut self, container: &Cgroup) -> Result<()> {
        let mark = format!(
            "{}-line-{}",
            self.folder.file_name().unwrap_or_default().display(),
            self.lines
        );
        self.lines += 1;
        host::wait_for("the logger to take a line", LONG, || {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended with {status}: {}", self.said());
            }
            // To /dev/log, as syslog(3) does.
            let mut command = Command::new("nsenter");
            command
                .args(["--mount", "--target", &self.child.id().to_string()])
                .args(["busybox", "logger", &mark])
                .stderr(Stdio::null());
            let sent = container.enter(&mut command)?.status()?.success();
            thread::sleep(Duration::from_millis(300));
            Ok(sent && self.out()?.contains(&mark))
        })
        .with_context(|| {
            let out = self.out().unwrap_or_default();
            format!("{}\n{}", end(&self.said()), end(&out))
        })
    }

    /// Whether a line of the kernel's own arrives: loggers leave out what programs wrote there.
    fn reads_the_kernel(&self) -> Result<bool> {
        let lines = || Ok::<_, anyhow::Error>(self.out()?.matches("sysrq: HELP").count());
        let before = lines()?;
        fs::write("/proc/sysrq-trigger", "h")?;
        let more = || Ok(lines()? > before);
        Ok(host::wait_for("a line of the kernel log", Duration::from_secs(6), more).is_ok())
    }

    /// What it uses of a processor while it is watched.
    fn uses(&self) -> Result<Duration> {
        let before = used(self.child.id())?;
        for _ in 0..5 {
            fs::write("/proc/sysrq-trigger", "h")?;
            thread::sleep(WATCHED / 5);
        }
        Ok(used(self.child.id())?.saturating_sub(before))
    }

    /// Lines by which it says that it lacks the kernel log.
    fn complaints(&self) -> Result<Vec<String>> {
        let all = format!("{}\n{}", self.said(), self.out()?);
        let about = ["klog", "kmsg", "kernel log"];
        Ok(all
            .lines()
            .filter(|line| about.iter().any(|word| line.contains(word)))
            .filter(|line| {
                line.contains("ailed")
                    || line.contains("rror")
                    || line.contains(REFUSED)
                    || line.contains("cannot")
            })
            .map(str::to_owned)
            .collect())
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file("/dev/log");
        if self.with == With::Journald {
            let _ = fs::remove_dir_all("/run/log/journal");
        }
    }
}

/// The last lines of a text that may be long.
fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Time that a process has had on a processor, all its threads together.
fn used(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit_once(')').context("no name in stat")?.1;
    let field = |number: usize| {
        let fields = after.split_whitespace().nth(number);
        fields
            .and_then(|field| field.parse::<u64>().ok())
            .context("no number in stat")
    };
    // utime and stime, in hundredths of a second (proc(5), and USER_HZ on x86-64).
    Ok(Duration::from_millis((field(11)? + field(12)?) * 10))
}

/// Starts a logger before the daemon or after it, and looks what became of it.
fn one(arguments: &[&str], with: With, first: bool, reads: bool) -> Result<()> {
    watch(arguments, with, first, reads).map(drop)
}

/// The same; gives what it uses of a processor, where that is more than it may.
fn watch(arguments: &[&str], with: With, first: bool, reads: bool) -> Result<Option<Duration>> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce(RULE)?;
    let mut early = None;
    if first {
        let logger = Logger::start(&container, with)?;
        ensure!(
            logger.reads_the_kernel()?,
            "{} reads nothing without Bulkhead",
            with.name()
        );
        early = Some(logger);
    }
    let _daemon = Daemon::start(&policy, arguments)?;
    let mut logger = match early {
        Some(logger) => logger,
        None => Logger::start(&container, with)?,
    };
    if first {
        // One that waits in read(2) has been let in: it gets what comes next, once.
        logger.reads_the_kernel()?;
    }
    let does = logger.reads_the_kernel()?;
    ensure!(
        does == reads,
        "{}, started {}: {} the kernel log\n{}",
        with.name(),
        if first { "before" } else { "after" },
        if does { "reads" } else { "does not read" },
        end(&logger.complaints()?.join("\n"))
    );
    logger
        .takes_lines(&container)
        .context("once the kernel log is refused")?;
    let used = logger.uses()?;
    logger.takes_lines(&container).context("after a while")?;
    println!(
        "    {}, started {}: {}; logs the rest; {} ms of a processor in {} s",
        with.name(),
        if first { "before Bulkhead" } else { "after it" },
        if does {
            "the kernel log is open to it"
        } else {
            "the kernel log is refused to it"
        },
        used.as_millis(),
        WATCHED.as_secs()
    );
    let complaints = logger.complaints()?;
    for line in complaints.iter().take(3) {
        println!("      {line}");
    }
    let spins = used >= MAY_USE || complaints.len() >= 20;
    ensure!(
        !spins || first && with != With::Journald,
        "it spins: {} ms, and complains {} times",
        used.as_millis(),
        complaints.len()
    );
    if spins {
        println!("      and so on, {} times: it spins", complaints.len());
    }
    Ok(spins.then_some(used))
}

fn rsyslogd_in_a_container_goes_on_without_it() -> Result<()> {
    one(&[], With::Imklog, false, false)?;
    one(&[], With::Imkmsg, false, false)?;
    // One that has the kernel log open when it is refused: by rsyslog's own fault imklog then never stops to read what it has
    // closed (8.2302), whatever the error was. That is known and told, and ends with its restart.
    for with in [With::Imklog, With::Imkmsg] {
        watch(&[], with, true, false)?;
    }
    Ok(())
}

fn lower_rung_lets_rsyslogd_in_a_container_go_on() -> Result<()> {
    // What it reads by opening the node is refused; the other ways are those that `doctor` calls open.
    for (with, first, reads) in [
        (With::Imkmsg, false, false),
        (With::Imkmsg, true, true),
        (With::Imklog, false, true),
    ] {
        one(lower_rung(), with, first, reads)?;
    }
    Ok(())
}

fn journald_in_a_container_goes_on_without_it() -> Result<()> {
    if !Path::new(JOURNALD).exists() || !has("journalctl") {
        println!("skipping: no systemd-journald here");
        return Ok(());
    }
    one(&[], With::Journald, false, false)?;
    one(&[], With::Journald, true, false)
}

fn lower_rung_lets_journald_in_a_container_go_on() -> Result<()> {
    if !Path::new(JOURNALD).exists() || !has("journalctl") {
        println!("skipping: no systemd-journald here");
        return Ok(());
    }
    one(lower_rung(), With::Journald, false, false)?;
    one(lower_rung(), With::Journald, true, true)
}
