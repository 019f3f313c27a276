//! Makes a user or a network namespace in each way there is, before or after it executes something in its cgroup.

use std::{
    arch::asm,
    ffi::CString,
    fs,
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, ValueEnum};

use crate::bed::PROBE;

/// Makes a user namespace.
#[derive(Args, Clone, Debug)]
pub struct UserNamespace {
    /// A network namespace instead.
    #[arg(long)]
    pub net: bool,
    /// How it is asked for.
    #[arg(long, value_enum, default_value = "unshare")]
    pub way: Way,
    /// Enter the cgroup with this directory first.
    #[arg(long)]
    pub join: Option<PathBuf>,
    /// Then do these, one after the other.
    #[arg(long, value_enum)]
    pub then: Vec<Step>,
    /// The directory that `Step::Into` makes its child in.
    #[arg(long)]
    pub into: Option<PathBuf>,
}

/// How it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// unshare(2).
    Unshare,
    /// The same, by the entry for programs of 32 bits.
    Unshare32,
    /// clone(2).
    Clone,
    /// clone3(2).
    Clone3,
}

/// What is done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Goes on in a child, whose number it prints.
    Fork,
    /// Stops, until somebody lets it go on.
    Stop,
    /// Goes on in a child that is made in another cgroup (CLONE_INTO_CGROUP).
    Into,
    /// Executes itself by its path.
    Exec,
    /// Executes itself from a memfd.
    Memfd,
    /// Goes on in a mount namespace of its own.
    Mounts,
}

impl UserNamespace {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(mut self) -> io::Result<()> {
        if let Some(cgroup) = self.join.take() {
            enter(&cgroup)?;
        }
        if !self.then.is_empty() {
            let step = self.then.remove(0);
            return self.step(step);
        }
        match self.way {
            Way::Unshare => came(unshare(self.flag())),
            Way::Unshare32 => came(call_32(310, self.flag() as u32)),
            Way::Clone => child_of(clone(self.flag() as u64)?),
            Way::Clone3 => child_of(clone3(self.flag() as u64, None)?),
        }
    }

    const fn flag(&self) -> i32 {
        if self.net {
            libc::CLONE_NEWNET
        } else {
            libc::CLONE_NEWUSER
        }
    }

    fn step(self, step: Step) -> io::Result<()> {
        match step {
            Step::Exec => Err(self.command(Path::new(PROBE)).exec()),
            Step::Memfd => {
                // SAFETY: a static name; the descriptor is open and nobody else's.
                let file = unsafe {
                    let made = libc::memfd_create(c"probe".as_ptr(), 0);
                    if made < 0 {
                        return Err(io::Error::last_os_error());
                    }
                    fs::File::from_raw_fd(made)
                };
                (&file).write_all(&fs::read(PROBE)?)?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                Err(self.command(Path::new(&path)).exec())
            }
            Step::Mounts => {
                // SAFETY: no preconditions.
                came(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
                self.run()
            }
            Step::Stop => {
                // SAFETY: no preconditions.
                came(i64::from(unsafe { libc::raise(libc::SIGSTOP) }))?;
                self.run()
            }
            Step::Fork => {
                let child = clone(0)?;
                if child != 0 {
                    println!("{child}");
                }
                self.go_on_in(child)
            }
            Step::Into => {
                let into = (self.into.clone()).ok_or(io::ErrorKind::InvalidInput)?;
                let folder = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(into)?;
                self.go_on_in(clone3(0, Some(&folder))?)
            }
        }
    }

    /// The child goes on, and says by its end what came of it.
    fn go_on_in(self, child: i32) -> io::Result<()> {
        if child == 0 {
            let code = match self.run() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        child_of(child)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["user-namespace", "--way"]);
        command.arg(name(&self.way));
        if self.net {
            command.arg("--net");
        }
        for step in &self.then {
            command.arg("--then").arg(name(step));
        }
        if let Some(into) = &self.into {
            command.arg("--into").arg(into);
        }
        command
    }
}

fn name(value: &impl ValueEnum) -> String {
    (value.to_possible_value()).map_or_else(String::new, |value| value.get_name().to_owned())
}

fn enter(cgroup: &Path) -> io::Result<()> {
    let path = CString::new(cgroup.join("cgroup.procs").as_os_str().as_encoded_bytes())?;
    // Not by the shell: that would execute something first.
    // SAFETY: a path that ends with a NUL, and a buffer that is static.
    let written = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::write(file, c"0".as_ptr().cast(), 1)
    };
    came(written as i64 - 1)
}

fn unshare(flag: i32) -> i64 {
    // SAFETY: no preconditions.
    i64::from(unsafe { libc::unshare(flag) })
}

/// By `int 0x80`, with the number that a system call has there; -1 and `errno` as libc does it.
pub(super) fn call_32(number: i64, first: u32) -> i64 {
    let mut result = number;
    // SAFETY: the system call reads one register and changes another; what the kernel may do to the others is said.
    unsafe {
        asm!(
            "push rbx", "mov ebx, {first:e}", "int 0x80", "pop rbx",
            first = in(reg) first, inout("rax") result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        let result = result as i32;
        if result < 0 {
            *libc::__errno_location() = -result;
            return -1;
        }
        i64::from(result)
    }
}

/// clone(2), as fork(2) does it; 0 in the child.
fn clone(flags: u64) -> io::Result<i32> {
    // SAFETY: the child is a copy of this process, which has one thread, on a copy of its stack.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD as u64, 0, 0, 0, 0) };
    known(child)
}

fn clone3(flags: u64, into: Option<&fs::File>) -> io::Result<i32> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    // struct clone_args (include/uapi/linux/sched.h): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
    // set_tid, set_tid_size, cgroup.
    let mut arguments = [0_u64; 11];
    arguments[0] = flags;
    arguments[4] = libc::SIGCHLD as u64;
    if let Some(folder) = into {
        arguments[0] |= INTO_CGROUP;
        arguments[10] = folder.as_raw_fd() as u64;
    }
    // SAFETY: as above; the arguments are as long as the call is told.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            arguments.as_ptr(),
            size_of_val(&arguments),
        )
    };
    known(child)
}

fn known(child: i64) -> io::Result<i32> {
    came(child)?;
    Ok(child as i32)
}

/// The parent waits, and fails as the child did; the child of [`clone`] with nothing more to do ends.
fn child_of(child: i32) -> io::Result<()> {
    if child == 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    }
    let mut status = 0;
    // SAFETY: room for the status.
    came(i64::from(unsafe {
        libc::waitpid(child, &raw mut status, 0)
    }))?;
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

pub(super) fn came(result: i64) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
