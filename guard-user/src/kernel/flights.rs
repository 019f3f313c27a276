//! Forks under way that will never land: no hook tells that a fork has failed after it was allowed.

use std::{fs, io, mem::offset_of, sync::atomic::Ordering, time::Duration};

use guard_common::{fork_storm::Flight, host::Host};

use super::{load::Kernel, tables::Plain};

/// A fork that takes longer than this is looked at: its task may be doing something else by now.
const LONG: Duration = Duration::from_secs(2);
/// One that cannot be looked at is given up after this.
const FOREVER: Duration = Duration::from_secs(60);

impl Kernel {
    /// Takes out those whose task is gone or does something else, so that they are not counted as pids to come. `now`: of
    /// `CLOCK_MONOTONIC`.
    pub fn sweep_flights(&mut self, now: Duration) {
        let flying = |kernel: &Self| kernel.host.get(0).flying;
        if flying(self) == 0 {
            return;
        }
        let stale: Vec<u64> = self
            .flights
            .iter()
            .flatten()
            .filter(|(_, Plain(flight))| is_over(flight, now, &is_forking))
            .map(|(task, _)| task)
            .collect();
        for task in stale {
            // Whoever removes it counts it down: it may land at this moment.
            if self.flights.remove(&task).is_ok() {
                self.host
                    .long(0, offset_of!(Host, flying))
                    .fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn is_over(flight: &Flight, now: Duration, is_forking: &dyn Fn(u32) -> io::Result<bool>) -> bool {
    let age = now.saturating_sub(Duration::from_nanos(flight.time_ns));
    age >= LONG && (age >= FOREVER || is_forking(flight.pid).is_ok_and(|forking| !forking))
}

/// Whether a task is in a system call that forks (`/proc/PID/syscall`, proc(5)): clone, fork, vfork, clone3, and the same as a
/// 32-bit program calls them; or runs, so that nobody can tell.
fn is_forking(pid: u32) -> io::Result<bool> {
    match fs::read_to_string(format!("/proc/{pid}/syscall")) {
        Ok(text) => Ok(matches!(
            text.split_whitespace().next(),
            Some("running" | "56" | "57" | "58" | "435" | "2" | "120" | "190")
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_over_when_its_task_is_gone_or_does_something_else() {
        let flight = Flight {
            time_ns: 10_000_000_000,
            pid: 1,
            flags: 0,
        };
        let at = Duration::from_secs;
        let over = |second, forking: bool| is_over(&flight, at(second), &|_| Ok(forking));
        assert!(!over(11, false), "it has just begun");
        assert!(over(12, false));
        assert!(!over(12, true));
        assert!(!over(69, true));
        assert!(over(70, true), "nothing takes so long");
        let unknown = |second| is_over(&flight, at(second), &|_| Err(io::Error::other("?")));
        assert!(!unknown(69));
        assert!(unknown(70));
    }

    #[test]
    fn a_task_that_sleeps_does_not_fork_and_one_that_is_gone_does_not_either() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let pid = child.id();
        let mut asleep = is_forking(pid);
        for _ in 0..100 {
            if matches!(asleep, Ok(false)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            asleep = is_forking(pid);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        match asleep {
            Ok(forking) => assert!(!forking),
            // Not root, or a kernel that does not show it.
            Err(error) => eprintln!("skipping: {error}"),
        }
        assert!(!is_forking(pid).unwrap());
    }
}
