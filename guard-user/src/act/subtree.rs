//! All processes below a cgroup, a little at a time: a container may have made more cgroups than we may spend time on.

use std::{
    io::{BufRead, BufReader},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Instant,
};

use nix::{
    dir::{Dir, Type},
    fcntl::OFlag,
    sys::stat::Mode,
};

use super::cgroup::Cgroup;

/// Cgroups that wait for their turn; of more, those that are left out are found the next time round.
const WAITING: usize = 1 << 16;
/// Processes that are handed over at once.
const BATCH: usize = 64;

/// A walk that can be broken off and gone on with.
#[derive(Debug)]
pub struct Walk {
    waiting: Vec<PathBuf>,
}

impl Walk {
    /// A walk from a cgroup down.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waiting: vec![PathBuf::from(".")],
        }
    }

    /// Goes on until there is no cgroup left (true), or no time, or `meet` has enough (false). `meet` gets some processes
    /// at a time, and says whether it has enough for now: then their cgroup's turn comes again. Cgroups that vanish
    /// meanwhile are passed over.
    pub fn go(
        &mut self,
        top: &Cgroup,
        until: Instant,
        meet: &mut dyn FnMut(&[i32]) -> bool,
    ) -> bool {
        while let Some(path) = self.waiting.pop() {
            if each_batch(top, &path, meet) {
                self.waiting.push(path);
                return false;
            }
            self.below(top, &path);
            if Instant::now() >= until {
                return self.waiting.is_empty();
            }
        }
        true
    }

    fn below(&mut self, top: &Cgroup, path: &Path) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(mut dir) = Dir::openat(top.directory().as_fd(), path, flags, Mode::empty()) else {
            return;
        };
        for entry in dir.iter().flatten() {
            let name = entry.file_name();
            if entry.file_type() == Some(Type::Directory)
                && !matches!(name.to_bytes(), b"." | b"..")
                && self.waiting.len() < WAITING
            {
                let name =
                    <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes());
                self.waiting.push(path.join(name));
            }
        }
    }
}

/// Hands over the processes of one cgroup, `path` below `top`; true: there was enough. Those of another pid namespace than
/// ours read as 0 and are left out; a threaded cgroup has none (EOPNOTSUPP): they are listed in the one it is a part of.
fn each_batch(top: &Cgroup, path: &Path, meet: &mut dyn FnMut(&[i32]) -> bool) -> bool {
    let Ok(file) = top.file(&path.join("cgroup.procs"), OFlag::O_RDONLY) else {
        return false;
    };
    let mut batch = Vec::with_capacity(BATCH);
    for line in BufReader::new(file).lines() {
        let Ok(line) = line else { break };
        if let Ok(pid) = line.parse::<i32>()
            && pid > 0
        {
            batch.push(pid);
        }
        if batch.len() == BATCH {
            if meet(&batch) {
                return true;
            }
            batch.clear();
        }
    }
    !batch.is_empty() && meet(&batch)
}

/// A cgroup and those below it, at most so many, as paths from it.
#[must_use]
pub fn cgroups(top: &Cgroup, most: usize) -> Vec<PathBuf> {
    let (mut walk, mut found) = (Walk::new(), Vec::new());
    while let Some(path) = walk.waiting.pop()
        && found.len() < most
    {
        walk.below(top, &path);
        found.push(path);
    }
    found
}

/// Some processes below a cgroup, at most `most`, in a limited time.
#[must_use]
pub fn some(top: &Cgroup, most: usize, until: Instant) -> Vec<i32> {
    let mut found = Vec::new();
    Walk::new().go(top, until, &mut |pids| {
        let room = most.saturating_sub(found.len());
        found.extend(pids.iter().take(room));
        found.len() >= most
    });
    found
}

/// All processes below a cgroup; `None`: there are more than `most`, or there was no time to find them.
#[must_use]
pub fn all(top: &Cgroup, most: usize, until: Instant) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    let complete = Walk::new().go(top, until, &mut |pids| {
        found.extend_from_slice(pids);
        found.len() > most
    });
    complete.then_some(found)
}
