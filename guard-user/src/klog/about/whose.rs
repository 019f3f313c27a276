//! Whose a named process is: its printer's, if it printed the line itself; else of whoever had its number when it was said.
//!
//! Numbers come again. A task counts if it began before the line was said and was there still, and goes by the same name: what
//! cannot be shown to be so is `unknown`.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use guard_common::kernel_log::Ended;
use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

use crate::{klog::names::Origin, record::Text};

/// Half the numbers are given in so much time at least for each of them, by any host: 200,000 forks in a second.
const HALF_FORK_NS: i64 = 2_500;
/// What is waited for in vain any longer.
const SLACK_MAX_NS: i64 = 2_000_000_000;
/// What part of a second the two clocks may go apart in one: chronyd(8) slews by a twelfth at most (`maxslewrate`), adjtimex(2)
/// by far less.
const DRIFT: i64 = 12;
/// What an audit record's stamp is early at most: whole milliseconds of a clock that goes on by ticks
/// (`ktime_get_coarse_real_ts64`), of 4 ms or, with `CONFIG_HZ=100`, 10.
const COARSE_NS: i64 = 11_000_000;
/// How late such a record is said at most.
const LATE_NS: i64 = 10_000_000_000;
/// `PF_EXITING` and `PF_KTHREAD` (include/linux/sched.h, the same bits on 5.10 to 7.3).
const EXITING: u64 = 0x4;
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Nanoseconds of a tick in /proc (`USER_HZ` is 100 on x86-64, whatever the kernel's own is).
const TICK_NS: i64 = 10_000_000;

/// Whom a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whom {
    /// Whose the process or cgroup is.
    pub whose: Origin,
    /// The container's id, as its runtime gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Text>,
    /// The container's runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Text>,
    /// The process or thread that the line names, as the host numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it calls itself, as the line has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<Text>,
    /// Path of the cgroup, from the root of its hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Text>,
    /// Id of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
}

/// A task that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// When it began, by `CLOCK_MONOTONIC`; up to a hundredth of a second later, in truth.
    pub start_ns: i64,
    /// Its name.
    pub comm: Vec<u8>,
    /// A kernel thread.
    pub kernel: bool,
    /// Path of its cgroup, in the hierarchy that tells containers apart.
    pub cgroup: Vec<u8>,
}

/// What can be known of tasks by their numbers.
pub trait Tasks {
    /// The last task of a container that had this number and is gone.
    fn ended(&self, pid: u32) -> Option<Ended>;
    /// The task that has it now.
    fn living(&self, pid: u32) -> Option<Living>;
}

/// Who had a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Had {
    /// A task of a container, which is gone.
    Ended(Ended),
    /// A task that is there.
    Living(Living),
}

/// How far off a time may be with no number coming again meanwhile: a line's way to its reader, two processors' clocks
/// (`local_clock`), a tick that came late to an audit record's stamp. A task may seem to have begun so much after its line, or
/// ended so much before. A number comes again when all others were given in between, and half of them are free.
#[must_use]
pub fn slack() -> i64 {
    let numbers = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse::<i64>().ok());
    numbers.map_or(0, |numbers| {
        (numbers.saturating_mul(HALF_FORK_NS)).clamp(0, SLACK_MAX_NS)
    })
}

/// Who had the number `pid` and this name `at_ns` of `CLOCK_MONOTONIC`, give or take `slack_ns`; `None`: it cannot be told.
#[must_use]
pub fn had(
    tasks: &impl Tasks,
    pid: u32,
    comm: Option<&[u8]>,
    at_ns: i64,
    slack_ns: i64,
) -> Option<Had> {
    let ended = || {
        let ended = tasks.ended(pid)?;
        let end = (ended.comm.iter().position(|byte| *byte == 0)).unwrap_or(ended.comm.len());
        let same = comm.is_none_or(|comm| comm == &ended.comm[..end]);
        let there =
            ended.start_ns as i64 <= at_ns + slack_ns && at_ns <= ended.end_ns as i64 + slack_ns;
        (same && there).then_some(Had::Ended(ended))
    };
    let living = || {
        let living = tasks.living(pid)?;
        // A worker's name in /proc has its work behind it.
        let same = comm.is_none_or(|comm| {
            comm == living.comm || living.kernel && living.comm.starts_with(comm)
        });
        (same && living.start_ns <= at_ns + slack_ns).then_some(Had::Living(living))
    };
    // The last time: it may have ended while it was looked for.
    ended().or_else(living).or_else(ended)
}

/// When something was done that is said later, by its stamp, and how far the host's clock is ahead of `CLOCK_MONOTONIC`; not
/// later than it was said. `None`: that is long before, or after by more than `slack_ns`, so the host's clock was set meanwhile.
#[must_use]
pub fn stamped(stamp_ms: i64, said_ns: i64, ahead_ns: i64, slack_ns: i64) -> Option<i64> {
    let done = stamp_ms
        .checked_mul(1_000_000)?
        .checked_sub(ahead_ns)?
        .checked_add(COARSE_NS)?;
    (said_ns - LATE_NS..=said_ns + COARSE_NS + slack_ns)
        .contains(&done)
        .then(|| done.min(said_ns))
}

/// How far the host's clock is ahead of `CLOCK_MONOTONIC`, nanoseconds.
#[must_use]
pub fn real_ahead() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, nanoseconds) - monotonic()
}

/// How the log's clock stands to `CLOCK_MONOTONIC`, as far as lines tell that are read when they are said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Nanoseconds that `CLOCK_MONOTONIC` is ahead, at most, and when it was so.
    ahead: Option<(i64, i64)>,
    /// All that was said before has been read.
    caught_up: bool,
}

impl Moment {
    /// There is nothing more to read: what comes is said from now on.
    pub const fn caught_up(&mut self) {
        self.caught_up = true;
    }

    /// When a line was said that is read `now_ns`: later than it was by no more than its way here, or that of the fastest line so
    /// far; earlier by no more than two processors' clocks differ. `None`: nothing is known, since it was said before anybody read.
    pub fn of(&mut self, time_us: u64, now_ns: i64) -> Option<i64> {
        if !self.caught_up {
            return None;
        }
        let said = i64::try_from(time_us).ok()?.checked_mul(1000)?;
        let seems = now_ns.checked_sub(said)?;
        let ahead = match self.ahead {
            Some((ahead, then)) => seems.min(ahead + (now_ns - then).max(0) / DRIFT),
            None => seems,
        };
        self.ahead = Some((ahead, now_ns));
        said.checked_add(ahead)
    }
}

/// The task with this number, by /proc. One that is ending is said to be in the root on v1 (`proc_cgroup_show`), which is no
/// news of it.
#[must_use]
pub fn in_proc(pid: u32) -> Option<Living> {
    let path = format!("/proc/{pid}");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // An open directory stays that task's, and is empty when it is gone.
    let directory = open(Path::new(&path), flags, Mode::empty()).ok()?;
    let read = |name: &str| {
        let file = openat(
            &directory,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let mut text = Vec::new();
        (File::from(file.ok()?).take(1 << 16).read_to_end(&mut text)).ok()?;
        Some(text)
    };
    let cgroup = path_of(&read("cgroup")?)?;
    let mut comm = read("comm")?;
    comm.pop_if(|byte| *byte == b'\n');
    let (start, flags) = start_and_flags(&read("stat")?)?;
    let boot = |clock| clock_gettime(clock).ok().map(nanoseconds);
    let asleep = boot(ClockId::CLOCK_BOOTTIME)? - boot(ClockId::CLOCK_MONOTONIC)?;
    (flags & EXITING == 0 || cgroup != b"/").then(|| {
        Some(Living {
            start_ns: start.checked_mul(TICK_NS)? - asleep,
            comm,
            kernel: flags & KERNEL_THREAD != 0,
            cgroup,
        })
    })?
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> i64 {
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// `CLOCK_MONOTONIC` now.
#[must_use]
pub fn monotonic() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

/// Fields 22 and 9 of /proc/PID/stat (proc(5)): the name, which may be anything, stands in the last pair of parentheses.
fn start_and_flags(stat: &[u8]) -> Option<(i64, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let flags = fields.nth(6)?.parse().ok()?;
    Some((fields.nth(12)?.parse().ok()?, flags))
}

/// Of /proc/PID/cgroup: the path in the pids controller's v1 hierarchy, else in the v2 one.
fn path_of(text: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    for line in text.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (_, controllers, path) = (parts.next()?, parts.next(), parts.next());
        let (Some(controllers), Some(path)) = (controllers, path) else {
            continue;
        };
        if controllers
            .split(|byte| *byte == b',')
            .any(|name| name == b"pids")
        {
            return Some(path.to_vec());
        }
        if controllers.is_empty() {
            found = Some(path.to_vec());
        }
    }
    found
}
