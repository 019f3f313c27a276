//! Every way to the kernel log that is tried: with the tools that people use, and a probe where there is none.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{cgroup::Cgroup, probe::klog};

/// What a way asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Read,
    Clear,
    Write,
    Console,
    /// What nobody can read again.
    Consume,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    Done,
    /// EPERM.
    Refused,
}

/// What a command has as its standard input or output.
#[derive(Clone, Copy, Debug)]
enum Given {
    Nothing,
    /// A descriptor of `/dev/kmsg` that was opened on the host before Bulkhead started.
    KmsgToRead,
    /// The same of `/proc/kmsg`.
    ProcToRead,
    /// The same of `/dev/kmsg`, for writing, as standard output.
    KmsgToWrite,
    /// A socket through which [`Given::KmsgToRead`] comes.
    Sent,
}

/// One way.
pub struct Way {
    /// As somebody would type it.
    pub name: &'static str,
    pub asks: Asks,
    /// What it asks for as well.
    pub also: Option<Asks>,
    script: &'static str,
    given: Given,
}

const fn way(asks: Asks, script: &'static str) -> Way {
    Way {
        name: script,
        asks,
        also: None,
        script,
        given: Given::Nothing,
    }
}

const fn given(asks: Asks, given: Given, name: &'static str, script: &'static str) -> Way {
    Way {
        name,
        asks,
        also: None,
        script,
        given,
    }
}

/// Reads what nobody can read again.
const fn consuming(way: Way) -> Way {
    Way {
        also: Some(Asks::Consume),
        ..way
    }
}

/// A record of `/dev/kmsg`, or what `/proc/kmsg` has.
const TAKE: &str = "dd bs=8192 count=1 of=/dev/null status=none";

pub const WAYS: &[Way] = &[
    way(Asks::Read, "dmesg > /dev/null"),
    way(Asks::Read, "dmesg --syslog > /dev/null"),
    way(
        Asks::Read,
        // It goes on until it is stopped: 124 is the time limit's.
        "timeout 2 dmesg -w > /dev/null; code=$?; test $code = 124 || exit $code",
    ),
    Way {
        also: Some(Asks::Clear),
        ..way(Asks::Read, "dmesg --read-clear > /dev/null")
    },
    way(Asks::Clear, "dmesg --clear"),
    way(Asks::Console, "dmesg --console-level 4"),
    way(Asks::Console, "dmesg --console-off"),
    way(Asks::Console, "dmesg --console-on"),
    way(
        Asks::Read,
        "timeout 5 dd if=/dev/kmsg bs=8192 count=1 of=/dev/null status=none",
    ),
    consuming(way(
        Asks::Read,
        "timeout 5 head -c 1 /proc/kmsg > /dev/null",
    )),
    way(Asks::Write, "/bin/echo forged > /dev/kmsg"),
    way(Asks::Write, "/bin/echo '<0>forged' 1<> /dev/kmsg"),
    way(
        Asks::Read,
        "rm -f /tmp/node; mknod /tmp/node c 1 11 && timeout 5 dd if=/tmp/node bs=8192 count=1 of=/dev/null status=none",
    ),
    way(
        Asks::Write,
        "rm -f /tmp/node; mknod /tmp/node c 1 11 && /bin/echo forged > /tmp/node",
    ),
    way(
        Asks::Write,
        "modprobe ttyprintk; rm -f /tmp/node; mknod /tmp/node c 5 3 && echo forged | dd of=/tmp/node status=none",
    ),
    way(
        Asks::Write,
        // By the terminal that is its own: bash says why it cannot write.
        "modprobe ttyprintk; rm -f /tmp/node; mknod /tmp/node c 5 3 && setsid bash -c 'exec 3< /tmp/node; echo forged | dd of=/dev/tty status=none'",
    ),
    way(
        Asks::Read,
        "touch /tmp/bound; unshare --mount sh -c 'mount --bind /dev/kmsg /tmp/bound && timeout 5 dd if=/tmp/bound bs=8192 count=1 of=/dev/null status=none'",
    ),
    consuming(way(Asks::Read, "bulkhead-probe syslog --type 2")),
    way(Asks::Read, "bulkhead-probe syslog --type 3"),
    Way {
        also: Some(Asks::Clear),
        ..way(Asks::Read, "bulkhead-probe syslog --type 4")
    },
    way(Asks::Clear, "bulkhead-probe syslog --type 5"),
    way(Asks::Console, "bulkhead-probe syslog --type 6"),
    way(Asks::Console, "bulkhead-probe syslog --type 7"),
    way(Asks::Console, "bulkhead-probe syslog --type 8 --level 4"),
    way(Asks::Read, "bulkhead-probe syslog --type 9"),
    way(Asks::Read, "bulkhead-probe syslog --type 10"),
    given(
        Asks::Read,
        Given::KmsgToRead,
        "an inherited descriptor of /dev/kmsg, read",
        TAKE,
    ),
    consuming(given(
        Asks::Read,
        Given::ProcToRead,
        "an inherited descriptor of /proc/kmsg, read",
        TAKE,
    )),
    given(
        Asks::Write,
        Given::KmsgToWrite,
        "an inherited descriptor of /dev/kmsg, written",
        "/bin/echo forged",
    ),
    given(
        Asks::Read,
        Given::Sent,
        "a descriptor of /dev/kmsg that came through a socket, read",
        "bulkhead-probe received",
    ),
    way(
        Asks::Read,
        "mkdir -p /tmp/pstore; unshare --mount mount -t pstore none /tmp/pstore",
    ),
    way(
        Asks::Read,
        "mkdir -p /tmp/trace; unshare --mount sh -c 'mount -t tracefs none /tmp/trace && echo seen > /tmp/trace/trace_marker && timeout 5 head -c 1 /tmp/trace/trace > /dev/null'",
    ),
    way(
        Asks::Read,
        "mkdir -p /tmp/trace; unshare --mount sh -c 'mount -t debugfs none /tmp/trace && echo seen > /tmp/trace/tracing/trace_marker && timeout 5 head -c 1 /tmp/trace/tracing/trace_pipe > /dev/null'",
    ),
    way(
        Asks::Read,
        "mkdir -p /tmp/trace; unshare --mount sh -c 'mount -t tracefs none /tmp/trace && echo seen > /tmp/trace/trace_marker && timeout 5 cat /tmp/trace/per_cpu/cpu*/snapshot /tmp/trace/per_cpu/cpu*/trace > /dev/null'",
    ),
    way(
        Asks::Read,
        "mkdir -p /tmp/trace; unshare --mount sh -c 'mount -t tracefs none /tmp/trace && cat /tmp/trace/events/printk/console/hist > /dev/null'",
    ),
];

/// Descriptors that were opened on the host, before Bulkhead was there.
pub struct Opened {
    kmsg: File,
    proc: File,
    forge: File,
}

impl Opened {
    /// Opens them.
    ///
    /// # Errors
    /// The host may not.
    pub fn now() -> Result<Self> {
        Ok(Self {
            kmsg: File::open("/dev/kmsg")?,
            proc: File::open("/proc/kmsg")?,
            forge: OpenOptions::new().write(true).open("/dev/kmsg")?,
        })
    }
}

/// Puts a line into the log, so that there is something to read.
pub fn say(text: &str) -> Result<()> {
    let mut log = OpenOptions::new().write(true).open("/dev/kmsg")?;
    Ok(log.write_all(text.as_bytes())?)
}

impl Way {
    /// Whether it opens a node of `/dev/kmsg`, by whatever name.
    #[must_use]
    pub fn opens(&self) -> bool {
        let node = |name| self.script.contains(name) && !self.script.contains("dmesg");
        matches!(self.given, Given::Nothing) && (node("/dev/kmsg") || node("/tmp/node"))
    }

    /// Tries it, in a container or on the host.
    ///
    /// # Errors
    /// It failed, and not with EPERM.
    pub fn go(&self, cgroup: Option<&Cgroup>, opened: &Opened) -> Result<Came> {
        say("a line to be read")?;
        let mut command = Command::new("timeout");
        command
            .args(["20", "sh", "-c", self.script])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Kept until the command has ended.
        let mut kept: Option<UnixStream> = None;
        match self.given {
            Given::Nothing => {}
            Given::KmsgToRead => {
                command.stdin(from_the_start(&opened.kmsg)?);
            }
            Given::ProcToRead => {
                command.stdin(opened.proc.try_clone()?);
            }
            Given::KmsgToWrite => {
                command.stdout(opened.forge.try_clone()?);
            }
            Given::Sent => {
                let (ours, theirs) = UnixStream::pair()?;
                klog::send(ours.as_raw_fd(), from_the_start(&opened.kmsg)?.as_raw_fd())?;
                command.stdin(OwnedFd::from(theirs));
                kept = Some(ours);
            }
        }
        if let Some(cgroup) = cgroup {
            cgroup.enter(&mut command)?;
        }
        let output = command.spawn()?.wait_with_output()?;
        drop(kept);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(Came::Done);
        }
        if said.contains("Operation not permitted") || said.contains("permission denied") {
            return Ok(Came::Refused);
        }
        bail!("{}: {} {said}", self.name, output.status);
    }
}

/// The descriptor, back at the oldest line: all copies share one position.
fn from_the_start(file: &File) -> Result<File> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    Ok(file)
}
