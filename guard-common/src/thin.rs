//! Thin discard: a discard that reaches a dm-thin device, on which kernels have died, is refused to whoever asks for it.

use crate::action::{Argument, name};

/// Entries of the kernel table `THIN`: of each device mapper's and md device of a host one, and of whatever else stands on dm-thin.
pub const DEVICES: u32 = 8192;

/// Entries of the kernel tables of file systems that are being set up.
pub const CONTEXTS: u32 = 1024;

/// Bytes of a text of options that [`search`] reads at a time.
pub const OPTIONS_STEP: usize = 16;
/// So many of them are read. Of a longer text it is not known whether it has the option, and it counts as if.
pub const OPTIONS_MAX: usize = 512;

/// Where a search begins: as if behind a comma.
pub const BEGIN: u64 = b',' as u64;
/// The option was there. No eight bytes of a text are this.
pub const FOUND: u64 = 1;
/// The text has ended without.
pub const ENDED: u64 = 0;

/// Reads on in a text of options with commas between them, in search of `discard`. `window` is what was read last, eight bytes, the
/// latest lowest; gives it as it is then, or [`FOUND`], or [`ENDED`]. With no branch that a verifier would have to follow for each byte.
#[inline(always)]
#[must_use]
pub const fn search(mut window: u64, words: [u64; 2]) -> u64 {
    const OPTION: u64 = u64::from_be_bytes(*b",discard");
    let (mut found, mut ended) = (0, 0);
    let mut at = 0;
    while at < OPTIONS_STEP {
        let byte = words[at / 8] >> (8 * (at % 8)) & 0xff;
        let nul = is(byte, 0);
        let behind = is(byte, b',' as u64) | is(byte, b'=' as u64) | nul;
        found |= behind & is(window, OPTION) & (ended ^ 1);
        ended |= nul;
        window = window << 8 | byte;
        at += 1;
    }
    if found != 0 {
        FOUND
    } else if ended != 0 {
        ENDED
    } else {
        window
    }
}

/// 1 where both are the same, else 0; reckoned and not asked.
#[inline(always)]
const fn is(one: u64, other: u64) -> u64 {
    let differ = one ^ other;
    (differ | differ.wrapping_neg()) >> 63 ^ 1
}

/// Bits of a minor number as the kernel has it (`MINORBITS`, include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// What a device may stand on, as a policy's `when` names it.
pub const DM_THIN_NAME: &str = "dm-thin";

/// What an action is done to, where that is a device that stands on dm-thin.
pub const DM_THIN: Argument = match name(DM_THIN_NAME) {
    Some(argument) => argument,
    None => panic!("a name of at most 15 bytes"),
};

/// What `bd_dev` of no device is: the key of file systems that stand on none of their own, such as one that hands a request on to
/// another below it.
pub const NO_DEVICE: u32 = 0;

/// The key of all devices with a major number that have none of their own: one that was just made counts as what stands there.
/// No driver gives the last minor number.
#[inline(always)]
#[must_use]
pub const fn all_of(device: u32) -> u32 {
    device | ((1 << MINOR_BITS) - 1)
}

/// A device's number as the kernel has it in memory (`MKDEV`).
#[must_use]
pub const fn number(major: u32, minor: u32) -> u32 {
    major << MINOR_BITS | minor
}

/// What is known of a device.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing of it leads to dm-thin.
    Other = 0,
    /// It is a thin volume, or something that it stands on is.
    Thin = 1,
    /// Nobody has looked yet: it counts as [`Class::Thin`].
    Unknown = 2,
}

/// What becomes of a discard that the host's own programs ask for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfTheHost {
    /// It is let through.
    Left = 0,
    /// It is counted.
    Audited = 1,
    /// It is refused with EOPNOTSUPP.
    Refused = 2,
}

/// A value of the kernel table `THIN`, by a device's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// A [`Class`].
    pub class: u32,
    /// The process whose discard was last refused, audited or seen to arrive.
    pub process: u32,
    /// Its name.
    pub name: [u8; 16],
    /// Discards that were refused to who is in no container that a rule refuses them.
    pub refused: u64,
    /// The same that were let through and counted.
    pub audited: u64,
    /// Discards that reached the device.
    pub arrived: u64,
    /// Of these, those that a kernel thread gave it.
    pub by_kernel: u64,
}
const _: () = assert!(size_of::<Device>() == 56);

/// A key of the kernel table `ORIGINS`: who gave a device a discard that reached it. The value is how many.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The device's number.
    pub device: u32,
    /// 1: a kernel thread, such as a file system's journal or a worker.
    pub kernel: u32,
    /// The task's name.
    pub name: [u8; 16],
}
const _: () = assert!(size_of::<Origin>() == 24);

/// Entries of that table; who has not been seen for longest is forgotten first.
pub const ORIGINS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_found_as_a_whole_word_alone() {
        let found = |text: &str| {
            let mut window = BEGIN;
            let mut at = 0;
            while window > FOUND {
                let mut bytes = [0; OPTIONS_STEP];
                let rest = text.as_bytes().get(at..).unwrap_or_default();
                let length = rest.len().min(OPTIONS_STEP);
                bytes[..length].copy_from_slice(&rest[..length]);
                let word =
                    |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap());
                window = search(window, [word(0), word(8)]);
                at += OPTIONS_STEP;
            }
            window == FOUND
        };
        for text in [
            "discard",
            "rw,discard",
            "discard,rw",
            "ro,discard=async,x",
            "discard=",
            "0123456789,discard",
            "01234567890123,discard=x",
            "discard,0123456789012345678901234567890",
        ] {
            assert!(found(text), "{text}");
        }
        for text in [
            "",
            "nodiscard",
            "rw,nodiscard",
            "discards",
            "discard_zeroes",
            "xdiscard",
            "discar",
            "rw,d",
            "discard x",
        ] {
            assert!(!found(text), "{text}");
        }
    }

    #[test]
    fn the_key_of_all_is_no_devices_own_and_one_for_each_major_number() {
        assert_eq!(all_of(number(254, 0)), all_of(number(254, 7)));
        assert_ne!(all_of(number(254, 7)), all_of(number(253, 7)));
        assert_ne!(all_of(number(254, 7)), number(254, 7));
        assert_ne!(all_of(NO_DEVICE), NO_DEVICE);
    }
}
