//! Units: a number that reads right and means something else is how a limit fails on the night it is needed.

use std::{fmt, time::Duration};

/// The greatest number of pids that a 64-bit kernel can have (`PID_MAX_LIMIT`).
pub const PIDS: u32 = 4 << 20;

/// Forks in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many, at least 1.
    pub forks: u32,
    /// In so many seconds: 1, 60 or 3600.
    pub seconds: u32,
}

impl Rate {
    /// `500/s`, `30/m`, `100/h`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (forks, per) = text.split_once('/')?;
        let seconds = match per.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let forks = digits(forks.trim())?;
        (forks > 0).then_some(Self { forks, seconds })
    }

    /// The time in which so many may be made, in nanoseconds.
    #[must_use]
    pub const fn per_ns(self) -> u64 {
        self.seconds as u64 * 1_000_000_000
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.seconds {
            1 => 's',
            60 => 'm',
            _ => 'h',
        };
        write!(out, "{}/{per}", self.forks)
    }
}

/// A part of all pids, or a number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pids {
    /// So many.
    Absolute(u32),
    /// So many thousandths of the host's limit, which is the smaller of `pid_max` and `threads-max`.
    Share {
        /// 100 for 10 %.
        thousandths: u32,
    },
}

impl Pids {
    /// `10%`, `0.5%`, `2000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let Some(share) = text.strip_suffix('%') else {
            return digits(text).map(Self::Absolute);
        };
        let (whole, tenth) = share.trim().split_once('.').unwrap_or((share.trim(), "0"));
        let thousandths = digits(whole)?.checked_mul(10)?;
        let tenth = (tenth.len() == 1).then(|| digits(tenth)).flatten()?;
        Some(Self::Share {
            thousandths: thousandths.checked_add(tenth)?,
        })
    }

    /// How many that are where the host's limit is `limit`; never more than that.
    #[must_use]
    pub fn of(self, limit: u32) -> u32 {
        match self {
            Self::Absolute(pids) => pids.min(limit),
            Self::Share { thousandths } => {
                let pids = (u64::from(limit) * u64::from(thousandths)).div_ceil(1000);
                u32::try_from(pids).unwrap_or(u32::MAX).min(limit)
            }
        }
    }
}

impl fmt::Display for Pids {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(pids) => write!(out, "{pids}"),
            Self::Share { thousandths } if thousandths % 10 == 0 => {
                write!(out, "{}%", thousandths / 10)
            }
            Self::Share { thousandths } => {
                write!(out, "{}.{}%", thousandths / 10, thousandths % 10)
            }
        }
    }
}

const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// `500ms`, `10s`, `5m`, `2h`, `7d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, ms) = TIMES.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(u64::from(number).checked_mul(*ms)?))
}

/// A duration as it is written, in the largest unit that fits.
#[must_use]
pub fn write_duration(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let fits = |(_, unit): &&(&str, u64)| ms >= *unit && ms.is_multiple_of(*unit);
    match TIMES.iter().rev().find(fits) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => "0s".to_owned(),
    }
}

const SIZES: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `512KiB`, `64MiB`, `1GiB`, in bytes.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    u64::from(number).checked_mul(*bytes)
}

/// A size as it is written, in the largest unit that fits.
#[must_use]
pub fn write_size(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match SIZES.iter().rev().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A number without sign, point or unit.
#[must_use]
pub fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// YAML 1.1 reads `off` as false, YAML 1.2 as a word: both mean off, however it is spelt.
#[must_use]
pub fn is_off(text: &str) -> bool {
    ["off", "false", "no"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

fn split(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    Some((digits(&text[..end])?, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_and_written_alike() {
        for text in ["500/s", "30/m", "1/h"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        for text in ["10%", "0.5%", "2000", "99.9%"] {
            assert_eq!(Pids::parse(text).unwrap().to_string(), text);
        }
        for text in ["500ms", "10s", "90s", "30m", "36h", "7d"] {
            assert_eq!(write_duration(duration(text).unwrap()), text);
        }
        for text in ["512KiB", "64MiB", "3GiB"] {
            assert_eq!(write_size(size(text).unwrap()), text);
        }
    }

    #[test]
    fn a_number_without_its_unit_is_nothing() {
        for text in [
            "",
            "500",
            "/s",
            "0/s",
            "-1/s",
            "5/d",
            "1.5/s",
            "99999999999/s",
        ] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
        for text in ["", "10", "s", "10 weeks", "1.5s", "99999999999d"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["", "64", "64MB", "64mib"] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["", "%", "-1%", "1.55%", "10 pids"] {
            assert_eq!(Pids::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_rounded_up_and_never_more_than_all() {
        let share = |thousandths| Pids::Share { thousandths };
        assert_eq!(share(100).of(32768), 3277);
        assert_eq!(share(1).of(1), 1);
        assert_eq!(share(1000).of(u32::MAX), u32::MAX);
        assert_eq!(Pids::Absolute(5000).of(4096), 4096);
    }
}
