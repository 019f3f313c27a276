//! The hook that stands before asking something of a family of netlink.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, rtnetlink::send};

/// The hook of netlink.
pub static NETLINK: [Hook; 1] = [Hook {
    hazard: "netlink",
    name: "netlink_send",
    program: "netlink_netlink_send",
    place: Place::Asked {
        lsm: "bpf_lsm_netlink_send",
        security: "security_netlink_send",
    },
    what: "sending to a family of netlink, by whatever call; what was set up by it before goes on",
    open: &["every family of netlink, to who has the capabilities that it wants"],
    actions: &[Action::Netlink],
    trial: ask_for_nothing,
    ..BY_ITSELF
}];

/// `NLMSG_NOOP`, of no more than its header.
const NOTHING: [u32; 4] = [16, 1, 1, 0];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn ask_for_nothing() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| send(libc::NETLINK_GENERIC, &NOTHING),
    })
}
