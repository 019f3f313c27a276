//! Every way to make a network link that is tried: with the tools that people use, and a probe where there is none.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{bed, cgroup::Cgroup};

/// Where the socket of a way stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netns {
    /// In the host's first network namespace.
    Host,
    /// In one of its own.
    Nested,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Done,
    /// EPERM.
    Refused,
}

/// One way to make a bridge.
pub struct Way {
    /// As somebody would type it; it makes the link `probe0`.
    pub script: &'static str,
    /// It names a namespace, which counts as nested whatever it is.
    pub names_one: bool,
}

const fn way(script: &'static str) -> Way {
    Way {
        script,
        names_one: false,
    }
}

pub const BRIDGES: &[Way] = &[
    way("ip link add probe0 type bridge"),
    way("ip link add probe0 type bridge forward_delay 1500 mcast_snooping 0"),
    way(
        "(seq -f 'link add many%g type dummy' 1 49; echo link add probe0 type bridge) | ip -batch -",
    ),
    way("brctl addbr probe0"),
    way("busybox brctl addbr probe0"),
    way("bulkhead-probe link --way plain"),
    way("bulkhead-probe link --way backwards"),
    way("bulkhead-probe link --way twice"),
    way("bulkhead-probe link --way two-nests"),
    way("bulkhead-probe link --way unterminated"),
    way("bulkhead-probe link --way flagged"),
    way("bulkhead-probe link --way second"),
    way("bulkhead-probe link --way sendmmsg"),
    way("bulkhead-probe link --way write"),
    way("bulkhead-probe link --way io-uring"),
    way("bulkhead-probe link --way io-uring-async"),
    way("bulkhead-probe link --way io-uring-message"),
    way("bulkhead-probe link --way ioctl"),
    way("bulkhead-probe link --way ioctl32"),
    way("bulkhead-probe link --way program32"),
    way("bulkhead-probe link --way old-ioctl"),
    Way {
        script: "bulkhead-probe link --way by-pid",
        names_one: true,
    },
    Way {
        script: "bulkhead-probe link --way by-fd",
        names_one: true,
    },
];

impl Way {
    /// Tries it, in a container or on the host, and takes away what it made.
    ///
    /// # Errors
    /// It failed, and not with EPERM; or the bridge is not there though it did not fail, or there though it did.
    pub fn go(&self, cgroup: Option<&Cgroup>, netns: Netns) -> Result<Came> {
        go(cgroup, netns, self.script, "probe0")
    }
}

/// Runs a script that makes the link `name`, and takes it away again.
pub fn go(cgroup: Option<&Cgroup>, netns: Netns, script: &str, name: &str) -> Result<Came> {
    // What is looked at afterwards, and taken away, is so by the script's own shell: a namespace ends with it. Of many links that
    // were made before the one that counts the names begin alike.
    let whole = format!(
        "{{ {script}\n}}; code=$?; test -e /sys/class/net/{name} && there=yes || there=no
        for link in $(ip -o link show | sed -n 's/^[0-9]*: \\(many[0-9]*\\|probe[^:@]*\\)[:@].*/\\1/p'); do ip link del $link 2> /dev/null; done
        case $code,$there in 0,yes) exit 0;; 0,no) echo it is not there >&2; exit 3;; *,yes) echo it is there >&2; exit 4;; esac
        exit $code"
    );
    let mut command = Command::new("timeout");
    command.args(["60", "unshare"]);
    match netns {
        // A mount of sysfs shows the namespace that it was made in.
        Netns::Nested => command.args(["--net", "--mount", "sh", "-c"]).arg(format!(
            "mount -t sysfs none /sys && ip link set lo up; {whole}"
        )),
        Netns::Host => command.args(["--mount", "sh", "-c", &whole]),
    };
    let output = bed::output(cgroup, command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Came::Done);
    }
    let there = output.status.code() == Some(4);
    if !there && said.contains("Operation not permitted") {
        return Ok(Came::Refused);
    }
    bail!("{script}: {} {said}", output.status);
}
