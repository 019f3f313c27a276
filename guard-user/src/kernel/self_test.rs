//! Attaching proves nothing: a child in a cgroup of its own tries to fork, and only what came of it counts.

use std::{
    fs,
    io::{self, Write},
    mem::offset_of,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    sync::atomic::Ordering,
};

use guard_common::{
    Container, SLOTS, Subject,
    action::{Action, Fate},
    fork_storm::{PROFILE_SELF_TEST, Profile},
    host::Host,
    setup::CLONE_INTO_CGROUP,
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        signal::kill,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use thiserror::Error;

use super::{load::Kernel, tables::Plain};

/// What the name of the self-test's cgroup begins with, at the root of the hierarchy. The process id follows: `doctor` may
/// test while a daemon starts.
const NAME: &str = "bulkhead-self-test-";
/// The cgroup that is made in it.
const NESTED: &str = "nested";

/// Why the self-test could not be made.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// The cgroup.
    #[error("cannot use the self-test's cgroup {path}")]
    Cgroup {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A kernel table.
    #[error("cannot enter the self-test into the kernel's tables")]
    Table(#[from] aya::maps::MapError),
    /// The child.
    #[error("the self-test's child did not report ({0})")]
    Child(String),
}

/// What the child tries: async-signal-safe calls only, and no allocation. Its result is an errno, or [`DONE`].
pub struct Trial<'t> {
    /// Run in the child, once it stands in the cgroup.
    pub run: &'t dyn Fn() -> i32,
    /// What is refused it, besides every fork: one program's actions, or another that stands before the same would refuse first.
    pub actions: &'t [Action],
}

/// A fork.
pub const FORK: Trial<'static> = Trial {
    run: &try_fork,
    actions: &[],
};

/// It was done, and not refused; no errno.
pub const DONE: i32 = 251;
const NOT_MOVED: i32 = 252;

/// What the self-test found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What came of the trial: an errno, or [`DONE`].
    pub came: i32,
    /// What the kernel side counted.
    pub container: Container,
    /// A cgroup that was made in a container's was entered by the kernel side, before it could be used.
    pub inherits: bool,
    /// Of a trial of a fork: forks were seen to end while it ran, one that was done, and one that failed behind the verdict.
    pub ends: bool,
}

/// Lets a child try something under a profile that refuses it, and every fork, in a cgroup that was made below a governed one. The caller's
/// programs must act already.
///
/// # Errors
/// [`SelfTestError`].
pub fn run(
    kernel: &mut Kernel,
    hierarchy: &Path,
    id_of: impl Fn(&Path) -> io::Result<u64>,
    trial: &Trial<'_>,
) -> Result<Outcome, SelfTestError> {
    remove_leftovers(hierarchy);
    let path = hierarchy.join(format!("{NAME}{}", std::process::id()));
    let nested = path.join(NESTED);
    let failed = |source| SelfTestError::Cgroup {
        path: path.display().to_string(),
        source,
    };
    // One that was left behind was made before these programs acted.
    let _ = fs::remove_dir(&nested);
    if let Err(error) = fs::create_dir(&path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(failed(error));
    }
    let id = id_of(&path).map_err(failed)?;
    let slot = SLOTS - 1;
    let subject = Subject {
        container: id,
        slot,
        reserved: 0,
    };
    kernel.containers.fill(
        slot as usize,
        &Container {
            id,
            profile: PROFILE_SELF_TEST,
            level: 1,
            ..Container::default()
        },
    );
    let mut refusing = Profile {
        self_test: 1,
        ..Profile::default()
    };
    for action in trial.actions {
        refusing.fates.add(*action, Fate::Refused);
    }
    kernel.profiles.set(PROFILE_SELF_TEST, Plain(refusing), 0)?;
    kernel.enter(id, subject)?;
    let landed = |kernel: &Kernel| {
        let own = kernel.host.get(0).forks_landed;
        kernel.total().map(|total| own.wrapping_add(total))
    };
    let before = landed(kernel);
    let tried = in_nested(kernel, &nested, subject, &id_of, trial);
    let refused = kernel.host.get(0);
    // A copy of this process, which only the trial of the governor is about.
    if trial.actions.is_empty() {
        fork_in_vain();
    }
    // What nobody says was not seen.
    let done = (landed(kernel).zip(before)).is_some_and(|(now, before)| now != before);
    let ends = done && kernel.host.get(0).forks_failed != refused.forks_failed;
    // Out of the table before the directory goes: its slot is never given to anyone.
    let removed = kernel.subjects.remove(&id);
    let counted = kernel.containers.get(slot as usize);
    kernel
        .containers
        .long(slot as usize, offset_of!(Container, id))
        .store(0, Ordering::Release);
    // The host's own counts are of containers.
    for (offset, own) in [
        (offset_of!(Host, refused), counted.refused),
        (offset_of!(Host, audited), counted.audited),
    ] {
        kernel
            .host
            .long(0, offset)
            .fetch_sub(own.iter().sum(), Ordering::Relaxed);
    }
    let gone = fs::remove_dir(&path);
    let (came, inherits) = tried?;
    removed?;
    gone.map_err(failed)?;
    if came == NOT_MOVED {
        return Err(failed(io::Error::other("the child could not enter it")));
    }
    Ok(Outcome {
        came,
        container: counted,
        inherits,
        ends,
    })
}

/// What comes of a trial on the host, which is refused nothing.
///
/// # Errors
/// [`SelfTestError`].
pub fn outside(trial: &Trial<'_>) -> Result<i32, SelfTestError> {
    wait_for(trial, || true)
}

/// Asks for a child and for its pidfd at an address where nothing can be written: the kernel finds that out behind all hooks
/// (`copy_process`, kernel/fork.c). No capability is needed, and clone(2) is there also where a seccomp filter takes clone3(2)
/// away, as systemd's `RestrictNamespaces=` does.
fn fork_in_vain() {
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    let nowhere = 1_usize;
    // SAFETY: the child, which there cannot be, would be a copy of this process on a copy of its stack, and ends at once.
    unsafe {
        if libc::syscall(libc::SYS_clone, flags, 0, nowhere, 0, 0) == 0 {
            libc::_exit(0);
        }
    }
}

/// Makes a task straight in this cgroup of v2 (`CLONE_INTO_CGROUP`), which ends at once; whether it could be made.
pub fn make_into(cgroup: BorrowedFd<'_>) -> bool {
    let mut arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        // SAFETY: plain numbers, of which 0 is no flag, no stack and no descriptor.
        ..unsafe { std::mem::zeroed() }
    };
    let size = size_of_val(&arguments);
    // SAFETY: the arguments are as long as it says. The child is a copy of this process on a copy of its stack, and ends at once.
    unsafe {
        match libc::syscall(libc::SYS_clone3, &raw mut arguments, size) {
            0 => libc::_exit(0),
            -1 => false,
            child => {
                libc::waitpid(child as i32, std::ptr::null_mut(), 0);
                true
            }
        }
    }
}

/// Takes away the cgroups of those that died over their test. Of what is still in use the kernel removes nothing.
fn remove_leftovers(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = (name.to_str())
            .and_then(|name| name.strip_prefix(NAME)?.parse().ok())
            .map(Pid::from_raw);
        if owner.is_some_and(|owner| kill(owner, None) == Err(Errno::ESRCH)) {
            let _ = fs::remove_dir(entry.path().join(NESTED));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Makes the nested cgroup, lets the child try it there, and takes it away; whether the kernel side had entered it.
fn in_nested(
    kernel: &mut Kernel,
    nested: &Path,
    subject: Subject,
    id_of: impl Fn(&Path) -> io::Result<u64>,
    trial: &Trial<'_>,
) -> Result<(i32, bool), SelfTestError> {
    let failed = |source| SelfTestError::Cgroup {
        path: nested.display().to_string(),
        source,
    };
    let before = kernel.host.get(0).unlisted;
    fs::create_dir(nested).map_err(failed)?;
    let id = id_of(nested).map_err(failed)?;
    let listed = kernel.subjects.get(&id, 0).is_ok();
    // Where the table is full it is found through its ancestors.
    let inherits = listed || kernel.host.get(0).unlisted > before;
    if !inherits {
        // The governor is to be seen by itself.
        kernel.enter(id, subject)?;
    }
    let outcome = child(nested, trial);
    if !inherits {
        kernel.subjects.remove(&id)?;
    }
    fs::remove_dir(nested).map_err(failed)?;
    Ok((outcome?, inherits))
}

fn try_fork() -> i32 {
    // SAFETY: async-signal-safe calls in a child with one thread.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            -1 => Errno::last_raw(),
            grandchild => {
                libc::waitpid(grandchild, std::ptr::null_mut(), 0);
                DONE
            }
        }
    }
}

/// Forks a child that enters the cgroup and tries; its exit code is what came of that.
fn child(path: &Path, trial: &Trial<'_>) -> Result<i32, SelfTestError> {
    let failed = |source| SelfTestError::Cgroup {
        path: path.display().to_string(),
        source,
    };
    let mut procs = fs::OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.procs"))
        .map_err(failed)?;
    procs.flush().map_err(failed)?;
    let descriptor = procs.as_raw_fd();
    wait_for(trial, || {
        // SAFETY: a plain system call on a descriptor that is open and a buffer that is static.
        unsafe { libc::write(descriptor, c"0".as_ptr().cast(), 1) == 1 }
    })
}

/// Forks a child that enters and tries; its exit code is what came of that.
fn wait_for(trial: &Trial<'_>, enters: impl Fn() -> bool) -> Result<i32, SelfTestError> {
    // SAFETY: the child makes only async-signal-safe calls (write, fork, waitpid, _exit) and allocates nothing.
    match unsafe { fork() }.map_err(|error| SelfTestError::Child(error.to_string()))? {
        ForkResult::Child => {
            let came = if enters() { (trial.run)() } else { NOT_MOVED };
            // SAFETY: ends the process.
            unsafe { libc::_exit(came) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(code),
                Ok(status) => return Err(SelfTestError::Child(format!("{status:?}"))),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(SelfTestError::Child(error.to_string())),
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_dead_process_is_removed_and_that_of_a_living_one_stays() {
        let us = std::process::id();
        let hierarchy = std::env::temp_dir().join(format!("bulkhead-leftovers-{us}"));
        // One more than any pid (PID_MAX_LIMIT, include/linux/threads.h).
        let dead = hierarchy.join(format!("{NAME}4194305"));
        let kept = [
            format!("{NAME}{us}"),
            format!("{NAME}x"),
            "4194305".to_owned(),
        ];
        let kept = kept.map(|name| hierarchy.join(name));
        for path in kept.iter().chain([&dead]) {
            fs::create_dir_all(path.join(NESTED)).unwrap();
        }
        remove_leftovers(&hierarchy);
        assert!(!dead.exists());
        assert!(kept.iter().all(|path| path.join(NESTED).exists()));
        fs::remove_dir_all(&hierarchy).unwrap();
    }
}
