//! Lines of the kernel log as they are asked for and shown.

use std::fs;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

#[test]
fn all_is_shown_unless_it_is_followed_or_so_many_lines_are_asked_for() {
    let last = |words: &[&str]| {
        let words = [&["kernel-log"], words].concat();
        CommandLine::try_parse_from(words).unwrap().arguments.last()
    };
    assert_eq!(last(&[]), None);
    assert_eq!(last(&["-n", "3"]), Some(3));
    assert_eq!(last(&["-f"]), Some(10));
    assert_eq!(last(&["-f", "--level", "err"]), Some(10));
    assert_eq!(last(&["-f", "-n", "0"]), Some(0));
    assert_eq!(last(&["-f", "--since", "1h"]), None);
    assert_eq!(last(&["-f", "--since", "1h", "--lines", "5"]), Some(5));
}

/// Lines of one boot, as (seq, what else stands there).
fn file(name: &str, lines: &[(u64, &str)]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("bulkhead-{}-{name}", std::process::id()));
    let text: String = lines
        .iter()
        .map(|(seq, rest)| {
            format!(
                "{{\"time\":\"2026-11-25T10:00:{seq:02}Z\",\"boot\":\"b\",\"seq\":{seq},{rest}}}\n"
            )
        })
        .collect();
    fs::write(&path, text).unwrap();
    path
}

fn shown(path: &Path, change: impl FnOnce(&mut Lines)) -> Vec<String> {
    looked(path, None, change).0
}

/// What is shown, of the last lines alone if so many are asked for, and what is said where nothing is.
fn looked(
    path: &Path,
    lines: Option<usize>,
    change: impl FnOnce(&mut Lines),
) -> (Vec<String>, Option<String>) {
    let mut view = Lines::default();
    change(&mut view);
    let mut printer = Printer {
        out: Vec::new(),
        view,
    };
    drop(match lines {
        Some(lines) => last(path, lines, &mut printer).unwrap(),
        None => show(path, true, &mut printer).unwrap(),
    });
    printer.view.rest(&mut printer.out).unwrap();
    let text = String::from_utf8(printer.out).unwrap();
    let shown = text.lines().map(str::to_owned).collect();
    (shown, printer.view.nothing(Path::new("/copy")))
}

fn kern(level: &str, text: &str) -> String {
    format!(r#""facility":"kern","level":"{level}","text":"{text}""#)
}

#[test]
fn a_line_is_time_facility_level_and_text_and_says_who_did_not_print_it() {
    let user = r#""facility":"user","level":"warning","injected":true,"text":"\u001b[2Jforged""#;
    let lost = r#""lost":3,"reason":"overwritten""#;
    let path = file("plain", &[(1, &kern("info", "up")), (2, user), (5, lost)]);
    assert_eq!(
        shown(&path, |_| {}),
        [
            "2026-11-25T10:00:01.000000Z  kern      info     ?               up",
            r"2026-11-25T10:00:02.000000Z  user     *warning  ?               \x1b[2Jforged",
            "2026-11-25T10:00:05.000000Z  LOST 3 lines, overwritten",
        ]
    );
    fs::remove_file(path).unwrap();
}

#[test]
fn pieces_of_a_line_are_put_together_and_only_those() {
    let piece = |text: &str| format!("{},\"fragment\":true", kern("warning", text));
    let path = file(
        "pieces",
        &[
            (1, &kern("err", "a")),
            (2, &piece("b")),
            (3, &piece("c")),
            (4, &kern("info", "d")),
            // One is missing between the two.
            (6, &piece("e")),
            (
                7,
                &format!("{},\"extra\":{{\"caller\":\"T2\"}}", piece("f")),
            ),
        ],
    );
    let texts = |change: fn(&mut Lines)| -> Vec<String> {
        let last = |line: &String| line.rsplit(' ').next().unwrap().to_owned();
        shown(&path, change).iter().map(last).collect()
    };
    assert_eq!(texts(|_| {}), ["abc", "d", "e", "f"]);
    // What another printed is none of its pieces, whatever it was called.
    let path_of_two = file(
        "pieces-of-two",
        &[
            (1, &kern("err", "a")),
            (2, &format!("{},\"container\":\"ab\",\"pid\":7", piece("b"))),
        ],
    );
    assert_eq!(shown(&path_of_two, |_| {}).len(), 2);
    fs::remove_file(path_of_two).unwrap();
    // A piece has the level of its line.
    assert_eq!(texts(|view| view.level = Some(Level::Err)), ["abc"]);
    assert_eq!(shown(&path, |view| view.json = true).len(), 6);
    fs::remove_file(path).unwrap();
}

#[test]
fn a_filter_takes_the_line_at_its_edge_and_never_hides_a_loss() {
    let of = |id: &str| format!("{},\"container\":\"{id}\"", kern("err", "x"));
    let path = file(
        "filter",
        &[
            (1, &kern("debug", "x")),
            (2, &kern("err", "x")),
            (3, &of("abcdef")),
            (
                4,
                &format!(
                    "{},\"about\":{{\"whose\":\"container\",\"container\":\"fedcba\"}}",
                    of("abcdef")
                ),
            ),
            (9, r#""lost":5"#),
        ],
    );
    let count = |change: fn(&mut Lines)| shown(&path, change).len();
    assert_eq!(count(|_| {}), 5);
    assert_eq!(count(|view| view.level = Some(Level::Debug)), 5);
    assert_eq!(count(|view| view.level = Some(Level::Err)), 4);
    assert_eq!(count(|view| view.level = Some(Level::Crit)), 1);
    assert_eq!(count(|view| view.container = Some("abc".into())), 3);
    assert_eq!(count(|view| view.container = Some("bc".into())), 1);
    assert_eq!(count(|view| view.container = Some("fed".into())), 2);
    assert!(shown(&path, |_| {})[3].ends_with("  abcdef          (about fedcba) x"));
    let since = |text: &str| Some(text.parse().unwrap());
    assert_eq!(
        shown(&path, |view| view.since = since("2026-11-25T10:00:03Z")).len(),
        3
    );
    assert_eq!(
        shown(&path, |view| view.since = since("2026-11-25T10:00:10Z")).len(),
        0
    );
    fs::remove_file(path).unwrap();
}

#[test]
fn losses_that_no_shown_line_is_between_are_one() {
    let lost = |count: u64, why: &str| format!(r#""lost":{count},"reason":"{why}""#);
    let path = file(
        "losses",
        &[
            (1, &lost(1, "overwritten")),
            (2, &kern("info", "a")),
            (5, &lost(3, "overwritten")),
            (6, &kern("debug", "b")),
            (8, &lost(2, "overwritten")),
            (9, &lost(4, "before")),
        ],
    );
    let ends = |change: fn(&mut Lines)| -> Vec<String> {
        let end = |line: &String| line.split("  ").last().unwrap().trim().to_owned();
        shown(&path, change).iter().map(end).collect()
    };
    let (one, both) = ("LOST 1 line, overwritten", "LOST 6 lines");
    assert_eq!(
        ends(|_| {}),
        [one, "a", "LOST 3 lines, overwritten", "b", both]
    );
    assert_eq!(
        ends(|view| view.level = Some(Level::Info)),
        [one, "a", "LOST 9 lines"]
    );
    assert_eq!(
        ends(|view| view.level = Some(Level::Err)),
        ["LOST 10 lines"]
    );
    assert_eq!(shown(&path, |view| view.json = true).len(), 6);
    fs::remove_file(path).unwrap();
}

#[test]
fn the_last_lines_are_the_last_of_those_that_are_asked_for_with_all_their_pieces() {
    let piece = format!("{},\"fragment\":true", kern("err", "b"));
    let path = file(
        "last",
        &[
            (1, &kern("err", "x")),
            (2, &kern("err", "a")),
            (3, &piece),
            (4, &kern("debug", "c")),
            (5, &kern("err", "d")),
            (9, r#""lost":4"#),
        ],
    );
    let texts = |lines, change: fn(&mut Lines)| -> Vec<String> {
        let end = |line: &String| line.split("  ").last().unwrap().trim().to_owned();
        looked(&path, Some(lines), change)
            .0
            .iter()
            .map(end)
            .collect()
    };
    assert_eq!(texts(0, |_| {}), Vec::<String>::new());
    assert_eq!(texts(3, |_| {}), ["c", "d", "LOST 4 lines"]);
    let grave: fn(&mut Lines) = |view| view.level = Some(Level::Err);
    assert_eq!(texts(3, grave), ["ab", "d", "LOST 4 lines"]);
    assert_eq!(texts(9, grave), ["x", "ab", "d", "LOST 4 lines"]);
    assert_eq!(looked(&path, Some(2), |view| view.json = true).0.len(), 2);
    fs::remove_file(path).unwrap();
}

#[test]
fn where_another_boot_begins_is_said_between_what_is_shown() {
    let (info, err) = (kern("info", "quiet"), kern("err", "grave"));
    let all = [
        (1, info.as_str()),
        (2, &err),
        (3, &info),
        (4, &err),
        (5, r#""lost":3"#),
        (6, &info),
    ];
    let path = file("boots", &all);
    // The first two are of another boot.
    let text = fs::read_to_string(&path)
        .unwrap()
        .replacen("\"boot\":\"b\"", "\"boot\":\"a\"", 2);
    fs::write(&path, text).unwrap();
    let words = |lines: Vec<String>| -> Vec<String> {
        let last = |line: String| line.rsplit("  ").next().unwrap_or_default().to_owned();
        lines.into_iter().map(last).collect()
    };
    let level = |view: &mut Lines| view.level = Some(Level::Err);
    assert_eq!(
        words(shown(&path, |_| {})),
        [
            "quiet",
            "grave",
            "-- boot b --",
            "quiet",
            "grave",
            "LOST 3 lines",
            "quiet"
        ]
    );
    assert_eq!(
        words(shown(&path, level)),
        ["grave", "-- boot b --", "grave", "LOST 3 lines"]
    );
    fs::remove_file(path).unwrap();
}

#[test]
fn that_nothing_matched_is_said_and_whether_printers_are_named_at_all() {
    let path = file("nothing", &[(1, &kern("err", "x")), (5, r#""lost":3"#)]);
    let said = |change: fn(&mut Lines)| looked(&path, None, change).1;
    assert_eq!(said(|_| {}), None);
    assert_eq!(said(|view| view.level = Some(Level::Err)), None);
    // Lines that are lost are none that matched.
    assert_eq!(
        said(|view| view.level = Some(Level::Crit)).as_deref(),
        Some("no line of level crit or graver is in /copy")
    );
    let of: fn(&mut Lines) = |view| view.container = Some("abc".into());
    assert_eq!(
        said(of).as_deref(),
        Some(
            "no line of container abc is in /copy, and of no line there it is known who printed it: \
             `bulkhead status` has a line DEGRADED if that cannot be told here"
        )
    );
    let named = file(
        "nothing-named",
        &[(1, &format!("{},\"from\":\"kernel\"", kern("err", "x")))],
    );
    assert_eq!(
        looked(&named, None, of).1.as_deref(),
        Some("no line of container abc is in /copy")
    );
    assert_eq!(
        looked(&named, None, |view| {
            of(view);
            view.json = true;
        })
        .1
        .as_deref(),
        Some("no line of container abc is in /copy")
    );
    fs::remove_file(path).unwrap();
    fs::remove_file(named).unwrap();
}

#[test]
fn the_page_on_operating_shows_lines_as_they_are_printed() {
    const PAGE: &str = include_str!("../../../../docs/operating.md");
    for json in [
        r#"{"time":"2026-11-25T10:00:03.1409Z","boot":"b","seq":1,"facility":"kern","level":"err","from":"container",
            "container":"0c2f4b7d91aa17e3","text":"EXT4-fs error (device vda1): ext4_lookup:1855: inode #2: comm ls"}"#,
        r#"{"time":"2026-11-25T10:00:03.871204Z","boot":"b","seq":2,"facility":"kern","level":"info","from":"kernel",
            "about":{"whose":"container","container":"4f1c9d2ab07e6653"},
            "text":"Memory cgroup out of memory: Killed process 48211 (leaky)"}"#,
        r#"{"time":"2026-11-25T10:00:04Z","boot":"b","seq":3,"facility":"user","level":"info","injected":true,"from":"host",
            "comm":"systemd","text":"what a process wrote into /dev/kmsg"}"#,
        r#"{"time":"2026-11-25T10:00:05Z","boot":"b","seq":15,"lost":12,
            "reason":"overwritten in the kernel's buffer before they were read"}"#,
    ] {
        let line = readable(&serde_json::from_str(json).unwrap());
        assert!(PAGE.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn json_is_the_line_as_it_stands_also_what_a_later_version_says() {
    let path = file("json", &[(1, r#""text":"x","beyond":{"later":[1]}"#)]);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(shown(&path, |view| view.json = true), [text.trim_end()]);
    fs::remove_file(path).unwrap();
}
