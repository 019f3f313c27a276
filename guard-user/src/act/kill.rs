//! Killing: all that is in a container and nothing else, however fast it forks and whoever gets its pids next.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc};
use thiserror::Error;

use super::{
    cgroup::{Cgroup, CgroupError, Wrote},
    freeze::{self, FreezeError, Froze},
    journal::Journal,
    membership::{self, Holds},
    subtree::{self, Walk},
};
use crate::identity::tree::{Hierarchy, Version};

/// Times that freezing, killing all and thawing is tried.
const ATTEMPTS: u32 = 5;
/// Times that a container is looked at whose processes were all signalled and have not gone yet.
const PATIENCE: u32 = 200;
/// Threads that are asked where they are, when the first thread of a process is dead.
const THREADS: usize = 16;

/// A container could not be killed.
#[derive(Debug, Error)]
pub enum KillError {
    /// A file.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It must not.
    #[error("cgroup {id} is not killed: it holds {holds}")]
    Protected {
        /// The cgroup.
        id: u64,
        /// What it holds.
        holds: Holds,
    },
    /// It was frozen for the kill, and is still.
    #[error("cgroup {id} was killed but cannot be thawed")]
    Thaw {
        /// The cgroup.
        id: u64,
        /// Why.
        source: FreezeError,
    },
}

/// How it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `cgroup.kill` (v2, 5.14).
    CgroupKill,
    /// Frozen, SIGKILL to each, thawed.
    Frozen,
    /// SIGKILL to each; it could not be frozen.
    Running,
}

/// What came of it.
#[derive(Debug)]
pub struct Killed {
    /// How it was done.
    pub how: How,
    /// Processes that were signalled; 0 with [`How::CgroupKill`], where the kernel does not count.
    pub signalled: u64,
    /// Processes that have a thread in the container and are themselves outside it: left alone.
    pub spared: u64,
    /// Whether some are left: in an uninterruptible sleep, frozen by somebody else, or forked too fast.
    pub left: bool,
    /// What kept it from being frozen, if that was tried.
    pub not_frozen: Option<NotFrozen>,
}

/// Why a container was not frozen for the kill.
#[derive(Debug)]
pub enum NotFrozen {
    /// Somebody else holds it frozen; on v1 it dies when they thaw it.
    Others,
    /// It was not possible.
    Impossible(FreezeError),
}

/// Whether a kill is finished.
#[derive(Debug)]
pub enum Progress {
    /// To be gone on with, in some milliseconds.
    Again,
    /// It is finished.
    Done(Killed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Freeze,
    Signal,
    Thaw,
    Wait,
}

/// A kill under way. Nobody waits for it: it goes on a few milliseconds at a time. A daemon that dies meanwhile leaves the
/// container frozen, and that in the journal.
#[derive(Debug)]
pub struct Kill {
    cgroup: Cgroup,
    phase: Phase,
    walk: Walk,
    /// Signalled in this attempt, by pid: while the container is frozen none is given anew.
    signalled: HashSet<i32>,
    /// Whether this round through the subtree met anybody new.
    met: bool,
    attempts: u32,
    looks: u32,
    how: How,
    sent: u64,
    spared: u64,
    not_frozen: Option<NotFrozen>,
}

impl Kill {
    /// Begins to kill a container. Where the kernel can do it alone (`cgroup.kill`), this is all.
    ///
    /// # Errors
    /// [`KillError`].
    pub fn begin(hierarchy: &Hierarchy, cgroup: Cgroup) -> Result<Self, KillError> {
        if let Some(holds) = membership::holds(hierarchy, &cgroup) {
            let id = cgroup.id;
            return Err(KillError::Protected { id, holds });
        }
        let by_kernel =
            hierarchy.version == Version::V2 && cgroup.write("cgroup.kill", "1")? == Wrote::Done;
        Ok(Self::new(cgroup, by_kernel))
    }

    /// As `begin`, as on a kernel without `cgroup.kill`.
    ///
    /// # Errors
    /// [`KillError::Protected`].
    pub fn begin_one_by_one(hierarchy: &Hierarchy, cgroup: Cgroup) -> Result<Self, KillError> {
        if let Some(holds) = membership::holds(hierarchy, &cgroup) {
            let id = cgroup.id;
            return Err(KillError::Protected { id, holds });
        }
        Ok(Self::new(cgroup, false))
    }

    fn new(cgroup: Cgroup, by_kernel: bool) -> Self {
        Self {
            cgroup,
            phase: if by_kernel {
                Phase::Wait
            } else {
                Phase::Freeze
            },
            walk: Walk::new(),
            signalled: HashSet::new(),
            met: false,
            attempts: 1,
            looks: 0,
            how: if by_kernel {
                How::CgroupKill
            } else {
                How::Running
            },
            sent: 0,
            spared: 0,
            not_frozen: None,
        }
    }

    /// The container's id.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.cgroup.id
    }

    /// Goes on for about `time`.
    ///
    /// # Errors
    /// [`KillError`]: it was given up.
    pub fn go(
        &mut self,
        hierarchy: &Hierarchy,
        journal: &mut Journal,
        time: Duration,
    ) -> Result<Progress, KillError> {
        let until = Instant::now() + time;
        loop {
            match self.phase {
                Phase::Freeze => {
                    self.freeze(hierarchy, journal);
                    self.phase = Phase::Signal;
                }
                Phase::Signal => {
                    if self.signal(hierarchy, until) {
                        self.phase = Phase::Thaw;
                    }
                }
                Phase::Thaw => {
                    let id = self.cgroup.id;
                    freeze::thaw(hierarchy, id, journal)
                        .map_err(|source| KillError::Thaw { id, source })?;
                    self.phase = Phase::Wait;
                    return Ok(Progress::Again);
                }
                Phase::Wait => return self.look(hierarchy),
            }
            if Instant::now() >= until {
                return Ok(Progress::Again);
            }
        }
    }

    fn freeze(&mut self, hierarchy: &Hierarchy, journal: &mut Journal) {
        match freeze::freeze(hierarchy, &self.cgroup, journal) {
            // One that freezes still is killed meanwhile: SIGKILL needs no completion.
            Ok(Froze::Done | Froze::Pending) => self.how = How::Frozen,
            Ok(Froze::Others) => self.not_frozen = Some(NotFrozen::Others),
            Ok(Froze::Absent | Froze::Nothing) => {}
            // What cannot be frozen is killed as it runs.
            Err(error) => self.not_frozen = Some(NotFrozen::Impossible(error)),
        }
    }

    /// Signals whoever is there; true: a whole round met nobody new.
    fn signal(&mut self, hierarchy: &Hierarchy, until: Instant) -> bool {
        let Self {
            cgroup,
            walk,
            signalled,
            met,
            sent: all_sent,
            spared: all_spared,
            ..
        } = self;
        let finished = walk.go(cgroup, until, &mut |pids| {
            let fresh = pids.iter().filter(|pid| !signalled.contains(*pid));
            let fresh: Vec<i32> = fresh.copied().collect();
            if fresh.is_empty() {
                return false;
            }
            let (sent, spared) = kill_members(hierarchy, cgroup, &fresh);
            *all_sent += sent;
            *all_spared += spared;
            *met |= sent > 0;
            signalled.extend(fresh);
            Instant::now() >= until
        });
        if !finished {
            return false;
        }
        *walk = Walk::new();
        !std::mem::take(met)
    }

    fn look(&mut self, hierarchy: &Hierarchy) -> Result<Progress, KillError> {
        let populated = match hierarchy.version {
            Version::V2 => self.cgroup.value("cgroup.events", "populated")? == Some(1),
            Version::V1 => true,
        };
        // Those that were spared stay.
        let left = if populated {
            subtree::some(&self.cgroup, 64, Instant::now() + Duration::from_millis(2))
                .into_iter()
                .filter(|pid| is_member(hierarchy, &self.cgroup, *pid))
                .collect()
        } else {
            Vec::new()
        };
        self.looks += 1;
        let waits =
            self.how == How::CgroupKill || left.iter().all(|pid| self.signalled.contains(pid));
        if !left.is_empty() && !waits && self.attempts < ATTEMPTS {
            self.attempts += 1;
            self.signalled.clear();
            self.phase = Phase::Freeze;
            return Ok(Progress::Again);
        }
        if !left.is_empty() && waits && self.looks < PATIENCE {
            return Ok(Progress::Again);
        }
        Ok(Progress::Done(Killed {
            how: self.how,
            signalled: self.sent,
            spared: self.spared,
            left: !left.is_empty(),
            not_frozen: self.not_frozen.take(),
        }))
    }
}

/// SIGKILL to those that are the container's: how many got it, and how many were spared.
///
/// A pid is only a number: by the time it is signalled it may be a stranger's. So each is pinned first (pidfd), then asked
/// where it is, then the container's path is seen to be still its own, and only what is pinned is signalled: if the pid
/// was given to another one meanwhile, the signal goes to the dead.
fn kill_members(hierarchy: &Hierarchy, cgroup: &Cgroup, pids: &[i32]) -> (u64, u64) {
    let us = std::process::id();
    let pinned: Vec<(i32, OwnedFd)> = pids
        .iter()
        .filter(|pid| pid.unsigned_abs() != us && **pid > 1)
        .filter_map(|pid| Some((*pid, pin(*pid).ok()?)))
        .collect();
    let Some(path) = cgroup.path(hierarchy) else {
        return (0, 0);
    };
    let (mut members, mut spared) = (Vec::new(), 0);
    for (pid, process) in pinned {
        match place(hierarchy, &path, pid) {
            Place::Inside => members.push(process),
            Place::Outside => spared += 1,
            Place::Gone => {}
        }
    }
    // A cgroup that is still there had this path all the while.
    if cgroup.path(hierarchy).as_ref() != Some(&path) {
        return (0, 0);
    }
    let sent = members.iter().filter(|process| send_kill(process).is_ok());
    (sent.count() as u64, spared)
}

fn is_member(hierarchy: &Hierarchy, cgroup: &Cgroup, pid: i32) -> bool {
    cgroup
        .path(hierarchy)
        .is_some_and(|path| place(hierarchy, &path, pid) == Place::Inside)
}

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Outside,
    Gone,
}

fn place(hierarchy: &Hierarchy, path: &Path, pid: i32) -> Place {
    let Some(at) = membership::of_process(hierarchy, pid.unsigned_abs()) else {
        return Place::Gone;
    };
    if at.starts_with(path) {
        return Place::Inside;
    }
    // On v1 a dead first thread shows as the root's (proc_cgroup_show), while others may live on in the container.
    if hierarchy.version == Version::V1
        && at == Path::new("/")
        && membership::is_dead(pid.unsigned_abs())
    {
        return others_of(path, pid);
    }
    Place::Outside
}

/// Where the other threads are of a process whose first one is dead.
fn others_of(path: &Path, pid: i32) -> Place {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Place::Gone;
    };
    let mut found = Place::Gone;
    for thread in threads.flatten().take(THREADS) {
        let name = thread.file_name();
        let Some(thread) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        match membership::of_thread_v1(pid.unsigned_abs(), thread) {
            Some(at) if at.starts_with(path) => found = Place::Inside,
            // Dead as well.
            Some(at) if at == Path::new("/") => {}
            Some(_) => return Place::Outside,
            None => {}
        }
    }
    found
}

/// pidfd_open(2), 5.3.
fn pin(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call with integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// pidfd_send_signal(2), 5.1.
fn send_kill(process: &OwnedFd) -> io::Result<()> {
    // SAFETY: a plain system call; the descriptor is open, and a null siginfo stands for that of kill(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result)?;
    Ok(())
}
