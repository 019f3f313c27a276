//! The cap that is written into `pids.max`: tightened, contested, undone.

use std::fs;

use super::{Fixture, wait_for};
use crate::{
    act::{
        pids::{self, Applied},
        restore::{self, Undone},
    },
    decide::settings::{Max, Next, Setting},
};

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
        let wrote = test.journal.pids_max(cgroup.id);
        let next = setting.next(present, wrote, ours);
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
    // Not ours any more: nothing is undone, also when it becomes what ours was.
    fs::write(test.path.join("pids.max"), "64").unwrap();
    assert_eq!(apply(&mut test, Some(64)).1, Applied::Nothing);
    test.again();
    let undone = restore::restore_all(&test.hierarchy, &mut test.journal);
    assert!(undone.is_empty(), "{undone:?}");
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Number(64)));
}

#[test]
fn a_cap_that_cannot_be_written_down_is_not_written_and_is_tried_again() {
    let Some(mut test) = Fixture::new() else {
        return;
    };
    let cgroup = test.cgroup();
    if pids::read(&cgroup).unwrap().is_none() || fs::metadata("/dev/full").is_err() {
        eprintln!("skipping: no pids controller or no /dev/full here");
        return;
    }
    let mut setting = Setting::default();
    let mut decide = |test: &Fixture| {
        let present = pids::read_max(&cgroup).unwrap().unwrap();
        setting.next(present, test.journal.pids_max(cgroup.id), Some(64))
    };
    let first = Next::Write {
        value: Max::Number(64),
        old: Max::Unlimited,
        again: false,
    };
    test.journal.write_to("/dev/full");
    for _ in 0..3 {
        assert_eq!(decide(&test), first);
        assert!(pids::apply(&cgroup, first, &mut test.journal).is_err());
        assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Unlimited));
    }
    test.again();
    assert_eq!(decide(&test), first);
    assert_eq!(
        pids::apply(&cgroup, first, &mut test.journal).unwrap(),
        Applied::Done
    );
    // Set back while nothing can be written down, it is ours no more either.
    test.journal.write_to("/dev/full");
    assert!(pids::restore(&cgroup, &mut test.journal).is_err());
    assert_eq!(pids::read_max(&cgroup).unwrap(), Some(Max::Unlimited));
    assert_eq!(decide(&test), first);
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
    let next = Setting::default().next(Max::Unlimited, None, Some(2));
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
