//! Messages of rtnetlink: what network links and what of traffic control they would make, told by the same steps in the kernel and
//! in the daemon's tests.
//!
//! The kernel's own reading of it: `netlink_rcv_skb` (net/netlink/af_netlink.c), `rtnl_newlink` (net/core/rtnetlink.c),
//! `tc_modify_qdisc` and `tc_ctl_tclass` (net/sched/sch_api.c), `tc_new_tfilter` and `tc_ctl_chain` (net/sched/cls_api.c),
//! `tcf_action_init` (net/sched/act_api.c) and `__nla_parse` (lib/nlattr.c), the same on 5.10 to 7.3. Of an attribute that stands
//! there twice the kernel takes the last; here each counts, so that nothing is missed.

/// `RTM_NEWLINK`, `RTM_NEWQDISC`, `RTM_NEWTCLASS`, `RTM_NEWTFILTER`, `RTM_NEWACTION` and `RTM_NEWCHAIN`
/// (include/uapi/linux/rtnetlink.h).
const NEW_LINK: u32 = 16;
const NEW_QDISC: u32 = 36;
const NEW_CLASS: u32 = 40;
const NEW_FILTER: u32 = 44;
const NEW_ACTION: u32 = 48;
const NEW_CHAIN: u32 = 100;
/// `NLM_F_REQUEST`, without which nothing is done, and `NLM_F_CREATE`, without which no link is made
/// (include/uapi/linux/netlink.h).
const REQUEST: u32 = 1;
const CREATE: u32 = 0x400;
/// Bytes of a `struct nlmsghdr`, of a `struct ifinfomsg`, of a `struct tcmsg`, of a `struct tcamsg`, and of a `struct nlattr`.
const MESSAGE: u32 = 16;
const LINK: u32 = 16;
const TRAFFIC_CONTROL: u32 = 20;
const ACTIONS: u32 = 4;
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
/// `IFLA_INFO_DATA`, in `IFLA_LINKINFO`.
const INFO_DATA: u32 = 2;
/// `VETH_INFO_PEER`, `VXCAN_INFO_PEER` and `IFLA_NETKIT_PEER_INFO`, in the data of a link of that kind: a second link. Other
/// kinds have something shorter there.
const PEER: u32 = 1;

/// `IFLA_INFO_KIND`, in `IFLA_LINKINFO`; `TCA_KIND`, of a qdisc, class, filter or chain; `TCA_ACT_KIND`, of an action.
const KIND: u32 = 1;
/// `TCA_OPTIONS` (include/uapi/linux/rtnetlink.h).
const OPTIONS: u32 = 2;
/// `TCA_ACT_TAB`, of a message about actions.
const ACTION_TABLE: u32 = 1;
/// `TCA_POLICE_TBF` (include/uapi/linux/pkt_cls.h), in the options of a filter that is policed in the way from before there were
/// actions: a `struct tc_police`, or the shorter `struct tc_police_compat`, and of no other size (`tcf_police_init`,
/// net/sched/act_police.c). Where in the options it stands differs from kind to kind, and some have their actions there: there the
/// first action stands, which may be of such a size too.
const POLICE_TBF: u32 = 1;
const POLICE: u32 = ATTRIBUTE + 56;
const OLD_POLICE: u32 = ATTRIBUTE + 44;
const POLICE_KIND: Kind = match kind("police") {
    Some(kind) => kind,
    None => [0; 2],
};

/// Steps that are made at most: one for each message, each attribute, and each end of a nest. What takes more is not
/// read to its end.
pub const STEPS: u32 = 4096;

/// Twenty bytes of a message: a message's header, or an attribute's and the beginning of what it holds.
pub type Bytes = [u32; 5];

/// The kind of a link, or of what there is of traffic control: its name, and NULs behind it. A name of more than 15 bytes is cut, and
/// no kind that a policy can name.
pub type Kind = [u64; 2];

/// Which of the two a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Network links.
    Links,
    /// Traffic control.
    TrafficControl,
}

impl About {
    /// Its bit in what a [`Reading`] looks at.
    #[must_use]
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Set beside the marks of its kinds where something of traffic control would be added or changed, whatever that is.
pub const TRAFFIC: u32 = 1 << 30;
/// The same of what does not say its kind: the kernel changes what is there already, whichever that is.
pub const OF_NO_KIND: u32 = 1 << 31;

/// What the messages of one send would make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of all that would be made in the socket's own namespace, the marks of their kinds.
    pub here: u32,
    /// Of those links that would be made in a namespace that the message names, or whose peer would be.
    pub elsewhere: u32,
    /// Not all of it was read.
    pub unread: bool,
}

/// What a step reads from. The last three bits say how deep that stands, and those before whether in a message about links, about
/// a qdisc or a class, about a filter or a chain, or about actions.
mod nest {
    pub const MESSAGES: u32 = 0;

    pub const LINK: u32 = 1;
    /// What kind it is.
    pub const INFO: u32 = 2;
    /// That kind's own.
    pub const DATA: u32 = 3;
    /// The attributes of its peer.
    pub const PEER: u32 = 4;

    /// From here on it is about traffic control.
    pub const QDISC: u32 = 8 + 1;

    pub const FILTER: u32 = 16 + 1;
    /// That kind's own, of which one may hold actions: which one differs from kind to kind.
    pub const OPTIONS: u32 = 16 + 2;
    pub const FILTER_ACTIONS: u32 = 16 + 3;
    pub const FILTER_ACTION: u32 = 16 + 4;

    pub const ACTIONS: u32 = 24 + 1;
    pub const ACTION_TABLE: u32 = 24 + 2;
    pub const ACTION: u32 = 24 + 3;

    pub const DEPTH: u32 = 7;
}

/// The messages of one send, as far as they are read. The kernel side keeps it in a table between two steps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Where the nests end that it stands in, by their depth.
    ends: [u32; 8],
    /// The nest that it stands in.
    nest: u32,
    /// Place of what is read next.
    at: u32,
    /// Of the message that is being read, the marks of its kinds.
    marks: u32,
    /// What else that message says: [`NAMES_ONE`], [`SAYS_KIND`].
    says: u32,
    here: u32,
    elsewhere: u32,
    /// What messages are looked at: an [`About::bit`] each.
    wanted: u32,
}

/// A message about a link names a namespace.
const NAMES_ONE: u32 = 1;
/// One about traffic control says of what kind that is, or need not.
const SAYS_KIND: u32 = 2;

/// What a task sends, and how far it is read: a value of the kernel table `READS`, whose keys are tasks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Address of the messages.
    pub data: u64,
    /// The kinds that were found last, by [`About`].
    pub last: [Kind; 2],
    /// How far.
    pub reading: Reading,
    /// Index in `PROFILES`. Nothing is left between these or behind, which the verifier would take for unwritten.
    pub profile: u32,
}
const _: () = assert!(size_of::<Read>() == 8 + 32 + 60 + 4);

/// Entries of the kernel table `READS`: so many tasks may be in the middle of it, of which on each processor one runs.
pub const READS: u32 = 2048;

impl Reading {
    /// Of messages of so many bytes, those that are `wanted`: an [`About::bit`] each.
    #[inline(always)]
    #[must_use]
    pub fn new(length: u32, wanted: u32) -> Self {
        let mut reading = Self::default();
        reading.ends[0] = length;
        reading.wanted = wanted;
        reading
    }

    /// Place of the bytes that the next step looks at. Those behind the end may be anything.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self) -> u32 {
        self.at
    }

    /// Reads a message's header or an attribute, asking `mark` what to remember of a kind, in the lower 30 bits. `true`: it was the
    /// last.
    #[inline(always)]
    pub fn step(&mut self, bytes: &Bytes, mark: impl FnOnce(About, Kind) -> u32) -> bool {
        let room = self.end().saturating_sub(self.at);
        if self.nest & nest::DEPTH == nest::MESSAGES {
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
    pub const fn found(&self, whole: bool) -> Found {
        Found {
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
        let nest = opens(bytes[1]);
        let before = MESSAGE + header(nest);
        if nest == nest::MESSAGES || self.wanted & about(nest).bit() == 0 || size < before {
            self.at = aligned(self.at.wrapping_add(size));
            return false;
        }
        self.marks = 0;
        // An action without a kind is none, and a chain without one has no code of any.
        let need_not = nest == nest::ACTIONS || bytes[1] & 0xffff == NEW_CHAIN;
        self.says = if need_not { SAYS_KIND } else { 0 };
        self.enter(nest, before, size);
        false
    }

    #[inline(always)]
    fn attribute(&mut self, bytes: &Bytes, size: u32, mark: impl FnOnce(About, Kind) -> u32) {
        let kind = bytes[0] >> 16 & TYPE;
        let nest = self.nest;
        let is_police = nest == nest::FILTER_ACTIONS
            && kind == POLICE_TBF
            && (size == POLICE || size == OLD_POLICE)
            && is_control(bytes[2]);
        if is_police || kind == KIND && names_its_kind(nest) {
            let of = if is_police {
                POLICE_KIND
            } else {
                name(size - ATTRIBUTE, bytes)
            };
            self.marks |= mark(about(nest), of);
            if nest & nest::DEPTH == 1 {
                self.says |= SAYS_KIND;
            }
        }
        if holds_more(nest, kind, size) {
            let before = if nest == nest::DATA {
                ATTRIBUTE + LINK
            } else {
                ATTRIBUTE
            };
            return self.enter(nest.wrapping_add(1), before, size);
        }
        if (nest == nest::LINK || nest == nest::PEER) && names_a_namespace(kind) {
            self.says |= NAMES_ONE;
        }
        self.at = aligned(self.at.wrapping_add(size));
    }

    /// Into the nest that begins here, after what stands before its first attribute.
    #[inline(always)]
    fn enter(&mut self, nest: u32, before: u32, size: u32) {
        let end = self.at.wrapping_add(size);
        self.nest = nest;
        self.ends[depth(nest)] = end;
        self.at = self.at.wrapping_add(before);
    }

    /// On with what the nest stands in.
    #[inline(always)]
    fn leave(&mut self) {
        if self.nest & nest::DEPTH == 1 {
            self.end_of_message();
        }
        self.at = aligned(self.end());
        self.nest = self.nest.wrapping_sub(1);
    }

    #[inline(always)]
    fn end_of_message(&mut self) {
        if about(self.nest) as u32 == About::TrafficControl as u32 {
            // It is done in the socket's own namespace: no message of this kind can name another.
            let untold = if self.says & SAYS_KIND == 0 {
                OF_NO_KIND
            } else {
                0
            };
            self.here |= self.marks | TRAFFIC | untold;
        } else if self.says & NAMES_ONE == 0 {
            self.here |= self.marks;
        } else {
            self.elsewhere |= self.marks;
        }
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.ends[depth(self.nest)]
    }
}

/// A place in [`Reading::ends`]: for the verifier, which does not know that a nest is no deeper.
#[inline(always)]
const fn depth(nest: u32) -> usize {
    (nest & nest::DEPTH) as usize
}

/// What messages in this nest, and in those that it holds, are about.
#[inline(always)]
const fn about(nest: u32) -> About {
    if nest < nest::QDISC {
        About::Links
    } else {
        About::TrafficControl
    }
}

/// The nest of a message's own attributes, by its type and flags; [`nest::MESSAGES`]: it makes none of what is looked for.
#[inline(always)]
const fn opens(type_and_flags: u32) -> u32 {
    let (kind, flags) = (type_and_flags & 0xffff, type_and_flags >> 16);
    if flags & REQUEST == 0 {
        return nest::MESSAGES;
    }
    match kind {
        NEW_LINK if flags & CREATE != 0 => nest::LINK,
        NEW_QDISC | NEW_CLASS => nest::QDISC,
        NEW_FILTER | NEW_CHAIN => nest::FILTER,
        NEW_ACTION => nest::ACTIONS,
        _ => nest::MESSAGES,
    }
}

/// Bytes between a message's header and its attributes.
#[inline(always)]
const fn header(nest: u32) -> u32 {
    match nest {
        nest::LINK => LINK,
        nest::ACTIONS => ACTIONS,
        _ => TRAFFIC_CONTROL,
    }
}

/// Whether the kernel takes this for what is to become of a packet, the second word of a `struct tc_police`: else it makes no such
/// thing (`tcf_action_check_ctrlact`, net/sched/act_api.c: up to `TC_ACT_VALUE_MAX`, a jump, or on with a chain). Where an action
/// begins with its kind, as tools write it, the letters of that stand there, and no such number.
#[inline(always)]
const fn is_control(word: u32) -> bool {
    let word = word as i32;
    word < 0x100 || word >= 1 << 28 && word < 3 << 28
}

/// Whether an attribute of [`KIND`] in this nest says of what kind something is.
#[inline(always)]
const fn names_its_kind(nest: u32) -> bool {
    nest == nest::INFO
        || nest == nest::QDISC
        || nest == nest::FILTER
        || nest == nest::FILTER_ACTION
        || nest == nest::ACTION
}

/// Whether an attribute is a nest that is looked into.
#[inline(always)]
const fn holds_more(nest: u32, kind: u32, size: u32) -> bool {
    match nest {
        nest::LINK => kind == LINK_INFO,
        nest::INFO => kind == INFO_DATA,
        nest::DATA => kind == PEER && size >= ATTRIBUTE + LINK,
        nest::FILTER => kind == OPTIONS,
        nest::ACTIONS => kind == ACTION_TABLE,
        // There is room for an action with a name, or for such a name.
        nest::OPTIONS => size > 3 * ATTRIBUTE,
        nest::FILTER_ACTIONS | nest::ACTION_TABLE => size > 2 * ATTRIBUTE,
        _ => false,
    }
}

#[inline(always)]
const fn names_a_namespace(kind: u32) -> bool {
    kind == NET_NS_PID || kind == NET_NS_FD || kind == LINK_NETNSID || kind == TARGET_NETNSID
}

/// Whether what is sent is one message alone, and none of those that make something, by its first eight bytes. What this says no to
/// may make nothing all the same.
#[inline(always)]
#[must_use]
pub const fn makes_nothing(head: [u32; 2], length: u32) -> bool {
    head[0] >= MESSAGE && aligned(head[0]) >= length && opens(head[1]) == nest::MESSAGES
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
