//! All the ways in which a program makes a task.

use std::{
    ffi::{CString, c_int, c_void},
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    ptr, thread,
};

use clap::ValueEnum;
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::tally::Tally;

/// A way to make a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// fork(2).
    Fork,
    /// What vfork(2) does: the child borrows the parent's memory, and the parent waits.
    Vfork,
    /// clone(2) with a stack of its own.
    Clone,
    /// clone3(2).
    Clone3,
    /// pthread_create(3).
    Thread,
    /// clone3(2) straight into another cgroup (`--cgroup`).
    Into,
    /// A child that makes a session of its own, forks and exits.
    Daemon,
    /// For every child a new cgroup below `--cgroup`, which it enters before it forks itself.
    Nested,
}

impl How {
    /// Every way.
    pub const ALL: [Self; 8] = [
        Self::Fork,
        Self::Vfork,
        Self::Clone,
        Self::Clone3,
        Self::Thread,
        Self::Into,
        Self::Daemon,
        Self::Nested,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Vfork => "vfork",
            Self::Clone => "clone",
            Self::Clone3 => "clone3",
            Self::Thread => "thread",
            Self::Into => "into",
            Self::Daemon => "daemon",
            Self::Nested => "nested",
        }
    }
}

/// Makes tasks that end at once, one after the other.
pub struct Maker {
    how: How,
    tally: &'static Tally,
    stack: Vec<u8>,
    cgroup: Option<(PathBuf, OwnedFd)>,
    nested: u64,
}

const STACK: usize = 64 << 10;
/// Since 5.7; libc's own constant is too narrow for it.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

impl Maker {
    /// Prepares everything that is not itself a fork.
    ///
    /// # Errors
    /// The cgroup cannot be opened, or the way needs one.
    pub fn new(how: How, cgroup: Option<&Path>, tally: &'static Tally) -> io::Result<Self> {
        let cgroup = match cgroup {
            Some(path) => Some((
                path.to_path_buf(),
                open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?,
            )),
            None if matches!(how, How::Into | How::Nested) => {
                return Err(io::Error::other("this way needs --cgroup"));
            }
            None => None,
        };
        Ok(Self {
            how,
            tally,
            stack: vec![0; STACK],
            cgroup,
            nested: 0,
        })
    }

    /// Makes one task (two, where the way is to fork twice), counts what came of it and waits for its end.
    pub fn make(&mut self) {
        match self.how {
            How::Fork => self.process(|| 0),
            How::Vfork => self.clone(libc::CLONE_VM | libc::CLONE_VFORK),
            How::Clone => self.clone(0),
            How::Clone3 => self.clone3(None),
            How::Into => self.clone3(self.cgroup.as_ref().map(|(_, folder)| folder.as_raw_fd())),
            How::Thread => {
                let made = thread::Builder::new().stack_size(STACK).spawn(|| ());
                match made {
                    Ok(thread) => {
                        self.tally.made();
                        let _ = thread.join();
                    }
                    Err(error) => self.tally.failed(error.raw_os_error().unwrap_or(0)),
                }
            }
            How::Daemon => {
                let tally = self.tally;
                self.process(|| {
                    // SAFETY: no memory is touched.
                    unsafe { libc::setsid() };
                    leave_a_grandchild(tally);
                    0
                });
            }
            How::Nested => self.nested(),
        }
    }

    fn process(&self, child: impl FnOnce() -> c_int) {
        // SAFETY: the probe has one thread; the child runs `child` and leaves by _exit.
        match unsafe { libc::fork() } {
            0 => {
                let code = child();
                // SAFETY: ends the child without the parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
            pid => self.wait(pid),
        }
    }

    fn wait(&self, pid: c_int) {
        if pid < 0 {
            self.tally
                .failed(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            return;
        }
        self.tally.made();
        // SAFETY: the status is not asked for.
        while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0
            && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
    }

    fn clone(&mut self, flags: c_int) {
        extern "C" fn nothing(_: *mut c_void) -> c_int {
            0
        }
        let top = self.stack.as_mut_ptr_range().end;
        // SAFETY: the stack is ours, 16-byte aligned at its top, and used by one child at a time; the child returns at
        // once, which ends it.
        let pid = unsafe {
            libc::clone(
                nothing,
                top.map_addr(|address| address & !15).cast(),
                flags | libc::SIGCHLD,
                ptr::null_mut(),
            )
        };
        self.wait(pid);
    }

    fn clone3(&self, cgroup: Option<c_int>) {
        // SAFETY: plain integers, for which zero is a value.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        if let Some(cgroup) = cgroup {
            arguments.flags = CLONE_INTO_CGROUP;
            arguments.cgroup = cgroup as u64;
        }
        // SAFETY: without a stack this is fork(2); the child leaves by _exit.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw const arguments,
                size_of::<libc::clone_args>(),
            )
        };
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        self.wait(pid as c_int);
    }

    fn nested(&mut self) {
        let Some((above, _)) = &self.cgroup else {
            return;
        };
        self.nested += 1;
        let below = above.join(format!("nested-{}-{}", std::process::id(), self.nested));
        if std::fs::create_dir(&below).is_err() {
            self.tally.failed(libc::EIO);
            return;
        }
        let tally = self.tally;
        self.process(|| {
            if enter(&below).is_err() {
                tally.failed(libc::EIO);
                return 1;
            }
            leave_a_grandchild(tally);
            0
        });
    }
}

/// Forks once more, for a child that is about to end; the grandchild ends at once, and is init's to reap.
fn leave_a_grandchild(tally: &Tally) {
    // SAFETY: the child has one thread, and the grandchild ends at once.
    match unsafe { libc::fork() } {
        // SAFETY: ends the grandchild.
        0 => unsafe { libc::_exit(0) },
        -1 => tally.failed(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        pid => {
            tally.made();
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
        }
    }
}

/// Moves the running process into a cgroup.
///
/// # Errors
/// What the file system said.
pub fn enter(cgroup: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"))?
        .write_all(b"0")
}

/// A path as the system calls want it.
///
/// # Errors
/// The path contains a NUL.
pub fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
