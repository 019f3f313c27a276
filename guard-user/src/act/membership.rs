//! Whose a process is, and what must never be touched: the host's pid 1, the daemon, the root of the tree.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::cgroup::Cgroup;
use crate::identity::tree::{Hierarchy, Version};

/// In the flags of a task that exits (include/linux/sched.h, the same from 5.10 to 7.3): from then on it shows as the
/// root's on v1.
const PF_EXITING: u64 = 0x4;

/// What a cgroup holds that keeps it from being frozen or killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The whole host.
    Everything,
    /// The host's pid 1.
    Init,
    /// This process.
    Us,
}

impl std::fmt::Display for Holds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Everything => "everything",
            Self::Init => "the host's pid 1",
            Self::Us => "this daemon",
        })
    }
}

/// The last line of defence: whatever was decided, this is never acted on. A cgroup without a path has vanished.
#[must_use]
pub fn holds(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Option<Holds> {
    let path = cgroup.path(hierarchy)?;
    if path == Path::new("/") {
        return Some(Holds::Everything);
    }
    let inside = |pid: u32| of_process(hierarchy, pid).is_some_and(|at| at.starts_with(&path));
    if inside(1) {
        Some(Holds::Init)
    } else if inside(std::process::id()) {
        Some(Holds::Us)
    } else {
        None
    }
}

/// Where a process is in the hierarchy; `None`: it has gone.
#[must_use]
pub fn of_process(hierarchy: &Hierarchy, pid: u32) -> Option<PathBuf> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    match hierarchy.version {
        Version::V2 => line(&text, |number, _| number == b"0"),
        Version::V1 => line(&text, |_, controllers| has(controllers, b"pids")),
    }
}

/// As `of_process`, for a process that lives: on v1 the dead show as the root's (proc_cgroup_show), wherever they were.
#[must_use]
pub fn of_living(hierarchy: &Hierarchy, pid: u32) -> Option<PathBuf> {
    let at = of_process(hierarchy, pid)?;
    (at != Path::new("/") || !is_dead(pid)).then_some(at)
}

/// Where a living process is in the freezer's hierarchy (v1).
#[must_use]
pub fn of_freezer(pid: u32) -> Option<PathBuf> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    let at = line(&text, |_, controllers| has(controllers, b"freezer"))?;
    (at != Path::new("/") || !is_dead(pid)).then_some(at)
}

/// Whether a process is gone, or its first thread exits or is dead; asked after what is believed only of the living.
#[must_use]
pub fn is_dead(pid: u32) -> bool {
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The fields follow the name, which may hold anything, in brackets: the state, and flags as the seventh (proc(5)).
    let Some(name) = stat.iter().rposition(|byte| *byte == b')') else {
        return true;
    };
    let rest = String::from_utf8_lossy(&stat[name + 1..]);
    let mut fields = rest.split_whitespace();
    let is_dead = fields.next().is_none_or(|state| matches!(state, "Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok());
    is_dead || flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// Where a thread is in the pids controller's hierarchy (v1, where threads of a process may be apart).
#[must_use]
pub fn of_thread_v1(pid: u32, thread: u32) -> Option<PathBuf> {
    let text = fs::read(format!("/proc/{pid}/task/{thread}/cgroup")).ok()?;
    line(&text, |_, controllers| has(controllers, b"pids"))
}

fn has(controllers: &[u8], name: &[u8]) -> bool {
    controllers
        .split(|byte| *byte == b',')
        .any(|one| one == name)
}

/// The path in the line of /proc/PID/cgroup, cgroups(7), that is asked for: `number:controllers:path`.
fn line(text: &[u8], wanted: impl Fn(&[u8], &[u8]) -> bool) -> Option<PathBuf> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // What is outside our cgroup namespace shows as `/..`: nothing is known of it.
        (wanted(number, controllers) && !path.starts_with(b"/.."))
            .then(|| PathBuf::from(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_hierarchy_is_found_and_a_foreign_namespace_tells_nothing() {
        let text = b"9:pids:/a:b\n3:cpu,freezer:/f\n0::/u\n";
        let pids = line(text, |_, controllers| has(controllers, b"pids"));
        assert_eq!(pids, Some("/a:b".into()));
        let freezer = line(text, |_, controllers| has(controllers, b"freezer"));
        assert_eq!(freezer, Some("/f".into()));
        assert_eq!(line(text, |number, _| number == b"0"), Some("/u".into()));
        assert_eq!(line(b"0::/../x\n", |number, _| number == b"0"), None);
        assert_eq!(line(b"garbage", |_, _| true), None);
    }
}
