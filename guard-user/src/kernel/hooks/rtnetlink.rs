//! The hook that stands before making network links, and what there is of traffic control, by a message of rtnetlink.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};

/// The hook of rtnetlink.
pub static RTNETLINK: [Hook; 1] = [Hook {
    hazard: "rtnetlink",
    name: "netlink_send",
    program: "rtnetlink_netlink_send",
    place: Place::Asked {
        lsm: "bpf_lsm_netlink_send",
        security: "security_netlink_send",
    },
    what: "making a link or something of traffic control by rtnetlink, as ip, tc, dockerd and CNI do, by whatever call the message is sent",
    open: &[
        "making links by rtnetlink, as ip, dockerd and CNI do",
        "traffic control, as tc does it",
    ],
    actions: &[
        Action::NetLinkCreate,
        Action::BridgeCreate,
        Action::TrafficControl,
    ],
    trial: make_both,
    ..BY_ITSELF
}];

/// A request for a link of a kind that there is not, with the number of the loopback device, which there is already: where nothing
/// refuses it, nothing comes of it.
const LINK: [u32; 12] = [
    48,                // nlmsghdr: length
    16 | 0x0601 << 16, // RTM_NEWLINK; REQUEST, EXCL, CREATE
    1,                 // its number
    0,                 // from whom
    0,                 // ifinfomsg: any family, any type
    1,                 // the loopback device
    0,                 // flags
    0,                 // and which of them
    16 | 18 << 16,     // IFLA_LINKINFO
    12 | 1 << 16,      // IFLA_INFO_KIND
    u32::from_ne_bytes(*b"bulk"),
    u32::from_ne_bytes(*b"head"),
];

/// A request for a qdisc of a kind that there is not, on a device that there is not: no kernel gives one that number.
const QDISC: [u32; 12] = [
    48,                // nlmsghdr: length
    36 | 0x0601 << 16, // RTM_NEWQDISC; REQUEST, EXCL, CREATE
    1,                 // its number
    0,                 // from whom
    0,                 // tcmsg: any family
    u32::MAX,          // the device -1
    0,                 // its handle
    u32::MAX,          // TC_H_ROOT
    0,                 // info
    12 | 1 << 16,      // TCA_KIND
    u32::from_ne_bytes(*b"bulk"),
    u32::from_ne_bytes(*b"head"),
];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn make_both() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| match send(libc::NETLINK_ROUTE, &LINK) {
            // Both must be: each is judged by itself.
            libc::EPERM => send(libc::NETLINK_ROUTE, &QDISC),
            came => came,
        },
    })
}

/// What came of sending this to a family of netlink.
pub(super) fn send(family: i32, message: &[u32]) -> i32 {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the message is as long as the call is told; the socket is closed with the child.
    unsafe {
        let socket = libc::socket(libc::AF_NETLINK, kind, family);
        if socket < 0 {
            return UNTRIED;
        }
        came_of(libc::send(socket, message.as_ptr().cast(), size_of_val(message), 0) as i64)
    }
}
