//! What block devices say of themselves when they are asked, by a process of its own: whoever asks one whose disk hangs, or whose file
//! nobody serves, hangs as well, and cannot even be killed. Not a thread: with one of those the daemon could not end either.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, signal::Signal},
};
use serde::{Deserialize, Serialize};

use crate::{
    act::discards::SYS,
    kernel::loops::below_loop,
    thin::{devices::Devices, pool::Pool, stack::pools},
};

/// How often pools are asked.
const SPACING: Duration = Duration::from_secs(1);
/// New pools are looked for once in so many times.
const ROUND: u32 = 10;
/// Answers that nobody has taken, in bytes; more are none of ours.
const LONGEST: usize = 16 << 20;
/// The program itself, whatever has become of its file.
const OURSELVES: &str = "/proc/self/exe";

/// A thin pool, and how it is.
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
}

impl Asked<'_> {
    fn put(self) -> io::Result<(Child, ChildStdout)> {
        let mut command = Command::new(OURSELVES);
        command.args(["thin", "ask"]);
        match self {
            Asked::Pools => command.arg("--pools"),
            Asked::PoolsOnce => command.args(["--pools", "--once"]),
            Asked::Loops(names) => command.arg("--").args(names),
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

/// Ends a process, unless it hangs: it ends by itself then as soon as it can.
fn end(mut child: Child) {
    let _ = child.kill();
    // One that was killed a moment ago is no zombie for longer than this.
    for _ in 0..20 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The lines that a process says until it ends, or until none has come for as long as `patience`.
fn lines(out: ChildStdout, patience: Duration) -> Vec<String> {
    let mut all = Vec::new();
    let mut said = Vec::new();
    let mut out = BufReader::new(out);
    let mut until = Instant::now() + patience;
    while is_readable(
        out.get_ref().as_fd(),
        until.saturating_duration_since(Instant::now()),
    ) {
        // A line is written at once, and shorter than what a pipe takes in one piece.
        match out.read_until(b'\n', &mut said) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        while out.buffer().contains(&b'\n') && out.read_until(b'\n', &mut said).is_ok() {}
        until = Instant::now() + patience;
        if said.len() > LONGEST {
            break;
        }
    }
    let text = String::from_utf8_lossy(&said);
    all.extend(text.lines().map(str::to_owned));
    all
}

fn is_readable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], within).is_ok_and(|ready| ready > 0)
}

/// How each pool is; `None`: they do not say within so long.
#[must_use]
pub fn pools_now(patience: Duration) -> Option<Vec<Read>> {
    let (child, out) = Asked::PoolsOnce.put().ok()?;
    let said = lines(out, patience);
    end(child);
    serde_json::from_str(said.first()?).ok()
}

/// What loop devices are on: of those that answer, in the order in which they were asked.
///
/// # Errors
/// There can be no process.
pub fn below_loops(names: &[String], patience: Duration) -> io::Result<Vec<Option<u32>>> {
    let (child, out) = Asked::Loops(names).put()?;
    let said = lines(out, patience);
    end(child);
    Ok(said.iter().map(|line| line.parse().ok()).collect())
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

    /// What was said last since this was last asked; `None`: nothing new.
    ///
    /// # Errors
    /// It says nothing any more.
    pub fn said(&mut self) -> io::Result<Option<Vec<Read>>> {
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
        let Some(end) = self.heard.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let rest = self.heard.split_off(end + 1);
        let said = std::mem::replace(&mut self.heard, rest);
        let last = said[..end].rsplit(|byte| *byte == b'\n').next();
        Ok(Some(serde_json::from_slice(last.unwrap_or_default())?))
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
    }
}

/// The process itself: how each pool is, a line for all of them.
///
/// # Errors
/// Nobody listens any more.
pub fn say_pools(out: &mut impl Write, once: bool) -> io::Result<()> {
    ends_with_its_parent()?;
    let mut known = Vec::new();
    for turn in 0_u32.. {
        let devices = Devices::open();
        if turn.is_multiple_of(ROUND) {
            known = pools(Path::new(SYS), &devices);
        }
        let all: Vec<Read> = (known.iter())
            .map(|(number, mapped)| Read {
                number: *number,
                mapped: mapped.clone(),
                status: devices.status(*number).as_deref().and_then(Pool::read),
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string(&all)?)?;
        out.flush()?;
        if once {
            break;
        }
        thread::sleep(SPACING);
    }
    Ok(())
}

/// The process itself: what each loop device is on, a line for each, empty where that is no block device.
///
/// # Errors
/// Nobody listens any more.
pub fn say_loops(out: &mut impl Write, names: &[String]) -> io::Result<()> {
    ends_with_its_parent()?;
    for name in names {
        let below = below_loop(&Path::new("/dev").join(name));
        writeln!(
            out,
            "{}",
            below.map_or_else(String::new, |number| number.to_string())
        )?;
        out.flush()?;
    }
    Ok(())
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
        let patience = Duration::from_millis(300);
        for (script, said) in [
            ("echo 1; echo; echo 3", &["1", "", "3"][..]),
            ("echo 1; exec sleep 100", &["1"]),
            ("exec sleep 100", &[]),
            ("printf 1; exec true", &["1"]),
        ] {
            let (child, out) = process(script);
            let began = Instant::now();
            assert_eq!(lines(out, patience), said, "{script}");
            end(child);
            assert!(began.elapsed() < Duration::from_secs(20), "{script}");
        }
    }

    #[test]
    fn of_what_was_said_meanwhile_the_last_counts() {
        let pool =
            |mapped: &str| format!("[{{\"number\":1,\"mapped\":\"{mapped}\",\"status\":null}}]");
        let (child, out) = process(&format!(
            "echo '{}'; echo '{}'; printf '['; exec sleep 100",
            pool("a"),
            pool("b")
        ));
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut pools = Pools {
            child: Some(child),
            out,
            heard: Vec::new(),
        };
        let mut heard = None;
        while heard
            .as_ref()
            .is_none_or(|one: &Vec<Read>| one[0].mapped != "b")
        {
            heard = pools.said().unwrap().or(heard);
            thread::sleep(Duration::from_millis(5));
        }
        // A line that is not whole waits.
        assert!(pools.said().unwrap().is_none());
    }

    #[test]
    fn a_process_that_is_gone_says_so() {
        let (child, out) = process("exit 0");
        fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut pools = Pools {
            child: Some(child),
            out,
            heard: Vec::new(),
        };
        let gone = loop {
            match pools.said() {
                Ok(_) => thread::sleep(Duration::from_millis(5)),
                Err(error) => break error,
            }
        };
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}
