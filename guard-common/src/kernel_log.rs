//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

use crate::action::Action;

/// `/dev/kmsg` under whatever name: character device 1:11, as `inode.i_rdev` has it (`MKDEV`, include/linux/kdev_t.h).
pub const KMSG_DEVICE: u32 = 1 << 20 | 11;

/// `/dev/ttyprintk`, whose lines the kernel prints as its own, with `[U]` before them: character device 5:3
/// (drivers/char/ttyprintk.c).
pub const TTYPRINTK_DEVICE: u32 = 5 << 20 | 3;

/// `/dev/tty`: whatever terminal its opener has, `/dev/ttyprintk` too.
pub const TTY_DEVICE: u32 = 5 << 20;

/// `PSTOREFS_MAGIC` (include/uapi/linux/magic.h): what the last kernel said before it died.
pub const PSTOREFS_MAGIC: u64 = 0x6165_676c;

/// `TRACEFS_MAGIC` (include/uapi/linux/magic.h): the trace, of which the kernel log can be made a part.
pub const TRACEFS_MAGIC: u64 = 0x7472_6163;

/// Whether a file of tracefs, by the first eight bytes of its name, holds the trace itself (kernel/trace/trace.c): `trace`,
/// `trace_pipe`, `trace_pipe_raw`, `snapshot`, `snapshot_raw`; of the whole host, of a processor or of an instance. Or the
/// texts that a histogram of an event counts (kernel/trace/trace_events_hist.c): `hist`, `hist_debug`.
#[must_use]
#[inline(always)]
pub const fn is_trace(name: [u8; 8]) -> bool {
    let [_, _, _, _, _, end, ..] = name;
    match &name {
        b"trace_pi" | b"snapshot" | b"hist_deb" => true,
        [b't', b'r', b'a', b'c', b'e', ..] => end == 0,
        [b'h', b'i', b's', b't', 0, ..] => true,
        _ => false,
    }
}

/// What a type of syslog(2) asks for (include/linux/syslog.h); a second one where it does two things at once. `None`: closing
/// refuses nobody anything, and an unknown type is the kernel's to refuse.
#[must_use]
#[inline(always)]
pub const fn actions_of_syslog(kind: u32) -> (Option<Action>, Option<Action>) {
    match kind {
        // Opening /proc/kmsg, and reading what nobody can read again.
        1 | 2 => (Some(Action::KernelLogRead), Some(Action::KernelLogConsume)),
        // Read all; how much is unread; the buffer's size.
        3 | 9 | 10 => (Some(Action::KernelLogRead), None),
        // Read all, and clear.
        4 => (Some(Action::KernelLogRead), Some(Action::KernelLogClear)),
        5 => (Some(Action::KernelLogClear), None),
        // Console off, on, and its level.
        6..=8 => (Some(Action::KernelLogConsole), None),
        _ => (None, None),
    }
}

/// Bytes of a line that are told with it; what is longer is told apart by its length.
pub const PRINTED_TEXT: usize = 104;

/// Who printed a line, as told by the ring `PRINTED`: one for each record, or piece of one, in the order of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Printed {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Cgroup id of the container whose task printed it; 0 for the host's.
    pub container: u64,
    /// Cgroup id of the task.
    pub cgroup: u64,
    /// Thread id of the task, in the host's pid namespace.
    pub pid: u32,
    /// Thread group id.
    pub tgid: u32,
    /// Name of the task, as it calls itself.
    pub comm: [u8; 16],
    /// `PRINTED_*` bits.
    pub flags: u32,
    /// Bytes of the whole text.
    pub length: u32,
    /// The beginning of the text, and zeros.
    pub text: [u8; PRINTED_TEXT],
}
const _: () = assert!(size_of::<Printed>() == 56 + PRINTED_TEXT);

/// A kernel thread printed it, or an interrupt: the running task had no part in it.
pub const PRINTED_BY_KERNEL: u32 = 1;
/// Whose it was could not be read.
pub const PRINTED_UNTOLD: u32 = 2;
/// Told of a record, and not of its text, which is the record's number and zeros: there is no length then.
pub const PRINTED_NUMBER: u32 = 4;
/// Above this bit: how many messages found no room before this one, as far as there is room.
pub const PRINTED_LOST_SHIFT: u32 = 8;

/// Signals that kill who has no handler for them, and that the kernel sends for what it prints a line about:
/// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGSYS (signal(7), x86-64 and arm64).
#[must_use]
#[inline(always)]
pub const fn is_deadly(signal: u32) -> bool {
    matches!(signal, 4..=9 | 11 | 31)
}

/// A task of a container's that a signal has ended, as `ENDED` has it in the place of the last bits of the task's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Cgroup id of its container.
    pub container: u64,
    /// Cgroup id of the task.
    pub cgroup: u64,
    /// When it began, `CLOCK_MONOTONIC`, nanoseconds.
    pub start_ns: u64,
    /// When the signal came to it.
    pub end_ns: u64,
    /// Name of the task, as it called itself.
    pub comm: [u8; 16],
    /// Thread id, in the host's pid namespace; 0 while the rest is written.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Ended>() == 56);

/// Places for tasks that have ended: one is forgotten when another ends whose number has the same last bits.
pub const ENDED: u32 = 4096;

/// Bytes of the ring `PRINTED`.
pub const PRINTED_BYTES: u32 = 1 << 19;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_by_its_name() {
        let begins = |name: &str| {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(name.bytes()) {
                *to = from;
            }
            is_trace(bytes)
        };
        for name in [
            "trace",
            "trace_pipe",
            "trace_pipe_raw",
            "snapshot",
            "snapshot_raw",
        ] {
            assert!(begins(name), "{name}");
        }
        // All that stands beside it, on 7.3.
        for name in [
            "trace_marker",
            "trace_options",
            "trace_clock",
            "trace_stat",
            "tracing_on",
            "set_event",
            "kprobe_events",
            "README",
            "",
            "trac",
            "tracex",
        ] {
            assert!(!begins(name), "{name}");
        }
    }

    #[test]
    fn each_type_of_syslog_asks_for_what_it_does() {
        use Action::{KernelLogClear as Clear, KernelLogConsole as Console, KernelLogRead as Read};
        let expected = [
            None,
            Some(Read),
            Some(Read),
            Some(Read),
            Some(Read),
            Some(Clear),
            Some(Console),
            Some(Console),
            Some(Console),
            Some(Read),
            Some(Read),
            None,
        ];
        for (kind, expected) in expected.into_iter().enumerate() {
            assert_eq!(actions_of_syslog(kind as u32).0, expected, "type {kind}");
        }
        assert_eq!(actions_of_syslog(4).1, Some(Clear));
        for kind in 0..12 {
            let takes = actions_of_syslog(kind).1 == Some(Action::KernelLogConsume);
            assert_eq!(takes, matches!(kind, 1 | 2), "type {kind}");
        }
        assert_eq!(actions_of_syslog(u32::MAX), (None, None));
    }
}
