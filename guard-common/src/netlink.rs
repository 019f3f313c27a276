//! Netlink: its families, and those of netfilter behind one of them, by the names that policies have for them and as one argument of
//! an action.

use crate::action::Argument;

/// Families: `NETLINK_*` (include/uapi/linux/netlink.h, the same numbers on 5.10 to 7.3), without the prefix.
pub const FAMILIES: &[(&str, u16)] = &[
    ("route", 0),
    ("usersock", 2),
    ("sock_diag", 4),
    ("xfrm", 6),
    ("selinux", 7),
    ("iscsi", 8),
    ("audit", 9),
    ("fib_lookup", 10),
    ("connector", 11),
    ("netfilter", NETFILTER),
    ("kobject_uevent", 15),
    ("generic", 16),
    ("scsitransport", 18),
    ("rdma", 20),
    ("crypto", 21),
];

/// `MAX_LINKS`: there are no families above.
pub const COUNT: u16 = 32;

/// `NETLINK_NETFILTER`, behind which are more.
pub const NETFILTER: u16 = 12;

/// What is behind `netfilter`: `NFNL_SUBSYS_*` (include/uapi/linux/netfilter/nfnetlink.h).
pub const SUBSYSTEMS: &[(&str, u16)] = &[
    ("conntrack", 1),
    ("conntrack_expect", 2),
    ("nfqueue", 3),
    ("nflog", 4),
    ("osf", 5),
    ("ipset", 6),
    ("nfacct", 7),
    ("conntrack_timeout", 8),
    ("conntrack_helper", 9),
    ("nf_tables", 10),
    ("nft_compat", 11),
    ("nf_hook", 12),
];

/// A family, or what is behind netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// `NETLINK_*`.
    pub family: u16,
    /// `NFNL_SUBSYS_*`; `None`: whichever, or of another family than netfilter.
    pub subsystem: Option<u16>,
}

/// An argument of no netlink is all zero or has this bit not, and one of netlink always.
const IS_NETLINK: u64 = 1 << 62;

/// `NFNL_MSG_BATCH_BEGIN`, of which what follows says whose the batch is.
const BATCH_BEGIN: u32 = 0x10;
/// Bytes of a `struct nlmsghdr`.
const MESSAGE: u32 = 16;

/// Messages of one send that are looked at, at most, unless the first begins a batch.
pub const MESSAGES: u32 = 16;

/// The beginning of a message: its header, and a `struct nfgenmsg`.
pub type Head = [u32; 5];

impl Family {
    /// All of a family.
    #[must_use]
    #[inline(always)]
    pub const fn whole(family: u16) -> Self {
        Self {
            family,
            subsystem: None,
        }
    }

    /// Behind netfilter.
    #[must_use]
    #[inline(always)]
    pub const fn behind_netfilter(subsystem: u16) -> Self {
        Self {
            family: NETFILTER,
            subsystem: Some(subsystem),
        }
    }

    /// By its name in policies.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let of = |table: &[(&str, u16)]| {
            (table.iter().find(|(known, _)| *known == name)).map(|(_, number)| *number)
        };
        (of(FAMILIES).map(Self::whole)).or_else(|| of(SUBSYSTEMS).map(Self::behind_netfilter))
    }

    /// As an argument.
    #[must_use]
    #[inline(always)]
    pub const fn argument(self) -> Argument {
        let subsystem = match self.subsystem {
            Some(number) => number as u64 + 1,
            None => 0,
        };
        [IS_NETLINK | self.family as u64 | subsystem << 16, 0]
    }

    /// From an argument; `None`: of none.
    #[must_use]
    pub const fn from_argument(argument: Argument) -> Option<Self> {
        let word = argument[0];
        // A socket has the bit above, and a kind of a link ends in zeros.
        if word >> 48 != IS_NETLINK >> 48 || argument[1] != 0 {
            return None;
        }
        Some(Self {
            family: word as u16,
            subsystem: match (word >> 16) as u32 {
                0 => None,
                number => Some((number - 1) as u16),
            },
        })
    }
}

impl core::fmt::Display for Family {
    /// As policies name it; by its number where it has no name.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (names, number) = match self.subsystem {
            Some(subsystem) => (SUBSYSTEMS, subsystem),
            None => (FAMILIES, self.family),
        };
        match names.iter().find(|(_, known)| *known == number) {
            Some((name, _)) => out.write_str(name),
            None if self.subsystem.is_some() => write!(out, "netfilter {number}"),
            None => write!(out, "{number}"),
        }
    }
}

/// What a message to netfilter is for, and where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// `NFNL_SUBSYS_*`.
    pub subsystem: u16,
    /// Bytes from the beginning of this one; 0: nothing that follows is for anybody else.
    pub next: u32,
}

/// Reads a message's beginning, the first of its send or not (`nfnetlink_rcv`, net/netfilter/nfnetlink.c).
#[must_use]
#[inline(always)]
pub const fn message(head: &Head, is_first: bool) -> Message {
    let (length, kind) = (head[0], head[1] & 0xffff);
    if is_first && kind == BATCH_BEGIN {
        let number = (head[4] >> 16) as u16;
        return Message {
            // In the order of the network, but for nft of old.
            subsystem: if number == 10 {
                number
            } else {
                number.swap_bytes()
            },
            // What is for another than that is refused by the kernel.
            next: 0,
        };
    }
    Message {
        subsystem: (kind >> 8) as u16,
        // The kernel goes no further behind one that is too short.
        next: if length < MESSAGE || length > u32::MAX - 3 {
            0
        } else {
            (length + 3) & !3
        },
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn names_are_each_ones_own_and_so_are_arguments() {
        let names = || FAMILIES.iter().chain(SUBSYSTEMS).map(|(name, _)| *name);
        for name in names() {
            let family = Family::named(name).unwrap();
            assert_eq!(family.to_string(), name);
            assert_eq!(Family::from_argument(family.argument()), Some(family));
            assert_eq!(
                crate::socket::Socket::from_argument(family.argument()),
                None
            );
            let alike = names().filter(|other| Family::named(other) == Some(family));
            assert_eq!(alike.count(), 1, "{name}");
        }
        assert_eq!(Family::named("inet"), None);
        assert_eq!(Family::from_argument([0; 2]), None);
        // Kinds of links are text.
        for kind in ["bridge", "a", "@@@@@@@@", "(too long)", "~~~~~~~~~~~~~~~"] {
            assert_eq!(
                Family::from_argument(crate::rtnetlink::kind(kind).unwrap()),
                None,
                "{kind}"
            );
        }
        assert_eq!(Family::whole(99).to_string(), "99");
        assert_eq!(Family::behind_netfilter(99).to_string(), "netfilter 99");
    }

    #[test]
    fn a_message_is_for_whom_its_type_or_its_batch_names() {
        let plain = |length, kind: u32| message(&[length, kind, 0, 0, 0], true);
        assert_eq!(
            plain(20, 0x0a01),
            Message {
                subsystem: 10,
                next: 20
            }
        );
        assert_eq!(
            plain(21, 0x0102),
            Message {
                subsystem: 1,
                next: 24
            }
        );
        for length in [0, 15, u32::MAX, u32::MAX - 2] {
            assert_eq!(plain(length, 0x0a01).next, 0);
        }
        let batch =
            |number: u32, is_first| message(&[20, BATCH_BEGIN, 0, 0, number << 16], is_first);
        for number in [10, 10 << 8] {
            assert_eq!(
                batch(number, true),
                Message {
                    subsystem: 10,
                    next: 0
                }
            );
        }
        assert_eq!(batch(6 << 8, true).subsystem, 6);
        // One that is not the first begins nothing.
        assert_eq!(
            batch(10, false),
            Message {
                subsystem: 0,
                next: 20
            }
        );
    }
}
