//! What plays have in common.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cgroup::Cgroup;

/// What makes the metadata of a pool that 5.10 dies on; tests/data/dm-thin-bug/README.md says what is wrong with it.
pub const CRAFT: &str = "/usr/local/share/bulkhead/craft.py";

/// The steps of a play.
#[derive(Default)]
pub struct Steps(u32);

/// One step.
#[derive(Serialize)]
struct Step<'s> {
    step: u32,
    said: &'s str,
}

impl Steps {
    pub fn say(&mut self, said: &str) -> Result<()> {
        let line = serde_json::to_string(&Step { step: self.0, said })?;
        self.0 += 1;
        println!("{line}");
        std::io::stdout().flush()?;
        // What a kernel that dies has in its buffers is not seen.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }
}

pub fn must(script: &str) -> Result<()> {
    let (done, said) = run(None, script)?;
    ensure!(done, "{script}: {said}");
    Ok(())
}

/// Whether a script was done, and in a few words what came of it.
pub fn run(cgroup: Option<&Cgroup>, script: &str) -> Result<(bool, String)> {
    let mut command = Command::new("sh");
    command
        .args(["-ec", script])
        .env("DM_DISABLE_UDEV", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if let Some(cgroup) = cgroup {
        cgroup.enter(&mut command)?;
    }
    let Output { status, stderr, .. } = command.output()?;
    let stderr = String::from_utf8_lossy(&stderr);
    let said = match status.success() {
        true => "done",
        false => stderr.trim().rsplit(": ").next().unwrap_or_default(),
    };
    Ok((status.success(), said.to_owned()))
}
