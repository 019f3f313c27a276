//! Killing a storm: all of it, and nothing else.

use std::{fs, process::Command, thread::sleep, time::Duration};

use super::{Fixture, procs, wait_for};
use crate::{
    act::{
        cgroup::Cgroup,
        freeze::{self, Froze},
        journal::Change,
        kill::{How, Kill, KillError, Killed},
        membership, pids, restore,
    },
    decide::settings::Max,
    identity::tree::Hierarchy,
};

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
fn no_name_of_a_cgroup_saves_it() {
    let Some(mut test) = Fixture::named(" (deleted)") else {
        return;
    };
    test.run("exec sleep 1000");
    let kill = Kill::begin_one_by_one(&test.hierarchy, test.cgroup()).unwrap();
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
        membership::is_dead(pid) && procs(&test.path).contains(&pid)
    });
    let kill = Kill::begin_one_by_one(&test.hierarchy, test.cgroup()).unwrap();
    let (killed, _) = test.kill(kill);
    assert!(!killed.left && killed.signalled == 1, "{killed:?}");
}
