//! Traffic control: what is made to hold a denied kind is seen to, what is not is not, and of damaged messages none is missed in which
//! others' code sees one.

use guard_common::rtnetlink::{About, Found, Kind, OF_NO_KIND, STEPS, TRAFFIC, kind};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAction, TcActionAttribute, TcActionMessageAttribute, TcAttribute, TcFilterFlowerOption,
        TcFilterMatchAllOption, TcFilterU32Option, TcOption,
    },
};

use crate::{Random, attribute, damage, each_message, is_passed_over, read_with};

const NEW_QDISC: u16 = 36;
const NEW_CLASS: u16 = 40;
const NEW_FILTER: u16 = 44;
const NEW_ACTION: u16 = 48;
const NEW_CHAIN: u16 = 100;

const DENIED: u32 = 1;
const OTHER: u32 = 2;
const A_LINK: u32 = 4;

fn is_denied(name: &str) -> bool {
    ["sfq", "route", "pedit", "police"].contains(&name)
}

fn mark(about: About, found: Kind) -> u32 {
    let bytes = found.map(u64::to_le_bytes).concat();
    let name = bytes.split(|byte| *byte == 0).next().unwrap();
    match about {
        About::Links => A_LINK,
        About::TrafficControl if std::str::from_utf8(name).is_ok_and(is_denied) => DENIED,
        About::TrafficControl => OTHER,
    }
}

fn read(bytes: &[u8]) -> Found {
    read_with(bytes, About::TrafficControl.bit(), 0xa5, mark)
}

/// Whether something denied would be made, by the reference; `None`: it cannot read it.
fn reference(bytes: &[u8]) -> Option<bool> {
    let mut found = false;
    for message in each_message(bytes) {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
        let asks = message.header.flags & 1 == 1;
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        let denied = match inner {
            RouteNetlinkMessage::NewQueueDiscipline(message)
            | RouteNetlinkMessage::NewTrafficClass(message) => {
                (message.attributes.iter()).any(is_denied_kind)
            }
            RouteNetlinkMessage::NewTrafficFilter(message)
            | RouteNetlinkMessage::NewTrafficChain(message) => {
                (message.attributes.iter()).any(|one| is_denied_kind(one) || has_denied_action(one))
            }
            RouteNetlinkMessage::NewTrafficAction(message) => {
                message.attributes.iter().any(|one| match one {
                    TcActionMessageAttribute::Actions(actions) => actions.iter().any(acts),
                    _ => false,
                })
            }
            _ => false,
        };
        found |= asks && denied;
    }
    Some(found)
}

/// The reference takes one NUL off; the kernel takes the name up to the first.
fn is_denied_name(name: &str) -> bool {
    name.split('\0').next().is_some_and(is_denied)
}

fn is_denied_kind(one: &TcAttribute) -> bool {
    matches!(one, TcAttribute::Kind(name) if is_denied_name(name))
}

fn acts(action: &TcAction) -> bool {
    let is = |one: &TcActionAttribute| matches!(one, TcActionAttribute::Kind(name) if is_denied_name(name));
    action.attributes.iter().any(is)
}

fn has_denied_action(one: &TcAttribute) -> bool {
    let TcAttribute::Options(options) = one else {
        return false;
    };
    options.iter().any(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions))
        | TcOption::MatchAll(TcFilterMatchAllOption::Action(actions))
        | TcOption::Flower(TcFilterFlowerOption::Actions(actions)) => actions.iter().any(acts),
        _ => false,
    })
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let before = if kind == NEW_ACTION { 4 } else { 20 };
    let mut bytes = (16 + before + attributes.len() as u32)
        .to_le_bytes()
        .to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(vec![0; 8 + before as usize]);
    bytes.extend(attributes);
    bytes
}

fn named(name: &str) -> Vec<u8> {
    attribute(1, name.as_bytes())
}

/// Actions, each in its place.
fn actions(kinds: &[&str]) -> Vec<u8> {
    let each = (kinds.iter().zip(1..)).map(|(kind, place)| attribute(place, &named(kind)));
    each.collect::<Vec<_>>().concat()
}

/// Filters, and where their actions are (`TCA_U32_ACT`, `TCA_MATCHALL_ACT`, `TCA_FLOWER_ACT`, `TCA_FW_ACT`, `TCA_ROUTE4_ACT`,
/// `TCA_BPF_ACT`). The reference knows the first three.
const FILTERS: [(&str, u16); 6] = [
    ("u32\0", 7),
    ("matchall\0", 2),
    ("flower\0", 3),
    ("fw", 4),
    ("route\0", 6),
    ("bpf\0\0\0", 1),
];
const QDISCS: [&str; 7] = [
    "sfq\0",
    "sfq",
    "sfq\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "sf\0",
    "sfqs\0",
    "a-kind-of-16-byt",
    "\0sfq",
];
const ACTIONS: [&str; 6] = [
    "pedit\0", "pedit", "pedi\0", "pedits\0", "gact\0", "mirred\0",
];

impl Random {
    /// One of some names, and whether it is a denied one's.
    fn name(&mut self, all: &[&'static str], denied: &mut bool) -> &'static str {
        let name = all[self.below(all.len())];
        *denied |= is_denied_name(name);
        name
    }

    /// Actions of a filter or of a message about them, some with options before the kind.
    fn actions(&mut self, denied: &mut bool) -> Vec<u8> {
        let mut all = Vec::new();
        for place in 1..=self.below(4) as u16 {
            let kind = named(self.name(&ACTIONS, denied));
            // Of no kind that the reference reads the options of.
            let options = attribute(2, &attribute(9, &[0x5a; 24]));
            let index = attribute(3, &[7, 0, 0, 0]);
            let parts = match self.below(4) {
                0 => [index, kind, options],
                1 => [kind, options, index],
                _ => [kind, index, options],
            };
            let flag = 0x8000 * self.below(2) as u16;
            all.extend(attribute(place | flag, &parts.concat()));
        }
        all
    }

    fn filter(&mut self, denied: &mut bool) -> Vec<u8> {
        let (name, place) = FILTERS[self.below(FILTERS.len())];
        *denied |= is_denied_name(name);
        let mut options = Vec::new();
        for _ in 0..=self.below(2) {
            options.extend(match self.below(4) {
                0 => attribute(place + 20, &[1, 0, 0, 0]),
                1 => attribute(place + 30, &[0x55; 40]),
                _ => attribute(place, &self.actions(denied)),
            });
        }
        let options = attribute(2, &options);
        let chain = attribute(11, &[5, 0, 0, 0]);
        match self.below(5) {
            0 => [options, named(name)].concat(),
            1 => [chain, named(name), options].concat(),
            2 => [named(name), chain, named(name), options].concat(),
            _ => [named(name), options].concat(),
        }
    }

    fn queue(&mut self, denied: &mut bool) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..=self.below(2) {
            all.extend(match self.below(4) {
                // Neither a name within the options nor one in another place is its kind.
                0 => attribute(2, &actions(&["pedit\0", "sfq\0"])),
                1 => attribute(8, b"sfq\0"),
                _ => named(self.name(&QDISCS, denied)),
            });
        }
        all
    }

    /// What is sent, and whether any of it is denied.
    fn traffic(&mut self) -> (Vec<u8>, bool) {
        let (mut bytes, mut denied) = (Vec::new(), false);
        for _ in 0..=self.below(2) {
            let flags = [0x605, 0x605, 0x105, 0x5, 0x1, 0x400][self.below(6)];
            let mut one = false;
            let (kind, attributes) = match self.below(8) {
                0 => (NEW_QDISC, self.queue(&mut one)),
                1 => (NEW_CLASS, self.queue(&mut one)),
                2 | 3 => (NEW_FILTER, self.filter(&mut one)),
                4 => (NEW_CHAIN, self.filter(&mut one)),
                5 => {
                    let table = self.actions(&mut one);
                    (NEW_ACTION, attribute(1, &table))
                }
                // What is taken away, or asked.
                6 => (NEW_QDISC + 1, self.queue(&mut false)),
                _ => (NEW_FILTER + 2, self.filter(&mut false)),
            };
            denied |= one && flags & 1 == 1;
            bytes.extend(message(kind, flags, &attributes));
        }
        (bytes, denied)
    }
}

#[test]
fn of_a_million_messages_none_of_a_denied_kind_is_missed() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut seen, mut agreed, mut others, mut unread, mut skipped) = (0, 0, 0, 0, 0);
    for round in 0..1_000_000 {
        let (mut bytes, denied) = random.traffic();
        let whole = round % 2 == 0;
        if !whole {
            damage(&mut bytes, &mut random, &[0, 1, 2, 4, 7, 36, 44, 48, 0xff]);
        }
        let ours = read(&bytes);
        if is_passed_over(&bytes) {
            skipped += 1;
            assert_eq!(ours, Found::default());
        }
        // What stands behind the end is nobody's business.
        assert_eq!(
            ours,
            read_with(&bytes, About::TrafficControl.bit(), 0, mark)
        );
        let marked = (ours.here | ours.elsewhere) & DENIED != 0;
        if whole {
            assert_eq!((marked, ours.unread), (denied, false), "{bytes:02x?}");
            seen += u32::from(denied);
            others += u32::from(!denied);
        }
        match reference(&bytes) {
            Some(true) => {
                agreed += 1;
                assert!(marked, "missed: {bytes:02x?}");
            }
            Some(false) => {}
            None => unread += 1,
        }
    }
    // All of them happen, and often.
    assert!(
        seen > 100_000
            && agreed > 100_000
            && others > 50_000
            && unread > 10_000
            && skipped > 20_000,
        "{seen} {agreed} {others} {unread} {skipped}"
    );
}

#[test]
fn what_does_not_say_its_kind_is_told_from_what_need_not() {
    for kind in [NEW_QDISC, NEW_CLASS, NEW_FILTER] {
        let of = |attributes: &[u8]| read(&message(kind, 5, attributes)).here;
        assert_eq!(of(&[]), TRAFFIC | OF_NO_KIND);
        // The kind of an action is not the filter's.
        let options = attribute(2, &attribute(7, &actions(&["gact\0"])));
        assert_eq!(of(&options) & OF_NO_KIND, OF_NO_KIND);
        assert_eq!(of(&named("fw\0")), TRAFFIC | OTHER);
        assert_eq!(of(&named("route\0")), TRAFFIC | DENIED);
    }
    assert_eq!(read(&message(NEW_CHAIN, 5, &[])).here, TRAFFIC);
    assert_eq!(read(&message(NEW_ACTION, 5, &[])).here, TRAFFIC);
    // One of several is enough.
    let both = [
        message(NEW_QDISC, 5, &named("fw\0")),
        message(NEW_QDISC, 5, &[]),
    ];
    assert_eq!(read(&both.concat()).here, TRAFFIC | OTHER | OF_NO_KIND);
    // Too short for what every such message begins with.
    let mut short = message(NEW_QDISC, 5, &[]);
    short.truncate(32);
    short[0] = 32;
    assert_eq!(read(&short), Found::default());
}

#[test]
fn what_is_policed_in_the_old_way_is_seen_by_its_size_wherever_it_stands() {
    let with = |place: u16, first: &[u8]| {
        let options = attribute(2, &attribute(place, &attribute(1, first)));
        read(&message(NEW_FILTER, 5, &[named("fw\0"), options].concat())).here
    };
    for place in [1, 2, 4, 5, 6, 10] {
        for size in [44, 56] {
            assert_eq!(with(place, &vec![0; size]), TRAFFIC | OTHER | DENIED);
        }
        for size in [40, 43, 48, 52, 57, 60] {
            assert_eq!(with(place, &vec![0; size]), TRAFFIC | OTHER);
        }
    }
    // What is to become of a packet, and what the kernel takes for no such thing.
    let control = |word: u32| {
        let mut police = [0; 44];
        // An index like the header of a kind.
        police[..8].copy_from_slice(&[9, 0, 1, 0, 0, 0, 0, 0]);
        police[4..8].copy_from_slice(&word.to_le_bytes());
        with(2, &police) & DENIED != 0
    };
    for word in [
        0,
        2,
        8,
        u32::MAX,
        1 << 31,
        1 << 28 | 3,
        2 << 28,
        (3 << 28) - 1,
    ] {
        assert!(control(word), "{word:#x}");
    }
    for name in [
        "gact", "mirr", "csum", "vlan", "samp", "skbe", "nat\0", "ife\0", "ct\0\0", "bpf\0", "x_9z",
    ] {
        let word = u32::from_le_bytes(name.as_bytes().try_into().unwrap());
        assert!(!control(word), "{name}");
    }
    // Nor is what is no filter.
    let table = attribute(1, &attribute(1, &[0; 44]));
    assert_eq!(read(&message(NEW_ACTION, 5, &table)).here, TRAFFIC);
}

#[test]
fn of_links_and_traffic_control_in_one_send_each_is_read_where_it_is_wanted() {
    let mut link = message(16, 0x605, &[]);
    link.truncate(32);
    link.extend(attribute(18, &named("veth\0")));
    link[0] = link.len() as u8;
    let both = [link, message(NEW_QDISC, 5, &named("sfq\0"))].concat();
    let (links, traffic) = (About::Links.bit(), About::TrafficControl.bit());
    for (wanted, here) in [
        (links | traffic, A_LINK | DENIED | TRAFFIC),
        (links, A_LINK),
        (traffic, DENIED | TRAFFIC),
        (0, 0),
    ] {
        let found = read_with(&both, wanted, 0, mark);
        assert_eq!(
            (found.here, found.elsewhere, found.unread),
            (here, 0, false)
        );
    }
}

#[test]
fn what_is_too_long_is_not_taken_for_read_and_what_is_not_wanted_is_not_too_long() {
    let with = |count: u32, wanted| {
        let mut all = attribute(9, b"x").repeat(count as usize);
        all.extend(named("sfq\0"));
        read_with(&message(NEW_QDISC, 5, &all), wanted, 0, mark)
    };
    let traffic = About::TrafficControl.bit();
    // The message, its kind, its end, and the end of all.
    let fits = STEPS - 4;
    let whole = with(fits, traffic);
    assert_eq!((whole.here, whole.unread), (TRAFFIC | DENIED, false));
    assert!(with(fits + 1, traffic).unread);
    assert_eq!(with(20_000, About::Links.bit()), Found::default());
    assert!(kind("a-kind-of-16-byt").is_none());
}
