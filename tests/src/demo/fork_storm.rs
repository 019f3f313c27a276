//! The outage as it was: a service leaks threads until nobody can log in. Told second by second, for people.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters},
    host::{self, Setting},
};

/// The leak begins in this second.
const LEAK: u64 = 2;
/// It is stopped so many seconds after it has come to the end of what it gets, and at the latest in the last of these.
const PLATEAU: u64 = 6;
/// See [`PLATEAU`].
const LATEST: u64 = 60;
/// So many seconds are shown after that.
const AFTER: u64 = 2;
/// Host programs that are started in a second.
const SPAWNS: u32 = 5;

/// One second.
#[derive(Serialize)]
struct Second {
    second: u64,
    tasks: u64,
    limit: u64,
    worked: u32,
    spawns: u32,
    refused: u64,
    said: String,
}

/// Plays the thread leak, with Bulkhead or without, and prints a line of JSON a second.
///
/// # Errors
/// Something of the play could not be set up.
pub fn fork_storm(guarded: bool) -> Result<()> {
    let _pid_max = Setting::new("kernel/pid_max", "4096")?;
    let policy = Policy::write("enforce", "pids: {max: 100000}", "reserve: {pids: 10%}")?;
    let _daemon = if guarded {
        Some(Daemon::start(&policy, &[])?)
    } else {
        None
    };
    let container = Cgroup::container()?;
    let limit = host::task_limit()?;
    let began = Instant::now();
    let mut leak = None;
    let mut last = 0;
    let (mut full, mut stopped) = (None, None);
    for second in 0.. {
        if stopped.is_some_and(|at| second > at + AFTER) {
            break;
        }
        let mut said = String::new();
        if second == LEAK {
            leak = Some(bed::start(Some(&container), "leak --what thread")?);
            "a container leaks threads".clone_into(&mut said);
        } else if stopped.is_none()
            && (second == LATEST || full.is_some_and(|at| second >= at + PLATEAU))
        {
            stopped = Some(second);
            leak = None;
            container.kill()?;
            "the container is stopped".clone_into(&mut said);
        }
        let (worked, error) = host::spawn(SPAWNS);
        if !error.is_empty() {
            said = error;
            full.get_or_insert(second);
        }
        // Asking the daemon takes a program, which an unguarded host cannot start.
        let refused = if guarded {
            counters(&container)?.map_or(last, |seen| seen.refused)
        } else {
            0
        };
        if refused > last {
            full.get_or_insert(second);
        }
        let line = Second {
            second,
            tasks: host::tasks()?,
            limit,
            worked,
            spawns: SPAWNS,
            refused: refused - last,
            said,
        };
        last = refused;
        println!("{}", serde_json::to_string(&line)?);
        let next = Duration::from_secs(second + 1);
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
    drop(leak);
    Ok(())
}
