//! The host's own numbers: how many pids there can be, how many there are, and where containers must stop.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Forks that may be under way at once between our look and the pid: each is one pid that we do not see yet. A 32nd of
/// the limit, at least and at most this many.
const MARGIN: std::ops::RangeInclusive<u64> = 64..=1024;

/// Numbers below this are given to the first tasks of a boot, and to nobody when the count has come round
/// (`RESERVED_PIDS`, include/linux/pid.h, the same on 5.10 to 7.3).
const RESERVED_PIDS: u64 = 300;

/// The files, kept open: they are read every second.
#[derive(Debug)]
pub struct Host {
    pid_max: File,
    threads_max: File,
    loadavg: File,
}

/// The pids of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// The smaller of `kernel.pid_max`, less the numbers that are given only once, and `kernel.threads-max`.
    pub limit: u64,
    /// Tasks there are (the kernel's own count of processes and threads).
    pub tasks: u64,
}

impl Host {
    /// Opens the files.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            pid_max: File::open("/proc/sys/kernel/pid_max")?,
            threads_max: File::open("/proc/sys/kernel/threads-max")?,
            loadavg: File::open("/proc/loadavg")?,
        })
    }

    /// Reads them.
    ///
    /// # Errors
    /// What the system said, or a text that is not a number.
    pub fn pids(&self) -> io::Result<Pids> {
        let number = |text: &str| {
            text.trim()
                .parse::<u64>()
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        let mut buffer = [0_u8; 64];
        let pid_max = number(read(&self.pid_max, &mut buffer)?)?;
        let threads_max = number(read(&self.threads_max, &mut buffer)?)?;
        // Fourth field: running/all (proc(5)).
        let loadavg = read(&self.loadavg, &mut buffer)?;
        let tasks = loadavg
            .split(' ')
            .nth(3)
            .and_then(|field| field.split_once('/'))
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(Pids {
            limit: pid_max.saturating_sub(RESERVED_PIDS).min(threads_max),
            tasks: number(tasks.1)?,
        })
    }
}

fn read<'b>(file: &File, buffer: &'b mut [u8; 64]) -> io::Result<&'b str> {
    let length = file.read_at(buffer, 0)?;
    std::str::from_utf8(&buffer[..length]).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number of pids at which a container's fork is refused, so that `reserve` stays free for the host whatever is under
/// way; never 0, which would mean that there is no reserve.
#[must_use]
pub fn ceiling(limit: u64, reserve: u64) -> u32 {
    let margin = (limit / 32).clamp(*MARGIN.start(), *MARGIN.end());
    let ceiling = limit.saturating_sub(reserve).saturating_sub(margin).max(1);
    u32::try_from(ceiling).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_leaves_the_reserve_and_the_forks_that_are_under_way() {
        assert_eq!(ceiling(4096, 410), 4096 - 410 - 128);
        assert_eq!(ceiling(4_194_304, 419_430), 4_194_304 - 419_430 - 1024);
        assert_eq!(ceiling(301, 30), 301 - 30 - 64);
    }

    #[test]
    fn a_reserve_of_everything_leaves_a_ceiling() {
        assert_eq!(ceiling(100, 4096), 1);
    }

    #[test]
    fn this_hosts_own_numbers_are_read() {
        let pids = Host::open().unwrap().pids().unwrap();
        assert!(pids.tasks > 0 && pids.limit > pids.tasks);
    }
}
