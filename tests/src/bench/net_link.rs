//! What the hooks of network links cost those who have nothing to do with them: every ioctl(2), and every question to rtnetlink.

use anyhow::Result;

use super::{OFF_AND_ON, Rounds, clock, in_turn, line, print, programs, start};
use crate::daemon::Policy;

const RULE: &str = "deny: [bridge.create]\nwhen: {netns: nested}";

/// Runs everything and prints the tables.
///
/// # Errors
/// A measurement failed.
pub fn run(rounds: Rounds) -> Result<()> {
    clock()?;
    let mut lines = [
        line("ioctl of a pipe, governed container", "ioctl", true, ""),
        line("ioctl of a pipe, host", "ioctl", false, ""),
        line("asking for a link, governed container", "route", true, ""),
        line("asking for a link, host", "route", false, ""),
    ];
    let policy = Policy::enforce(RULE)?;
    let starts = in_turn(&mut lines, rounds, &policy, &OFF_AND_ON)?;
    print(&lines);
    start(&starts);
    programs::each(&policy, &[], &["ioctl"], "net_link_")?;
    programs::each(&policy, &[], &["route"], "rtnetlink_")
}
