//! Processes that the kernel tells of: in their own context as they die, or by a thread of its own when they are gone.

use std::{io, time::Duration};

use clap::{Args, ValueEnum};

/// Does it again and again, each time as another process, the first of a pid namespace of its own.
#[derive(Args, Clone, Debug)]
pub struct Crash {
    /// What each calls itself: this, a dash and its number.
    #[arg(long)]
    pub name: String,
    /// How many do.
    #[arg(long)]
    pub times: u32,
    /// What they do.
    #[arg(long, value_enum, default_value_t = How::Fault)]
    pub how: How,
}

/// What makes the kernel tell of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// A segmentation fault.
    Fault,
    /// An instruction that there is not.
    Trap,
    /// A system call that its seccomp filter kills it for; a kernel thread tells.
    Killed,
    /// A system call that its seccomp filter only tells of; it lives on for [`AFTER`].
    Logged,
    /// More memory than there is.
    Memory,
}

/// How long who is only told of is there still: nothing remembers a task that ends by itself.
const AFTER: Duration = Duration::from_millis(300);
/// What [`How::Memory`] uses, if it can.
const BYTES: usize = 64 << 20;
/// Whom the kernel kills first.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

impl Crash {
    /// Runs the probe; how many ended as they should.
    ///
    /// # Errors
    /// A process could not be made.
    pub fn run(&self) -> io::Result<u32> {
        let mut ended = 0;
        if self.how == How::Memory {
            // Who counts is not the one to be killed.
            std::fs::write(OOM_SCORE, "-1000")?;
        }
        for number in 0..self.times {
            let name = super::forks::c_path(format!("{}-{number}", self.name).as_ref())?;
            let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
            // SAFETY: the probe has one thread; the child makes system calls only, and ends.
            unsafe {
                match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
                    -1 => return Err(io::Error::last_os_error()),
                    0 => {
                        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
                        let none = libc::rlimit {
                            rlim_cur: 0,
                            rlim_max: 0,
                        };
                        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                        act(self.how);
                        libc::_exit(0)
                    }
                    pid => {
                        let mut status = 0;
                        libc::waitpid(pid as libc::pid_t, &raw mut status, 0);
                        ended += u32::from(self.how.is_end(status));
                    }
                }
            }
        }
        Ok(ended)
    }
}

impl How {
    fn is_end(self, status: libc::c_int) -> bool {
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        signal
            == match self {
                Self::Fault => Some(libc::SIGSEGV),
                Self::Trap => Some(libc::SIGILL),
                Self::Killed => Some(libc::SIGSYS),
                Self::Logged => None,
                Self::Memory => Some(libc::SIGKILL),
            }
    }
}

/// # Safety
/// In a process of its own, which ends by it.
unsafe fn act(how: How) {
    // SAFETY: whatever is broken is this process, as the caller promises.
    unsafe {
        match how {
            How::Fault => std::ptr::with_exposed_provenance_mut::<u8>(8).write_volatile(1),
            How::Trap => core::arch::asm!("ud2"),
            How::Killed => filtered(libc::SECCOMP_RET_KILL_PROCESS),
            How::Logged => {
                filtered(libc::SECCOMP_RET_LOG);
                std::thread::sleep(AFTER);
            }
            How::Memory => {
                let _ = std::fs::write(OOM_SCORE, "0");
                let memory = libc::mmap(
                    std::ptr::null_mut(),
                    BYTES,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                for page in (0..BYTES).step_by(4096) {
                    memory.cast::<u8>().add(page).write_volatile(1);
                }
            }
        }
    }
}

/// Calls getppid(2) under a filter that says so much of it, and allows all else.
fn filtered(action: u32) {
    let step = |code: u32, jump: u8, value: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump,
        k: value,
    };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            libc::SYS_getppid as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, action),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps live until the calls have returned.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        );
        libc::syscall(libc::SYS_getppid);
    }
}
