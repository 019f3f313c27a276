//! The writer against disks that are full, files that are gone, and queues that overflow.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::record::read::{self, Line};

const SOON: Duration = Duration::from_secs(30);

/// A directory of a test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn settings(&self) -> Settings {
        Settings {
            file: self.0.join("log/audit.jsonl"),
            ..Settings::default()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A small file system of a test's own; `None`, and said, where this process may not mount one.
struct Small(Scratch);

impl Small {
    fn new(name: &str, size: &str) -> Option<Self> {
        let scratch = Scratch::new(name);
        let options = format!("size={size}");
        match mount(
            Some("tmpfs"),
            &scratch.0,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        ) {
            Ok(()) => Some(Self(scratch)),
            Err(error) => {
                eprintln!("skipping: cannot mount a tmpfs: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0.0, MntFlags::MNT_DETACH);
    }
}

fn record(reason: &str) -> Record {
    Record::new(Kind::Degraded).reason(reason)
}

fn write_and_stop(settings: &Settings, records: impl IntoIterator<Item = Record>) -> Health {
    let writer = Writer::start(settings.clone(), None).unwrap();
    for record in records {
        writer.write(record);
        assert!(writer.flush(SOON));
    }
    assert!(writer.stop(SOON));
    writer.health()
}

/// All records of a log, and how many lines are none.
fn read_all(path: &Path) -> (Vec<Record>, usize) {
    let (mut records, mut bad) = (Vec::new(), 0);
    for mut source in read::open(path).unwrap() {
        while let Some(line) = source.next(true).unwrap() {
            match line {
                Line::Entry(record) => records.push(*record),
                Line::Bad(_) => bad += 1,
            }
        }
    }
    (records, bad)
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

#[test]
fn a_record_is_written_with_time_and_boot_and_only_its_owner_may_read_it() {
    let scratch = Scratch::new("modes");
    let settings = scratch.settings();
    let health = write_and_stop(&settings, [record("one")]);
    assert_eq!((health.written, health.lost, health.trouble), (1, 0, None));
    let (records, bad) = read_all(&settings.file);
    assert_eq!((records.len(), bad), (1, 0));
    assert_eq!(records[0].boot_id, boot_id());
    assert!(records[0].time.is_some());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.file), 0o600);
    assert_eq!(mode(settings.file.parent().unwrap()), 0o700);
}

#[test]
fn numbers_go_on_after_a_restart_and_a_torn_line_stays_alone() {
    let scratch = Scratch::new("restart");
    let settings = scratch.settings();
    write_and_stop(&settings, [record("one"), record("two")]);
    let mut text = fs::read_to_string(&settings.file).unwrap();
    text.push_str("{\"time\":\"2026-");
    fs::write(&settings.file, text).unwrap();
    write_and_stop(&settings, [record("three")]);
    let (records, bad) = read_all(&settings.file);
    assert_eq!((seqs(&records), bad), (vec![1, 2, 3], 1));
}

#[test]
fn numbers_go_on_where_nothing_but_rotated_files_are_left() {
    let scratch = Scratch::new("only-rotated");
    let settings = scratch.settings();
    write_and_stop(&settings, [record("one"), record("two")]);
    fs::rename(&settings.file, settings.file.with_extension("jsonl.1")).unwrap();
    write_and_stop(&settings, [record("three")]);
    assert_eq!(seqs(&read_all(&settings.file).0), [1, 2, 3]);
}

#[test]
fn files_are_rotated_by_size_and_as_many_are_kept_as_were_asked_for() {
    let scratch = Scratch::new("size");
    let settings = Settings {
        rotate_bytes: 400,
        keep: 3,
        ..scratch.settings()
    };
    let long = "x".repeat(100);
    let health = write_and_stop(&settings, (0..40).map(|_| record(&long)));
    assert_eq!((health.written, health.trouble), (40, None));
    let files = read::files(&settings.file);
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        let metadata = fs::metadata(file).unwrap();
        assert!(metadata.len() <= 400);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
    let seqs = seqs(&read_all(&settings.file).0);
    assert_eq!(seqs.last(), Some(&40));
    assert!(
        seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{seqs:?}"
    );
}

#[test]
fn a_file_is_rotated_when_its_first_record_is_old_enough_and_not_before() {
    let scratch = Scratch::new("age");
    let settings = Settings {
        rotate_age: Duration::from_secs(24 * 60 * 60),
        ..scratch.settings()
    };
    let aged = |hours| {
        let mut old = record("old");
        old.time = Some(Utc::now() - chrono::TimeDelta::hours(hours));
        old
    };
    write_and_stop(&settings, [aged(23), record("same day")]);
    assert_eq!(read::files(&settings.file).len(), 1);
    fs::remove_file(&settings.file).unwrap();
    write_and_stop(&settings, [aged(25)]);
    write_and_stop(&settings, [record("next day")]);
    assert_eq!(read::files(&settings.file).len(), 2);
}

#[test]
fn a_full_queue_loses_and_counts_each_record_that_found_no_room() {
    let scratch = Scratch::new("queue");
    let settings = scratch.settings();
    let (writer, thread, messages) = Writer::prepare(settings.clone(), None, 4).unwrap();
    for _ in 0..10 {
        writer.write(record("flood"));
    }
    assert_eq!((writer.health().lost, writer.health().unreported), (6, 6));
    drop(thread::spawn(move || thread.run(&messages)));
    assert!(writer.flush(SOON));
    writer.write(record("after"));
    assert!(writer.stop(SOON));
    let health = writer.health();
    assert_eq!((health.written, health.lost, health.unreported), (5, 6, 0));
    let (records, _) = read_all(&settings.file);
    assert_eq!(seqs(&records), [1, 2, 3, 4, 5]);
    let told: Vec<_> = records.iter().map(|record| record.lost).collect();
    assert_eq!(told, [Some(6), None, None, None, None]);
}

#[test]
fn a_full_disk_loses_counts_and_recovers_with_no_torn_line() {
    let Some(small) = Small::new("full", "32k") else {
        return;
    };
    let settings = small.0.settings();
    let writer = Writer::start(settings.clone(), None).unwrap();
    writer.write(record("before"));
    assert!(writer.flush(SOON));
    let filler = small.0.0.join("filler");
    // What fits is written before the error.
    assert!(fs::write(&filler, [0; 64 << 10]).is_err());
    // Some of these still fit into the page that the file has.
    for _ in 0..40 {
        writer.write(record(&"x".repeat(300)));
    }
    assert!(writer.flush(SOON));
    let health = writer.health();
    assert!(health.lost > 0 && health.written > 1, "{health:?}");
    assert_eq!(health.written + health.lost, 41);
    assert!(
        health
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.contains("No space left")),
        "{health:?}"
    );
    fs::remove_file(&filler).unwrap();
    writer.write(record("after"));
    assert!(writer.stop(SOON));
    let after = writer.health();
    assert_eq!((after.trouble, after.unreported), (None, 0));
    let (records, bad) = read_all(&settings.file);
    assert_eq!(bad, 0);
    assert_eq!(
        records.last().and_then(|record| record.lost),
        Some(health.lost)
    );
    assert_eq!(
        seqs(&records),
        (1..=records.len() as u64).collect::<Vec<_>>()
    );
}

#[test]
fn losses_that_nothing_was_written_after_are_told_when_it_stops() {
    let Some(small) = Small::new("stop", "16k") else {
        return;
    };
    let settings = small.0.settings();
    let filler = small.0.0.join("filler");
    assert!(fs::write(&filler, [0; 64 << 10]).is_err());
    let writer = Writer::start(settings.clone(), None).unwrap();
    writer.write(record("lost"));
    assert!(writer.flush(SOON));
    assert_eq!(writer.health().unreported, 1);
    fs::remove_file(&filler).unwrap();
    assert!(writer.stop(SOON));
    let (records, _) = read_all(&settings.file);
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].kind, records[0].lost), (Kind::Lost, Some(1)));
}

#[test]
fn what_is_no_file_loses_and_says_so_until_it_is_one() {
    let scratch = Scratch::new("not-a-file");
    let settings = scratch.settings();
    fs::create_dir_all(&settings.file).unwrap();
    let writer = Writer::start(settings.clone(), None).unwrap();
    writer.write(record("lost"));
    assert!(writer.flush(SOON));
    assert_eq!(writer.health().lost, 1);
    assert!(writer.health().trouble.is_some());
    fs::remove_dir(&settings.file).unwrap();
    writer.write(record("found"));
    assert!(writer.stop(SOON));
    assert_eq!(read_all(&settings.file).0[0].lost, Some(1));
}

#[test]
fn a_file_that_was_removed_or_moved_is_made_again() {
    let scratch = Scratch::new("moved");
    let settings = scratch.settings();
    let writer = Writer::start(settings.clone(), None).unwrap();
    for at in 0..3 {
        writer.write(record("here"));
        assert!(writer.flush(SOON));
        match at {
            0 => fs::remove_file(&settings.file).unwrap(),
            1 => fs::remove_dir_all(settings.file.parent().unwrap()).unwrap(),
            _ => {}
        }
    }
    assert_eq!(writer.health().lost, 0);
    assert_eq!(seqs(&read_all(&settings.file).0), [3]);
}

#[test]
fn a_rotation_that_fails_loses_nothing_and_is_said() {
    let scratch = Scratch::new("no-rotation");
    let settings = Settings {
        rotate_bytes: 1,
        ..scratch.settings()
    };
    // A directory stands where the file would go.
    fs::create_dir_all(settings.file.with_extension("jsonl.1")).unwrap();
    let health = write_and_stop(&settings, [record("one"), record("two"), record("three")]);
    assert_eq!((health.written, health.lost), (3, 0));
    assert!(
        health
            .trouble
            .is_some_and(|trouble| trouble.contains("cannot rotate")),
    );
    assert_eq!(
        fs::read_to_string(&settings.file).unwrap().lines().count(),
        3
    );
}

#[test]
fn a_writer_that_stopped_loses_and_counts() {
    let scratch = Scratch::new("stopped");
    let writer = Writer::start(scratch.settings(), None).unwrap();
    assert!(writer.stop(SOON));
    writer.write(record("late"));
    assert!(writer.clone().flush(SOON));
    assert_eq!(writer.health().lost, 1);
}

#[test]
fn a_terminal_gets_a_line_of_an_incident_and_none_of_a_container_that_comes_or_goes() {
    struct Terminal(SyncSender<Vec<u8>>);
    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let scratch = Scratch::new("terminal");
    let (bytes, shown) = sync_channel(100);
    let writer = Writer::start(
        scratch.settings(),
        Some(Shown {
            to: Box::new(Terminal(bytes)),
            which: Kind::shown,
        }),
    )
    .unwrap();
    writer.write(Record::new(Kind::ContainerMade).container(b"/docker/abc"));
    writer.write(
        Record::new(Kind::MovedOut)
            .container(b"/docker/abc")
            .reason("\x1b[31m"),
    );
    assert!(writer.stop(SOON));
    drop(writer);
    let text = String::from_utf8(shown.into_iter().flatten().collect()).unwrap();
    assert!(text.ends_with("docker abc; \\x1b[31m\n"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn settings_that_no_file_can_have_are_refused() {
    let settings = Settings::default();
    for wrong in [
        Settings {
            keep: 0,
            ..settings.clone()
        },
        Settings {
            rotate_bytes: 0,
            ..settings.clone()
        },
        Settings {
            rotate_age: Duration::ZERO,
            ..settings.clone()
        },
        Settings {
            file: PathBuf::from("/"),
            ..settings
        },
    ] {
        assert!(Writer::start(wrong, None).is_err());
    }
}
