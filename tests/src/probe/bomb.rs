//! Probes whose tasks end at once: a bomb, a steady forker, and first forks in many new cgroups.

use std::{
    fs, io,
    path::PathBuf,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    forks::{CLONE_INTO_CGROUP, How, Maker, enter},
    tally::{Counted, Tally},
};

/// Makes tasks as fast as it can.
#[derive(Args, Clone, Debug)]
pub struct Bomb {
    /// In which way.
    #[arg(long, value_enum, default_value = "fork")]
    pub how: How,
    /// For so long.
    #[arg(long, default_value_t = 3600.0)]
    pub seconds: f64,
    /// Until so many were made.
    #[arg(long, default_value_t = u64::MAX)]
    pub made: u64,
    /// Until so many were refused.
    #[arg(long, default_value_t = u64::MAX)]
    pub refused: u64,
    /// So many attempts.
    #[arg(long, default_value_t = u64::MAX)]
    pub attempts: u64,
    /// A cgroup, for the ways that need one.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// So many processes do it together.
    #[arg(long, default_value_t = 1)]
    pub together: u32,
}

/// Makes tasks at a steady pace; beats that come much too late are not caught up on.
#[derive(Args, Clone, Debug)]
pub struct Steady {
    /// Forks a second.
    #[arg(long)]
    pub rate: f64,
    /// For so long.
    #[arg(long)]
    pub seconds: f64,
}

/// What a steady forker makes up for.
const LATE: Duration = Duration::from_millis(50);

/// Makes cgroups, each with a process in it that forks at once.
#[derive(Args, Clone, Debug)]
pub struct Window {
    /// A file with one folder of a cgroup a line. Missing ones above are made too.
    pub list: PathBuf,
    /// So many forks each.
    #[arg(long, default_value_t = 3)]
    pub forks: u32,
    /// Every second process is born in its cgroup (clone3) and does not move there.
    #[arg(long)]
    pub born: bool,
}

impl Bomb {
    /// Runs the probe.
    ///
    /// # Errors
    /// It could not be set up.
    pub fn run(&self) -> io::Result<Counted> {
        let tally = Tally::new()?;
        let began = Instant::now();
        let mut others = Vec::new();
        for _ in 1..self.together {
            // SAFETY: the probe has one thread; the child goes on with memory of its own.
            match unsafe { libc::fork() } {
                0 => {
                    let _ = self.until_done(tally, began);
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) }
                }
                -1 => return Err(io::Error::last_os_error()),
                pid => others.push(pid),
            }
        }
        self.until_done(tally, began)?;
        for pid in others {
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
        Ok(tally.counted(began.elapsed().as_secs_f64()))
    }

    fn until_done(&self, tally: &'static Tally, began: Instant) -> io::Result<()> {
        let mut maker = Maker::new(self.how, self.cgroup.as_deref(), tally)?;
        let mut attempts = 0;
        while attempts < self.attempts && began.elapsed().as_secs_f64() < self.seconds {
            let (made, refused) = tally.so_far();
            if made >= self.made || refused >= self.refused {
                break;
            }
            maker.make();
            attempts += 1;
        }
        Ok(())
    }
}

impl Steady {
    /// Runs the probe.
    ///
    /// # Errors
    /// It could not be set up.
    pub fn run(&self) -> io::Result<Counted> {
        let tally = Tally::new()?;
        let mut maker = Maker::new(How::Fork, None, tally)?;
        let (began, beat) = (Instant::now(), Duration::from_secs_f64(1.0 / self.rate));
        let mut next = began;
        while began.elapsed().as_secs_f64() < self.seconds {
            if let Some(early) = next.checked_duration_since(Instant::now()) {
                thread::sleep(early);
            }
            // A processor that was away for long is not made up for.
            let now = Instant::now();
            next = if now > next + LATE { now } else { next } + beat;
            maker.make();
        }
        Ok(tally.counted(began.elapsed().as_secs_f64()))
    }
}

impl Window {
    /// Runs the probe. A process that got more or fewer than one fork counts as failed, and is named.
    ///
    /// # Errors
    /// A cgroup cannot be made.
    pub fn run(&self) -> io::Result<Counted> {
        let (tally, began) = (Tally::new()?, Instant::now());
        let mut buffer = Vec::new();
        for (number, line) in fs::read_to_string(&self.list)?.lines().enumerate() {
            fs::create_dir_all(line)?;
            let own = Tally::new()?;
            buffer.push((line.to_owned(), own));
            let folder = fs::File::open(line)?;
            let born = self.born && number % 2 == 1;
            // SAFETY: plain integers, for which zero is a value.
            let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
            arguments.exit_signal = libc::SIGCHLD as u64;
            if born {
                use std::os::fd::AsRawFd;
                arguments.flags = CLONE_INTO_CGROUP;
                arguments.cgroup = folder.as_raw_fd() as u64;
            }
            // SAFETY: without a stack this is fork(2); the probe has one thread, and the child leaves by _exit.
            let pid = unsafe {
                libc::syscall(
                    libc::SYS_clone3,
                    &raw const arguments,
                    size_of::<libc::clone_args>(),
                )
            };
            match pid {
                0 => {
                    if (born || enter(line.as_ref()).is_ok())
                        && let Ok(mut maker) = Maker::new(How::Fork, None, own)
                    {
                        for _ in 0..self.forks {
                            maker.make();
                        }
                    }
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) }
                }
                -1 => return Err(io::Error::last_os_error()),
                _ => {}
            }
        }
        // SAFETY: the status is not asked for.
        while unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
        let mut wrong = 0;
        for (line, own) in &buffer {
            let (made, refused) = own.so_far();
            for _ in 0..made {
                tally.made();
            }
            for _ in 0..refused {
                tally.failed(libc::EAGAIN);
            }
            if made != 1 || refused + 1 != u64::from(self.forks) {
                wrong += 1;
                if wrong < 5 {
                    eprintln!("{line}: {made} made, {refused} refused");
                }
            }
        }
        tally.ready.store(wrong, Ordering::Relaxed);
        let mut counted = tally.counted(began.elapsed().as_secs_f64());
        counted.failed = wrong;
        Ok(counted)
    }
}
