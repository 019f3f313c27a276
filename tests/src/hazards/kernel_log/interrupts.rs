//! What an interrupt prints is nobody's whom it happened to come upon.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{bed::Copy, naming::lines};
use crate::{
    cgroup::Cgroup,
    daemon::Daemon,
    hazards::{Needs, Scenario},
    host::{Setting, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "kernel_log::what_an_interrupt_prints_is_not_theirs_whom_it_came_upon",
    needs: Needs::Ordinary,
    run,
}];

/// Packets that come when nobody sends: from a queue that a timer empties, while a container runs in user mode on the processor of
/// that timer. Each has an address that cannot be there, about which the kernel prints two lines.
const PACKETS: usize = 100;

const SET_UP: &str = "ip netns add martian
ip link add martian0 type veth peer name martian1 netns martian
ip addr add 10.99.1.1/24 dev martian0
ip link set martian0 up
echo 1 > /proc/sys/net/ipv4/conf/martian0/log_martians
echo 1 > /proc/sys/net/ipv4/conf/martian0/rp_filter
ip -n martian addr add 10.99.2.2/24 dev martian1
ip -n martian link set martian1 up
ip -n martian route add 10.99.1.0/24 dev martian1
ip -n martian neigh add 10.99.1.1 dev martian1 nud permanent lladdr $(cat /sys/class/net/martian0/address)
tc -n martian qdisc add dev martian1 root netem delay 30ms";

/// The container and the sender have the first processor for themselves, and each other.
const SEND: &str = "import os, socket, sys, time
os.sched_setaffinity(0, [0])
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[1])):
    to.sendto(b'x', ('10.99.1.1', 9))
    time.sleep(0.05)";
const SPIN: &str = "import os
os.sched_setaffinity(0, [0])
while True: pass";

/// A namespace, and the link into it; taken away when dropped.
struct Martians;

impl Martians {
    fn new() -> Result<Self> {
        let own = Self;
        shell(SET_UP)?;
        Ok(own)
    }
}

impl Drop for Martians {
    fn drop(&mut self) {
        let _ = shell("ip link del martian0; ip netns del martian");
    }
}

/// A program that is killed when dropped.
struct Spinning(Child);

impl Drop for Spinning {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn run() -> Result<()> {
    // Of each packet, and not of ten in five seconds.
    let _unlimited = Setting::new("net/core/message_cost", "0")?;
    let _martians = Martians::new().context("no such packets can be sent")?;
    let copy = Copy::new()?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    copy.wait_until_named()?;
    let container = Cgroup::container()?;
    let mut spin = Command::new("python3");
    spin.args(["-c", SPIN]).stdin(Stdio::null());
    container.enter(&mut spin)?;
    let _spinning = Spinning(spin.spawn()?);
    let sent = Command::new("ip")
        .args(["netns", "exec", "martian", "python3", "-c", SEND])
        .arg(PACKETS.to_string())
        .status()?;
    ensure!(sent.success(), "the packets were not sent");
    let is_martian = |line: &serde_json::Value| {
        let text = line["text"].as_str().unwrap_or_default();
        text.contains("martian source ") && text.contains("10.99.1.1")
    };
    let mut found = Vec::new();
    wait_for("a line of each packet", Duration::from_secs(20), || {
        found = lines(&copy)?;
        found.retain(is_martian);
        Ok(found.len() >= PACKETS)
    })?;
    let of = |from: &str| found.iter().filter(|line| line["from"] == from).count();
    println!(
        "    {} lines that interrupts printed: {} the kernel's, {} unknown",
        found.len(),
        of("kernel"),
        of("unknown")
    );
    ensure!(
        of("container") + of("host") == 0,
        "{:?}",
        found
            .iter()
            .filter(|line| line["from"] != "kernel")
            .collect::<Vec<_>>()
    );
    ensure!(of("kernel") * 10 >= found.len() * 9);
    Ok(())
}
