//! A journal that was cut off, that is garbage, of another boot, too long, or cannot be written. No root needed.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use super::{BOOT, NUMBER};
use crate::{
    act::journal::{Change, FILE, Journal, Trouble},
    decide::settings::Max,
};

/// A directory of its own for a journal that needs no cgroup.
fn directory() -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("bulkhead-journal-{}-{number}", std::process::id()))
}

const CAP: Change = Change::PidsMax {
    old: Max::Unlimited,
    ours: Max::Number(10),
};

#[test]
fn a_journal_that_was_cut_off_keeps_what_can_be_read_and_is_set_aside() {
    let at = directory();
    let (mut journal, _) = Journal::open(&at, BOOT).unwrap();
    journal.record(1, CAP).unwrap();
    journal.record(2, Change::Freeze { freezer: 2 }).unwrap();
    drop(journal);
    let mut text = fs::read(at.join(FILE)).unwrap();
    text.truncate(text.len() - 3);
    text.extend(b"\n\xff\xfe garbage\n");
    fs::write(at.join(FILE), &text).unwrap();
    let (journal, troubles) = Journal::open(&at, BOOT).unwrap();
    assert!(
        matches!(&troubles[..], [Trouble::Damaged { lines: 2, aside }] if fs::read(aside).unwrap() == text)
    );
    assert_eq!(journal.changes().collect::<Vec<_>>(), [(1, CAP)]);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn garbage_and_a_journal_of_another_boot_are_said_and_undo_nothing() {
    let at = directory();
    fs::create_dir(&at).unwrap();
    fs::write(at.join(FILE), vec![0xa5; 100_000]).unwrap();
    let (mut journal, troubles) = Journal::open(&at, BOOT).unwrap();
    assert!(
        matches!(troubles[..], [Trouble::Damaged { lines: 1, .. }]),
        "{troubles:?}"
    );
    journal.record(1, CAP).unwrap();
    let (journal, troubles) = Journal::open(&at, "another").unwrap();
    assert_eq!(troubles, [Trouble::OtherBoot { changes: 1 }]);
    assert_eq!(journal.changes().len(), 0);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn a_journal_of_many_changes_stays_small() {
    let at = directory();
    let (mut journal, _) = Journal::open(&at, BOOT).unwrap();
    for round in 0..10_000_u64 {
        journal.record(round % 7, CAP).unwrap();
        journal.forget(round % 7, CAP.kind()).unwrap();
    }
    journal.record(1, CAP).unwrap();
    assert!(fs::metadata(at.join(FILE)).unwrap().len() < 200_000);
    let (journal, troubles) = Journal::open(&at, BOOT).unwrap();
    assert_eq!((troubles, journal.changes().len()), (vec![], 1));
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    if fs::metadata("/dev/full").is_err() {
        eprintln!("skipping: no /dev/full");
        return;
    }
    let at = directory();
    let (mut journal, _) = Journal::open(&at, BOOT).unwrap();
    journal.record(1, CAP).unwrap();
    journal.write_to("/dev/full");
    assert!(journal.record(2, CAP).is_err());
    assert_eq!(journal.changes().collect::<Vec<_>>(), [(1, CAP)]);
    // What is undone is undone all the same, and the file says so as soon as it can be written.
    assert!(journal.forget(1, CAP.kind()).is_err());
    assert_eq!(journal.changes().len(), 0);
    journal.record(3, CAP).unwrap();
    let (journal, troubles) = Journal::open(&at, BOOT).unwrap();
    assert_eq!(troubles, []);
    assert_eq!(journal.changes().collect::<Vec<_>>(), [(3, CAP)]);
    fs::remove_dir_all(at).unwrap();
}
