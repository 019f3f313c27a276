//! Who follows the copy while it is written sees what is written.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::bed::{AT_ONCE, Copy, Numbered, SOON};
use crate::{
    daemon::Daemon,
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "kernel_log::who_follows_the_copy_sees_each_line_once_over_rotations",
    needs: Needs::Ends,
    run: who_follows_the_copy_sees_each_line_once_over_rotations,
}];

/// Lines that are followed.
const FOLLOWED: u64 = 1_500;

fn who_follows_the_copy_sees_each_line_once_over_rotations() -> Result<()> {
    let copy = Copy::new()?;
    copy.say(&format!(
        "kernel_log: {{file: {}, rotate: {{size: 64KiB, age: 1d, keep: 20}}}}",
        copy.file.display()
    ))?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let mut numbered = Numbered::new("followed")?;
    numbered.write(1)?;
    copy.wait(&numbered.last())?;
    let shown = copy.file.with_file_name("followed");
    let mut follow = Command::new("bulkhead")
        // All of it: some lines stand there before it looks.
        .args(["kernel-log", "--follow", "--lines", "100000"])
        .stdin(Stdio::null())
        .stdout(File::create(&shown)?)
        .spawn()?;
    let seen = || -> Result<Vec<u64>> {
        let text = fs::read_to_string(&shown)?;
        let numbers = text.lines().filter_map(|line| {
            let (_, number) = line.split_once("  followed ")?;
            number.parse().ok()
        });
        Ok(numbers.collect())
    };
    while numbered.written < FOLLOWED {
        numbered.write(AT_ONCE / 2)?;
        let last = numbered.written - 1;
        // Also the last one, which nothing comes after.
        wait_for("the line that is followed", SOON, || {
            Ok(seen()?.last() == Some(&last))
        })?;
    }
    follow.kill()?;
    follow.wait()?;
    let parent = copy.file.parent().context("no directory")?;
    let files = fs::read_dir(parent)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("kernel"))
        .count();
    let seen = seen()?;
    ensure!(
        seen.iter().copied().eq(0..numbered.written),
        "{} of {} lines",
        seen.len(),
        numbered.written
    );
    ensure!(files > 2, "{files} files: nothing was rotated");
    println!("    {} lines followed over {files} files", seen.len());
    Ok(())
}
