//! Sockets: a container that would make one of a family, type or protocol that a policy denies is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, socket::Socket};

use crate::{
    gate::{ANYWHERE, Case, Verdict},
    kernel,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

// int security_socket_create(int family, int type, int protocol, int kern)   5.10 to 7.3
// At socket(2) and socketpair(2), by io_uring too, before the family's module is asked for.
#[lsm(hook = "socket_create")]
pub fn socket_socket_create(ctx: LsmContext) -> i32 {
    let (family, kind, protocol, kern): (u32, u32, u32, u32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    // The kernel's own, whoever it is for.
    if kern != 0 {
        return ALLOW;
    }
    if judge(Socket::of(family, kind, protocol)) == Some(Verdict::Deny) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn judge(socket: Socket) -> Option<Verdict> {
    let case = Case::of_current()?;
    let action = Action::Socket;
    if !case.is_about(action, ANYWHERE) {
        return None;
    }
    let mut fates = case.fates(action);
    // Most rules leave the same parts open, and each look is a search.
    let general = match case.fates_by_argument(action, Socket::GENERAL) {
        0 => !0,
        known => known,
    };
    for which in 0..Socket::GENERALITIES {
        if general >> which & 1 != 0 {
            fates |= case.fates_by_argument(action, socket.open(which).argument());
        }
    }
    Some(case.close(action, socket.argument(), case.sentence(fates, 0)))
}
