//! Sockets: their families, types and protocols, by the names that policies have for them and as one argument of an action.

use crate::action::Argument;

/// Families: `AF_*` (include/linux/socket.h, the same numbers on 5.10 to 7.3), without the prefix.
pub const FAMILIES: &[(&str, u16)] = &[
    ("unix", 1),
    ("inet", 2),
    ("ax25", 3),
    ("ipx", 4),
    ("appletalk", 5),
    ("netrom", 6),
    ("atmpvc", 8),
    ("x25", 9),
    ("inet6", 10),
    ("rose", 11),
    ("key", 15),
    ("netlink", 16),
    ("packet", 17),
    ("atmsvc", 20),
    ("rds", 21),
    ("pppox", 24),
    ("llc", 26),
    ("ib", 27),
    ("mpls", 28),
    ("can", 29),
    ("tipc", 30),
    ("bluetooth", 31),
    ("iucv", 32),
    ("rxrpc", 33),
    ("isdn", 34),
    ("phonet", 35),
    ("ieee802154", 36),
    ("caif", 37),
    ("alg", 38),
    ("nfc", 39),
    ("vsock", 40),
    ("kcm", 41),
    ("qipcrtr", 42),
    ("smc", 43),
    ("xdp", 44),
    ("mctp", 45),
];

/// Types: `SOCK_*` (include/linux/net.h), without the prefix.
pub const TYPES: &[(&str, u16)] = &[
    ("stream", 1),
    ("dgram", 2),
    ("raw", 3),
    ("rdm", 4),
    ("seqpacket", 5),
    ("dccp", 6),
    ("packet", 10),
];

/// Protocols of `inet` and `inet6`: `IPPROTO_*` (include/uapi/linux/in.h), without the prefix.
pub const PROTOCOLS: &[(&str, u16)] = &[
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
    ("smc", 256),
    ("mptcp", 262),
];

/// Whichever.
pub const ANY: u16 = 0xffff;

/// What is asked of socket(2), or what a policy denies of that; each part may be [`ANY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `AF_*`.
    pub family: u16,
    /// `SOCK_*`, without flags.
    pub kind: u16,
    /// As it stands in the call: 0 where it is left to the kernel.
    pub protocol: u16,
}

/// An argument of no socket is all zero, and one of a socket never.
const IS_SOCKET: u64 = 1 << 63;

impl Socket {
    /// Ways to leave parts of it open, all of them and none included.
    pub const GENERALITIES: u32 = 8;

    /// Of the numbers of a call. What no kernel has is none that a policy can name.
    #[inline(always)]
    #[must_use]
    pub const fn of(family: u32, kind: u32, protocol: u32) -> Self {
        Self {
            family: narrow(family),
            kind: narrow(kind),
            protocol: narrow(protocol),
        }
    }

    /// The same with some parts left open: one of [`Self::GENERALITIES`].
    #[inline(always)]
    #[must_use]
    pub const fn open(self, which: u32) -> Self {
        Self {
            family: if which & 1 != 0 { ANY } else { self.family },
            kind: if which & 2 != 0 { ANY } else { self.kind },
            protocol: if which & 4 != 0 { ANY } else { self.protocol },
        }
    }

    /// In the place of an argument: for which of [`Self::GENERALITIES`] a profile has any, a bit each; nothing: that is not known.
    pub const GENERAL: Argument = [IS_SOCKET, 1];

    /// Which parts an argument leaves open: the one of [`Self::GENERALITIES`] that it comes of.
    #[must_use]
    pub const fn generality([parts, _]: Argument) -> u32 {
        const fn is_open(part: u64) -> u32 {
            (part as u16 == ANY) as u32
        }
        is_open(parts) | is_open(parts >> 16) << 1 | is_open(parts >> 32) << 2
    }

    /// As an argument.
    #[inline(always)]
    #[must_use]
    pub const fn argument(self) -> Argument {
        [
            IS_SOCKET
                | self.family as u64
                | (self.kind as u64) << 16
                | (self.protocol as u64) << 32,
            0,
        ]
    }

    /// From an argument; `None`: of none.
    #[must_use]
    pub const fn from_argument(argument: Argument) -> Option<Self> {
        let word = argument[0];
        if word & IS_SOCKET == 0 {
            return None;
        }
        Some(Self {
            family: word as u16,
            kind: (word >> 16) as u16,
            protocol: (word >> 32) as u16 & !0x8000,
        })
    }
}

impl core::fmt::Display for Socket {
    /// As policies name its parts, `inet stream mptcp`; a protocol that was left to the kernel is left out.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut word = |names: &[(&str, u16)], number: u16, before: &str| match names
            .iter()
            .find(|(_, known)| *known == number)
        {
            Some((name, _)) => write!(out, "{before}{name}"),
            None => write!(out, "{before}{number}"),
        };
        word(FAMILIES, self.family, "")?;
        word(TYPES, self.kind, " ")?;
        match (self.protocol, self.family) {
            (0, _) => Ok(()),
            // Others count theirs by themselves.
            (number, 2 | 10) => word(PROTOCOLS, number, " "),
            (number, _) => word(&[], number, " "),
        }
    }
}

/// A number of a call, none of which is as large as [`ANY`] or has its highest bit.
#[inline(always)]
const fn narrow(number: u32) -> u16 {
    if number > 0x7fff {
        0x7fff
    } else {
        number as u16
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{
        string::{String, ToString},
        vec::Vec,
    };

    use super::*;

    #[test]
    fn an_argument_says_which_socket() {
        for socket in [
            Socket::of(0, 0, 0),
            Socket::of(40, 1, 0),
            Socket::of(2, 1, 262),
        ] {
            assert_ne!(socket.argument(), [0; 2]);
            assert_eq!(Socket::from_argument(socket.argument()), Some(socket));
        }
        assert_eq!(Socket::from_argument([0; 2]), None);
        // No number of a call is taken for all of them.
        let odd = Socket::of(u32::MAX, 0xffff, 0x8000);
        assert!(![odd.family, odd.kind, odd.protocol].contains(&ANY));
    }

    #[test]
    fn it_is_written_as_policies_name_it() {
        let said = |socket: Socket| -> String { socket.to_string() };
        assert_eq!(said(Socket::of(40, 1, 0)), "vsock stream");
        assert_eq!(said(Socket::of(2, 1, 262)), "inet stream mptcp");
        assert_eq!(said(Socket::of(16, 3, 6)), "netlink raw 6");
        assert_eq!(said(Socket::of(99, 99, 9)), "99 99 9");
    }

    #[test]
    fn parts_are_left_open_in_every_combination() {
        let socket = Socket::of(2, 3, 4);
        let all: Vec<_> = (0..Socket::GENERALITIES)
            .map(|which| socket.open(which).argument())
            .collect();
        for (number, one) in all.iter().enumerate() {
            assert!(!all[..number].contains(one) && *one != Socket::GENERAL);
            assert_eq!(Socket::generality(*one), number as u32);
        }
        assert_eq!(all[0], socket.argument());
        assert_eq!(
            socket.open(7),
            Socket {
                family: ANY,
                kind: ANY,
                protocol: ANY
            }
        );
    }
}
