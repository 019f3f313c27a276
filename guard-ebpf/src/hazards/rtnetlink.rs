//! Messages of rtnetlink: a container that would make a network link, or something of traffic control, that a policy names is
//! refused. One program reads both: it is asked of whatever anybody sends, and one costs less than two.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument, Fate},
    config::Field,
    rtnetlink::{About, Bytes, Found, Kind, Read, Reading, STEPS, kind, makes_nothing},
};

use super::{net_link, traffic_control};
use crate::{
    gate::{Case, NONE, Sentence, Verdict, fates_by_argument},
    kernel,
    maps::READS,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// `NETLINK_ROUTE` (include/uapi/linux/netlink.h).
const ROUTE: u16 = 0;

/// What a message may do that is judged.
const ACTIONS: [Action; 3] = [
    Action::BridgeCreate,
    Action::NetLinkCreate,
    Action::TrafficControl,
];

/// Whatever may become of it, and wherever.
pub const ALL_FATES: u32 = REFUSED | Fate::Audited.bit() | Fate::AuditedNested.bit();

/// Refused, wherever.
const REFUSED: u32 = Fate::Refused.bit() | Fate::RefusedNested.bit();

// int security_netlink_send(struct sock *sk, struct sk_buff *skb)   5.10 to 7.3
// At each send on a netlink socket, by whatever call. The message is the kernel's own copy, in one piece.
#[lsm(hook = "netlink_send")]
pub fn rtnetlink_netlink_send(ctx: LsmContext) -> i32 {
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

/// `None`: it makes nothing that is judged. This is asked of whatever anybody sends: a question to rtnetlink is one message, and its first
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
        Some(head) if makes_nothing(head, length) => None,
        // What cannot be read is judged as such.
        Some(_) | None => Some(sent),
    }
}

#[inline(always)]
fn judge(socket: u64, sent: Sent) -> Option<Verdict> {
    let case = Case::of_current()?;
    let about = |action| case.is_about(action, ALL_FATES);
    let links = about(Action::BridgeCreate) | about(Action::NetLinkCreate);
    let traffic = about(Action::TrafficControl);
    // What no rule is about is passed over, and makes nothing too long.
    let wanted =
        u32::from(links) * About::Links.bit() + u32::from(traffic) * About::TrafficControl.bit();
    if wanted == 0 {
        return None;
    }
    let nested = is_nested(socket);
    let (found, [link, other]) = read(&case, sent, wanted);
    if found.unread && unread(&case) == Verdict::Deny {
        return Some(Verdict::Deny);
    }
    let made = Made {
        any: found.here | found.elsewhere,
        in_nested: found.elsewhere | (found.here | found.elsewhere) & nested,
    };
    if net_link::judge(&case, &made, link) == Verdict::Deny {
        return Some(Verdict::Deny);
    }
    Some(traffic_control::judge(&case, &made, other))
}

/// The marks of what the messages of one send make: of all, and of what is made in a network namespace that is not the host's first.
pub struct Made {
    any: u32,
    in_nested: u32,
}

impl Made {
    /// Whether one of them has this mark.
    #[inline(always)]
    pub fn has(&self, mark: u32) -> bool {
        self.any & mark != 0
    }

    /// What fates come to of what has this mark.
    #[inline(always)]
    pub fn sentence(&self, case: &Case, fates: u32, mark: u32) -> Sentence {
        case.sentence(fates, all_ones(self.in_nested & mark))
    }

    /// What the fates come to that are among the marks, from the bit `from` on.
    #[inline(always)]
    pub fn sentence_of_kinds(&self, from: u32) -> Sentence {
        Sentence::of(self.any >> from, 0).and(Sentence::of(self.in_nested >> from, ALL))
    }
}

/// A message that is too long to be read whole is refused if anything that it may hold would be: it may name any namespace behind
/// what was read, so that the socket's own says nothing.
#[inline(always)]
fn unread(case: &Case) -> Verdict {
    let about = |fates| ACTIONS.map(|action| case.is_about(action, fates));
    let refused = about(REFUSED);
    let is_refused = refused.contains(&true);
    let about = if is_refused {
        refused
    } else {
        about(ALL_FATES)
    };
    let [bridge, link, traffic_control] = ACTIONS;
    let action = match about {
        [true, ..] => bridge,
        [_, true, _] => link,
        [false, false, _] => traffic_control,
    };
    let fates = if is_refused {
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
fn all_ones(bits: u32) -> u32 {
    if bits == 0 { 0 } else { ALL }
}

/// In place of a kind.
const TOO_LONG: Argument = match kind("(too long)") {
    Some(kind) => kind,
    None => NONE,
};

/// What messages make, and what kinds the last of it are of, by [`About`].
#[inline(always)]
fn read(case: &Case, Sent { data, length }: Sent, wanted: u32) -> (Found, [Kind; 2]) {
    let unread = (Reading::default().found(false), [NONE; 2]);
    let task = bpf_get_current_pid_tgid();
    let begun = Read {
        data,
        last: [NONE; 2],
        reading: Reading::new(length, wanted),
        profile: case.profile(),
    };
    // There is no more room than for so many at once.
    if READS.insert(&task, &begun, 0).is_err() {
        return unread;
    }
    let mut made = Step::More as u32;
    for _ in 0..STEPS / AT_ONCE / AT_ONCE {
        made = rtnetlink_many_steps();
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

/// Makes as many again. Global, as [`rtnetlink_step`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rtnetlink_many_steps() -> u32 {
    so_often(|| rtnetlink_steps())
}

/// Makes some steps. Global, as [`rtnetlink_step`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rtnetlink_steps() -> u32 {
    so_often(|| rtnetlink_step())
}

/// Until something else comes of it than [`Step::More`]. Not written out: on 7.3 each instruction of a program costs its load.
#[inline(always)]
fn so_often(steps: impl Fn() -> u32) -> u32 {
    let mut round = 0;
    while round < u64::from(AT_ONCE) {
        let made = steps();
        if made != Step::More as u32 {
            return made;
        }
        round = kernel::counted(round + 1);
    }
    Step::More as u32
}

/// Makes one step in what the running task sends. The daemon loads it as a global function, which the verifier looks at once,
/// whatever it was called with; so it is called with nothing, and finds all it needs in a table.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rtnetlink_step() -> u32 {
    let Some(read) = READS.get_ptr_mut(&bpf_get_current_pid_tgid()) else {
        return Step::Failed as u32;
    };
    // SAFETY: a live map value, which only this task touches.
    let read = unsafe { &mut *read };
    let at = read.data.wrapping_add(u64::from(read.reading.at()));
    let Some(bytes) = kernel::read_at::<Bytes>(at) else {
        return Step::Failed as u32;
    };
    let (profile, last) = (read.profile, &mut read.last);
    let mark = |about: About, kind: Kind| {
        let (action, from) = match about {
            About::Links => (Action::NetLinkCreate, net_link::FATES),
            About::TrafficControl => (Action::TrafficControl, traffic_control::FATES),
        };
        let fates = fates_by_argument(profile, action, kind);
        let last = match about {
            About::Links => &mut last[About::Links as usize],
            About::TrafficControl => &mut last[About::TrafficControl as usize],
        };
        // On record is what is denied, if anything of it is.
        if fates != 0 || *last == NONE {
            *last = kind;
        }
        let beside = match about {
            About::Links => net_link::mark(kind),
            About::TrafficControl => 0,
        };
        beside | fates << from
    };
    if read.reading.step(&bytes, mark) {
        Step::Last as u32
    } else {
        Step::More as u32
    }
}

/// All ones where a socket's network namespace is another than the host's first, else 0. One that cannot be read is taken for one.
#[inline(always)]
pub fn is_nested(socket: u64) -> u32 {
    let number = kernel::read::<u64>(socket, Field::SockNet)
        .and_then(|net| kernel::read::<u32>(net, Field::NetNumber));
    all_ones(u32::from(number != Some(kernel::config(Field::HostNet))))
}
