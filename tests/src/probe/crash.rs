//! Processes that die of a segmentation fault: the kernel tells of each, in its own context.

use std::io;

use clap::Args;

/// Dies again and again, each time as another process.
#[derive(Args, Clone, Debug)]
pub struct Crash {
    /// What each calls itself: this, a dash and its number.
    #[arg(long)]
    pub name: String,
    /// How many die.
    #[arg(long)]
    pub times: u32,
}

impl Crash {
    /// Runs the probe; how many died as they should.
    ///
    /// # Errors
    /// A process could not be made.
    pub fn run(&self) -> io::Result<u32> {
        let mut died = 0;
        for number in 0..self.times {
            let name = super::forks::c_path(format!("{}-{number}", self.name).as_ref())?;
            // SAFETY: the probe has one thread; the child makes system calls only, and dies.
            unsafe {
                match libc::fork() {
                    -1 => return Err(io::Error::last_os_error()),
                    0 => {
                        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
                        let none = libc::rlimit {
                            rlim_cur: 0,
                            rlim_max: 0,
                        };
                        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                        std::ptr::with_exposed_provenance_mut::<u8>(8).write_volatile(1);
                        libc::_exit(0)
                    }
                    pid => {
                        let mut status = 0;
                        libc::waitpid(pid, &raw mut status, 0);
                        died += u32::from(
                            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
                        );
                    }
                }
            }
        }
        Ok(died)
    }
}
