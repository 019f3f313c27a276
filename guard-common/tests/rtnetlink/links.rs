//! Links: of whole messages none is seen that others' code does not see, and of damaged ones none that it sees is missed.

use guard_common::rtnetlink::{About, Found, STEPS, kind};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo},
};

use crate::{Random, attribute, damage, each_message, is_passed_over, read_with};

const BRIDGE: u32 = 1;
const OTHER: u32 = 2;

/// What is found, marked so.
fn read(bytes: &[u8]) -> Found {
    read_and(bytes, 0xa5)
}

fn read_and(bytes: &[u8], behind: u8) -> Found {
    let bridge = kind("bridge").unwrap();
    let mark = |_, found| if found == bridge { BRIDGE } else { OTHER };
    read_with(bytes, About::Links.bit(), behind, mark)
}

/// Whether one of the messages would make a bridge, by the reference; `None`: it cannot read them.
fn reference(bytes: &[u8]) -> Option<bool> {
    let mut found = false;
    for message in each_message(bytes) {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
        let creates = message.header.flags & 0x401 == 0x401;
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload {
            let infos = link
                .attributes
                .iter()
                .filter_map(|attribute| match attribute {
                    LinkAttribute::LinkInfo(infos) => Some(infos),
                    _ => None,
                });
            let is_bridge = |info: &LinkInfo| match info {
                LinkInfo::Kind(InfoKind::Bridge) => true,
                // It takes off one NUL; the kernel takes the name up to the first.
                LinkInfo::Kind(InfoKind::Other(name)) => name.split('\0').next() == Some("bridge"),
                _ => false,
            };
            found |= creates && infos.flatten().any(is_bridge);
        }
    }
    Some(found)
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = (32 + attributes.len() as u32).to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(attributes);
    bytes
}

impl Random {
    /// A link's attributes, in any order, some twice, some of a kind's own.
    fn attributes(&mut self) -> Vec<u8> {
        let kinds: [&[u8]; 7] = [
            b"bridge\0",
            b"bridge",
            b"bridge\0\0\0\0\0\0\0\0\0\0\0",
            b"bridg\0",
            b"bridges\0",
            b"dummy\0",
            b"veth\0",
        ];
        let mut all = Vec::new();
        for _ in 0..=self.below(5) {
            let one = match self.below(8) {
                0 => attribute(3, b"probe0\0"),
                1 => attribute(4, &1500_u32.to_le_bytes()),
                2 => attribute(19, &[1, 0, 0, 0]),
                3 => attribute(28, &[3, 0, 0, 0]),
                4 => attribute(1, &[2; 6]),
                _ => {
                    let mut info = Vec::new();
                    for _ in 0..=self.below(2) {
                        info.extend(match self.below(12) {
                            0 => attribute(2, &attribute(1, &[220, 5, 0, 0])),
                            1 => attribute(
                                2,
                                &attribute(
                                    1,
                                    &[vec![0; 16], attribute(28, &[3, 0, 0, 0])].concat(),
                                ),
                            ),
                            _ => attribute(1, self.of(&kinds)),
                        });
                    }
                    let flag = 0x8000 * self.below(2) as u16;
                    attribute(18 | flag, &info)
                }
            };
            all.extend(one);
        }
        all
    }

    fn send(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..=self.below(2) {
            let kind = [16, 16, 16, 16, 17, 24][self.below(6)];
            let flags = [0x605, 0x605, 0x405, 0x401, 0x5, 0x400][self.below(6)];
            let attributes = self.attributes();
            bytes.extend(message(kind, flags, &attributes));
        }
        bytes
    }
}

#[test]
fn of_a_million_messages_none_with_a_bridge_is_missed() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut bridges, mut others, mut unread, mut skipped) = (0, 0, 0, 0);
    for round in 0..1_000_000 {
        let mut bytes = random.send();
        let whole = round % 2 == 0;
        if !whole {
            damage(&mut bytes, &mut random, &[0, 1, 4, 16, 18, 28, 0xff]);
        }
        let ours = read(&bytes);
        if is_passed_over(&bytes) {
            // What is not read for that would have come to nothing.
            skipped += 1;
            assert_eq!(ours, Found::default());
        }
        // What stands behind the end is nobody's business.
        assert_eq!(ours, read_and(&bytes, 0));
        let marked = (ours.here | ours.elsewhere) & BRIDGE != 0;
        match reference(&bytes) {
            Some(true) => {
                bridges += 1;
                assert!(marked, "missed: {bytes:02x?}");
            }
            Some(false) if whole => {
                others += 1;
                assert!(!marked && !ours.unread, "seen: {bytes:02x?}");
            }
            Some(false) => {}
            None => unread += 1,
        }
    }
    // All of them happen, and often.
    assert!(
        bridges > 100_000 && others > 100_000 && unread > 10_000 && skipped > 50_000,
        "{bridges} {others} {unread} {skipped}"
    );
}

#[test]
fn a_namespace_that_a_message_names_is_told_from_the_sockets() {
    let bridge = attribute(18, &attribute(1, b"bridge\0"));
    let plain = message(16, 0x605, &bridge);
    for target in [19, 28, 37, 46] {
        let target = attribute(target, &[3, 0, 0, 0]);
        for attributes in [
            [target.clone(), bridge.clone()],
            [bridge.clone(), target.clone()],
        ] {
            let links = read(&message(16, 0x605, &attributes.concat()));
            assert_eq!((links.here, links.elsewhere), (0, BRIDGE));
        }
        // Only of the message that names it.
        let other = message(
            16,
            0x605,
            &[target, attribute(18, &attribute(1, b"dummy\0"))].concat(),
        );
        let links = read(&[plain.clone(), other].concat());
        assert_eq!((links.here, links.elsewhere), (BRIDGE, OTHER));
    }
}

#[test]
fn the_peer_of_a_veth_may_go_elsewhere() {
    let peer = |attributes: &[u8]| {
        let data = attribute(2, &attribute(1, &[&[0; 16], attributes].concat()));
        let info = attribute(18, &[data, attribute(1, b"veth\0")].concat());
        read(&message(
            16,
            0x605,
            &[attribute(3, b"a\0"), info, attribute(4, &[0; 4])].concat(),
        ))
    };
    let name = attribute(3, b"b\0");
    let target = attribute(28, &[3, 0, 0, 0]);
    assert_eq!(peer(&name).here, OTHER);
    assert_eq!(peer(&[name, target].concat()).elsewhere, OTHER);
}

#[test]
fn what_is_too_long_is_not_taken_for_read() {
    let filler = attribute(20, b"x");
    let with = |count: u32| {
        let mut all = filler.repeat(count as usize);
        all.extend(attribute(18, &attribute(1, b"bridge\0")));
        read(&message(16, 0x605, &all))
    };
    // The message, the nest, the kind, two ends, and the end of all.
    let fits = STEPS - 6;
    assert_eq!(
        with(fits),
        Found {
            here: BRIDGE,
            elsewhere: 0,
            unread: false
        }
    );
    assert!(with(fits + 1).unread);
    assert!(with(20_000).unread);
}

#[test]
fn a_kind_is_a_name_of_1_to_15_bytes() {
    assert_eq!(kind(""), None);
    assert_eq!(kind("a\0b"), None);
    assert!(kind("123456789012345").is_some());
    assert_eq!(kind("1234567890123456"), None);
    assert_ne!(kind("bridge"), kind("bridges"));
}
