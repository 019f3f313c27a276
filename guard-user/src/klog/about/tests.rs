//! What texts name, in the words of each kernel, and whose a number was.

use crate::klog::record::Record;
use guard_common::kernel_log::Ended;

use super::{Had, Living, Moment, Place, Tasks, had, named, text::TASKS};
use crate::klog::watch::compile;

fn task(text: &str) -> (Option<u32>, String) {
    let named = named(text.as_bytes()).unwrap_or_default();
    let comm = named.comm.unwrap_or_default();
    (named.pid, String::from_utf8_lossy(&comm).into_owned())
}

fn place(text: &str) -> Option<(String, bool)> {
    let Place { path, whole } = named(text.as_bytes())?.place?;
    Some((String::from_utf8_lossy(path).into_owned(), whole))
}

fn oom(limit: &str, ran: &str, comm: &str) -> String {
    format!(
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg={limit},task_memcg={ran},task={comm},pid=76,uid=0"
    )
}

#[test]
fn every_expression_is_one() {
    for expression in TASKS {
        compile(expression).unwrap();
    }
}

#[test]
fn lines_of_each_kernel_name_their_task() {
    for (text, pid, comm) in [
        // 5.10, as one record and as the piece before another's
        (
            "nginx[4242]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4 in nginx[55d0c4af0000+9e000]",
            4242,
            "nginx",
        ),
        (
            "nginx[4242]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4",
            4242,
            "nginx",
        ),
        // Of a process that took its name away
        (
            "[4242]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4 in nginx[55d0c4af0000+9e000]",
            4242,
            "",
        ),
        // 6.1 to 6.10, then with the offset in the file
        (
            "nginx[4242]: segfault at 10 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 4 in nginx[55d0c4af0000+9e000] likely on CPU 1 (core 1, socket 0)",
            4242,
            "nginx",
        ),
        (
            "a b[1[9]: segfault at 8 ip 000055d0c4b1a2f3 sp 00007ffd1c2b3a40 error 6 in a[6f2f3,55d0c4af0000+9e000] likely on CPU 0 (core 0, socket 0)",
            9,
            "a b[1",
        ),
        (
            "traps: python3[4242] general protection fault ip:7f1c2b3a4d5e sp:7ffd1c2b3a40 error:0 in libc.so.6[7f1c2b200000+155000]",
            4242,
            "python3",
        ),
        (
            "traps: gsd[4243] trap invalid opcode ip:55d0c4b1a2f3 sp:7ffd1c2b3a40 error:0 in gsd[55d0c4af0000+9e000]",
            4243,
            "gsd",
        ),
        (
            "traps: x[1] trap int3[42] trap int3 ip:55d0c4b1a2f3 sp:7ffd1c2b3a40 error:0",
            42,
            "x[1] trap int3",
        ),
        (
            "x[42] bad frame in rt_sigreturn frame:00000000c0ffee00 ip:401136 sp:7ffd1c2b3a40 orax:ffffffffffffffff in x[400000+1000]",
            42,
            "x",
        ),
        (
            "umip: x[42] ip:401136 sp:7ffd1c2b3a40: SGDT instruction cannot be used by applications.",
            42,
            "x",
        ),
        (
            "INFO: task jbd2/dm-0-8:312 blocked for more than 120 seconds.",
            312,
            "jbd2/dm-0-8",
        ),
        (
            "INFO: task a:1:977 blocked in I/O wait for more than 120 seconds.",
            977,
            "a:1",
        ),
        (
            "watchdog: BUG: soft lockup - CPU#3 stuck for 45s! [kworker/3:1:87]",
            87,
            "kworker/3:1",
        ),
        (
            "task:sh              state:D stack:    0 pid:  312 ppid:     2 flags:0x00004000",
            312,
            "sh",
        ),
        (
            "task:sh              state:D stack:0     pid:312   tgid:312   ppid:2      flags:0x00004000",
            312,
            "sh",
        ),
        (
            "task:fifteen letters state:D stack:0     pid:312   tgid:312   ppid:2      task_flags:0x0040 flags:0x00004000",
            312,
            "fifteen letters",
        ),
        (
            "BUG: scheduling while atomic: swapper/0/12/0x00000100",
            12,
            "swapper/0",
        ),
        (
            "WARNING: CPU: 1 PID: 4242 at net/sched/sch_generic.c:467 dev_watchdog+0x260/0x270",
            4242,
            "",
        ),
        (
            "WARNING: net/sched/sch_generic.c:525 at dev_watchdog+0x21f/0x230, CPU#1: a/1/42",
            42,
            "a/1",
        ),
        (
            "CPU: 0 PID: 42 Comm: a b Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2",
            42,
            "a b",
        ),
        (
            "CPU: 1 UID: 0 PID: 42 Comm: sh Kdump: loaded Tainted: G        W          6.12.1 #1",
            42,
            "sh",
        ),
        (
            "Memory cgroup out of memory: Killed process 76 (a) b) total-vm:10216kB, anon-rss:8072kB, file-rss:4kB, shmem-rss:1344kB, UID:0 pgtables:52kB oom_score_adj:0",
            76,
            "a) b",
        ),
        (
            "Out of memory: Killed process 77 (busybox) total-vm:320472kB, anon-rss:318272kB, file-rss:4kB, shmem-rss:1344kB, UID:0 pgtables:668kB oom_score_adj:-100",
            77,
            "busybox",
        ),
        (
            "oom_reaper: reaped process 77 (busybox), now anon-rss:0kB, file-rss:0kB, shmem-rss:1344kB",
            77,
            "busybox",
        ),
        (
            "Memory failure: 0x11c3a7: Sending SIGBUS to postgres:4242 due to hardware memory corruption",
            4242,
            "postgres",
        ),
        (
            "x86/split lock detection: #AC: x/1 took a /42 took a split_lock trap at address: 0x401136",
            42,
            "x/1 took a ",
        ),
        // Audit, with no daemon that takes it
        (
            r#"audit: type=1326 audit(1764064803.140:7): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=docker-default (enforce) pid=4242 comm="nginx" exe="/usr/sbin/nginx" sig=31 arch=c000003e syscall=165 compat=0 ip=0x7f1c2b3a4d5e code=0x80000000"#,
            4242,
            "nginx",
        ),
        (
            r#"audit: type=1326 audit(1764064803.140:7): auid=0 uid=0 gid=0 ses=1 subj=unconfined pid=9 comm=612062 exe="/bin/x" sig=31 arch=c000003e syscall=165 compat=0 ip=0x7f code=0x0"#,
            9,
            "a b",
        ),
        (
            r#"audit: type=1400 audit(1764064803.140:7): apparmor="DENIED" operation="open" info="Failed name lookup - deleted entry" error=-2 profile="docker-default" name="/proc/x" pid=4242 comm="cat" requested_mask="r" denied_mask="r" fsuid=0 ouid=0"#,
            4242,
            "cat",
        ),
        (
            r#"audit: type=1400 audit(1.1:7): avc:  denied  { read } for  pid=4242 comm="cat" name="x" dev="vda" ino=1 scontext=a tcontext=b tclass=file permissive=0"#,
            4242,
            "cat",
        ),
        (
            r#"audit: type=1300 audit(1.1:7): arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=0 items=2 ppid=1 pid=4242 auid=0 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=1 comm="ls" exe="/bin/ls" subj=x key=(null)"#,
            4242,
            "ls",
        ),
        // What a program says of itself stands behind what the kernel says of it.
        (
            r"audit: type=1107 audit(1.1:7): pid=4242 uid=0 auid=0 ses=1 msg='x pid=1 uid=0 '",
            4242,
            "",
        ),
        // Two pids, of which one is the name of a table
        (
            r#"audit: type=1325 audit(1.1:7): table=x pid=1 comm="y":1 family=2 entries=1 op=nft_register_table pid=4242 subj=x comm="nft""#,
            0,
            "",
        ),
        // No kind that has a pid for certain
        (
            r#"audit: type=1302 audit(1.1:7): item=0 name="x" pid=1 comm="y""#,
            0,
            "",
        ),
        // A rule of netfilter's begins its lines as its maker likes.
        (
            "x[77]: segfault at 10 ip 0 sp 0 error 4 in IN=eth0 OUT= MAC=00 SRC=192.0.2.7 [1+1]",
            0,
            "",
        ),
        (
            "IN=eth0 OUT= SRC=192.0.2.7 DST=192.0.2.8 LEN=60 PROTO=TCP SPT=1 DPT=2 UID=0 GID=0",
            0,
            "",
        ),
        ("x[0]: segfault at 10 ip 0 sp 0 error 4", 0, ""),
        ("a quiet line", 0, ""),
    ] {
        let pid = Some(pid).filter(|pid| *pid != 0);
        assert_eq!(task(text), (pid, comm_of(pid, text, comm)), "{text}");
    }
}

/// The idle task has a name and no number.
fn comm_of(pid: Option<u32>, text: &str, comm: &str) -> String {
    if pid.is_none() && text.starts_with("x[0]") {
        "x".to_owned()
    } else {
        comm.to_owned()
    }
}

#[test]
fn lines_that_name_a_cgroup_name_it_by_its_path() {
    let whole = |path: &str| Some((path.to_owned(), true));
    assert_eq!(
        place("cgroup: fork rejected by pids controller in /docker/a b, c"),
        whole("/docker/a b, c")
    );
    assert_eq!(
        place("Memory cgroup stats for /docker/a:"),
        whole("/docker/a")
    );
    assert_eq!(
        place("Tasks in /docker/a are going to be killed due to memory.oom.group set"),
        whole("/docker/a")
    );
    // 5.10 to 7.3 (booted)
    let text = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/little,task_memcg=/little,task=busybox,pid=76,uid=0";
    assert_eq!(place(text), whole("/little"));
    assert_eq!(task(text), (Some(76), "busybox".to_owned()));
    let text = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0-1,global_oom,task_memcg=/docker/a,task=a b,pid=77,uid=0";
    assert_eq!(place(text), whole("/docker/a"));
    assert_eq!(task(text), (Some(77), "a b".to_owned()));
    assert_eq!(place(&oom("/pod", "/pod/a", "x")), whole("/pod/a"));
    // Not below the limit: no words of the kernel's. Whose limit it is stands there all the same.
    assert_eq!(
        place(&oom("/pod", "/podium/a", "x")),
        Some(("/pod".to_owned(), false))
    );
    // Cut off, or the first piece of a line
    for end in [40, 80, 100, 120] {
        assert_eq!(named(&oom("/pod", "/pod/a", "x").as_bytes()[..end]), None);
    }
    // Which of two is the name cannot be told, and whose it is can.
    let two = oom("/docker/a", "/docker/a", "b,task=c");
    assert_eq!(place(&two), Some(("/docker/a".to_owned(), false)));
    assert_eq!(task(&two), (Some(76), String::new()));
}

#[derive(Default)]
struct Few {
    ended: Option<Ended>,
    living: Option<Living>,
}

impl Tasks for Few {
    fn ended(&self, _: u32) -> Option<Ended> {
        self.ended
    }

    fn living(&self, _: u32) -> Option<Living> {
        self.living.clone()
    }
}

const SECOND: i64 = 1_000_000_000;

fn ended(start: i64, end: i64) -> Ended {
    let mut comm = [0; 16];
    comm[..2].copy_from_slice(b"sh");
    Ended {
        container: 3,
        cgroup: 4,
        start_ns: start as u64,
        end_ns: end as u64,
        comm,
        pid: 7,
        reserved: 0,
    }
}

fn living(start_ns: i64, comm: &str, kernel: bool) -> Living {
    Living {
        start_ns,
        comm: comm.into(),
        kernel,
        cgroup: b"/docker/a".to_vec(),
    }
}

#[test]
fn a_number_is_whose_it_was_when_the_line_was_said_or_nobodys() {
    let sh = Some(&b"sh"[..]);
    let tasks = Few {
        ended: Some(ended(10 * SECOND, 20 * SECOND)),
        living: Some(living(30 * SECOND, "sh", false)),
    };
    let at = |second: i64| had(&tasks, 7, sh, second * SECOND, SECOND / 20);
    assert_eq!(at(9), None);
    assert!(matches!(at(10), Some(Had::Ended(_))));
    assert!(matches!(at(20), Some(Had::Ended(_))));
    // Between the two somebody else may have had it.
    assert_eq!(at(21), None);
    assert_eq!(at(29), None);
    assert!(matches!(at(30), Some(Had::Living(_))));
    assert_eq!(had(&tasks, 7, Some(b"bash"), 15 * SECOND, 0), None);
    assert_eq!(had(&tasks, 7, Some(b"bash"), 35 * SECOND, 0), None);
    assert!(had(&tasks, 7, None, 35 * SECOND, 0).is_some());
    assert_eq!(had(&Few::default(), 7, sh, SECOND, 0), None);
    let worker = Few {
        ended: None,
        living: Some(living(0, "kworker/0:1-events", true)),
    };
    assert!(had(&worker, 7, Some(b"kworker/0:1"), SECOND, 0).is_some());
    assert_eq!(had(&worker, 7, Some(b"sh"), SECOND, 0), None);
}

#[test]
fn a_line_that_was_said_before_anybody_read_has_no_time() {
    let mut moment = Moment::default();
    assert_eq!(moment.of(1_000_000, 100 * SECOND), None);
    moment.caught_up();
    // The log's clock is 2 s behind, and the line took a millisecond.
    let said = moment.of(98_000_000, 100 * SECOND + 1_000_000).unwrap();
    assert_eq!(said, 100 * SECOND + 1_000_000);
    // One that is read late is no later than that for it.
    let late = moment.of(98_500_000, 103 * SECOND).unwrap();
    assert!((100 * SECOND + SECOND / 2..101 * SECOND).contains(&late));
    // It is never taken to be earlier than it was.
    assert!(moment.of(99_000_000, 104 * SECOND).unwrap() >= 101 * SECOND);
    // What was read faster says more.
    assert_eq!(moment.of(105_000_000, 107 * SECOND), Some(107 * SECOND));
}

#[test]
fn our_own_task_is_found_by_its_number() {
    let own = super::in_proc(std::process::id()).unwrap();
    assert!(!own.kernel && own.start_ns < super::monotonic());
    assert_eq!(own.cgroup.first(), Some(&b'/'));
    let kernel = super::in_proc(2);
    assert!(kernel.is_none_or(|task| task.kernel || task.comm != b"kthreadd"));
}

#[test]
fn what_is_said_later_was_done_when_its_stamp_says() {
    let ahead = 1_764_064_803 * SECOND;
    let at = |stamp_ms, said| {
        super::stamped(
            1_764_064_803_000 + i64::from(stamp_ms),
            said,
            ahead,
            SECOND / 20,
        )
    };
    assert_eq!(at(5_000, 7 * SECOND), Some(5 * SECOND + 11_000_000));
    assert_eq!(at(7_000, 7 * SECOND), Some(7 * SECOND));
    // Two processors' clocks
    assert_eq!(at(7_050, 7 * SECOND), Some(7 * SECOND));
    assert_eq!(at(7_051, 7 * SECOND), None);
    // The host's clock was set in between.
    assert_eq!(at(8_000, 7 * SECOND), None);
    assert_eq!(at(5_000, 60 * SECOND), None);
}

#[test]
fn what_a_program_has_audit_say_is_the_programs() {
    let says = |text: &str| crate::klog::about::is_a_programs(text.as_bytes());
    for kind in [1005, 1100, 1107, 1199, 2100, 2999] {
        assert!(says(&format!(
            "audit: type={kind} audit(1764064803.140:7): pid=1 uid=0 msg='BUG: x'"
        )));
    }
    for text in [
        "audit: type=1326 audit(1764064803.140:7): auid=0 pid=1",
        "audit: type=1099 audit(1.1:1): pid=1",
        "audit: type=1200 audit(1.1:1): pid=1",
        "audit: type=1107",
        "x audit: type=1107 audit(1.1:1): pid=1",
    ] {
        assert!(!says(text), "{text}");
    }
    let record = Record::parse(b"5,1,0,-;audit: type=1107 audit(1.1:1): pid=1 uid=0\n").unwrap();
    assert!(record.injected() && !record.written());
}
