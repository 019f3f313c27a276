//! What the kernel's words name: a process by its number, a cgroup by its path. Pure.
//!
//! Not the patterns of alarms, which a policy can leave out, and which may take a name to be longer than a process's is.

use std::{borrow::Cow, sync::LazyLock};

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::audit;
use crate::klog::watch::compile;

/// What a text names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named<'t> {
    /// A task, as the host numbers it.
    pub pid: Option<u32>,
    /// What that task calls itself.
    pub comm: Option<Cow<'t, [u8]>>,
    /// The cgroup that it is in, or the line is about.
    pub place: Option<Place<'t>>,
    /// When it did what is told of, if that is said later by another: milliseconds of the host's clock.
    pub stamp_ms: Option<i64>,
    /// The task is named since it ran there when the line was printed: an interrupt comes upon whomever it likes.
    pub ran: bool,
}

/// How lines begin that name whoever ran when they were printed.
const RAN: [&[u8]; 3] = [b"WARNING: ", b"CPU: ", b"BUG: scheduling while atomic: "];

/// A cgroup in a text.
///
/// Below a container's own cgroup are names that it chose, and they may look like the words behind the path: so the path ends
/// where these words stand for the first time, which is not before the end of a container's own path. What it is then is certain
/// as far as the container, and altogether only where they stand there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'t> {
    /// From the root of the hierarchy.
    pub path: &'t [u8],
    /// It certainly goes so far and no farther.
    pub whole: bool,
}

impl<'t> Named<'t> {
    fn cgroup(path: &'t [u8], end: &[u8]) -> Option<Self> {
        Some(Self {
            place: Some(Place::until(path, end)?),
            ..Self::default()
        })
    }
}

impl<'t> Place<'t> {
    /// The path that `text` begins with and `end` ends.
    fn until(text: &'t [u8], end: &[u8]) -> Option<Self> {
        let mut ends = (0..text.len()).filter(|at| text[*at..].starts_with(end));
        let first = if end.is_empty() {
            text.len()
        } else {
            ends.next()?
        };
        let path = &text[..first];
        path.starts_with(b"/").then(|| Self {
            path,
            whole: end.is_empty() || ends.next().is_none(),
        })
    }
}

/// A process's name: 15 bytes of its own choice. Behind it must come words that do not fit into it, and cannot begin in it and
/// end behind it: for these begin with a character that they do not have again.
macro_rules! comm {
    () => {
        r"(?P<comm>.{0,15})"
    };
}

/// Where an instruction stands (mm/memory.c, `print_vma_addr`; from 6.11 with the offset in the file).
macro_rules! place {
    () => {
        r"(?: in .*\[[0-9a-f]+(?:,[0-9a-f]+)?\+[0-9a-f]+\])?(?: likely on CPU \d+ \(core \d+, socket \d+\))?$"
    };
}

/// Lines that name a task by its number in the host's namespace (`task_pid_nr`).
pub(super) const TASKS: [&str; 15] = [
    // arch/x86/mm/fault.c:show_signal_msg
    concat!(
        "(?s)^",
        comm!(),
        r"\[(?P<pid>\d{1,10})\]: segfault at [0-9a-f]+ ip [0-9a-f]+ sp [0-9a-f]+ error [0-9a-f]+",
        place!()
    ),
    // arch/x86/kernel/traps.c:show_signal
    concat!(
        "(?s)^traps: ",
        comm!(),
        r"\[(?P<pid>\d{1,10})\] [A-Za-z0-9 ]{1,40} ip:[0-9a-f]+ sp:[0-9a-f]+ error:[0-9a-f]+",
        place!()
    ),
    // arch/x86/kernel/signal.c:signal_fault
    concat!(
        "(?s)^",
        comm!(),
        r"\[(?P<pid>\d{1,10})\] bad frame in [a-z0-9_ ]{1,40} frame:\S+ ip:[0-9a-f]+ sp:[0-9a-f]+ orax:[0-9a-f]+",
        place!()
    ),
    // arch/x86/kernel/umip.c:umip_printk
    concat!(
        "(?s)^umip: ",
        comm!(),
        r"\[(?P<pid>\d{1,10})\] ip:[0-9a-f]+ sp:[0-9a-f]+: [A-Za-z ]+[0-9A-Za-z ,.'/]*$"
    ),
    // kernel/hung_task.c
    concat!(
        "(?s)^INFO: task ",
        comm!(),
        r":(?P<pid>\d{1,10}) blocked(?: in I/O wait)? for more than \d+ seconds\.$"
    ),
    // kernel/watchdog.c:watchdog_timer_fn
    concat!(
        r"(?s)^watchdog: BUG: soft lockup - CPU#\d+ stuck for \d+s! \[",
        comm!(),
        r":(?P<pid>\d{1,10})\]$"
    ),
    // kernel/sched/core.c:sched_show_task, which fills the name up to 15
    r"(?s)^task:(?P<comm>.{15}) state:\S{1,2} stack: *\d+ *pid: *(?P<pid>\d{1,10}) *(?:tgid: *\d+ *)?ppid: *\d+ *(?:task_flags:0x[0-9a-f]+ *)?flags:0x[0-9a-f]+$",
    // kernel/sched/core.c:__schedule_bug
    concat!(
        "(?s)^BUG: scheduling while atomic: ",
        comm!(),
        r"/(?P<pid>\d{1,10})/0x[0-9a-f]{8}$"
    ),
    // kernel/panic.c:__warn, to 6.12; then 7.3
    r"^WARNING: CPU: \d+ PID: (?P<pid>\d{1,10}) at \S+",
    concat!(
        r"(?s)^WARNING: (?:\S+:\d+ )?at \S+, CPU#\d+: ",
        comm!(),
        r"/(?P<pid>\d{1,10})$"
    ),
    // lib/dump_stack.c:dump_stack_print_info
    concat!(
        r"(?s)^CPU: \d+ (?:UID: \d+ )?PID: (?P<pid>\d{1,10}) Comm: ",
        comm!(),
        r" (?:Kdump: loaded )?(?:Not tainted|Tainted: )"
    ),
    // mm/oom_kill.c:__oom_kill_process
    concat!(
        r"(?s)^(?:Memory cgroup out|Out) of memory(?: \(oom_kill_allocating_task\))?: Killed process (?P<pid>\d{1,10}) \(",
        comm!(),
        r"\) total-vm:\d+kB, anon-rss:\d+kB, file-rss:\d+kB, shmem-rss:\d+kB, UID:\d+ pgtables:\d+kB oom_score_adj:-?\d+$"
    ),
    // mm/oom_kill.c:oom_reap_task_mm
    concat!(
        r"(?s)^oom_reaper: reaped process (?P<pid>\d{1,10}) \(",
        comm!(),
        r"\), now anon-rss:\d+kB, file-rss:\d+kB, shmem-rss:\d+kB$"
    ),
    // mm/memory-failure.c:kill_proc
    concat!(
        "(?s)^Memory failure: 0x[0-9a-f]+: Sending SIGBUS to ",
        comm!(),
        r":(?P<pid>\d{1,10}) due to hardware memory corruption$"
    ),
    // arch/x86/kernel/cpu/intel.c:split_lock_warn
    concat!(
        "(?s)^x86/split lock detection: #(?:AC|DB): ",
        comm!(),
        r"/(?P<pid>\d{1,10}) took a (?:split_lock|bus_lock) trap at address: 0x[0-9a-f]+$"
    ),
];

/// What stands before a cgroup's path, and behind it (`pr_cont_cgroup_path`).
const CGROUPS: [(&[u8], &[u8]); 3] = [
    // kernel/cgroup/pids.c
    (b"cgroup: fork rejected by pids controller in ", b""),
    // mm/memcontrol.c:mem_cgroup_print_oom_meminfo
    (b"Memory cgroup stats for ", b":"),
    // mm/memcontrol.c:mem_cgroup_print_oom_group
    (
        b"Tasks in ",
        b" are going to be killed due to memory.oom.group set",
    ),
];

struct Compiled {
    set: RegexSet,
    each: Vec<Regex>,
}

/// `None`: one is no expression, which a test would see.
static COMPILED: LazyLock<Option<Compiled>> = LazyLock::new(|| {
    let each = TASKS
        .iter()
        .map(|expression| compile(expression).ok())
        .collect::<Option<_>>()?;
    let set = RegexSetBuilder::new(TASKS).unicode(false).build().ok()?;
    Some(Compiled { set, each })
});

/// Whom a line of the kernel's own names. `text` is the whole of it, no piece.
#[must_use]
pub fn named(text: &[u8]) -> Option<Named<'_>> {
    if is_packet(text) {
        return None;
    }
    cgroup(text)
        .or_else(|| killed(text))
        .or_else(|| audit::named(text))
        .or_else(|| task(text))
}

/// Whether netfilter tells of a packet (net/netfilter/nf_log_syslog.c): how such a line begins, up to 127 bytes, is the choice of
/// whoever made the rule.
fn is_packet(text: &[u8]) -> bool {
    find(text, b"IN=").is_some_and(|at| find(&text[at..], b" OUT=").is_some())
}

fn task(text: &[u8]) -> Option<Named<'_>> {
    let compiled = COMPILED.as_ref()?;
    let number_of = compiled.set.matches(text).into_iter().next()?;
    let found = compiled.each.get(number_of)?.captures(text)?;
    let pid = number(found.name("pid")?.as_bytes())?;
    let comm = found.name("comm").map(|comm| {
        let comm = comm.as_bytes();
        // Only what is filled up to a width ends with blanks that are not the name's.
        if text.starts_with(b"task:") {
            comm.trim_ascii_end()
        } else {
            comm
        }
    });
    Some(Named {
        pid: Some(pid).filter(|pid| *pid != 0),
        comm: comm.map(Cow::Borrowed),
        ran: RAN.iter().any(|begin| text.starts_with(begin)),
        ..Named::default()
    })
}

fn cgroup(text: &[u8]) -> Option<Named<'_>> {
    let (before, behind) = (CGROUPS.iter()).find(|(before, _)| text.starts_with(before))?;
    Named::cgroup(&text[before.len()..], behind)
}

/// mm/oom_kill.c:dump_oom_summary: `oom-kill:constraint=…,nodemask=…,cpuset=NAME,mems_allowed=…,oom_memcg=PATH,task_memcg=PATH,
/// task=COMM,pid=…,uid=…`, or `global_oom` for `oom_memcg=PATH`.
///
/// The cpuset's name is a container's choice as well, but it has no slash: what stands before the first slash is the kernel's.
fn killed(text: &[u8]) -> Option<Named<'_>> {
    let rest = text.strip_prefix(b"oom-kill:constraint=CONSTRAINT_")?;
    let cpuset = find(rest, b",cpuset=")? + b",cpuset=".len();
    // The root's name is a slash.
    let from = if rest[cpuset..].starts_with(b"/,mems_allowed=") {
        cpuset + 1
    } else {
        cpuset
    };
    let slash = from + rest[from..].iter().position(|byte| *byte == b'/')?;
    let (before, paths) = rest.split_at(slash);
    let limit = before.ends_with(b",oom_memcg=");
    let place = if limit {
        let (limit, rest) = paths.split_at(find(paths, b",task_memcg=")?);
        let ran = &rest[b",task_memcg=".len()..];
        // Who is killed for a cgroup's limit is in it, or below it. What is not so is no path of the kernel's, but part of a
        // name below the limit's container.
        let below = ran.strip_prefix(limit).is_some_and(|below| {
            limit == b"/" || below.first().is_none_or(|byte| matches!(byte, b'/' | b','))
        });
        if below {
            Place::until(ran, b",task=")?
        } else {
            Place {
                path: limit,
                whole: false,
            }
        }
    } else if before.ends_with(b",global_oom,task_memcg=") {
        Place::until(paths, b",task=")?
    } else {
        return None;
    };
    let (pid, comm) = victim(paths)?;
    Some(Named {
        pid: Some(pid).filter(|pid| *pid != 0),
        comm: comm.map(Cow::Borrowed),
        place: Some(place),
        ..Named::default()
    })
}

/// Of `…,task=COMM,pid=4242,uid=0`, from the right; the name, where it can be but one.
fn victim(text: &[u8]) -> Option<(u32, Option<&[u8]>)> {
    let (rest, uid) = text.split_at(rfind(text, b",uid=")?);
    number(&uid[b",uid=".len()..])?;
    let (rest, pid) = rest.split_at(rfind(rest, b",pid=")?);
    let pid = number(&pid[b",pid=".len()..])?;
    let key = b",task=";
    let mut names = (0..rest.len())
        .filter(|at| rest[*at..].starts_with(key))
        .map(|at| &rest[at + key.len()..])
        .filter(|name| name.len() <= 15);
    let name = names.next()?;
    Some((pid, names.next().is_none().then_some(name)))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|piece| piece == what)
}

fn rfind(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).rposition(|piece| piece == what)
}

/// Digits, and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u32> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}
