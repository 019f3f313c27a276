//! Network links: what a message of rtnetlink would make, told by the same steps in the kernel and in the daemon's tests.
//!
//! The kernel's own reading of it: `netlink_rcv_skb` (net/netlink/af_netlink.c), `rtnl_newlink` (net/core/rtnetlink.c) and
//! `__nla_parse` (lib/nlattr.c), the same on 5.10 to 7.3. Of an attribute that stands there twice the kernel takes the last; here
//! each counts, so that nothing is missed.

/// `RTM_NEWLINK` (include/uapi/linux/rtnetlink.h).
const NEW_LINK: u32 = 16;
/// `NLM_F_REQUEST` and `NLM_F_CREATE` (include/uapi/linux/netlink.h): without both nothing is made.
const REQUEST_TO_CREATE: u32 = 0x401;
/// Bytes of a `struct nlmsghdr`, of a `struct ifinfomsg`, and of a `struct nlattr`.
const MESSAGE: u32 = 16;
const LINK: u32 = 16;
const ATTRIBUTE: u32 = 4;
/// The bits of an attribute's type that are not flags (`NLA_TYPE_MASK`, include/uapi/linux/netlink.h).
const TYPE: u32 = 0x3fff;

/// `IFLA_LINKINFO` (include/uapi/linux/if_link.h).
const LINK_INFO: u32 = 18;
/// What names a namespace that a link is made in: `IFLA_NET_NS_PID`, `IFLA_NET_NS_FD`, `IFLA_TARGET_NETNSID`; and
/// `IFLA_LINK_NETNSID`, in whose it is made before it is moved. Which one that is may change between the question and the deed,
/// so it is not looked up.
const NET_NS_PID: u32 = 19;
const NET_NS_FD: u32 = 28;
const LINK_NETNSID: u32 = 37;
const TARGET_NETNSID: u32 = 46;
/// `IFLA_INFO_KIND` and `IFLA_INFO_DATA`, in `IFLA_LINKINFO`.
const INFO_KIND: u32 = 1;
const INFO_DATA: u32 = 2;
/// `VETH_INFO_PEER`, `VXCAN_INFO_PEER` and `IFLA_NETKIT_PEER_INFO`, in the data of a link of that kind: a second link. Other
/// kinds have something shorter there.
const PEER: u32 = 1;

/// Steps that are made at most: one for each message, each attribute of a link, and each end of a nest. What takes more is not
/// read to its end.
pub const STEPS: u32 = 4096;

/// Twenty bytes of a message: a message's header, or an attribute's and the beginning of what it holds.
pub type Bytes = [u32; 5];

/// The kind of a link: its name, and NULs behind it. A name of more than 15 bytes is cut, and no kind that a policy can name.
pub type Kind = [u64; 2];

/// What the messages of one send would make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Of all links that would be made in the socket's own namespace, the marks of their kinds.
    pub here: u32,
    /// Of those that would be made in a namespace that the message names, or whose peer would be.
    pub elsewhere: u32,
    /// Not all of it was read.
    pub unread: bool,
}

/// What a step reads from: the messages, a link's attributes, what kind it is, that kind's own, and its peer's attributes.
mod nest {
    pub const MESSAGES: u32 = 0;
    pub const LINK: u32 = 1;
    pub const INFO: u32 = 2;
    pub const DATA: u32 = 3;
    pub const PEER: u32 = 4;
}

/// The messages of one send, as far as they are read. The kernel side keeps it in a table between two steps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Where the nests end that it stands in, by their depth.
    ends: [u32; 8],
    /// Depth of the nest that it stands in.
    nest: u32,
    /// Place of what is read next.
    at: u32,
    /// Of the link that is being read, the marks of its kinds.
    marks: u32,
    /// Whether that link names a namespace; 0: no.
    names_one: u32,
    here: u32,
    elsewhere: u32,
}

/// What a task sends, and how far it is read: a value of the kernel table `READS`, whose keys are tasks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Address of the messages.
    pub data: u64,
    /// The kind that was found last.
    pub last: Kind,
    /// How far.
    pub reading: Reading,
    /// Index in `PROFILES`; so wide that nothing is left between or behind, which the verifier takes for unwritten.
    pub profile: u64,
}
const _: () = assert!(size_of::<Read>() == 8 + 16 + 56 + 8);

/// Entries of the kernel table `READS`: so many tasks may be in the middle of it, of which on each processor one runs.
pub const READS: u32 = 2048;

impl Reading {
    /// Of messages of so many bytes.
    #[must_use]
    pub fn new(length: u32) -> Self {
        let mut reading = Self::default();
        reading.ends[0] = length;
        reading
    }

    /// Place of the bytes that the next step looks at. Those behind the end may be anything.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self) -> u32 {
        self.at
    }

    /// Reads a message's header or an attribute, asking `mark` what to remember of a link's kind. `true`: it was the last.
    #[inline(always)]
    pub fn step(&mut self, bytes: &Bytes, mark: impl FnOnce(Kind) -> u32) -> bool {
        let room = self.end().saturating_sub(self.at);
        if self.nest == nest::MESSAGES {
            return self.message(bytes, room);
        }
        let size = bytes[0] & 0xffff;
        if size < ATTRIBUTE || size > room {
            // The nest is at its end, or what is left of it is no attribute.
            self.leave();
        } else {
            self.attribute(bytes, size, mark);
        }
        false
    }

    /// What was found; `whole`: the last step was made.
    #[inline(always)]
    #[must_use]
    pub const fn found(&self, whole: bool) -> Links {
        Links {
            here: self.here,
            // Of a link that was not read to its end all may still come.
            elsewhere: self.elsewhere | if whole { 0 } else { self.marks },
            unread: !whole,
        }
    }

    #[inline(always)]
    fn message(&mut self, bytes: &Bytes, room: u32) -> bool {
        let size = bytes[0];
        if size < MESSAGE || size > room {
            // A message that is cut off is no message, and what follows is not read.
            return true;
        }
        if is_to_create(bytes[1]) && size >= MESSAGE + LINK {
            self.marks = 0;
            self.names_one = 0;
            self.enter(MESSAGE + LINK, size);
        } else {
            self.at = aligned(self.at.wrapping_add(size));
        }
        false
    }

    #[inline(always)]
    fn attribute(&mut self, bytes: &Bytes, size: u32, mark: impl FnOnce(Kind) -> u32) {
        let kind = bytes[0] >> 16 & TYPE;
        let nest = self.nest;
        if nest == nest::LINK && kind == LINK_INFO || nest == nest::INFO && kind == INFO_DATA {
            return self.enter(ATTRIBUTE, size);
        }
        if nest == nest::DATA && kind == PEER && size >= ATTRIBUTE + LINK {
            return self.enter(ATTRIBUTE + LINK, size);
        }
        if nest == nest::INFO && kind == INFO_KIND {
            self.marks |= mark(name(size - ATTRIBUTE, bytes));
        }
        if (nest == nest::LINK || nest == nest::PEER) && names_a_namespace(kind) {
            self.names_one = 1;
        }
        self.at = aligned(self.at.wrapping_add(size));
    }

    /// Into the nest that begins here, after what stands before its first attribute.
    #[inline(always)]
    fn enter(&mut self, before: u32, size: u32) {
        let end = self.at.wrapping_add(size);
        self.nest = self.nest.wrapping_add(1);
        self.ends[depth(self.nest)] = end;
        self.at = self.at.wrapping_add(before);
    }

    /// On with what the nest stands in.
    #[inline(always)]
    fn leave(&mut self) {
        if self.nest == nest::LINK {
            if self.names_one == 0 {
                self.here |= self.marks;
            } else {
                self.elsewhere |= self.marks;
            }
        }
        self.at = aligned(self.end());
        self.nest = self.nest.wrapping_sub(1);
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.ends[depth(self.nest)]
    }
}

/// A place in [`Reading::ends`]: for the verifier, which does not know that a nest is no deeper.
#[inline(always)]
const fn depth(nest: u32) -> usize {
    nest as usize & 7
}

#[inline(always)]
const fn names_a_namespace(kind: u32) -> bool {
    kind == NET_NS_PID || kind == NET_NS_FD || kind == LINK_NETNSID || kind == TARGET_NETNSID
}

/// Whether what is sent is one message alone, and none of those that make a link, by its first eight bytes. What this says no to
/// may make none all the same.
#[inline(always)]
#[must_use]
pub const fn makes_no_link(head: [u32; 2], length: u32) -> bool {
    head[0] >= MESSAGE && aligned(head[0]) >= length && !is_to_create(head[1])
}

/// Whether a message of this type and these flags is to make a link.
#[inline(always)]
const fn is_to_create(type_and_flags: u32) -> bool {
    let (kind, flags) = (type_and_flags & 0xffff, type_and_flags >> 16);
    kind == NEW_LINK && flags & REQUEST_TO_CREATE == REQUEST_TO_CREATE
}

/// The next place where a message or an attribute may begin (`NLMSG_ALIGN`, `NLA_ALIGN`).
#[inline(always)]
const fn aligned(at: u32) -> u32 {
    at.wrapping_add(3) & !3
}

/// A kind by its attribute, of which `held` bytes are the name: up to its first NUL, or to its end where it has none
/// (`nla_strscpy`).
#[inline(always)]
const fn name(held: u32, bytes: &Bytes) -> Kind {
    let low = bytes[1] as u64 | (bytes[2] as u64) << 32;
    let high = bytes[3] as u64 | (bytes[4] as u64) << 32;
    let low = up_to_nul(first(low, held));
    if low >> 56 == 0 {
        return [low, 0];
    }
    [low, up_to_nul(first(high, held.saturating_sub(8)))]
}

/// The first `count` bytes of eight, and NULs behind them.
#[inline(always)]
const fn first(word: u64, count: u32) -> u64 {
    if count >= 8 {
        return word;
    }
    word & ((1 << (8 * count)) - 1)
}

/// What stands before the first NUL of eight bytes, and NULs behind it.
#[inline(always)]
const fn up_to_nul(word: u64) -> u64 {
    // The lowest bit that this sets is the highest of the first byte that is zero.
    let zero = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
    if zero == 0 {
        return word;
    }
    word & ((zero & zero.wrapping_neg()) >> 7).wrapping_sub(1)
}

/// A kind, from its name; `None`: no kernel has one of that length.
#[must_use]
pub const fn kind(name: &str) -> Option<Kind> {
    crate::action::name(name)
}
