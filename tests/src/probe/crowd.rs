//! Probes whose tasks stay: a leak, and a crowd of large processes that fork at once.

use std::{
    io::{self, Read},
    ptr,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::tally::{Counted, Tally};

/// What leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Threads.
    Thread,
    /// Processes.
    Process,
}

/// Makes tasks that stay, until its standard input ends.
#[derive(Args, Clone, Debug)]
pub struct Leak {
    /// What leaks.
    #[arg(long, value_enum, default_value = "thread")]
    pub what: What,
    /// At most so many.
    #[arg(long, default_value_t = u64::MAX)]
    pub most: u64,
    /// At most so many a second; 0: as fast as it can.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Give up at the first refusal, and only hold what there is.
    #[arg(long)]
    pub once: bool,
}

/// Large processes that wait for each other and then fork, all at once, again and again; the children stay.
#[derive(Args, Clone, Debug)]
pub struct Crowd {
    /// So many processes.
    #[arg(long, default_value_t = 64)]
    pub processes: u64,
    /// Threads of each that fork, once, all at the same time; 0: each process forks by itself, again and again.
    #[arg(long, default_value_t = 0)]
    pub threads: u64,
    /// Memory of each that is in use: a fork copies its page tables.
    #[arg(long, default_value_t = 4)]
    pub megabytes: usize,
    /// Stop after so long.
    #[arg(long)]
    pub seconds: f64,
}

/// Room for a thread that sleeps.
const STACK: usize = 32 << 10;

impl Leak {
    /// Runs the probe. Prints what it has at the first refusal or when all are made, and again at the end.
    ///
    /// # Errors
    /// It could not be set up.
    pub fn run(&self, say: &dyn Fn(&Counted)) -> io::Result<Counted> {
        let tally = Tally::new()?;
        let began = Instant::now();
        let mut said = false;
        let pause = if self.rate > 0.0 {
            Duration::from_secs_f64(1.0 / self.rate)
        } else {
            Duration::ZERO
        };
        loop {
            let (made, refused) = tally.so_far();
            let full = made >= self.most || (self.once && refused > 0);
            if !said && (full || refused > 0) {
                said = true;
                say(&tally.counted(began.elapsed().as_secs_f64()));
            }
            let wait = if full {
                Duration::from_millis(50)
            } else if refused > 0 {
                pause.max(Duration::from_millis(1))
            } else {
                pause
            };
            if input_ended(wait)? {
                return Ok(tally.counted(began.elapsed().as_secs_f64()));
            }
            if full {
                continue;
            }
            match self.what {
                What::Thread => match thread::Builder::new().stack_size(STACK).spawn(sleep) {
                    Ok(_) => tally.made(),
                    Err(error) => tally.failed(error.raw_os_error().unwrap_or(0)),
                },
                What::Process => stay(tally),
            }
        }
    }
}

impl Crowd {
    /// Runs the probe.
    ///
    /// # Errors
    /// It could not be set up.
    pub fn run(&self) -> io::Result<Counted> {
        let tally = Tally::new()?;
        for _ in 0..self.processes {
            // SAFETY: the probe has one thread; the child goes on with memory of its own.
            match unsafe { libc::fork() } {
                0 => {
                    die_with_parent();
                    self.member(tally);
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) }
                }
                -1 => return Err(io::Error::last_os_error()),
                _ => {}
            }
        }
        while tally.ready.load(Ordering::Relaxed) < self.processes * self.threads.max(1) {
            thread::sleep(Duration::from_millis(1));
        }
        let began = Instant::now();
        tally.stop.store(1, Ordering::Relaxed);
        futex(tally, libc::FUTEX_WAKE, i32::MAX);
        thread::sleep(Duration::from_secs_f64(self.seconds));
        Ok(tally.counted(began.elapsed().as_secs_f64()))
    }

    fn member(&self, tally: &'static Tally) {
        let mut memory = vec![1_u8; self.megabytes << 20];
        for page in memory.chunks_mut(4096) {
            page[0] = 2;
        }
        if self.threads > 0 {
            swarm(tally, self.threads as usize);
        }
        tally.ready.fetch_add(1, Ordering::Relaxed);
        while tally.stop.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        loop {
            let (_, refused) = tally.so_far();
            stay(tally);
            if tally.so_far().1 > refused {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Threads that fork once, at the start. Their stacks are one mapping: with one for each, every fork would copy thousands.
fn swarm(tally: &'static Tally, threads: usize) -> ! {
    extern "C" fn body(tally: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the pointer is the one that `swarm` hands over: a tally that lives as long as the process.
        let tally = unsafe { &*tally.cast::<Tally>().cast_const() };
        tally.ready.fetch_add(1, Ordering::Relaxed);
        wait_for_start(tally);
        // Not the library's fork, which lets one thread of a process in at a time.
        // SAFETY: the child only sleeps, on the stack that it has a copy of.
        match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => die_with_parent(),
            -1 => tally.failed(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
            _ => tally.made(),
        }
        sleep()
    }
    // SAFETY: fresh memory that is never unmapped, a part of it for each thread.
    unsafe {
        let stacks = libc::mmap(
            ptr::null_mut(),
            threads * STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        for number in 0..threads {
            let mut attributes = std::mem::zeroed();
            let mut thread = 0;
            libc::pthread_attr_init(&mut attributes);
            libc::pthread_attr_setstack(&mut attributes, stacks.byte_add(number * STACK), STACK);
            let argument = ptr::from_ref(tally).cast_mut().cast();
            match libc::pthread_create(&mut thread, &attributes, body, argument) {
                0 => {}
                errno => {
                    tally.failed(errno);
                    tally.ready.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    sleep()
}

/// Sleeps until the crowd starts: thousands that looked again and again would have no time to fork.
fn wait_for_start(tally: &Tally) {
    while tally.stop.load(Ordering::Relaxed) == 0 {
        futex(tally, libc::FUTEX_WAIT, 0);
    }
}

/// futex(2) on the low half of `stop`, which all processes share.
fn futex(tally: &Tally, operation: i32, value: i32) {
    // SAFETY: the word is mapped for as long as the process lives, and no timeout is given.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            tally.stop.as_ptr(),
            operation,
            value,
            ptr::null::<libc::timespec>(),
        )
    };
}

/// Forks a child that stays.
fn stay(tally: &Tally) {
    // SAFETY: the child only sleeps.
    match unsafe { libc::fork() } {
        0 => {
            die_with_parent();
            sleep()
        }
        -1 => tally.failed(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => tally.made(),
    }
}

fn sleep() -> ! {
    loop {
        // SAFETY: touches no memory.
        unsafe { libc::pause() };
    }
}

fn die_with_parent() {
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Waits for so long; whether standard input has ended.
fn input_ended(wait: Duration) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let input = io::stdin();
    let mut files = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    if !wait.subsec_nanos().is_multiple_of(1_000_000) {
        thread::sleep(Duration::from_nanos(u64::from(
            wait.subsec_nanos() % 1_000_000,
        )));
    }
    if poll(&mut files, timeout)? == 0 {
        return Ok(false);
    }
    let mut byte = [0; 1];
    Ok(input.lock().read(&mut byte)? == 0)
}
