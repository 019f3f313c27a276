//! What the hooks of actions cost those who do something else: each system call that they stand before, with rules armed that are not
//! about it.

use anyhow::Result;

use super::{Line, OFF_AND_ON, Rounds, clock, in_turn, line, print, programs};
use crate::{
    daemon::Policy,
    hazards::thin_discard::pool::{Pool, must},
    probe::cost::BLOCK_DEVICE,
};

/// Rules that are armed together, and what is done meanwhile.
struct Group {
    rule: &'static str,
    /// The `host` section's fields.
    host: &'static str,
    /// What is done meanwhile.
    works: &'static [Done],
}

/// As the probe calls it, and in words: in a container and on the host.
type Done = (&'static str, [&'static str; 2]);

const FILE: Done = (
    "file",
    [
        "open, read and close of a file, container",
        "open, read and close of a file, host",
    ],
);
const IOCTL: Done = (
    "ioctl",
    ["ioctl of a pipe, container", "ioctl of a pipe, host"],
);
const MOUNT: Done = (
    "mount",
    ["mount and umount, container", "mount and umount, host"],
);
const HOST: &str = "reserve: {pids: 300}";

const GROUPS: [Group; 7] = [
    Group {
        rule: "deny: [bridge.create]\nwhen: {netns: nested}",
        host: HOST,
        works: &[
            (
                "route",
                [
                    "asking rtnetlink for a link, container",
                    "asking rtnetlink for a link, host",
                ],
            ),
            IOCTL,
        ],
    },
    Group {
        rule: "deny: [socket: {families: [vsock]}]",
        host: HOST,
        works: &[(
            "socket",
            ["socket and close, container", "socket and close, host"],
        )],
    },
    Group {
        rule: "deny: [mount: {fs: [overlay]}]",
        host: HOST,
        works: &[MOUNT],
    },
    Group {
        rule: "deny: [device.open: {devices: [\"char 10:229\"]}, kernel_setting.write: {paths: [/proc/sys/kernel/core_pattern]}]",
        host: HOST,
        works: &[FILE],
    },
    Group {
        rule: "deny: [net_namespace.create, swap, reboot]",
        host: HOST,
        works: &[("hostname", ["sethostname, container", "sethostname, host"])],
    },
    Group {
        rule: "deny: [cgroup.move_out]",
        host: HOST,
        works: &[FILE],
    },
    // There is a thin volume, from which `block` reads.
    Group {
        rule: "deny: [discard]\nwhen: {device: dm-thin}",
        host: "reserve: {pids: 300}, thin: {discard: off}",
        works: &[
            IOCTL,
            FILE,
            MOUNT,
            (
                "block",
                [
                    "read of a thin volume, container",
                    "read of a thin volume, host",
                ],
            ),
        ],
    },
];

/// Runs everything and prints the tables.
///
/// # Errors
/// A measurement failed.
pub fn run(rounds: Rounds) -> Result<()> {
    clock()?;
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    must(&format!(
        "dd if=/dev/zero of={thin} bs=64K count=1 oflag=direct status=none; ln -sf {thin} {BLOCK_DEVICE}"
    ))?;
    for group in &GROUPS {
        let mut lines: Vec<Line> = (group.works.iter())
            .flat_map(|(work, [inside, outside])| {
                [
                    line(inside, work, true, "1 %"),
                    line(outside, work, false, ""),
                ]
            })
            .collect();
        let policy = Policy::write("enforce", group.rule, group.host)?;
        println!("{}:", group.rule);
        in_turn(&mut lines, rounds, &policy, &OFF_AND_ON)?;
        print(&lines);
        let works: Vec<&str> = group.works.iter().map(|(work, _)| *work).collect();
        programs::each(&policy, &[], &works, "")?;
    }
    Ok(())
}
