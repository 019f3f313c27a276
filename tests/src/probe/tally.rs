//! Counters that a probe shares with all processes it makes.

use std::{
    io,
    num::NonZeroUsize,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous},
};
use serde::{Deserialize, Serialize};

/// Counters in memory that every process below the probe sees.
#[derive(Default)]
pub struct Tally {
    made: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    errno: AtomicI32,
    /// Meeting point: processes that are ready.
    pub ready: AtomicU64,
    /// Non-zero: stop.
    pub stop: AtomicU64,
}

/// What came of all attempts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Forks that made a task.
    pub made: u64,
    /// Forks that failed with EAGAIN.
    pub refused: u64,
    /// Forks that failed otherwise.
    pub failed: u64,
    /// The last other error, as errno names it; empty if there was none.
    pub error: String,
    /// Seconds of the guest's monotonic clock.
    pub seconds: f64,
}

impl Tally {
    /// Fresh counters. They live as long as the process.
    ///
    /// # Errors
    /// What mmap(2) said.
    pub fn new() -> io::Result<&'static Self> {
        let length = NonZeroUsize::new(size_of::<Self>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice, never unmapped, page-aligned and zero:
        // atomics of value zero.
        unsafe {
            let memory = mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
            )?;
            Ok(memory.cast::<Self>().as_ref())
        }
    }

    /// Counts an attempt that succeeded.
    pub fn made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that failed with `errno`.
    pub fn failed(&self, errno: i32) {
        if errno == libc::EAGAIN {
            self.refused.fetch_add(1, Ordering::Relaxed);
        } else {
            self.errno.store(errno, Ordering::Relaxed);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Attempts so far: those that succeeded, and those that were refused.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        (
            self.made.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    /// The result.
    #[must_use]
    pub fn counted(&self, seconds: f64) -> Counted {
        let errno = self.errno.load(Ordering::Relaxed);
        Counted {
            made: self.made.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            error: if errno == 0 {
                String::new()
            } else {
                format!("{:?}", Errno::from_raw(errno))
            },
            seconds,
        }
    }
}
