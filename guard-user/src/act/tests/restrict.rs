//! A switch that is a plain file here, so that this machine's own is left alone.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use super::{BOOT, NUMBER};
use crate::{
    act::{
        journal::Journal,
        pids::Applied,
        restrict::{apply, restore, thrown},
    },
    decide::restrict::{Restrict, Step},
};

fn switch(text: &str) -> (PathBuf, PathBuf, Journal) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let at = std::env::temp_dir().join(format!("bulkhead-switch-{}-{number}", std::process::id()));
    let (journal, _) = Journal::open(&at, BOOT).unwrap();
    let file = at.join("dmesg_restrict");
    fs::write(&file, text).unwrap();
    (at, file, journal)
}

#[test]
fn what_a_daemon_set_before_it_was_killed_goes_back() {
    let (at, file, mut journal) = switch("0\n");
    let step = Restrict::default().next(thrown(&file).unwrap(), journal.is_restricted(), true);
    assert_eq!(apply(&file, step, &mut journal).unwrap(), Applied::Done);
    assert!(thrown(&file).unwrap());
    drop(journal);
    let (mut journal, _) = Journal::open(&at, BOOT).unwrap();
    assert!(journal.is_restricted());
    assert_eq!(restore(&file, &mut journal).unwrap(), Applied::Done);
    assert!(!thrown(&file).unwrap() && !journal.is_restricted());
    assert_eq!(restore(&file, &mut journal).unwrap(), Applied::Nothing);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_others_set_stays() {
    let (at, file, mut journal) = switch("1\n");
    let step = Restrict::default().next(thrown(&file).unwrap(), journal.is_restricted(), true);
    assert_eq!(step, Step::Leave);
    assert_eq!(apply(&file, step, &mut journal).unwrap(), Applied::Nothing);
    assert_eq!(restore(&file, &mut journal).unwrap(), Applied::Nothing);
    assert!(thrown(&file).unwrap());
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_cannot_be_written_leaves_nothing_to_undo() {
    let (at, file, mut journal) = switch("0\n");
    let missing = file.with_file_name("missing/dmesg_restrict");
    assert!(apply(&missing, Step::Throw { again: false }, &mut journal).is_err());
    assert!(!journal.is_restricted());
    fs::remove_dir_all(at).unwrap();
}
