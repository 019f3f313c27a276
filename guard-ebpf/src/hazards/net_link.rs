//! Network links: a container that would make a bridge, or a link of another kind that a policy names, is refused.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument, Fate},
    config::Field,
    net_link::{Bytes, Links, Read, Reading, STEPS, kind, makes_no_link},
};

use crate::{
    gate::{Case, NONE, Sentence, Verdict, fates_by_argument},
    kernel,
    maps::READS,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `NETLINK_ROUTE` (include/uapi/linux/netlink.h).
const ROUTE: u16 = 0;

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
const FATES: u32 = 8;

const ACTIONS: u64 = Action::BridgeCreate.bit() | Action::NetLinkCreate.bit();

/// Whatever may become of it, and wherever.
pub const ALL_FATES: [Fate; 4] = [
    Fate::Refused,
    Fate::RefusedNested,
    Fate::Audited,
    Fate::AuditedNested,
];

// int security_netlink_send(struct sock *sk, struct sk_buff *skb)   5.10 to 7.3
// At each send on a netlink socket, by whatever call. The message is the kernel's own copy, in one piece.
#[lsm(hook = "netlink_send")]
pub fn net_link_netlink_send(ctx: LsmContext) -> i32 {
    let (socket, message): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: the hook's arguments.
    let Some(sent) = (unsafe { sent(socket, message) }) else {
        return ALLOW;
    };
    if judge(socket, sent) == Some(Verdict::Deny) {
        return kernel::apart(-EPERM);
    }
    ALLOW
}

/// What is sent by rtnetlink.
#[derive(Clone, Copy)]
struct Sent {
    data: u64,
    length: u32,
}

/// `None`: it cannot make a link. This is asked of whatever anybody sends: a question to rtnetlink is one message, and its first
/// bytes say so.
///
/// # Safety
/// The arguments are a hook's, of the types `struct sock *` and `struct sk_buff *`.
#[inline(always)]
unsafe fn sent(socket: u64, message: u64) -> Option<Sent> {
    // SAFETY: the caller's promise, and fields of these types.
    let (protocol, data, length) = unsafe {
        (
            kernel::typed::<u16>(socket, Field::SockProtocol)?,
            kernel::typed::<u64>(message, Field::SkbData)?,
            kernel::typed::<u32>(message, Field::SkbLength)?,
        )
    };
    if protocol != ROUTE {
        return None;
    }
    let sent = Sent { data, length };
    match kernel::read_at::<[u32; 2]>(data) {
        Some(head) if makes_no_link(head, length) => None,
        // What cannot be read is judged as such.
        Some(_) | None => Some(sent),
    }
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
fn judge(socket: u64, sent: Sent) -> Option<Verdict> {
    let case = Case::of_current()?;
    if !case.is_about(ACTIONS, &ALL_FATES) {
        return None;
    }
    let nested = is_nested(socket);
    let (found, kind) = read(&case, sent);
    if found.unread && unread(&case) == Verdict::Deny {
        return Some(Verdict::Deny);
    }
    let any = found.here | found.elsewhere;
    let in_nested = found.elsewhere | any & nested;
    if any & IS_BRIDGE != 0 {
        let sentence = case.sentence(
            case.fates(Action::BridgeCreate),
            mask(in_nested & IS_BRIDGE),
        );
        if case.close(Action::BridgeCreate, NONE, sentence) == Verdict::Deny {
            return Some(Verdict::Deny);
        }
    }
    if any & IS_LINK == 0 {
        return None;
    }
    let whatever = case.sentence(case.fates(Action::NetLinkCreate), mask(in_nested & IS_LINK));
    let of_kind = Sentence::of(any >> FATES, 0).and(Sentence::of(in_nested >> FATES, ALL));
    Some(case.close(Action::NetLinkCreate, kind, whatever.and(of_kind)))
}

/// A message that is too long to be read whole is refused if anything that it may hold would be: it may name any namespace behind
/// what was read, so that the socket's own says nothing.
#[inline(always)]
fn unread(case: &Case) -> Verdict {
    let would = [Fate::Refused, Fate::RefusedNested];
    let action = if case.is_about(Action::BridgeCreate.bit(), &would) {
        Action::BridgeCreate
    } else {
        Action::NetLinkCreate
    };
    let fates = if case.is_about(ACTIONS, &would) {
        Fate::Refused.bit()
    } else {
        Fate::Audited.bit()
    };
    case.close(action, TOO_LONG, Sentence::of(fates, 0))
}

/// A truth, for [`Sentence::of`].
const ALL: u32 = !0;

/// All ones where any bit is set, else 0.
#[inline(always)]
fn mask(bits: u32) -> u32 {
    if bits == 0 { 0 } else { ALL }
}

/// In place of a link's kind.
const TOO_LONG: Argument = match kind("(too long)") {
    Some(kind) => kind,
    None => NONE,
};
const BRIDGE: Argument = match kind("bridge") {
    Some(kind) => kind,
    None => NONE,
};

/// The links that a message makes, and what kind the last of them is.
#[inline(always)]
fn read(case: &Case, Sent { data, length }: Sent) -> (Links, Argument) {
    let unread = (Reading::default().found(false), NONE);
    let task = bpf_get_current_pid_tgid();
    let begun = Read {
        data,
        last: NONE,
        reading: Reading::new(length),
        profile: u64::from(case.profile()),
    };
    // There is no more room than for so many at once.
    if READS.insert(&task, &begun, 0).is_err() {
        return unread;
    }
    let mut made = Step::More as u32;
    for _ in 0..STEPS / AT_ONCE / AT_ONCE {
        made = net_link_many_steps();
        if made != Step::More as u32 {
            break;
        }
    }
    let found = match READS.get_ptr(&task) {
        // SAFETY: a live map value, which only this task touches.
        Some(read) => unsafe {
            (
                (*read).reading.found(made == Step::Last as u32),
                (*read).last,
            )
        },
        None => unread,
    };
    let _ = READS.remove(&task);
    found
}

/// What became of a step.
#[repr(u32)]
enum Step {
    More = 0,
    Last = 1,
    /// The message cannot be read.
    Failed = 2,
}

/// So many steps are made by one call: the verifier follows each round of either loop.
const AT_ONCE: u32 = 16;
const _: () = assert!(STEPS.is_multiple_of(AT_ONCE * AT_ONCE));

/// Makes as many again. Global, as [`net_link_step`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn net_link_many_steps() -> u32 {
    for _ in 0..AT_ONCE {
        let made = net_link_steps();
        if made != Step::More as u32 {
            return made;
        }
    }
    Step::More as u32
}

/// Makes some steps. Global, as [`net_link_step`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn net_link_steps() -> u32 {
    for _ in 0..AT_ONCE {
        let made = net_link_step();
        if made != Step::More as u32 {
            return made;
        }
    }
    Step::More as u32
}

/// Makes one step in what the running task sends. The daemon loads it as a global function, which the verifier looks at once,
/// whatever it was called with; so it is called with nothing, and finds all it needs in a table.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn net_link_step() -> u32 {
    let Some(read) = READS.get_ptr_mut(&bpf_get_current_pid_tgid()) else {
        return Step::Failed as u32;
    };
    // SAFETY: a live map value, which only this task touches.
    let read = unsafe { &mut *read };
    let at = read.data.wrapping_add(u64::from(read.reading.at()));
    let Some(bytes) = kernel::read_at::<Bytes>(at) else {
        return Step::Failed as u32;
    };
    let (profile, last) = (read.profile as u32, &mut read.last);
    let mark = |kind| {
        let fates = fates_by_argument(profile, Action::NetLinkCreate, kind);
        // On record is what is denied, if anything of it is.
        if fates != 0 || *last == NONE {
            *last = kind;
        }
        let bridge = if kind == BRIDGE { IS_BRIDGE } else { 0 };
        IS_LINK | bridge | fates << FATES
    };
    if read.reading.step(&bytes, mark) {
        Step::Last as u32
    } else {
        Step::More as u32
    }
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

/// All ones where a socket's network namespace is another than the host's first, else 0. One that cannot be read is taken for one.
#[inline(always)]
pub fn is_nested(socket: u64) -> u32 {
    let number = kernel::read::<u64>(socket, Field::SockNet)
        .and_then(|net| kernel::read::<u32>(net, Field::NetNumber));
    mask(u32::from(number != Some(kernel::config(Field::HostNet))))
}
