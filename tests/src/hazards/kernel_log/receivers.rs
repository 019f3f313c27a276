//! Receivers that a test starts: rsyslog, journald, and one that gives everything back.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use serde_json::Value;

use crate::host::wait_for;

/// How long anything may take on an emulated processor that others use too.
pub const SOON: Duration = Duration::from_secs(90);

/// The ways to rsyslog.
pub const WAYS: [&str; 3] = ["unix", "udp", "tcp"];

/// An rsyslogd that writes what it gets into files, as it took it apart.
pub struct Rsyslog {
    folder: PathBuf,
    child: Option<Child>,
}

impl Rsyslog {
    pub fn start(name: &str) -> Result<Self> {
        let folder = PathBuf::from(format!("/run/bulkhead-test-rsyslog-{name}"));
        fs::create_dir_all(&folder)?;
        // The host's own loopback is down in this machine.
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()?;
        ensure!(up.success(), "the loopback device cannot be set up");
        let place = folder.display();
        let mut config = format!(
            "global(workDirectory=\"{place}\" maxMessageSize=\"16k\")\n\
             module(load=\"imudp\")\nmodule(load=\"imtcp\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             template(name=\"apart\" type=\"string\" string=\"%pri%|%timegenerated:::date-year%|%timereported:::date-rfc3339%|\
             %app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n\")\n"
        );
        for way in WAYS {
            config.push_str(&format!(
                "ruleset(name=\"{way}\") {{ action(type=\"omfile\" file=\"{place}/{way}.log\" template=\"apart\") }}\n"
            ));
        }
        config.push_str(&format!(
            "input(type=\"imudp\" address=\"127.0.0.1\" port=\"5140\" rcvbufSize=\"4m\" ruleset=\"udp\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"6010\" ruleset=\"tcp\")\n\
             input(type=\"imuxsock\" Socket=\"{place}/unix\" UseSpecialParser=\"off\" ParseHostname=\"on\" \
             IgnoreTimestamp=\"off\" UseSysTimeStamp=\"off\" RateLimit.Interval=\"0\" ruleset=\"unix\")\n"
        ));
        fs::write(folder.join("rsyslog.conf"), config)?;
        let mut rsyslog = Self {
            folder,
            child: None,
        };
        rsyslog.run()?;
        Ok(rsyslog)
    }

    pub fn run(&mut self) -> Result<()> {
        let log = fs::File::create(self.folder.join("rsyslogd.out"))?;
        self.child = Some(
            Command::new("/usr/sbin/rsyslogd")
                .arg("-n")
                .arg("-f")
                .arg(self.folder.join("rsyslog.conf"))
                .arg("-i")
                .arg(self.folder.join("pid"))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("cannot start rsyslogd")?,
        );
        let socket = self.folder.join("unix");
        wait_for("rsyslogd's socket", SOON, || {
            Ok(UnixDatagram::unbound()?.connect(&socket).is_ok())
        })
        .with_context(|| fs::read_to_string(self.folder.join("rsyslogd.out")).unwrap_or_default())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("rsyslogd does not run")?;
        Ok(kill(Pid::from_raw(child.id().cast_signed()), signal)?)
    }

    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.folder.join("pid"));
        let _ = fs::remove_file(self.folder.join("unix"));
    }

    fn address(&self, way: &str) -> String {
        match way {
            "unix" => format!("unix:{}/unix", self.folder.display()),
            "udp" => "udp:127.0.0.1:5140".to_owned(),
            _ => "tcp:127.0.0.1:6010".to_owned(),
        }
    }

    /// A policy's outlets.
    pub fn outlets(&self, ways: &[&str]) -> String {
        let outlets = ways.iter().map(|way| {
            let address = self.address(way);
            format!("{{to: syslog, address: \"{address}\"}}")
        });
        format!("[{}]", outlets.collect::<Vec<_>>().join(", "))
    }

    pub fn got(&self, way: &str) -> Result<Vec<Got>> {
        let path = self.folder.join(format!("{way}.log"));
        let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| Got::read(line).with_context(|| format!("{way}: {line}")))
            .collect()
    }

    /// Waits until the last of the numbered lines came on a way.
    pub fn wait(&self, way: &str, text: &str) -> Result<()> {
        wait_for(&format!("{text} by {way}"), SOON, || {
            Ok(self.got(way)?.iter().rev().any(|got| got.text == text))
        })
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.end();
    }
}

/// A message as rsyslog took it apart.
#[derive(Debug)]
pub struct Got {
    pub pri: u64,
    pub time: String,
    pub name: String,
    pub kind: String,
    pub data: HashMap<String, String>,
    pub text: String,
}

impl Got {
    pub fn read(line: &str) -> Option<Self> {
        let mut parts = line.splitn(7, '|');
        let mut part = || parts.next().map(str::to_owned);
        let (pri, _year, time, name, _pid, kind) =
            (part()?, part()?, part()?, part()?, part()?, part()?);
        // A value may have a bar in it.
        let rest = part()?;
        let (data, text) = rest.split_once("]|").unwrap_or(("", &rest));
        let data = data.strip_prefix("[bulkhead@32473 ")?;
        let data = data
            .split("\" ")
            .filter_map(|field| field.split_once("=\""))
            .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect();
        Some(Self {
            pri: pri.parse().ok()?,
            time,
            name,
            kind,
            data,
            text: text.trim_start_matches([' ', '\u{feff}']).to_owned(),
        })
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        self.data.get(key)?.parse().ok()
    }
}

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where it may be.
const JOURNALD: [&str; 2] = [
    "/usr/lib/systemd/systemd-journald",
    "/lib/systemd/systemd-journald",
];

/// journald, where this machine has it; else its socket, read by the test.
pub enum Journal {
    /// The program.
    Real(Child),
    /// What has its protocol.
    Socket(UnixDatagram),
}

impl Journal {
    /// Starts it, or what stands in for it.
    pub fn start() -> Result<Self> {
        fs::create_dir_all("/run/systemd/journal")?;
        let Some(program) = JOURNALD.into_iter().find(|path| fs::metadata(path).is_ok()) else {
            let socket = UnixDatagram::bind(JOURNAL)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            return Ok(Self::Socket(socket));
        };
        fs::create_dir_all("/etc/systemd")?;
        fs::write("/etc/machine-id", format!("{:032x}\n", 7))?;
        // What it writes into the kernel log comes back: that is its worst.
        fs::write(
            "/etc/systemd/journald.conf",
            "[Journal]\nStorage=volatile\nForwardToKMsg=yes\nMaxLevelKMsg=debug\nRateLimitIntervalSec=0\n",
        )?;
        let child = Command::new(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let journal = Self::Real(child);
        wait_for("journald's socket", SOON, || {
            Ok(UnixDatagram::unbound()?.connect(JOURNAL).is_ok())
        })?;
        Ok(journal)
    }

    /// What it is.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Real(_) => "systemd-journald",
            Self::Socket(_) => "the native protocol",
        }
    }

    /// The entries of ours: all of them, or those that came since this was asked.
    pub fn entries(&mut self) -> Result<Vec<Value>> {
        match self {
            Self::Real(_) => {
                let output = Command::new("journalctl")
                    .args(["-o", "json", "--all", "--no-pager", "-t", "bulkhead-kernel"])
                    .output()?;
                str::from_utf8(&output.stdout)?
                    .lines()
                    .map(|line| Ok(serde_json::from_str(line)?))
                    .collect()
            }
            Self::Socket(socket) => {
                let (mut buffer, mut entries) = ([0; 65536], Vec::new());
                while let Ok(length) = socket.recv(&mut buffer) {
                    let fields = str::from_utf8(&buffer[..length])?
                        .lines()
                        .filter_map(|line| line.split_once('='))
                        .map(|(key, value)| (key.to_owned(), Value::from(value)))
                        .collect();
                    entries.push(Value::Object(fields));
                }
                Ok(entries)
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Self::Real(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(JOURNAL);
    }
}

/// What a receiver makes of a message.
pub type GivesBack = fn(&str) -> String;

/// A receiver that gives each line back to the kernel log.
pub struct Mirror {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    /// Its socket.
    pub path: PathBuf,
}

impl Mirror {
    pub fn start(name: &str, gives_back: GivesBack) -> Result<Self> {
        let path = PathBuf::from(format!("/run/bulkhead-test-{name}.sock"));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let mut log = fs::OpenOptions::new().write(true).open("/dev/kmsg")?;
        thread::spawn(move || {
            let mut buffer = [0; 9000];
            while !ended.load(Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let message = String::from_utf8_lossy(&buffer[..length]);
                    let line = gives_back(&message);
                    let end = line.floor_char_boundary(900);
                    let _ = log.write_all(format!("<14>{}\n", &line[..end]).as_bytes());
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { stop, count, path })
    }

    /// Waits until nothing comes back any more; how many lines did.
    pub fn settles(&self) -> Result<u64> {
        let mut before = 0;
        wait_for("the end of what goes round", SOON, || {
            thread::sleep(Duration::from_secs(3));
            let now = self.count.load(Ordering::Relaxed);
            Ok(std::mem::replace(&mut before, now) == now)
        })?;
        Ok(before)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = fs::remove_file(&self.path);
    }
}
