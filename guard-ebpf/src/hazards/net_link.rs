//! Network links: a container that would make a bridge, or a link of another kind that a policy names, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument},
    config::Field,
    rtnetlink::{Kind, kind},
};

use super::rtnetlink::{Made, is_nested};
use crate::{
    gate::{Case, NONE, Verdict},
    kernel,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `SIOCBRADDBR`, `SIOCGIFBR` and `SIOCSIFBR` (include/uapi/linux/sockios.h). Of the two old ones the arguments are in the caller's
/// memory, where they may change after they were looked at: they are refused whatever they ask for.
const MAKE_BRIDGE: u32 = 0x89a0;
const OLD_GET: u32 = 0x8940;
const OLD_SET: u32 = 0x8941;

/// A socket, of the bits that say what a file is (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// What is remembered of the links that a message makes: one of them is a bridge; there is one; and, from this bit on, what the
/// table `ARGUMENTS` says of their kinds.
const IS_BRIDGE: u32 = 1;
const IS_LINK: u32 = 2;
pub const FATES: u32 = 8;

const BRIDGE: Argument = match kind("bridge") {
    Some(kind) => kind,
    None => NONE,
};

/// What to remember of a link of this kind.
#[inline(always)]
pub fn mark(kind: Kind) -> u32 {
    IS_LINK | if kind == BRIDGE { IS_BRIDGE } else { 0 }
}

/// What becomes of what a message makes, as far as that is links; on record as one of the kind `last`.
#[inline(always)]
pub fn judge(case: &Case, made: &Made, last: Kind) -> Verdict {
    if made.has(IS_BRIDGE) {
        let fates = case.fates(Action::BridgeCreate);
        let sentence = made.sentence(case, fates, IS_BRIDGE);
        if case.close(Action::BridgeCreate, NONE, sentence) == Verdict::Deny {
            return Verdict::Deny;
        }
    }
    if !made.has(IS_LINK) {
        return Verdict::Allow;
    }
    let whatever = made.sentence(case, case.fates(Action::NetLinkCreate), IS_LINK);
    let sentence = whatever.and(made.sentence_of_kinds(FATES));
    case.close(Action::NetLinkCreate, last, sentence)
}

// int security_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
#[lsm(hook = "file_ioctl")]
pub fn net_link_file_ioctl(ctx: LsmContext) -> i32 {
    judge_ioctl(ctx.arg(0), ctx.arg(1))
}

// int security_file_ioctl_compat(struct file *file, unsigned int cmd, unsigned long arg)   5.10 to 7.3
// The same from a 32-bit program.
#[lsm(hook = "file_ioctl_compat")]
pub fn net_link_file_ioctl_compat(ctx: LsmContext) -> i32 {
    judge_ioctl(ctx.arg(0), ctx.arg(1))
}

#[inline(always)]
fn judge_ioctl(file: u64, command: u32) -> i32 {
    if command != MAKE_BRIDGE && command != OLD_GET && command != OLD_SET {
        return ALLOW;
    }
    if judge_bridge(file) == Some(Verdict::Deny) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn judge_bridge(file: u64) -> Option<Verdict> {
    let case = Case::of_current()?;
    let nested = if case.is_self_test() {
        // It asks where no bridge can come of it.
        0
    } else {
        is_nested(socket_of(file)?)
    };
    let sentence = case.sentence(case.fates(Action::BridgeCreate), nested);
    if !sentence.refuses() {
        // A rule about links of this kind is as much about one that is made in this way.
        let fates = case.fates(Action::NetLinkCreate)
            | case.fates_by_argument(Action::NetLinkCreate, BRIDGE);
        let as_link = case.sentence(fates, nested);
        if case.close(Action::NetLinkCreate, BRIDGE, as_link) == Verdict::Deny {
            return Some(Verdict::Deny);
        }
    }
    Some(case.close(Action::BridgeCreate, NONE, sentence))
}

/// The `struct sock` of a file; `None`: it is no socket.
#[inline(always)]
fn socket_of(file: u64) -> Option<u64> {
    let inode: u64 = kernel::read(file, Field::FileInode)?;
    if kernel::read::<u16>(inode, Field::InodeMode)? & S_IFMT != S_IFSOCK {
        return None;
    }
    kernel::read(kernel::read(file, Field::FilePrivate)?, Field::SocketSock)
}
