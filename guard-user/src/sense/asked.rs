//! What block devices say of themselves when they are asked, by a process of its own: whoever asks one whose disk hangs, or whose file
//! nobody serves, hangs as well, and cannot even be killed. Not a thread: with one of those the daemon could not end either.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
};
use serde::{Deserialize, Serialize};

use crate::{
    act::discards::SYS,
    kernel::{attach::release, loops::below_loop},
    thin::{
        defaults::Unasked,
        devices::Devices,
        head::HEAD,
        pool::Pool,
        stack::{Below, pools},
    },
};

/// How often pools are asked.
const SPACING: Duration = Duration::from_secs(1);
/// How often new ones are looked for.
const ROUND: Duration = Duration::from_secs(10);
/// Answers that nobody has taken, in bytes; more are none of ours.
const LONGEST: usize = 16 << 20;
/// The program itself, whatever has become of its file.
const OURSELVES: &str = "/proc/self/exe";

/// A thin pool, and how it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Its device's number.
    pub number: u32,
    /// As the device mapper calls it.
    pub mapped: String,
    /// `None`: that cannot be had, or not understood.
    pub status: Option<Pool>,
}

/// What the process is asked: the arguments of `bulkhead thin ask`.
#[derive(Clone, Copy, Debug)]
enum Asked<'n> {
    /// How each pool is, once a second.
    Pools,
    /// The same, once.
    PoolsOnce,
    /// What these loop devices are on, in this order.
    Loops(&'n [String]),
    /// Which of these devices have a file system that discards unasked, in any order.
    Unasked(&'n [String]),
}

impl Asked<'_> {
    fn put(self) -> io::Result<(Child, ChildStdout)> {
        if reap() >= ENDING_MOST {
            return Err(io::Error::other(
                "too many processes hang that asked before",
            ));
        }
        let mut command = Command::new(OURSELVES);
        command.args(["thin", "ask"]);
        match self {
            Asked::Pools => command.arg("--pools"),
            Asked::PoolsOnce => command.args(["--pools", "--once"]),
            Asked::Loops(names) => command.arg("--").args(names),
            Asked::Unasked(names) => command.args(["--unasked", "--"]).args(names),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((child, out))
    }
}

/// Processes that were told to end, and have not yet.
static ENDING: Mutex<Vec<Child>> = Mutex::new(Vec::new());
/// With so many of them nobody is asked any more.
const ENDING_MOST: usize = 8;

/// Takes note of those that have ended; gives how many have not.
fn reap() -> usize {
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    ending.len()
}

/// Tells a process to end, which one that hangs does as soon as it can.
fn end(mut child: Child) {
    let _ = child.kill();
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.push(child);
}

/// Whether a process that was told to end has not yet.
#[must_use]
pub fn hangs(process: u32) -> bool {
    reap();
    let ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    ending.iter().any(|child| child.id() == process)
}

/// How long to wait for a process.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it says something: it must start first.
    pub first: Duration,
    /// From then on, each time.
    pub each: Duration,
    /// Not beyond this.
    pub over: Instant,
}

impl Patience {
    /// So long for all of it.
    #[must_use]
    pub fn of(all: Duration) -> Self {
        Self {
            first: all,
            each: all,
            over: Instant::now() + all,
        }
    }

    fn until(&self, said: &[u8]) -> Instant {
        let patience = if said.is_empty() {
            self.first
        } else {
            self.each
        };
        self.over.min(Instant::now() + patience)
    }
}

/// The lines that a process says until it ends or the time is up, and whether it ended.
fn lines(out: ChildStdout, patience: Patience) -> (Vec<String>, bool) {
    let mut said = Vec::new();
    let mut out = BufReader::new(out);
    let mut ended = false;
    while is_readable(out.get_ref().as_fd(), patience.until(&said)) && said.len() < LONGEST {
        match out.fill_buf() {
            Ok([]) => {
                ended = true;
                break;
            }
            Ok(some) => {
                let length = some.len();
                said.extend(some);
                out.consume(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // What has no end yet may be half of it.
    let whole = said
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&said[..whole]);
    (text.lines().map(str::to_owned).collect(), ended)
}

fn is_readable(fd: BorrowedFd<'_>, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let within = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], within) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// How each pool is that says so within so long.
#[must_use]
pub fn pools_now(patience: Duration) -> Vec<Read> {
    let Ok((child, out)) = Asked::PoolsOnce.put() else {
        return Vec::new();
    };
    let (said, _) = lines(out, Patience::of(patience));
    end(child);
    said.iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Which of these devices have a file system that discards though nobody asks, as far as they say so within so long.
#[must_use]
pub fn unasked_now(names: &[String], patience: Duration) -> BTreeMap<String, Unasked> {
    let Ok((child, out)) = Asked::Unasked(names).put() else {
        return BTreeMap::new();
    };
    let (said, _) = lines(out, Patience::of(patience));
    end(child);
    said.iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect::<Vec<(String, Unasked)>>()
        .into_iter()
        .collect()
}

/// What loop devices said.
#[derive(Debug)]
pub struct Loops {
    /// What each is on, in the order in which they were asked, as far as they came.
    pub below: Vec<Below>,
    /// The process that the next one has kept; `None`: it is not that one's fault that it was not heard.
    pub hung: Option<u32>,
}

/// What loop devices are on.
///
/// # Errors
/// There can be no process.
pub fn below_loops(names: &[String], patience: Patience) -> io::Result<Loops> {
    let (child, out) = Asked::Loops(names).put()?;
    let process = child.id();
    let (said, ended) = lines(out, patience);
    end(child);
    Ok(Loops {
        below: said.iter().map(|line| below(line)).collect(),
        hung: (!ended && said.len() < names.len()).then_some(process),
    })
}

fn below(line: &str) -> Below {
    match line {
        "" => Below::Nothing,
        number => number.parse().map_or(Below::Unknown, Below::On),
    }
}

/// A process that says once a second how each pool is.
pub struct Pools {
    child: Option<Child>,
    out: ChildStdout,
    heard: Vec<u8>,
}

impl Pools {
    /// Begins to ask.
    ///
    /// # Errors
    /// There can be no process.
    pub fn start() -> io::Result<Self> {
        let (child, out) = Asked::Pools.put()?;
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            child: Some(child),
            out,
            heard: Vec::new(),
        })
    }

    /// What pools said since this was last asked, each by itself.
    ///
    /// # Errors
    /// The process is gone.
    pub fn said(&mut self) -> io::Result<Vec<Read>> {
        let mut some = [0_u8; 4096];
        while self.heard.len() < LONGEST {
            match self.out.read(&mut some) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(length) => self.heard.extend(&some[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole = (self.heard.iter())
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let rest = self.heard.split_off(whole);
        let said = std::mem::replace(&mut self.heard, rest);
        (said
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty()))
        .map(|line| Ok(serde_json::from_slice(line)?))
        .collect()
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }
}

/// The process itself: how each pool is, a line for each at a time. A pool that hangs keeps a thread, and no other pool.
///
/// # Errors
/// There can be no thread.
pub fn say_pools(once: bool) -> io::Result<()> {
    ends_with_its_parent()?;
    let mut known: BTreeMap<(u32, String), JoinHandle<()>> = BTreeMap::new();
    loop {
        for (number, mapped) in pools(Path::new(SYS), &Devices::open()) {
            let key = (number, mapped.clone());
            if known.get(&key).is_none_or(JoinHandle::is_finished) {
                let thread = thread::Builder::new().name("pool".to_owned());
                known.insert(key, thread.spawn(move || say_pool(number, &mapped, once))?);
            }
        }
        if once {
            for (_, thread) in known {
                let _ = thread.join();
            }
            return Ok(());
        }
        thread::sleep(ROUND);
        known.retain(|_, thread| !thread.is_finished());
    }
}

/// Until it says nothing any more, or nobody listens.
fn say_pool(number: u32, mapped: &str, once: bool) {
    let devices = Devices::open();
    loop {
        let status = devices.status(number);
        let is_gone = status.is_none();
        let read = Read {
            number,
            mapped: mapped.to_owned(),
            status: status.as_deref().and_then(Pool::read),
        };
        let line = serde_json::to_string(&read).unwrap_or_default();
        if is_gone || writeln!(io::stdout().lock(), "{line}").is_err() || once {
            return;
        }
        thread::sleep(SPACING);
    }
}

/// The process itself: what each loop device is on, a line for each, empty where that is nothing, and words where it
/// cannot be asked.
///
/// # Errors
/// Nobody listens any more.
pub fn say_loops(out: &mut impl Write, names: &[String]) -> io::Result<()> {
    ends_with_its_parent()?;
    for name in names {
        match below_loop(&Path::new("/dev").join(name)) {
            Ok(Some(number)) => writeln!(out, "{number}")?,
            Ok(None) => writeln!(out)?,
            Err(error) => writeln!(out, "{error}")?,
        }
        out.flush()?;
    }
    Ok(())
}

/// So many devices are read at once: one that hangs keeps one of them.
const READERS: usize = 8;

/// The process itself: which devices have a file system that discards unasked, a line for each.
///
/// # Errors
/// There can be no thread, or nobody listens any more.
pub fn say_unasked(names: &[String]) -> io::Result<()> {
    ends_with_its_parent()?;
    let rest = Mutex::new(names.iter());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read = || -> io::Result<()> {
        while let Some(name) = next() {
            let found = head_of(&Path::new("/dev").join(name))
                .ok()
                .and_then(|head| Unasked::of(&head, release()));
            if let Some(found) = found {
                let line = serde_json::to_string(&(name, found))?;
                writeln!(io::stdout().lock(), "{line}")?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS.min(names.len()))
            .map(|_| thread::Builder::new().spawn_scoped(scope, read))
            .collect::<io::Result<_>>()?;
        (readers.into_iter()).try_for_each(|reader| reader.join().unwrap_or(Ok(())))
    })
}

/// What a device begins with, as far as it has that much.
fn head_of(device: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    File::open(device)?
        .take(HEAD as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

fn ends_with_its_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(script: &str) -> (Child, ChildStdout) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        (child, out)
    }

    #[test]
    fn what_was_said_before_a_process_hangs_is_heard() {
        for (script, said, is_ended) in [
            ("echo 1; echo; echo 3", &["1", "", "3"][..], true),
            ("echo 1; exec sleep 100", &["1"], false),
            ("exec sleep 100", &[], false),
            // Half of a line is none.
            ("echo 1; printf 2; exec true", &["1"], true),
        ] {
            let (child, out) = process(script);
            let patience = Duration::from_secs(if is_ended { 60 } else { 1 });
            let (heard, ended) = lines(out, Patience::of(patience));
            assert_eq!(
                (heard, ended),
                (said.iter().map(|one| (*one).to_owned()).collect(), is_ended),
                "{script}"
            );
            let process = child.id();
            end(child);
            let until = Instant::now() + Duration::from_secs(60);
            while hangs(process) {
                assert!(Instant::now() < until, "{script}: it is never reaped");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn pools_that_say(script: &str) -> Pools {
        let (child, out) = process(script);
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Pools {
            child: Some(child),
            out,
            heard: Vec::new(),
        }
    }

    #[test]
    fn pools_are_heard_each_by_itself() {
        let pool = |mapped: &str| {
            format!("echo '{{\"number\":1,\"mapped\":\"{mapped}\",\"status\":null}}'")
        };
        let mut pools = pools_that_say(&format!(
            "{}; {}; printf '{{'; exec sleep 100",
            pool("a"),
            pool("b")
        ));
        let mut heard: Vec<String> = Vec::new();
        while heard.len() < 2 {
            heard.extend(pools.said().unwrap().into_iter().map(|read| read.mapped));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(heard, ["a", "b"]);
        // A line that is not whole waits.
        assert!(pools.said().unwrap().is_empty());
    }

    #[test]
    fn a_process_that_is_gone_says_so() {
        let mut pools = pools_that_say("exit 0");
        let gone = loop {
            match pools.said() {
                Ok(_) => thread::sleep(Duration::from_millis(5)),
                Err(error) => break error,
            }
        };
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}
