//! The shipped patterns held against what kernels say, against what they say on a quiet day, and against forgers.

use std::{collections::BTreeSet, fmt::Write as _};

use super::Watch;
use crate::policy::{
    model::Pattern,
    pattern::{SHIPPED, shipped},
};

const BOOT_LINES: &str = include_str!("../../../tests/data/klog/boot-lines.txt");
const DOCS: &str = include_str!("../../../../docs/hazards.md");
/// Samples that are two things at once: whose sample, and what else it raises.
const BOTH: [(&str, &str); 1] = [("dm-metadata-bug", "kernel-bug")];

fn patterns() -> &'static [Pattern] {
    shipped().unwrap_or_else(|problems| panic!("{problems}"))
}

fn watch() -> Watch {
    Watch::new(patterns()).unwrap()
}

fn raised(watch: &Watch, line: &str) -> BTreeSet<String> {
    (watch.look(line, true))
        .map(|alarm| alarm.pattern.name.clone())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn each_sample_raises_its_own_pattern_and_no_other() {
    let watch = watch();
    for pattern in patterns() {
        assert!(
            !pattern.samples.is_empty(),
            "{} has no sample",
            pattern.name
        );
        let mut expected = vec![pattern.name.as_str()];
        expected.extend(
            BOTH.iter()
                .filter(|(name, _)| *name == pattern.name)
                .map(|(_, also)| *also),
        );
        for sample in &pattern.samples {
            assert_eq!(raised(&watch, sample), set(&expected), "{sample}");
            // One that a program wrote into the log raises none.
            assert_eq!(watch.look(sample, false).count(), 0, "{sample}");
        }
    }
}

#[test]
fn each_sample_says_which_kernels_print_it_and_where() {
    let mut before = "";
    for line in SHIPPED.lines().map(str::trim) {
        if line.starts_with("- '") || line.starts_with("- \"") {
            let cited =
                before.starts_with("# ") || before.starts_with("- '") || before.starts_with("- \"");
            assert!(cited, "nothing says where this is printed: {line}");
        }
        before = line;
    }
}

#[test]
fn a_quiet_boot_raises_nothing() {
    let watch = watch();
    let lines: Vec<&str> = BOOT_LINES
        .lines()
        .filter(|line| !line.starts_with("# "))
        .collect();
    assert!(lines.len() > 100);
    for line in lines {
        assert_eq!(raised(&watch, line), set(&[]), "{line}");
    }
}

#[test]
fn what_comes_near_an_alarm_and_is_none_raises_nothing() {
    let watch = watch();
    for line in [
        "---[ end Kernel panic - not syncing: sysrq triggered crash ]---",
        "busybox invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "oom_reaper: reaped process 77 (busybox), now anon-rss:0kB, file-rss:0kB, shmem-rss:1344kB",
        "INFO: task dockerd:977 is blocked on a mutex likely owned by task kworker/0:1:12.",
        "Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings",
        "rcu: INFO: Expedited stall ended before state dump start",
        "rcu: Adjusting geometry for rcu_fanout_leaf=16, nr_cpu_ids=2",
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "EXT4-fs (vda): mounted filesystem with ordered data mode. Opts: (null)",
        "XFS (dm-2): Mounting V5 Filesystem",
        "XFS (dm-2): Ending clean mount",
        "BTRFS info (device sdb): using crc32c (crc32c-intel) checksum algorithm",
        "BTRFS: device fsid 0b7e4ee5-8c35-4d8a-9d3f-6d2c8c1c2f5e devid 1 transid 7 /dev/sdb scanned by mount (312)",
        "device-mapper: thin: 253:2: switching pool to write mode",
        "device-mapper: thin: 253:2: growing the data device from 1024 to 2048 blocks",
        "device-mapper: thin: Data device (dm-1) discard unsupported: Disabling discard passdown.",
        "md/raid1:md0: active with 2 out of 2 mirrors",
        "EDAC MC: Ver: 3.0.0",
        "BTRFS error (device loop0): open_ctree failed: -22",
        "BTRFS error (device loop0): unrecognized mount option 'x'",
        // Of mkfs on a loop device, which does not do that, and is then not asked again.
        "operation not supported error, dev loop1, sector 130944 op 0x9:(WRITE_ZEROES) flags 0x10000800 phys_seg 0 prio class 2",
        "blk_update_request: operation not supported error, dev loop1, sector 130944 op 0x9:(WRITE_ZEROES) flags 0x800800 phys_seg 0 prio class 0",
        "mce: CPU0: Thermal monitoring enabled (TM1)",
        "nfs: server 192.0.2.7 OK",
        "nf_conntrack: expectation table full",
    ] {
        assert_eq!(raised(&watch, line), set(&[]), "{line}");
    }
}

#[test]
fn each_pattern_begins_with_the_kernels_own_words_and_knows_what_its_line_is_about() {
    for pattern in patterns() {
        assert!(pattern.expression.starts_with('^'), "{}", pattern.name);
        assert!(!pattern.expression.contains("(?m"), "{}", pattern.name);
        let regex = super::compile(&pattern.expression).unwrap();
        // Each group is found in some sample: none stands there in vain.
        for group in regex.capture_names().flatten() {
            let found = (pattern.samples.iter()).any(|sample| {
                regex
                    .captures(sample.as_bytes())
                    .is_some_and(|found| found.name(group).is_some())
            });
            assert!(found, "{}: {group}", pattern.name);
        }
    }
    let about = |line: &str| watch().look(line, true).next().unwrap().about;
    let oom = about("Out of memory: Killed process 77 (a) b) total-vm:1kB, anon-rss:1kB");
    assert_eq!((oom.pid, oom.comm.unwrap().as_str()), (Some(77), "a) b"));
    let hung = about("INFO: task kworker/u8:2:312 blocked for more than 120 seconds.");
    assert_eq!(
        (hung.pid, hung.comm.unwrap().as_str()),
        (Some(312), "kworker/u8:2")
    );
    let btrfs = about("BTRFS info (device sdb: state EA): forced readonly");
    assert_eq!(btrfs.device.unwrap().as_str(), "sdb");
}

/// A process may call itself as it likes, in 15 bytes, and a file whatever it likes: the kernel prints both, and no alarm
/// but the one that the kernel meant comes of it.
#[test]
fn no_name_of_a_process_or_a_file_raises_an_alarm() {
    let watch = watch();
    let all: Vec<&String> = patterns()
        .iter()
        .flat_map(|pattern| &pattern.samples)
        .collect();
    for sample in &all {
        let words = sample.match_indices(' ').map(|(at, _)| at + 1);
        // The name of a process, and of a file that goes on where that ends, or is the whole of it.
        for (from, whole) in std::iter::once(0)
            .chain(words)
            .flat_map(|from| [(from, false), (from, true)])
        {
            let rest = &sample[from..];
            let comm: String = rest.chars().take(15).collect();
            let file: String = (rest.chars())
                .skip(if whole { 0 } else { 15 })
                .take(255)
                .map(|letter| if letter == '/' { '_' } else { letter })
                .collect();
            let lines = [
                // arch/x86/mm/fault.c:show_signal_msg, mm/memory.c:print_vma_addr
                (
                    format!(
                        "{comm}[42]: segfault at 0 ip 0000000000401136 sp 00007ffd1c2b3a40 error 4 in {file}[401000+1000]"
                    ),
                    "segfault",
                ),
                // arch/x86/kernel/traps.c:show_signal
                (
                    format!(
                        "traps: {comm}[42] trap int3 ip:401136 sp:7ffd1c2b3a40 error:0 in {file}[401000+1000]"
                    ),
                    "trap",
                ),
                // mm/oom_kill.c:dump_header
                (
                    format!(
                        "{comm} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"
                    ),
                    "",
                ),
                // mm/page_alloc.c:warn_alloc
                (
                    format!(
                        "{comm}: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL), nodemask=(null)"
                    ),
                    "allocation-failure",
                ),
                // kernel/signal.c:print_fatal_signal
                (
                    format!("{comm}: potentially unexpected fatal signal 11."),
                    "",
                ),
                // lib/dump_stack.c:dump_stack_print_info
                (
                    format!(
                        "CPU: 0 PID: 42 Comm: {comm} Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2"
                    ),
                    "",
                ),
                // fs/drop_caches.c:drop_caches_sysctl_handler
                (format!("{comm} (42): drop_caches: 3"), ""),
                // mm/memfd.c:memfd_create
                (
                    format!(
                        "{comm}[42]: memfd_create() called without MFD_EXEC or MFD_NOEXEC_SEAL set"
                    ),
                    "",
                ),
            ];
            for (line, meant) in lines {
                let expected = if meant.is_empty() {
                    set(&[])
                } else {
                    set(&[meant])
                };
                assert_eq!(raised(&watch, &line), expected, "{line}");
            }
        }
    }
}

#[test]
fn no_name_of_a_process_hides_an_alarm() {
    let watch = watch();
    for name in [
        "a\nb",
        "[7]: ) :",
        "\n",
        "\u{1b}[2Jx",
        &r"\x0a".repeat(15),
        "fifteen letters",
        // PR_SET_NAME takes none as well.
        "",
    ] {
        for (line, meant) in [
            (
                format!(
                    "{name}[42]: segfault at 0 ip 401136 sp 7ffd1c2b3a40 error 4 in x[401000+1000]"
                ),
                "segfault",
            ),
            (
                format!("traps: {name}[42] trap int3 ip:401136 sp:7ffd1c2b3a40 error:0"),
                "trap",
            ),
            (
                format!("Out of memory: Killed process 42 ({name}) total-vm:1kB, anon-rss:1kB"),
                "oom-kill",
            ),
            (
                format!(
                    "Memory cgroup out of memory: Killed process 42 ({name}) total-vm:1kB, anon-rss:1kB"
                ),
                "oom-kill-container",
            ),
            (
                format!("INFO: task {name}:42 blocked for more than 120 seconds."),
                "hung-task",
            ),
            (
                format!("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [{name}:42]"),
                "soft-lockup",
            ),
        ] {
            let alarms: Vec<_> = watch.look(&line, true).collect();
            assert_eq!(alarms.len(), 1, "{line}");
            assert_eq!(
                (alarms[0].pattern.name.as_str(), alarms[0].about.pid),
                (meant, Some(42)),
                "{line}"
            );
        }
    }
}

#[test]
fn the_docs_have_each_pattern_as_the_file_has_it() {
    for pattern in patterns() {
        let row = format!(
            "| `{}` | {} | {} | {} |",
            pattern.name,
            pattern.severity.name(),
            pattern.means.replace('|', "\\|"),
            pattern.advice.replace('|', "\\|"),
        );
        assert!(DOCS.contains(&row), "docs/hazards.md lacks the row\n{row}");
    }
    let rows = DOCS.split("| pattern |").nth(1).unwrap_or_default();
    let rows = rows.split("\n\n").next().unwrap_or_default();
    let named = rows.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        named,
        patterns().len(),
        "docs/hazards.md has a row for what is no pattern"
    );
}

#[test]
fn what_is_asked_for_is_there() {
    let mut missing = String::new();
    for name in [
        "panic",
        "oops",
        "kernel-bug",
        "dm-metadata-bug",
        "warning",
        "soft-lockup",
        "hard-lockup",
        "hung-task",
        "rcu-stall",
        "oom-kill",
        "oom-kill-container",
        "ext4-error",
        "xfs-error",
        "btrfs-error",
        "io-error",
        "dm-thin-metadata",
        "netdev-stuck",
        "conntrack-full",
        "machine-check",
        "fork-rejected",
    ] {
        if !patterns().iter().any(|pattern| pattern.name == name) {
            let _ = writeln!(missing, "{name}");
        }
    }
    assert!(missing.is_empty(), "{missing}");
}
