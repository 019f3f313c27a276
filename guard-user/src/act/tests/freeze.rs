//! The freezer: ours, others', and what it must never hold.

use std::{fs, thread::sleep, time::Duration};

use super::{Fixture, wait_for};
use crate::{
    act::{
        cgroup::Cgroup,
        freeze::{self, FreezeError, Freezer, Froze},
        kill::{Kill, KillError},
        membership::{self, Holds},
        restore::{self, Undone},
    },
    decide::seen::Frozen,
    identity::tree::{Version, id_of},
};

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(11).unwrap().parse().unwrap()
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
    let home = membership::of_process(&test.hierarchy, std::process::id()).unwrap();
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
