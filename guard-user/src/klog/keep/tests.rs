//! The copy against restarts, torn lines and disks that are full, with a device that is a script.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::*;
use crate::{
    klog::{line::Line, names::KernelSide, reader::script::Script},
    record::{
        audit::boot_id,
        read::{self as log, Entry, Line as Found},
    },
};

/// A directory of a test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("bulkhead-klog-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn settings(&self) -> Settings {
        Settings {
            file: self.0.join("log/kernel.jsonl"),
            ..Settings::default()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Names where nobody tells who prints.
fn nobody() -> Arc<Mutex<Names>> {
    Arc::new(Mutex::new(Names::new(
        KernelSide::default(),
        Default::default(),
    )))
}

fn copy(settings: &Settings, from: Option<Position>) -> Kept {
    Kept::new(
        settings.clone(),
        from,
        Arc::new(Shared {
            file: settings.file.clone(),
            kept: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            rest: Mutex::default(),
        }),
        nobody(),
        Arc::default(),
    )
}

/// A log whose oldest record is `first` and whose newest is `last`.
fn ring(first: u64, last: u64) -> Script {
    Script(
        (first..=last)
            .map(|seq| Ok(format!("6,{seq},1,-;line {seq}\n").into_bytes()))
            .collect(),
        0,
    )
}

/// A daemon's life: it starts, writes all that there is, and is gone.
fn live(settings: &Settings, device: Script) -> Arc<Shared> {
    let mut copy = copy(settings, None);
    let next = copy.open().unwrap();
    let mut reader = Reader::new(device, next);
    while copy.go_on(&mut reader) == Went::More {}
    copy.shared
}

impl Entry for Line {
    fn read(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }
}

/// Number and loss of each line, and how many lines are none.
fn lines(path: &Path) -> (Vec<(u64, Option<u64>)>, usize) {
    let (mut lines, mut bad) = (Vec::new(), 0);
    for mut source in log::open(path).unwrap() {
        while let Some(line) = source.next::<Line>(true).unwrap() {
            match line {
                Found::Entry(line) => lines.push((line.seq, line.lost)),
                Found::Bad(_) => bad += 1,
            }
        }
    }
    (lines, bad)
}

fn records(seqs: impl Iterator<Item = u64>) -> Vec<(u64, Option<u64>)> {
    seqs.map(|seq| (seq, None)).collect()
}

#[test]
fn each_record_is_a_line_that_only_its_owner_may_read() {
    let scratch = Scratch::new("mode");
    let settings = scratch.settings();
    let shared = live(&settings, ring(0, 99));
    assert_eq!(lines(&settings.file), (records(0..100), 0));
    assert_eq!(shared.kept.load(Ordering::Relaxed), 100);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&settings.file), 0o600);
    assert_eq!(mode(settings.file.parent().unwrap()), 0o700);
}

#[test]
fn a_restart_neither_repeats_nor_skips_a_line_and_counts_what_was_overwritten() {
    let scratch = Scratch::new("restart");
    let settings = scratch.settings();
    live(&settings, ring(0, 9));
    live(&settings, ring(0, 9));
    live(&settings, ring(4, 14));
    let shared = live(&settings, ring(20, 21));
    let mut expected = records(0..15);
    expected.push((19, Some(5)));
    expected.extend(records(20..22));
    assert_eq!(lines(&settings.file), (expected, 0));
    assert_eq!(shared.lost.load(Ordering::Relaxed), 5);
    let why = Why::Before;
    shared.rest(|rest| assert_eq!(rest.untold, Some(Losses { count: 5, why })));
    // A loss that is the last line is not told again.
    let mut text = fs::read_to_string(&settings.file).unwrap();
    text.truncate(
        text.find("\"seq\":20")
            .map(|at| text[..at].rfind('\n').unwrap() + 1)
            .unwrap(),
    );
    fs::write(&settings.file, text).unwrap();
    live(&settings, ring(20, 21));
    assert_eq!(lines(&settings.file).0.len(), 18);
}

#[test]
fn a_torn_last_line_is_written_again_whole() {
    let scratch = Scratch::new("torn");
    let settings = scratch.settings();
    live(&settings, ring(0, 9));
    let text = fs::read_to_string(&settings.file).unwrap();
    let last = text[..text.len() - 1].rfind('\n').unwrap() + 1;
    // Torn anywhere: within the line, and just before its end.
    for (at, bad) in [
        (last + 1, 1),
        (last + 40, 1),
        (text.len() - 2, 1),
        (text.len() - 1, 0),
    ] {
        fs::write(&settings.file, &text[..at]).unwrap();
        live(&settings, ring(0, 11));
        assert_eq!(lines(&settings.file), (records(0..12), bad), "torn at {at}");
    }
}

#[test]
fn another_boot_begins_at_its_first_record() {
    let scratch = Scratch::new("boot");
    let settings = scratch.settings();
    live(&settings, ring(0, 9));
    let text = fs::read_to_string(&settings.file).unwrap();
    let boot = boot_id();
    fs::write(&settings.file, text.replace(boot.as_str(), "another")).unwrap();
    live(&settings, ring(2, 3));
    let mut expected = records(0..10);
    expected.push((1, Some(2)));
    expected.extend(records(2..4));
    assert_eq!(lines(&settings.file), (expected, 0));
}

#[test]
fn a_new_file_goes_on_where_the_last_one_ended() {
    let scratch = Scratch::new("moved");
    let settings = scratch.settings();
    let from = live(&settings, ring(0, 9)).rest(|rest| rest.position.clone());
    let moved = Settings {
        file: scratch.0.join("elsewhere.jsonl"),
        ..settings
    };
    let mut copy = copy(&moved, from);
    let mut reader = Reader::new(ring(0, 11), copy.open().unwrap());
    assert_eq!(copy.go_on(&mut reader), Went::End);
    assert_eq!(lines(&moved.file), (records(10..12), 0));
}

#[test]
fn files_are_rotated_and_the_position_is_found_in_the_last_of_them() {
    let scratch = Scratch::new("rotated");
    let settings = Settings {
        rotate_bytes: 1,
        keep: 50,
        ..scratch.settings()
    };
    for last in 0..5 {
        live(&settings, ring(0, last));
    }
    assert_eq!(log::files(&settings.file).len(), 5);
    fs::remove_file(&settings.file).unwrap();
    live(&settings, ring(0, 5));
    // What somebody removed is read once more, as long as the kernel has it.
    assert_eq!(lines(&settings.file), (records(0..6), 0));
}

#[test]
fn what_a_full_disk_does_not_take_waits_and_is_written_once() {
    let scratch = Scratch::new("full");
    let mounted = mount(
        Some("tmpfs"),
        &scratch.0,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    );
    if let Err(error) = mounted {
        eprintln!("skipping: cannot mount a tmpfs: {error}");
        return;
    }
    let settings = scratch.settings();
    let mut copy = copy(&settings, None);
    let mut reader = Reader::new(ring(0, 2000), copy.open().unwrap());
    fs::write(scratch.0.join("filler"), vec![0; 30 << 10]).unwrap();
    while copy.go_on(&mut reader) == Went::More {}
    let trouble = copy.shared.rest(|rest| rest.writing.clone());
    assert!(trouble.unwrap().contains("No space left"));
    let read = reader.next_seq();
    assert_eq!(copy.go_on(&mut reader), Went::Failed);
    assert_eq!(
        reader.next_seq(),
        read,
        "no more is read than can be written"
    );
    fs::remove_file(scratch.0.join("filler")).unwrap();
    mount(
        None::<&str>,
        &scratch.0,
        None::<&str>,
        MsFlags::MS_REMOUNT,
        Some("size=4m"),
    )
    .unwrap();
    while copy.go_on(&mut reader) == Went::More {}
    assert_eq!(copy.shared.rest(|rest| rest.writing.clone()), None);
    assert_eq!(lines(&settings.file), (records(0..2001), 0));
    umount2(&scratch.0, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_device_that_cannot_be_read_is_trouble_until_it_can() {
    let scratch = Scratch::new("device");
    let settings = scratch.settings();
    let mut copy = copy(&settings, None);
    let mut reader = Reader::new(Script(vec![Err(libc::EPERM)], 0), copy.open().unwrap());
    assert_eq!(copy.go_on(&mut reader), Went::Failed);
    let trouble = copy.shared.rest(|rest| rest.reading.clone()).unwrap();
    assert!(trouble.starts_with("cannot read /dev/kmsg: "), "{trouble}");
    assert_eq!(copy.go_on(&mut reader), Went::End);
    assert_eq!(copy.shared.rest(|rest| rest.reading.clone()), None);
}

#[test]
fn the_thread_copies_this_hosts_log_and_goes_on_where_the_last_one_ended() {
    let scratch = Scratch::new("thread");
    let settings = scratch.settings();
    if let Err(error) = Reader::open(0) {
        eprintln!("skipping: cannot open {DEVICE}: {error}");
        return;
    }
    let live = || {
        let mut keeper = Keeper::start(
            settings.clone(),
            Chosen::default(),
            nobody(),
            Arc::default(),
            None,
        )
        .unwrap();
        assert_eq!(keeper.settings(), Some((&settings, &Chosen::default())));
        let until = Instant::now() + Duration::from_secs(30);
        while keeper.position().is_none() && keeper.health().trouble.is_none() {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
        assert!(keeper.stop(Duration::from_secs(30)));
        assert_eq!(keeper.settings(), None);
        assert_eq!(keeper.health().trouble, None);
        keeper.health()
    };
    let first = live();
    let second = live();
    let (lines, bad) = lines(&settings.file);
    assert_eq!(bad, 0);
    assert_eq!(
        first.kept + second.kept + u64::from(first.lost > 0),
        lines.len() as u64
    );
    assert_eq!(second.last_seq, lines.last().map(|(seq, _)| *seq));
    let mut next = 0;
    for (seq, lost) in lines {
        next += lost.unwrap_or(1);
        assert_eq!(seq + 1, next);
    }
}

#[test]
fn a_thread_that_cannot_write_says_so_and_ends_when_it_is_told() {
    let settings = Settings {
        file: "/proc/version/kernel.jsonl".into(),
        ..Settings::default()
    };
    let mut keeper =
        Keeper::start(settings, Chosen::default(), nobody(), Arc::default(), None).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while keeper.health().trouble.is_none() {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(keeper.health().trouble.unwrap().contains("/proc/version"));
    assert!(keeper.stop(Duration::from_secs(30)));
}

#[test]
fn an_alarm_knows_when_its_line_was_said_and_not_only_when_it_was_read() {
    let scratch = Scratch::new("said");
    let shipped = crate::policy::pattern::shipped().unwrap();
    let sample = shipped[0].samples[0].clone();
    let mut copy = copy(&scratch.settings(), None);
    copy.watch_for(shipped.to_vec());
    let before = Utc::now();
    // Said when the host had just come up.
    let device = Script(vec![Ok(format!("4,0,1,-;{sample}\n").into_bytes())], 0);
    let mut reader = Reader::new(device, copy.open().unwrap());
    assert_eq!(copy.go_on(&mut reader), Went::End);
    let up = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let up = chrono::TimeDelta::from_std(Duration::from(up)).unwrap();
    copy.shared.rest(|rest| {
        let off = rest.raised[0].line.as_ref().unwrap().at - (before - up);
        assert!(off.num_seconds().abs() < 10, "{off}");
    });
}

#[test]
fn a_piece_of_a_line_raises_no_shipped_alarm() {
    let scratch = Scratch::new("piece");
    let shipped = crate::policy::pattern::shipped().unwrap();
    let sample = &shipped[0].samples[0];
    for (flag, raises) in [('-', true), ('c', false)] {
        let mut copy = copy(&scratch.settings(), None);
        copy.watch_for(shipped.to_vec());
        let line = format!("4,0,1,{flag};{sample}\n").into_bytes();
        let mut reader = Reader::new(Script(vec![Ok(line)], 0), copy.open().unwrap());
        assert_eq!(copy.go_on(&mut reader), Went::End);
        let raised = copy.shared.rest(|rest| rest.raised.len());
        assert_eq!(raised, usize::from(raises), "{flag}");
        fs::remove_file(&scratch.settings().file).unwrap();
    }
}
