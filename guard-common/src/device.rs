//! Devices: which a container may not open, whatever its node is called.

use crate::action::Argument;

/// Any major or minor number.
pub const ANY: u32 = u32::MAX;
/// Bits of a minor number as the kernel has it (`MINORBITS`, include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// A device, or all of a kind or of a major number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device, or a character device.
    pub block: bool,
    /// Major number, or [`ANY`].
    pub major: u32,
    /// Minor number, or [`ANY`].
    pub minor: u32,
}

impl Device {
    /// So many sets of devices are a device and those that it is in.
    pub const GENERALITIES: u32 = 3;

    /// By the kernel's number of it, a `dev_t`.
    #[inline(always)]
    #[must_use]
    pub const fn of(block: bool, number: u32) -> Self {
        Self {
            block,
            major: number >> MINOR_BITS,
            minor: number & ((1 << MINOR_BITS) - 1),
        }
    }

    /// The same with any minor number (1), or any number at all (2).
    #[inline(always)]
    #[must_use]
    pub const fn open(self, which: u32) -> Self {
        Self {
            block: self.block,
            major: if which == 2 { ANY } else { self.major },
            minor: if which > 0 { ANY } else { self.minor },
        }
    }

    /// As the kernel side has it.
    #[inline(always)]
    #[must_use]
    pub const fn argument(self) -> Argument {
        [
            (self.block as u64 + 1) << 32 | self.major as u64,
            self.minor as u64,
        ]
    }

    /// From an argument; `None`: it is none of a device.
    #[must_use]
    pub const fn from_argument([kind_and_major, minor]: Argument) -> Option<Self> {
        let block = match kind_and_major >> 32 {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Self {
            block,
            major: kind_and_major as u32,
            minor: minor as u32,
        })
    }
}

mod text {
    use core::{fmt, str::FromStr};

    use super::{ANY, Device};

    /// `char 10:229`, `block 8:*`, `block *`.
    impl fmt::Display for Device {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(if self.block { "block " } else { "char " })?;
            match (self.major, self.minor) {
                (ANY, _) => formatter.write_str("*"),
                (major, ANY) => write!(formatter, "{major}:*"),
                (major, minor) => write!(formatter, "{major}:{minor}"),
            }
        }
    }

    impl FromStr for Device {
        type Err = ();
        fn from_str(text: &str) -> Result<Self, ()> {
            let (kind, numbers) = text.split_once(' ').ok_or(())?;
            let block = match kind {
                "char" => false,
                "block" => true,
                _ => return Err(()),
            };
            let number = |text: &str, bits: u32| {
                let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number: Option<u32> = text.parse().ok().filter(|_| plain);
                number.filter(|number| *number < 1 << bits).ok_or(())
            };
            let (major, minor) = match numbers.split_once(':') {
                None if numbers == "*" => (ANY, ANY),
                None => return Err(()),
                Some((major, "*")) => (number(major, 12)?, ANY),
                Some((major, minor)) => (number(major, 12)?, number(minor, 20)?),
            };
            Ok(Self {
                block,
                major,
                minor,
            })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        extern crate std;
        use std::string::ToString;

        #[test]
        fn a_device_is_written_as_it_is_read_and_nothing_else_is_read() {
            for text in ["char 10:229", "block 8:*", "block *", "char 4095:1048575"] {
                let device: Device = text.parse().unwrap();
                assert_eq!(device.to_string(), text);
                assert_eq!(Device::from_argument(device.argument()), Some(device));
            }
            for text in [
                "",
                "char",
                "10:229",
                "char 10",
                "char *:1",
                "char 4096:1",
                "char 1:1048576",
                "Char 1:1",
                "char  1:1",
                "char 1:+1",
                "char 1:1 ",
                "char -1:1",
            ] {
                assert!(text.parse::<Device>().is_err(), "{text}");
            }
            let device = Device::of(true, 8 << 20 | 17);
            assert_eq!(device.to_string(), "block 8:17");
            assert_eq!(device.open(1).to_string(), "block 8:*");
            assert_eq!(device.open(2).to_string(), "block *");
            assert_eq!(Device::from_argument([0, 0]), None);
        }
    }
}
