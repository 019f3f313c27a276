//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

use crate::action::Action;

/// `/dev/kmsg` under whatever name: character device 1:11, as `inode.i_rdev` has it (`MKDEV`, include/linux/kdev_t.h).
pub const KMSG_DEVICE: u32 = 1 << 20 | 11;

/// `PSTOREFS_MAGIC` (include/uapi/linux/magic.h): what the last kernel said before it died.
pub const PSTOREFS_MAGIC: u64 = 0x6165_676c;

/// What a type of syslog(2) asks for (include/linux/syslog.h); a second one where it does two things at once. `None`: closing
/// refuses nobody anything, and an unknown type is the kernel's to refuse.
#[must_use]
#[inline(always)]
pub const fn actions_of_syslog(kind: u32) -> (Option<Action>, Option<Action>) {
    match kind {
        // Opening /proc/kmsg; read; read all; how much is unread; the buffer's size.
        1 | 2 | 3 | 9 | 10 => (Some(Action::KernelLogRead), None),
        // Read all, and clear.
        4 => (Some(Action::KernelLogRead), Some(Action::KernelLogClear)),
        5 => (Some(Action::KernelLogClear), None),
        // Console off, on, and its level.
        6..=8 => (Some(Action::KernelLogWrite), None),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_syslog_asks_for_what_it_does() {
        use Action::{KernelLogClear as Clear, KernelLogRead as Read, KernelLogWrite as Write};
        let expected = [
            None,
            Some(Read),
            Some(Read),
            Some(Read),
            Some(Read),
            Some(Clear),
            Some(Write),
            Some(Write),
            Some(Write),
            Some(Read),
            Some(Read),
            None,
        ];
        for (kind, expected) in expected.into_iter().enumerate() {
            assert_eq!(actions_of_syslog(kind as u32).0, expected, "type {kind}");
        }
        assert_eq!(actions_of_syslog(4).1, Some(Clear));
        assert_eq!(actions_of_syslog(u32::MAX), (None, None));
    }
}
