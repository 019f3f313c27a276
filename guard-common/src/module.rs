//! Modules of the kernel: a container that would have one loaded, with whatever hole is in it, is refused.

use crate::action::{self, Argument, Told};

/// Bytes of a module's name and the NUL behind it (`MODULE_NAME_LEN`, include/linux/moduleparam.h, on 64 bits).
pub const NAME: usize = 56;
const _: () = assert!(size_of::<Told>() == NAME);

/// What a name comes to as an argument. Nothing is won by another name with the same: it would be refused as well. modprobe takes `-`
/// and `_` for the same, and so does this.
#[must_use]
#[inline(always)]
pub const fn argument(name: &Told) -> Argument {
    let (mut one, mut two) = (0_u64, 0_u64);
    let mut index = 0;
    while index < name.len() {
        // Odd factors of the golden ratio and of pi; each step can be undone, so that no word is lost.
        let word = underscored(name[index]);
        one = (one ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        one ^= one >> 32;
        two = (two ^ word).wrapping_mul(0x2437_7a66_8c4c_3f6d);
        two ^= two >> 29;
        index += 1;
    }
    [one, two]
}

/// The same eight bytes with `_` for each `-`.
#[inline(always)]
const fn underscored(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let others = word ^ u64::from_ne_bytes([b'-'; 8]);
    // The highest bit of each byte that is zero there: no carry leaves a byte of which the highest bit was taken away before.
    let dashes = !(((others & LOW) + LOW) | others | LOW);
    word ^ ((dashes >> 7) * (b'-' ^ b'_') as u64)
}

/// A name as the kernel asks for it, `net-pf-40`; `None`: it asks for none of that length.
#[must_use]
pub const fn name(text: &str) -> Option<Told> {
    action::name(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_long_as_the_kernels_may_be_and_no_longer() {
        let of = |length| name(core::str::from_utf8(&[b'x'; 64][..length]).unwrap());
        assert!(of(1).is_some() && of(55).is_some());
        assert!(of(0).is_none() && of(56).is_none());
        assert!(name("a\0b").is_none());
        assert_eq!(name("net-pf-40").unwrap()[1], u64::from(b'0'));
    }

    #[test]
    fn a_dash_is_an_underscore_and_no_other_byte_is() {
        let of = |text: &str| argument(&name(text).unwrap());
        assert_eq!(of("net-pf-40"), of("net_pf_40"));
        assert_eq!(of("-------------_--"), of("______-_________"));
        for byte in 1..=255_u8 {
            let word = u64::from_ne_bytes([byte; 8]);
            let expected = if byte == b'-' { b'_' } else { byte };
            assert_eq!(underscored(word), u64::from_ne_bytes([expected; 8]));
            let lonely = u64::from(byte) << 24 | u64::from(b'-') << 32;
            let expected = u64::from(expected) << 24 | u64::from(b'_') << 32;
            assert_eq!(underscored(lonely), expected);
        }
    }

    #[test]
    fn names_that_differ_anywhere_are_other_arguments() {
        let of = |text: &str| argument(&name(text).unwrap());
        let mut all = [[0; 2]; 8];
        let names = [
            "net-pf-16-proto-4",
            "net-pf-16-proto-5",
            "net-pf-16-proto-45",
            "fs-ext4",
            "ext4",
            "fs-ext",
            "net-pf-16-proto-16-family-an-uncommonly-long-name-at-1",
            "net-pf-16-proto-16-family-an-uncommonly-long-name-at-2",
        ];
        for (at, text) in names.into_iter().enumerate() {
            assert!(!all.contains(&of(text)), "{text}");
            all[at] = of(text);
        }
    }
}
