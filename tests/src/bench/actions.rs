//! What the hooks of actions cost those who do something else: each system call that they stand before, with rules armed that are not
//! about it.

use anyhow::Result;

use super::{Line, Rounds, clock, in_turn, line, print, programs};
use crate::daemon::Policy;

/// Rules that are armed together, and what is done meanwhile.
struct Group {
    rule: &'static str,
    /// What is done, in words and as the probe calls it.
    works: &'static [(&'static str, [&'static str; 2])],
}

const GROUPS: [Group; 5] = [
    Group {
        rule: "deny: [bridge.create]\nwhen: {netns: nested}",
        works: &[
            (
                "route",
                [
                    "asking rtnetlink for a link, container",
                    "asking rtnetlink for a link, host",
                ],
            ),
            (
                "ioctl",
                ["ioctl of a pipe, container", "ioctl of a pipe, host"],
            ),
        ],
    },
    Group {
        rule: "deny: [socket: {families: [vsock]}]",
        works: &[(
            "socket",
            ["socket and close, container", "socket and close, host"],
        )],
    },
    Group {
        rule: "deny: [mount: {fs: [overlay]}]",
        works: &[(
            "mount",
            ["mount and umount, container", "mount and umount, host"],
        )],
    },
    Group {
        rule: "deny: [device.open: {devices: [\"char 10:229\"]}, kernel_setting.write: {paths: [/proc/sys/kernel/core_pattern]}]",
        works: &[(
            "file",
            [
                "open, read and close of a file, container",
                "open, read and close of a file, host",
            ],
        )],
    },
    Group {
        rule: "deny: [net_namespace.create, swap, reboot]",
        works: &[("hostname", ["sethostname, container", "sethostname, host"])],
    },
];

/// Runs everything and prints the tables.
///
/// # Errors
/// A measurement failed.
pub fn run(rounds: Rounds) -> Result<()> {
    clock()?;
    for group in &GROUPS {
        let mut lines: Vec<Line> = (group.works.iter())
            .flat_map(|(work, [inside, outside])| {
                [
                    line(inside, work, true, "1 %"),
                    line(outside, work, false, ""),
                ]
            })
            .collect();
        let policy = Policy::enforce(group.rule)?;
        println!("{}:", group.rule);
        in_turn(&mut lines, rounds, &policy)?;
        print(&lines);
        let works: Vec<&str> = group.works.iter().map(|(work, _)| *work).collect();
        programs::each(&policy, &[], &works, "")?;
    }
    Ok(())
}
