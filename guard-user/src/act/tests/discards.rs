//! Queues that are plain files here.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use guard_common::thin::number;

use super::{BOOT, NUMBER};
use crate::act::{
    discards::{is_gone, most, restore, switch_off},
    journal::Journal,
    pids::Applied,
};

fn queue(text: &str) -> (PathBuf, PathBuf, Journal) {
    let count = NUMBER.fetch_add(1, Ordering::Relaxed);
    let at = std::env::temp_dir().join(format!("bulkhead-queue-{}-{count}", std::process::id()));
    let (journal, _) = Journal::open(&at, BOOT).unwrap();
    let queue = at.join("dev/block/253:3/queue");
    fs::create_dir_all(&queue).unwrap();
    let file = queue.join("discard_max_bytes");
    fs::write(&file, text).unwrap();
    (at, file, journal)
}

#[test]
fn what_was_switched_off_goes_back_to_what_it_was_also_after_a_kill() {
    let device = number(253, 3);
    let (at, file, mut journal) = queue("134217728\n");
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Nothing);
    assert_eq!(most(&at, device).unwrap(), Some(0));
    drop(journal);
    let (mut journal, _) = Journal::open(&at, BOOT).unwrap();
    // A table that is replaced brings a limit of its own.
    fs::write(&file, "65536\n").unwrap();
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
    assert_eq!(restore(&at, device, &mut journal).unwrap(), Applied::Done);
    assert_eq!(most(&at, device).unwrap(), Some(65536));
    assert_eq!(restore(&at, device, &mut journal).unwrap(), Applied::Nothing);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_others_switched_on_again_stays_on_and_what_is_gone_is_forgotten() {
    let device = number(253, 3);
    let (at, file, mut journal) = queue("4096");
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
    fs::write(&file, "512").unwrap();
    assert_eq!(restore(&at, device, &mut journal).unwrap(), Applied::Moved);
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
    fs::remove_file(&file).unwrap();
    assert_eq!(restore(&at, device, &mut journal).unwrap(), Applied::Absent);
    assert_eq!(journal.changes().len(), 0);
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Absent);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_sysfs_does_not_list_is_not_forgotten() {
    let device = number(253, 3);
    let (at, file, mut journal) = queue("4096");
    assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
    fs::rename(at.join("dev/block"), at.join("away")).unwrap();
    for empty in [false, true] {
        if empty {
            fs::create_dir_all(at.join("dev/block")).unwrap();
        }
        assert!(!is_gone(&at, device));
        assert!(restore(&at, device, &mut journal).is_err());
        assert_eq!(journal.changes().len(), 1);
    }
    fs::rename(at.join("away"), at.join("dev/block")).unwrap();
    assert_eq!(restore(&at, device, &mut journal).unwrap(), Applied::Done);
    assert_eq!(fs::read_to_string(&file).unwrap(), "4096");
    fs::rename(at.join("dev/block/253:3"), at.join("dev/block/253:4")).unwrap();
    assert!(is_gone(&at, device));
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn what_cannot_be_understood_is_left_alone() {
    let device = number(253, 3);
    let (at, file, mut journal) = queue("many");
    assert!(switch_off(&at, device, &mut journal).is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), "many");
    assert_eq!(journal.changes().len(), 0);
    fs::remove_dir_all(at).unwrap();
}

#[test]
fn another_device_with_the_number_is_left_alone() {
    let device = number(253, 3);
    let (at, file, mut journal) = queue("4096");
    let disk = at.join("dev/block/253:3/diskseq");
    for (now, applied, value) in [("7\n", Applied::Done, "4096"), ("8\n", Applied::Absent, "0")] {
        fs::write(&file, "4096").unwrap();
        fs::write(&disk, "7\n").unwrap();
        assert_eq!(switch_off(&at, device, &mut journal).unwrap(), Applied::Done);
        fs::write(&disk, now).unwrap();
        assert_eq!(restore(&at, device, &mut journal).unwrap(), applied);
        assert_eq!(fs::read_to_string(&file).unwrap(), value);
        assert_eq!(journal.changes().len(), 0);
    }
    fs::remove_dir_all(at).unwrap();
}
