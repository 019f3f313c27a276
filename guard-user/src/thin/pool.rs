//! Thin discard: how a thin pool is, by its own status, before the kernel log says so.
//!
//! The words of the status: Documentation/admin-guide/device-mapper/thin-provisioning.rst, `pool_status` of drivers/md/dm-thin.c.

use serde::{Deserialize, Serialize};

/// So much of so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// In blocks.
    pub used: u64,
    /// In blocks.
    pub total: u64,
}

impl Used {
    /// Whole percents that are used.
    #[must_use]
    pub const fn percent(self) -> u64 {
        match self.total {
            0 => 0,
            total => (self.used as u128 * 100 / total as u128) as u64,
        }
    }
}

/// What a pool can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything.
    ReadWrite,
    /// It has no room for data: writes to what is not there yet wait, or fail.
    OutOfDataSpace,
    /// It takes no writes.
    ReadOnly,
    /// Nothing: its metadata could not be used.
    Failed,
}

impl Mode {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "read and write",
            Self::OutOfDataSpace => "out of data space",
            Self::ReadOnly => "read-only",
            Self::Failed => "failed",
        }
    }
}

/// A pool's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What it can do.
    pub mode: Mode,
    /// Blocks of metadata, of 4 KiB.
    pub metadata: Used,
    /// Blocks of data, of the pool's own size.
    pub data: Used,
    /// Somebody holds a snapshot of its metadata, which takes room there until it is released.
    pub held_root: bool,
    /// Its metadata was found damaged: it must be checked before the pool is used again.
    pub needs_check: bool,
    /// Discards are not passed on to its volumes: `ignore_discard`.
    pub ignores_discards: bool,
}

impl Pool {
    /// In words: what it can do, and what else is to be known of it.
    #[must_use]
    pub fn state(&self) -> String {
        let mut words = self.mode.name().to_owned();
        for (is, what) in [
            (
                self.needs_check,
                "needs_check: deactivate it, then thin_check and thin_repair",
            ),
            (self.held_root, "a snapshot of its metadata is held"),
            (self.ignores_discards, "ignores discards"),
        ] {
            if is {
                words.push_str("; ");
                words.push_str(what);
            }
        }
        words
    }

    /// From the words of its status; `None`: they are not understood.
    #[must_use]
    pub fn read(status: &str) -> Option<Self> {
        let words: Vec<&str> = status.split_whitespace().collect();
        if let ["Fail" | "Error", ..] = words.as_slice() {
            let none = Used { used: 0, total: 0 };
            return Some(Self {
                mode: Mode::Failed,
                metadata: none,
                data: none,
                held_root: false,
                needs_check: true,
                ignores_discards: false,
            });
        }
        let [_, metadata, data, held, rest @ ..] = words.as_slice() else {
            return None;
        };
        let used = |text: &str| {
            let (used, total) = text.split_once('/')?;
            Some(Used {
                used: used.parse().ok()?,
                total: total.parse().ok()?,
            })
        };
        let has = |word: &str| rest.contains(&word);
        let mode = if has("out_of_data_space") {
            Mode::OutOfDataSpace
        } else if has("ro") {
            Mode::ReadOnly
        } else if has("rw") {
            Mode::ReadWrite
        } else {
            return None;
        };
        Some(Self {
            mode,
            metadata: used(metadata)?,
            data: used(data)?,
            held_root: *held != "-",
            needs_check: has("needs_check"),
            ignores_discards: has("ignore_discard"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_as_the_kernel_writes_it() {
        let pool = Pool::read("0 163/1024 300/2048 - rw discard_passdown queue_if_no_space - 256 ")
            .unwrap();
        assert_eq!(pool.mode, Mode::ReadWrite);
        assert_eq!((pool.metadata.used, pool.data.total), (163, 2048));
        assert_eq!((pool.metadata.percent(), pool.data.percent()), (15, 14));
        assert!(!pool.held_root && !pool.needs_check && !pool.ignores_discards);
        let bad = Pool::read(
            "5 1024/1024 2048/2048 77 ro ignore_discard error_if_no_space needs_check 256",
        )
        .unwrap();
        assert_eq!(bad.mode, Mode::ReadOnly);
        assert!(bad.held_root && bad.needs_check && bad.ignores_discards);
        let full =
            Pool::read("1 9/10 8/8 - out_of_data_space no_discard_passdown queue_if_no_space")
                .unwrap();
        assert_eq!(full.mode, Mode::OutOfDataSpace);
        for failed in ["Fail", "Error"] {
            assert_eq!(Pool::read(failed).unwrap().mode, Mode::Failed);
        }
    }

    #[test]
    fn what_is_no_status_is_none() {
        for text in [
            "",
            "0",
            "0 1/2 3/4",
            "0 1/2 3/4 -",
            "0 1 3/4 - rw",
            "0 1/2 3/x - rw",
            "0 1/2 3/4 - maybe",
        ] {
            assert_eq!(Pool::read(text), None, "{text}");
        }
        assert_eq!(Used { used: 5, total: 0 }.percent(), 0);
    }
}
