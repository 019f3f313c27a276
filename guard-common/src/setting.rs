//! Settings of the kernel: those below /proc/sys that switch off what is refused or reach what an action is about by another way, and
//! files of the kernel's own file systems that a policy names.

use crate::action::{Action, Argument};

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
    if name[0] == word(b"kernel/s") && name[1] == word(b"ysrq\0\0\0\0") {
        return Some(Action::Sysrq);
    }
    None
}

/// The first 31 bytes of the name of a file or directory, and NULs behind it.
pub type Part = [u64; 4];

/// Directories on the way to a file, and the file itself, of which the kernel side looks at most. What stands deeper is none that a
/// policy can name.
pub const DEPTH: usize = 8;

/// A file system of the kernel's own: what it is by, and where it is mounted on every host.
pub const FILE_SYSTEMS: &[(u64, &str)] = &[
    (PROC, "/proc"),
    (SYSFS, "/sys"),
    (0x6462_6720, "/sys/kernel/debug"),
    (0x7472_6163, "/sys/kernel/tracing"),
    (0x7472_6163, "/sys/kernel/debug/tracing"),
    (0x4249_4e4d, "/proc/sys/fs/binfmt_misc"),
    (0x6e66_7364, "/proc/fs/nfsd"),
    (0x6573_5543, "/sys/fs/fuse/connections"),
    (0xde5e_81e4, "/sys/firmware/efi/efivars"),
    (0x6165_676c, "/sys/fs/pstore"),
    (0xf97c_ff8c, "/sys/fs/selinux"),
    (0x7363_6673, "/sys/kernel/security"),
    (0x6265_6570, "/sys/kernel/config"),
    (CGROUP, "/sys/fs/cgroup"),
    (CGROUP2, "/sys/fs/cgroup"),
];
/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
pub const PROC: u64 = 0x9fa0;
const SYSFS: u64 = 0x6265_6572;
const CGROUP: u64 = 0x0027_e0eb;
const CGROUP2: u64 = 0x6367_7270;

/// Directories that are symbolic links, or full of them: what is named below them stands elsewhere.
const LINKS: [&str; 8] = [
    "/proc/self/",
    "/proc/thread-self/",
    "/proc/net/",
    "/sys/class/",
    "/sys/block/",
    "/sys/bus/",
    "/sys/dev/",
    "/sys/fs/bpf/",
];

/// A file of one of them, by its name and those of the directories above it, from the file up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path(u64);

impl Path {
    /// Of no name yet.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// With the name of the next directory above.
    #[inline(always)]
    #[must_use]
    pub const fn below(self, part: &Part) -> Self {
        let mut sum = self.0;
        let mut index = 0;
        while index < part.len() {
            sum = (sum ^ part[index]).wrapping_mul(0x2437_7a66_8c4c_3f6d);
            sum ^= sum >> 29;
            index += 1;
        }
        Self(sum)
    }

    /// As an argument: with nothing but directories of this file system above.
    #[inline(always)]
    #[must_use]
    pub const fn whole(self, file_system: u64) -> Argument {
        [self.0, file_system]
    }

    /// As an argument: wherever it stands.
    #[inline(always)]
    #[must_use]
    pub const fn anywhere(self) -> Argument {
        [self.0, 0]
    }

    /// From a path of a policy, `/proc/sys/kernel/core_pattern`, `/sys/kernel/mm/ksm/run`, or of a name alone, `**/release_agent`; `None`:
    /// the kernel side knows none of that form.
    #[must_use]
    pub fn argument(text: &str) -> Option<Argument> {
        let fold = |below: &str| {
            let parts = below.split('/');
            if parts.clone().count() > DEPTH {
                return None;
            }
            let fits = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains('*');
            parts.rev().try_fold(Self::new(), |path, part| {
                let part = Some(part).filter(fits)?;
                Some(path.below(&crate::action::name(part)?))
            })
        };
        if let Some(name) = text.strip_prefix("**/") {
            return fold(name)
                .filter(|_| !name.contains('/'))
                .map(Self::anywhere);
        }
        if LINKS.iter().any(|link| text.starts_with(link)) {
            return None;
        }
        // The longest first: one is mounted within another.
        let (magic, at) = (FILE_SYSTEMS.iter())
            .filter(|(_, at)| {
                text.strip_prefix(at)
                    .is_some_and(|below| below.starts_with('/'))
            })
            .max_by_key(|(_, at)| at.len())?;
        // Which hierarchy it is of stands in no name.
        if matches!(*magic, CGROUP | CGROUP2) {
            return None;
        }
        fold(&text[at.len() + 1..]).map(|path| path.whole(*magic))
    }
}

impl Default for Path {
    fn default() -> Self {
        Self::new()
    }
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
            ("kernel/sysrq", Some(Action::Sysrq)),
            ("kernel/sysrq2", None),
            ("kernel/sysctl_writes_strict", None),
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

    #[test]
    fn a_path_is_what_the_kernel_side_makes_of_its_names() {
        let part = |text: &str| crate::action::name(text).unwrap();
        let up = |names: &[&str]| {
            (names.iter().rev()).fold(Path::new(), |path, name| path.below(&part(name)))
        };
        let pattern = up(&["sys", "kernel", "core_pattern"]);
        assert_eq!(
            Path::argument("/proc/sys/kernel/core_pattern"),
            Some(pattern.whole(PROC))
        );
        assert_eq!(
            Path::argument("/sys/kernel/debug/x"),
            Some(up(&["x"]).whole(0x6462_6720))
        );
        assert_eq!(
            Path::argument("/sys/kernel/debugx"),
            Some(up(&["kernel", "debugx"]).whole(SYSFS))
        );
        assert_eq!(
            Path::argument("**/release_agent"),
            Some(up(&["release_agent"]).anywhere())
        );
        assert_eq!(
            Path::argument("/proc/sys/fs/binfmt_misc/register"),
            Some(up(&["register"]).whole(0x4249_4e4d))
        );
        assert_eq!(
            Path::argument("/sys/kernel/debug/tracing/trace_marker"),
            Path::argument("/sys/kernel/tracing/trace_marker")
        );
        assert_ne!(up(&["a", "b"]), up(&["b", "a"]));
        assert_ne!(up(&["ab"]), up(&["a", "b"]));
        for wrong in [
            "",
            "/",
            "/proc",
            "/proc/",
            "/proc//x",
            "/proc/../x",
            "/procx/y",
            "/etc/passwd",
            "/sys/*",
            "**/",
            "**/a/b",
            "**/*",
            "/sys/fs/cgroup/release_agent",
            "/sys/1/2/3/4/5/6/7/8/9",
            "release_agent",
            "/sys/a-name-of-thirty-two-bytes-of-it",
            "/proc/self/oom_score_adj",
            "/sys/class/x/y",
        ] {
            assert_eq!(Path::argument(wrong), None, "{wrong}");
        }
        assert!(Path::argument("/sys/1/2/3/4/5/6/7/8").is_some());
        assert!(Path::argument("/sys/a-name-of-thirty-one-bytes-of-i").is_some());
    }
}
