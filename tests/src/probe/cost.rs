//! What a fork or a read costs: rounds of the same work, timed one by one on the guest's monotonic clock.
//!
//! Under QEMU's `-icount shift=1` that clock is a count of guest instructions: two nanoseconds each.

use std::{
    ffi::CStr,
    fs::OpenOptions,
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::PathBuf,
    ptr, thread,
    time::Instant,
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// The work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Nothing but a loop of known length, to check the clock.
    Loop,
    /// fork, _exit, wait.
    Fork,
    /// fork, exec of a small static program (`--program`), wait.
    Exec,
    /// Thread create and join.
    Thread,
    /// A fork that is refused.
    Refused,
    /// open, read of one page and close of an ordinary file (`--program`).
    File,
    /// syslog(2): how large the kernel log's buffer is.
    Syslog,
    /// A line that is written into the kernel log.
    Line,
    /// fork of a child that a signal ends, wait.
    Killed,
    /// open and close of /dev/null.
    Device,
    /// ioctl(2): how much there is to read in a pipe.
    Ioctl,
    /// Asks rtnetlink for the loopback link, and gets it.
    Route,
    /// socket(2) of UDP, close.
    Socket,
    /// mount(2) and umount(2) of an empty tmpfs.
    Mount,
    /// sethostname(2) to what it is, for which the kernel asks for `CAP_SYS_ADMIN` and does hardly anything else.
    Hostname,
    /// A read of one page from a block device ([`BLOCK_DEVICE`]), past the page cache.
    Block,
}

/// Where [`Work::Block`] finds its device.
pub const BLOCK_DEVICE: &str = "/run/bulkhead-bench-device";

/// Times rounds of some work.
#[derive(Args, Clone, Debug)]
pub struct Cost {
    /// Which work.
    #[arg(long, value_enum)]
    pub work: Work,
    /// So many rounds count.
    #[arg(long, default_value_t = 1000)]
    pub rounds: u32,
    /// So many rounds come before.
    #[arg(long, default_value_t = 100)]
    pub warm_up: u32,
    /// What is executed, or read.
    #[arg(long, default_value = "/usr/local/bin/bulkhead-probe-true")]
    pub program: PathBuf,
}

/// Nanoseconds of a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Costs {
    /// Rounds.
    pub rounds: u32,
    /// Rounds that did not come out as they should: a fork that was refused, or one that was not.
    pub wrong: u32,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// The longest round.
    pub worst: f64,
    /// Variance of single rounds.
    pub variance: f64,
    /// Whole time, the pauses between rounds included.
    pub total: f64,
    /// Passes of the loop that the pauses were made of.
    pub paused: u64,
}

/// What a read past the page cache can go to.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// Instructions of one pass of the loop that checks the clock: a subtraction and a branch.
pub const LOOP_INSTRUCTIONS: u64 = 2;
/// Passes of that loop in a round.
pub const LOOP_PASSES: u64 = 100_000;

/// A pause between two rounds has fewer passes than these, on average half: without one, rounds of nearly the same length run in
/// step with the timer's interrupts, and a hundred instructions more or less move a whole series by thousands.
const PAUSE_PASSES: u64 = 16_384;

impl Cost {
    /// Runs the probe.
    ///
    /// # Errors
    /// It could not be set up.
    pub fn run(&self) -> io::Result<Costs> {
        let program = super::forks::c_path(&self.program)?;
        let mut log = None;
        if self.work == Work::Line {
            log = Some(OpenOptions::new().write(true).open("/dev/kmsg")?);
        }
        let mut block = None;
        if self.work == Work::Block {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_DIRECT);
            block = Some(options.open(BLOCK_DEVICE)?);
        }
        let mut aligned = Page([0; 4096]);
        let (pipe, _writer) = io::pipe()?;
        let route = route()?;
        let place = std::env::temp_dir().join(format!("cost-{}", std::process::id()));
        std::fs::create_dir(&place)?;
        let at = super::forks::c_path(&place)?;
        let name = std::fs::read("/proc/sys/kernel/hostname")?;
        let name = name.trim_ascii_end();
        let mut page = [0; 4096];
        let mut costs = Costs {
            rounds: self.rounds,
            ..Costs::default()
        };
        let mut times = Vec::with_capacity(self.rounds as usize);
        let mut whole = Instant::now();
        // The same pauses in each run (xorshift64).
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..self.warm_up + self.rounds {
            if round == self.warm_up {
                whole = Instant::now();
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let pause = 1 + random % (PAUSE_PASSES - 1);
            spin(pause);
            let began = Instant::now();
            let right = match self.work {
                Work::Loop => {
                    spin(LOOP_PASSES);
                    true
                }
                Work::Fork => fork(|| ()),
                Work::Exec => fork(|| exec(&program)),
                Work::Killed => fork(|| {
                    // SAFETY: no preconditions.
                    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                }),
                Work::Thread => thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(|| ())
                    .is_ok_and(|thread| thread.join().is_ok()),
                Work::Refused => !fork(|| ()),
                Work::File => read(&program, &mut page),
                Work::Syslog => {
                    // SAFETY: this type of syslog(2) takes no buffer.
                    unsafe { libc::syscall(libc::SYS_syslog, 10, ptr::null::<u8>(), 0) > 0 }
                }
                Work::Line => log
                    .as_mut()
                    .is_some_and(|log| log.write_all(b"what a line costs\n").is_ok()),
                Work::Device => read(c"/dev/null", &mut []),
                Work::Ioctl => {
                    let mut bytes: libc::c_int = 0;
                    // SAFETY: this request writes one int.
                    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) == 0 }
                }
                Work::Block => block.as_ref().is_some_and(|block| {
                    block
                        .read_at(&mut aligned.0, 0)
                        .is_ok_and(|read| read == 4096)
                }),
                Work::Route => ask(&route, &mut page),
                Work::Socket => {
                    // SAFETY: no preconditions; what is closed is the descriptor that was just made.
                    unsafe {
                        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
                        socket >= 0 && libc::close(socket) == 0
                    }
                }
                // SAFETY: strings that end with a NUL, and no data.
                Work::Mount => unsafe {
                    let kind = c"tmpfs".as_ptr();
                    libc::mount(kind, at.as_ptr(), kind, 0, ptr::null()) == 0
                        && libc::umount2(at.as_ptr(), 0) == 0
                },
                // SAFETY: a name that is as long as it says.
                Work::Hostname => unsafe {
                    libc::sethostname(name.as_ptr().cast(), name.len()) == 0
                },
            };
            let took = began.elapsed().as_nanos() as f64;
            if round >= self.warm_up {
                times.push(took);
                costs.paused += pause;
                costs.wrong += u32::from(!right);
            }
        }
        costs.total = whole.elapsed().as_nanos() as f64;
        std::fs::remove_dir(&place)?;
        times.sort_by(f64::total_cmp);
        costs.median = times[times.len() / 2];
        costs.worst = times[times.len() - 1];
        let count = f64::from(self.rounds);
        costs.mean = times.iter().sum::<f64>() / count;
        costs.variance = times
            .iter()
            .map(|time| (time - costs.mean).powi(2))
            .sum::<f64>()
            / (count - 1.0);
        Ok(costs)
    }
}

#[cfg(target_arch = "x86_64")]
fn spin(passes: u64) {
    // SAFETY: counts a register of its own down to zero.
    unsafe {
        std::arch::asm!(
            "2:",
            "sub {count}, 1",
            "jnz 2b",
            count = inout(reg) passes => _,
            options(nomem, nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn spin(passes: u64) {
    for pass in 0..passes {
        std::hint::black_box(pass);
    }
}

/// Opens a file, fills the buffer from it, if it has room, and closes it. Whether all that worked.
fn read(path: &CStr, buffer: &mut [u8]) -> bool {
    // SAFETY: the path ends with a NUL, the buffer is as long as it says, and the descriptor is ours.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        let right = buffer.is_empty()
            || libc::read(file, buffer.as_mut_ptr().cast(), buffer.len())
                == buffer.len().cast_signed();
        libc::close(file) == 0 && right
    }
}

/// A socket of rtnetlink.
fn route() -> io::Result<OwnedFd> {
    // SAFETY: no preconditions; a result that is no error is a descriptor that nobody else has.
    unsafe {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        match libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_ROUTE) {
            -1 => Err(io::Error::last_os_error()),
            socket => Ok(OwnedFd::from_raw_fd(socket)),
        }
    }
}

/// Asks for the link with index 1. Whether there was an answer.
fn ask(socket: &OwnedFd, answer: &mut [u8]) -> bool {
    /// `RTM_GETLINK` with `NLM_F_REQUEST`: `struct nlmsghdr`, then `struct ifinfomsg`.
    const QUESTION: [u32; 8] = [32, 18 | 1 << 16, 0, 0, 0, 1, 0, 0];
    let socket = socket.as_raw_fd();
    // SAFETY: both buffers are as long as they say.
    unsafe {
        libc::send(socket, QUESTION.as_ptr().cast(), 32, 0) == 32
            && libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) > 32
    }
}

/// Becomes another program.
fn exec(program: &CStr) {
    let arguments = [program.as_ptr(), ptr::null()];
    // SAFETY: the strings end with a NUL, and the list with a null pointer.
    unsafe {
        libc::execv(program.as_ptr(), arguments.as_ptr());
        libc::_exit(127);
    }
}

/// Whether a child was made; waits for its end.
fn fork(child: impl FnOnce()) -> bool {
    // SAFETY: the probe has one thread; the child does what it is to and leaves at once.
    unsafe {
        match libc::fork() {
            0 => {
                child();
                libc::_exit(0)
            }
            -1 => false,
            pid => {
                libc::waitpid(pid, ptr::null_mut(), 0);
                true
            }
        }
    }
}
