//! Ways that stay open: a way that nothing refuses is named, or somebody relies on what is not held.

use guard_common::action::Action;

use super::hooks::{Hook, KERNEL_LOG};
use crate::thin::devices;

/// Ways to read the kernel log that no hook stands before, on any rung.
const ALWAYS: [&str; 6] = [
    "perf_event_open, BPF programs and a mapped trace on the tracepoint of printk, to who may use them",
    "a pstore that is mounted already, and efivarfs, to who can see it",
    "/dev/mem, /proc/kcore, /dev/vcs* and netconsole, to who has them",
    "the console's level by /proc/sysrq-trigger and the parameters of the module printk, to who may write them",
    "text of one's own by trace_marker and a dump (/proc/sysrq-trigger), to who may write both; by typing into a terminal on /dev/ttyprintk (TIOCSTI), marked",
    "on 5.10 what io_uring hands to a kernel thread to read",
];

/// Beside what the `syslog` hook leaves open, where `kernel.dmesg_restrict` is 0.
const UNRESTRICTED: &str =
    "reading by syslog(2), as dmesg does, to everybody: kernel.dmesg_restrict is 0";

/// In words, each way to what these hooks judge that is open: where one refuses nothing, what stays open behind what takes its
/// place, and what no hook stands before. Each hook is told with whether it refuses. `restricted`: what
/// `kernel.dmesg_restrict` says; `None`: it is not known.
#[must_use]
pub fn ways(hooks: &[(&Hook, bool)], restricted: Option<bool>) -> Vec<String> {
    let refuses = |hook: &Hook| {
        let of = |(other, _): &&(&Hook, bool)| other.program == hook.program;
        hooks.iter().find(of).is_some_and(|(_, refuses)| *refuses)
    };
    let mut ways = Vec::new();
    for (hook, of_its_own) in hooks {
        // What takes another's place leaves open what that one would not. What else is open where neither refuses, that one
        // tells.
        let open = if hook.partial {
            *of_its_own
        } else {
            !of_its_own && !hook.lower.is_some_and(refuses)
        };
        if open {
            ways.extend(hook.open.iter().map(|way| in_words(hook, way)));
            if hook.program == KERNEL_LOG[0].program && restricted == Some(false) {
                ways.push(in_words(hook, UNRESTRICTED));
            }
        }
    }
    let reads = hooks.iter().map(|(hook, _)| hook);
    let mut reads = reads.filter(|hook| hook.actions.contains(&Action::KernelLogRead));
    if let Some(hook) = reads.next() {
        ways.extend(ALWAYS.map(|way| in_words(hook, way)));
    }
    let mut judged = hooks.iter().map(|(hook, _)| hook);
    if let Some(hook) = judged.find(|hook| hook.actions.contains(&Action::Discard)) {
        ways.extend(
            devices::open_here()
                .into_iter()
                .map(|way| in_words(hook, way)),
        );
    }
    ways
}

fn in_words(hook: &Hook, way: &str) -> String {
    format!("{}: {way}", hook.hazard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::hooks::{KERNEL_LOG, KERNEL_LOG_DEVICES};

    fn with(refuse: bool, lower: bool) -> String {
        let mut hooks: Vec<(&Hook, bool)> = KERNEL_LOG.iter().map(|hook| (hook, refuse)).collect();
        if !refuse {
            hooks.push((&KERNEL_LOG_DEVICES, lower));
        }
        ways(&hooks, Some(true)).join("\n")
    }

    #[test]
    fn what_refuses_nothing_leaves_its_ways_open() {
        let ways = with(false, false);
        for way in ["syslog(2)", "nodes of it", "mounting pstore", "tracefs"] {
            assert!(ways.contains(way), "{way}: {ways}");
        }
        assert!(!ways.contains("descriptors"), "{ways}");
    }

    #[test]
    fn what_takes_anothers_place_leaves_less_open() {
        let ways = with(false, true);
        for way in ["syslog(2)", "descriptors", "mounting pstore", "tracefs"] {
            assert!(ways.contains(way), "{way}: {ways}");
        }
        assert!(!ways.contains("nodes of it"), "{ways}");
    }

    #[test]
    fn where_all_refuse_only_what_no_hook_sees_is_open() {
        let ways = with(true, false);
        assert!(
            ways.contains("perf_event_open")
                && !ways.contains("syslog(2)")
                && !ways.contains("tracefs"),
            "{ways}"
        );
        assert_eq!(super::ways(&[], None), Vec::<String>::new());
    }

    #[test]
    fn dmesg_is_said_to_be_everybodys_only_where_it_is() {
        let syslog = &KERNEL_LOG[0];
        for (refuses, restricted, said) in [
            (false, Some(false), true),
            (false, Some(true), false),
            (false, None, false),
            (true, Some(false), false),
        ] {
            let ways = ways(&[(syslog, refuses)], restricted).join("\n");
            assert_eq!(ways.contains("to everybody"), said, "{ways}");
        }
    }
}
