//! Settings of the kernel below /proc/sys that switch off what is refused, or reach what an action is about by another way.

use crate::action::Action;

/// A setting's path below /proc/sys as the kernel has it, `kernel/printk`: 32 bytes, with NULs behind it.
pub type Name = [u64; 4];

const fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// What writing a setting comes to; `None`: none of our business.
///
/// - `kernel/ftrace_enabled` at 0 takes the calls of all trampolines out of the kernel's code, those of BPF LSM among them
///   (`ftrace_shutdown_sysctl`, kernel/trace/ftrace.c); before 6.0 the kernel does not let it, while there is one.
/// - `kernel/printk*` say what of the kernel log the console shows, and what is kept out of the log or held up
///   (kernel/printk/sysctl.c).
/// - `kernel/dmesg_restrict` says who may read it without CAP_SYSLOG.
#[inline(always)]
#[must_use]
pub const fn written(name: &Name) -> Option<Action> {
    const FIVE: u64 = (1 << 40) - 1;
    if name[0] == word(b"kernel/p") && name[1] & FIVE == word(b"rintk\0\0\0") {
        return Some(Action::KernelLogConsole);
    }
    if name[0] == word(b"kernel/f")
        && name[1] == word(b"trace_en")
        && name[2] == word(b"abled\0\0\0")
    {
        return Some(Action::GuardDisable);
    }
    if name[0] == word(b"kernel/d")
        && name[1] == word(b"mesg_res")
        && name[2] == word(b"trict\0\0\0")
    {
        return Some(Action::KernelLogRead);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let mut bytes = [0; 32];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        core::array::from_fn(|index| {
            u64::from_le_bytes(core::array::from_fn(|byte| bytes[8 * index + byte]))
        })
    }

    #[test]
    fn each_setting_is_what_it_is_and_its_neighbours_are_not() {
        for (text, expected) in [
            ("kernel/printk", Some(Action::KernelLogConsole)),
            (
                "kernel/printk_ratelimit_burst",
                Some(Action::KernelLogConsole),
            ),
            ("kernel/printk_devkmsg", Some(Action::KernelLogConsole)),
            ("kernel/ftrace_enabled", Some(Action::GuardDisable)),
            ("kernel/dmesg_restrict", Some(Action::KernelLogRead)),
            ("kernel/print-fatal-signals", None),
            ("kernel/ftrace_enable", None),
            ("kernel/ftrace_enabled2", None),
            ("kernel/ftrace_dump_on_oops", None),
            ("kernel/pid_max", None),
            ("net/printk", None),
            ("", None),
        ] {
            assert_eq!(written(&name(text)), expected, "{text}");
        }
    }
}
