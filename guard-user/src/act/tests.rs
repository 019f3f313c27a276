//! On this machine's own cgroups, as root. Where that is not possible a test says why it was skipped.

mod journal;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    cgroup::Cgroup,
    freeze::{self, FreezeError, Freezer, Froze},
    journal::{Change, Journal},
    kill::{How, Kill, KillError, Killed, Progress},
    membership::Holds,
    pids::{self, Applied},
    restore::{self, Undone},
};
use crate::{
    decide::{
        seen::Frozen,
        settings::{Max, Next, Setting},
    },
    identity::tree::{Hierarchy, Version, id_of},
};

const BOOT: &str = "f3b0c442-98fc-1c14-9afb-f4c8996fb924";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup for one test, in every hierarchy it needs, and a journal.
struct Fixture {
    hierarchy: Hierarchy,
    path: PathBuf,
    freezer: Option<PathBuf>,
    directory: PathBuf,
    journal: Journal,
    children: Vec<Child>,
}

impl Fixture {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipping: not root");
            return None;
        }
        let hierarchy = match Hierarchy::of_this_host() {
            Ok(hierarchy) => hierarchy,
            Err(error) => {
                eprintln!("skipping: {error}");
                return None;
            }
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-act-test-{}-{number}", std::process::id());
        let path = hierarchy.mount.join(&name);
        if hierarchy.version == Version::V2 {
            let _ = fs::write(hierarchy.mount.join("cgroup.subtree_control"), "+pids");
        }
        if let Err(error) = fs::create_dir(&path) {
            eprintln!("skipping: cannot make {}: {error}", path.display());
            return None;
        }
        let freezer = hierarchy.freezer.as_ref().map(|mount| mount.join(&name));
        if let Some(freezer) = &freezer {
            fs::create_dir(freezer).unwrap();
        }
        let directory = std::env::temp_dir().join(&name);
        let (journal, troubles) = Journal::open(&directory, BOOT).unwrap();
        assert_eq!(troubles, []);
        Some(Self {
            hierarchy,
            path,
            freezer,
            directory,
            journal,
            children: Vec::new(),
        })
    }

    fn cgroup(&self) -> Cgroup {
        let id = id_of(&self.path).unwrap();
        Cgroup::open(&self.hierarchy, id).unwrap().unwrap()
    }

    /// A shell that runs `script` in the cgroup.
    fn run(&mut self, script: &str) -> u32 {
        let mut enter = String::new();
        for directory in [Some(&self.path), self.freezer.as_ref()]
            .into_iter()
            .flatten()
        {
            enter += &format!("echo $$ > {}/cgroup.procs && ", directory.display());
        }
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{enter} {script}"))
            .spawn()
            .unwrap();
        let pid = child.id();
        self.children.push(child);
        wait_for("the child is in the cgroup", || {
            procs(&self.path).contains(&pid)
                && self
                    .freezer
                    .as_ref()
                    .is_none_or(|at| procs(at).contains(&pid))
        });
        pid
    }

    /// A process that is in no container; gives its index.
    fn beside(&mut self) -> usize {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    fn again(&mut self) {
        let (journal, troubles) = Journal::open(&self.directory, BOOT).unwrap();
        assert_eq!(troubles, []);
        self.journal = journal;
    }

    /// Kills to the end; gives how long the longest go took.
    fn kill(&mut self, mut kill: Kill) -> (Killed, Duration) {
        let mut longest = Duration::ZERO;
        loop {
            let start = Instant::now();
            let progress = kill
                .go(&self.hierarchy, &mut self.journal, Duration::from_millis(5))
                .unwrap();
            longest = longest.max(start.elapsed());
            for child in &mut self.children {
                let _ = child.try_wait();
            }
            match progress {
                Progress::Done(killed) => return (killed, longest),
                Progress::Again => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        restore::restore_all(&self.hierarchy, &mut self.journal);
        if let Some(freezer) = &self.freezer {
            let _ = fs::write(freezer.join("freezer.state"), "THAWED");
        } else {
            let _ = fs::write(self.path.join("cgroup.freeze"), "0");
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for directory in [Some(&self.path), self.freezer.as_ref()]
            .into_iter()
            .flatten()
        {
            for _ in 0..100 {
                remove(directory);
                if !directory.exists() {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn remove(directory: &Path) {
    for pid in procs(directory) {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
    }
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn procs(directory: &Path) -> Vec<u32> {
    fs::read_to_string(directory.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not seen: {what}"
        );
        sleep(Duration::from_millis(5));
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(11).unwrap().parse().unwrap()
}

#[test]
fn the_pids_of_a_cgroup_are_read_and_its_cap_is_tightened_once_more_and_then_left() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    test.run("exec sleep 1000");
    let cgroup = test.cgroup();
    let Some(seen) = pids::read(&cgroup).unwrap() else {
        eprintln!("skipping: no pids controller here");
        return;
    };
    assert!(seen.current >= 1 && seen.max == Max::Unlimited, "{seen:?}");
    let mut setting = Setting::default();
    let mut apply = |test: &mut Fixture, ours| {
        let present = pids::read_max(&cgroup).unwrap().unwrap();
        let next = setting.next(present, ours);
        (next, pids::apply(&cgroup, next, &mut test.journal).unwrap())
    };
    assert_eq!(apply(&mut test, Some(64)).1, Applied::Done);
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Number(64)));
    fs::write(test.path.join("pids.max"), "500").unwrap();
    assert_eq!(apply(&mut test, Some(64)).1, Applied::Done);
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Number(64)));
    fs::write(test.path.join("pids.max"), "600").unwrap();
    let present = Max::Number(600);
    assert_eq!(
        apply(&mut test, Some(64)),
        (Next::Contested { present }, Applied::Nothing)
    );
    // Not ours any more: nothing is undone.
    test.again();
    let undone = restore::restore_all(&test.hierarchy, &mut test.journal);
    assert!(
        matches!(undone[0].outcome, Ok(Undone::NotOurs)),
        "{undone:?}"
    );
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(present));
}

#[test]
fn a_cap_is_undone_by_the_next_daemon_and_a_refusal_of_the_controller_is_counted() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let cgroup = test.cgroup();
    if pids::read(&cgroup).unwrap().is_none() {
        eprintln!("skipping: no pids controller here");
        return;
    }
    let next = Setting::default().next(Max::Unlimited, Some(2));
    assert_eq!(
        pids::apply(&cgroup, next, &mut test.journal).unwrap(),
        Applied::Done
    );
    test.run("(sleep 1000 & sleep 1000 & sleep 1000 & wait); sleep 1000");
    wait_for("a refusal", || {
        pids::read(&cgroup).unwrap().unwrap().refused > 0
    });
    test.again();
    let undone = restore::restore_all(&test.hierarchy, &mut test.journal);
    assert!(
        matches!(undone[0].outcome, Ok(Undone::Restored)),
        "{undone:?}"
    );
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Unlimited));
    assert_eq!(test.journal.changes().len(), 0);
}

#[test]
fn a_container_stands_still_while_it_is_frozen_and_the_next_daemon_thaws_it() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let pid = test.run("while :; do :; done");
    let cgroup = test.cgroup();
    let frozen = |test: &mut Fixture| freeze::frozen(&test.hierarchy, &cgroup, &mut test.journal);
    assert_eq!(frozen(&mut test).unwrap(), Frozen::No);
    let froze = freeze::freeze(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    assert!(matches!(froze, Froze::Done | Froze::Pending), "{froze:?}");
    let freezer = Freezer::of(&test.hierarchy, &cgroup).unwrap().unwrap();
    wait_for("it is frozen", || {
        freezer.state().unwrap().unwrap().complete
    });
    let before = ticks(pid);
    sleep(Duration::from_millis(100));
    assert_eq!(ticks(pid), before);
    assert_eq!(frozen(&mut test).unwrap(), Frozen::Ours);
    test.again();
    let undone = restore::restore_all(&test.hierarchy, &mut test.journal);
    assert!(
        matches!(undone[0].outcome, Ok(Undone::Restored)),
        "{undone:?}"
    );
    assert_eq!(frozen(&mut test).unwrap(), Frozen::No);
    wait_for("it runs", || ticks(pid) > before);
}

#[test]
fn what_another_froze_is_neither_frozen_nor_thawed_by_us() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    test.run("exec sleep 1000");
    let cgroup = test.cgroup();
    match &test.freezer {
        Some(freezer) => fs::write(freezer.join("freezer.state"), "FROZEN").unwrap(),
        None => fs::write(test.path.join("cgroup.freeze"), "1").unwrap(),
    }
    let froze = freeze::freeze(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    assert_eq!(froze, Froze::Others);
    let thawed = freeze::thaw(&test.hierarchy, cgroup.id, &mut test.journal).unwrap();
    assert_eq!(thawed, Froze::Nothing);
    let frozen = freeze::frozen(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    assert_eq!(frozen, Frozen::Others);
}

#[test]
fn what_another_thawed_is_struck_off_and_may_be_frozen_by_another_again() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    test.run("exec sleep 1000");
    let cgroup = test.cgroup();
    freeze::freeze(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    match &test.freezer {
        Some(freezer) => fs::write(freezer.join("freezer.state"), "THAWED").unwrap(),
        None => fs::write(test.path.join("cgroup.freeze"), "0").unwrap(),
    }
    let frozen = freeze::frozen(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    assert_eq!((frozen, test.journal.changes().len()), (Frozen::No, 0));
}

#[test]
fn the_root_and_what_holds_this_process_are_never_touched() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let root = id_of(&test.hierarchy.mount).unwrap();
    let root = Cgroup::open(&test.hierarchy, root).unwrap().unwrap();
    let holds = |error| match error {
        FreezeError::Protected { holds, .. } => holds,
        other => panic!("{other}"),
    };
    let refused = freeze::freeze(&test.hierarchy, &root, &mut test.journal);
    assert_eq!(holds(refused.unwrap_err()), Holds::Everything);
    let refused = Kill::begin(&test.hierarchy, root);
    assert!(matches!(
        refused,
        Err(KillError::Protected {
            holds: Holds::Everything,
            ..
        })
    ));
    // A thread's own move would do on v1 only: the process goes, and comes back.
    let home = super::membership::of_process(&test.hierarchy, std::process::id()).unwrap();
    let inner = test.path.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let refused = freeze::freeze(&test.hierarchy, &test.cgroup(), &mut test.journal);
    let killed = Kill::begin_one_by_one(&test.hierarchy, test.cgroup());
    let home = test.hierarchy.mount.join(home.strip_prefix("/").unwrap());
    fs::write(home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    assert_eq!(holds(refused.unwrap_err()), Holds::Us);
    assert!(matches!(
        killed,
        Err(KillError::Protected {
            holds: Holds::Us,
            ..
        })
    ));
}

/// A storm in nested cgroups, with a process beside it that must live.
fn storm(test: &mut Fixture, kill: fn(&Hierarchy, Cgroup) -> Result<Kill, KillError>) -> Killed {
    for nested in ["a", "a/b"] {
        fs::create_dir(test.path.join(nested)).unwrap();
    }
    for _ in 0..3 {
        test.run("while :; do (sleep 5 & sleep 5 & sleep 5); done 2> /dev/null");
    }
    let nested = test.run("while :; do sleep 0.01 & done 2> /dev/null");
    fs::write(test.path.join("a/b/cgroup.procs"), nested.to_string()).unwrap();
    let beside = test.beside();
    sleep(Duration::from_millis(500));
    let kill = kill(&test.hierarchy, test.cgroup()).unwrap();
    let (killed, longest) = test.kill(kill);
    eprintln!("{killed:?}, longest go {longest:?}");
    assert!(!killed.left, "{killed:?}");
    assert_eq!(killed.spared, 0);
    wait_for("all are gone", || {
        ["", "a", "a/b"]
            .iter()
            .all(|below| procs(&test.path.join(below)).is_empty())
    });
    assert!(
        test.children[beside].try_wait().unwrap().is_none(),
        "a stranger was killed"
    );
    assert_eq!(test.journal.changes().len(), 0);
    killed
}

#[test]
fn a_storm_is_killed_to_the_last_process() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let has_kill = test.path.join("cgroup.kill").exists();
    let killed = storm(&mut test, Kill::begin);
    assert_eq!(killed.how == How::CgroupKill, has_kill);
}

#[test]
fn a_storm_is_killed_one_by_one_where_the_kernel_cannot() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let killed = storm(&mut test, Kill::begin_one_by_one);
    assert_eq!(killed.how, How::Frozen);
    assert!(killed.signalled >= 4, "{killed:?}");
}

#[test]
fn a_container_that_we_hold_frozen_dies_as_well() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    test.run("exec sleep 1000");
    let cgroup = test.cgroup();
    freeze::freeze(&test.hierarchy, &cgroup, &mut test.journal).unwrap();
    let kill = Kill::begin_one_by_one(&test.hierarchy, cgroup).unwrap();
    let (killed, _) = test.kill(kill);
    assert!(!killed.left && killed.signalled == 1, "{killed:?}");
}

#[test]
fn a_cgroup_that_has_vanished_is_no_error_and_its_successor_is_not_mistaken_for_it() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let gone = test.cgroup();
    let id = gone.id;
    let change = Change::PidsMax {
        old: Max::Unlimited,
        ours: Max::Number(1),
    };
    test.journal.record(id, change).unwrap();
    for directory in [Some(&test.path), test.freezer.as_ref()]
        .into_iter()
        .flatten()
    {
        fs::remove_dir(directory).unwrap();
        fs::create_dir(directory).unwrap();
    }
    test.run("exec sleep 1000");
    assert!(pids::read(&gone).unwrap().is_none());
    assert!(Cgroup::open(&test.hierarchy, id).unwrap().is_none());
    let froze = freeze::freeze(&test.hierarchy, &gone, &mut test.journal).unwrap();
    assert_eq!(froze, Froze::Absent);
    let kill = Kill::begin(&test.hierarchy, gone).unwrap();
    let (killed, _) = test.kill(kill);
    assert!(killed.signalled == 0 && !killed.left, "{killed:?}");
    assert_eq!(procs(&test.path).len(), 1);
    assert_eq!(
        restore::drop_vanished(&test.hierarchy, &mut test.journal).unwrap(),
        1
    );
    assert_eq!(test.journal.changes().len(), 0);
}

#[test]
fn on_v1_a_freezer_cgroup_that_others_share_is_not_frozen() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    if test.hierarchy.version == Version::V2 {
        eprintln!("skipping: cgroup v2 has one hierarchy");
        return;
    }
    // A host process in the same freezer cgroup, and in no container.
    test.run("exec sleep 1000");
    let beside = test.beside();
    let freezer = test.freezer.clone().unwrap();
    fs::write(
        freezer.join("cgroup.procs"),
        test.children[beside].id().to_string(),
    )
    .unwrap();
    let froze = freeze::freeze(&test.hierarchy, &test.cgroup(), &mut test.journal);
    assert!(
        matches!(froze, Err(FreezeError::NotItsOwn { .. })),
        "{froze:?}"
    );
    // Its processes are in the freezer's root.
    let pid = test.children[0].id();
    let root = test.hierarchy.freezer.clone().unwrap();
    fs::write(root.join("cgroup.procs"), pid.to_string()).unwrap();
    let froze = freeze::freeze(&test.hierarchy, &test.cgroup(), &mut test.journal);
    assert!(
        matches!(froze, Err(FreezeError::NotItsOwn { .. })),
        "{froze:?}"
    );
}

#[test]
fn on_v1_a_freezer_cgroup_of_another_name_is_found_by_its_processes() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let Some(freezer) = test.freezer.clone() else {
        eprintln!("skipping: cgroup v2 has one hierarchy");
        return;
    };
    let pid = test.run("exec sleep 1000");
    let other = freezer.with_extension("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cgroup.procs"), pid.to_string()).unwrap();
    let froze = freeze::freeze(&test.hierarchy, &test.cgroup(), &mut test.journal);
    let state = fs::read_to_string(other.join("freezer.state")).unwrap();
    let thawed = freeze::thaw(&test.hierarchy, test.cgroup().id, &mut test.journal);
    fs::write(freezer.join("cgroup.procs"), pid.to_string()).unwrap();
    fs::remove_dir(&other).unwrap();
    assert!(
        matches!(froze, Ok(Froze::Done | Froze::Pending)),
        "{froze:?}"
    );
    assert!(
        state.trim() != "THAWED" && matches!(thawed, Ok(Froze::Done)),
        "{state} {thawed:?}"
    );
}

#[test]
fn a_process_whose_first_thread_is_dead_is_killed_too() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let ctypes = Command::new("python3")
        .args(["-c", "import ctypes"])
        .output();
    if !ctypes.is_ok_and(|output| output.status.success()) {
        eprintln!("skipping: no python3 with ctypes");
        return;
    }
    let pid = test.run(
        "exec python3 -c 'import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)'",
    );
    wait_for("its first thread is dead", || {
        super::membership::is_dead(pid) && procs(&test.path).contains(&pid)
    });
    let kill = Kill::begin_one_by_one(&test.hierarchy, test.cgroup()).unwrap();
    let (killed, _) = test.kill(kill);
    assert!(!killed.left && killed.signalled == 1, "{killed:?}");
}
