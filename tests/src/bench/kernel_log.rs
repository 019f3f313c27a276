//! What the hooks of the kernel log cost those who have nothing to do with it: every file that is opened, read and closed.

use anyhow::Result;

use super::{OFF_AND_ON, Rounds, clock, in_turn, line, print, programs, start};
use crate::{
    daemon::{Policy, lower_rung},
    host::Setting,
};

/// Everything refused: every program of the kernel log is attached.
const ALL: &str = "deny: [kernel_log.read, kernel_log.clear, kernel_log.write, kernel_log.console]";
/// The same but for writing, so that a container's lines are printed.
const WRITING: &str = "deny: [kernel_log.read, kernel_log.clear, kernel_log.console]";

/// Runs everything and prints the tables.
///
/// # Errors
/// A measurement failed.
pub fn run(rounds: Rounds) -> Result<()> {
    clock()?;
    let mut lines = [
        line("open+read+close, governed container", "file", true, "1 %"),
        line("open+read+close, host", "file", false, "1 %"),
    ];
    let starts = in_turn(&mut lines, rounds, &Policy::enforce(ALL)?, &OFF_AND_ON)?;
    print(&lines);
    start(&starts);
    // Without it a writer is held to ten lines in five seconds.
    let _limit = Setting::new("kernel/printk_devkmsg", "on\n")?;
    let policy = Policy::enforce(WRITING)?;
    let works = ["file", "syslog", "line", "killed"];
    programs::each(&policy, &[], &works, "kernel_log_")?;
    println!("on the lower rung, opening /dev/null:");
    programs::each(&policy, lower_rung(), &["device"], "kernel_log_")
}
