//! No container can have a line about itself pinned on another, whatever it calls its processes, files and cgroups.

use proptest::prelude::*;

use super::{Named, named};

/// A container's own path, which the host chose, and the number and words that another's line would have.
const OWN: &str = "/docker/own";
const OTHER: &str = "/docker/other";

fn is_own(named: &Named<'_>) -> bool {
    named.place.is_none_or(|place| {
        place
            .path
            .strip_prefix(OWN.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// Names that look like the kernel's words, or anything.
fn name(longest: usize) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(",task_memcg="),
        Just(",oom_memcg="),
        Just("global_oom"),
        Just(",task="),
        Just(",pid=1"),
        Just(",uid=1"),
        Just("docker"),
        Just("other"),
        Just("own"),
        Just(",cpuset="),
        Just(",mems_allowed=0"),
        Just(" "),
        Just("x"),
        Just("[1]"),
        Just("[1"),
        Just("]: "),
        Just("segfault at "),
        Just("1"),
        Just(" ip "),
        Just(" sp "),
        Just(":1"),
        Just(" error 4"),
        Just("trap x"),
        Just(" ip:1 sp:1 error:1"),
        Just(" in "),
        Just("[1+1]"),
        Just(")"),
        Just(" blocked for more than 1 seconds."),
        Just("\n"),
        Just("/"),
        Just(" pid=1 "),
        Just("comm=\"x\""),
        Just(":"),
        Just(" are going to be killed due to memory.oom.group set"),
        Just("IN="),
        Just(" OUT="),
        Just("(1) "),
    ];
    prop::collection::vec(piece, 1..6).prop_map(move |pieces| {
        let mut name = pieces.concat();
        name.truncate(longest);
        name
    })
}

/// A path below a container's own cgroup: its names are the container's choice, and have no slash.
fn nested() -> impl Strategy<Value = String> {
    let names = prop::collection::vec(name(255), 0..6);
    // The other's path, as the names of directories.
    (names, any::<bool>()).prop_map(|(names, other)| {
        let mut path = OWN.to_owned();
        for name in names {
            path = path + "/" + &name.replace('/', "_");
        }
        if other {
            path + "/x,task_memcg=" + OTHER + "/x,task=x,pid=1,uid=0"
        } else {
            path
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_name_of_a_cgroup_makes_a_line_about_another_container(
        path in nested(), below in nested(), comm in name(15), cpuset in name(255),
    ) {
        let cpuset = cpuset.replace('/', "_");
        let below = path.clone() + &below[OWN.len()..];
        let lines = [
            format!("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={cpuset},mems_allowed=0,oom_memcg={path},task_memcg={below},task={comm},pid=42,uid=0"),
            format!("oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset={cpuset},mems_allowed=0,global_oom,task_memcg={path},task={comm},pid=42,uid=0"),
            // A limit above the containers'
            format!("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={cpuset},mems_allowed=0,oom_memcg=/docker,task_memcg={path},task={comm},pid=42,uid=0"),
            format!("cgroup: fork rejected by pids controller in {path}"),
            format!("Memory cgroup stats for {path}:"),
            format!("Tasks in {path} are going to be killed due to memory.oom.group set"),
        ];
        for line in lines {
            if let Some(named) = named(line.as_bytes()) {
                prop_assert!(is_own(&named), "{} {:?}", line, named);
                prop_assert!(named.pid.is_none_or(|pid| pid == 42), "{} {:?}", line, named);
            }
        }
    }

    #[test]
    fn no_name_of_a_process_or_a_file_makes_a_line_about_another_process(
        comm in name(15), file in name(255),
    ) {
        let file = file.replace('/', "_");
        let quoted = if comm.bytes().any(|byte| byte == b'"' || !(0x21..=0x7e).contains(&byte)) {
            comm.bytes().map(|byte| format!("{byte:02X}")).collect()
        } else {
            format!("\"{comm}\"")
        };
        let lines = [
            format!("{comm}[42]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4 in {file}[55d0c4af0000+9e000]"),
            format!("{comm}[42]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4"),
            format!("traps: {comm}[42] trap invalid opcode ip:55d0c4b1a2f3 sp:7ffd1c2b3a40 error:0 in {file}[1+1]"),
            format!("{comm}[42] bad frame in rt_sigreturn frame:00000000c0ffee00 ip:1 sp:1 orax:1 in {file}[1+1]"),
            format!("umip: {comm}[42] ip:1 sp:1: SGDT instruction cannot be used by applications."),
            format!("INFO: task {comm}:42 blocked for more than 120 seconds."),
            format!("watchdog: BUG: soft lockup - CPU#3 stuck for 45s! [{comm}:42]"),
            format!("task:{comm:<15} state:D stack:0     pid:42   tgid:42   ppid:2      flags:0x00004000"),
            format!("BUG: scheduling while atomic: {comm}/42/0x00000100"),
            format!("WARNING: a.c:1 at b+0x1/0x2, CPU#1: {comm}/42"),
            format!("CPU: 0 PID: 42 Comm: {comm} Not tainted 6.1.0"),
            format!("Memory cgroup out of memory: Killed process 42 ({comm}) total-vm:1kB, anon-rss:1kB, file-rss:4kB, shmem-rss:1kB, UID:0 pgtables:52kB oom_score_adj:0"),
            format!("oom_reaper: reaped process 42 ({comm}), now anon-rss:0kB, file-rss:0kB, shmem-rss:1344kB"),
            format!("Memory failure: 0x1: Sending SIGBUS to {comm}:42 due to hardware memory corruption"),
            format!("x86/split lock detection: #AC: {comm}/42 took a split_lock trap at address: 0x1"),
            format!("audit: type=1326 audit(1.1:7): auid=0 uid=0 gid=0 ses=1 subj=x pid=42 comm={quoted} exe=\"/bin/x\" sig=31 arch=c000003e syscall=165 compat=0 ip=0x7f code=0x0"),
            // Lines that name nobody by a number
            format!("{comm} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"),
            format!("{comm}: potentially unexpected fatal signal 11."),
            format!("EXT4-fs error (device vda): x:1: inode #2: comm {comm}: path {file}"),
        ];
        for line in lines {
            if let Some(named) = named(line.as_bytes()) {
                prop_assert_eq!(named.pid, Some(42), "{}", line);
                prop_assert!(named.place.is_none(), "{}", line);
            }
        }
    }
}
