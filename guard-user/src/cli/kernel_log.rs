//! The host's copy of the kernel log, read: what the kernel said, and what somebody wrote among it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use chrono::SecondsFormat;
use clap::Args;
use guard_user::{
    klog::{
        line::Line,
        names::{By, Origin},
        record::Level,
    },
    record::{Text, read::Entry},
};

use super::log::{Moment, Printer, View, follow, last, none_of, show, wait};

/// Show the host's copy of the kernel log: what the kernel said since it is kept, over restarts and reboots.
///
/// A line is time, facility, level, who printed it, and text; before the text stands which container it is about, if that is
/// another. Who: a container's id, a process of the host, `kernel` for its
/// threads and interrupts, `?` where it cannot be told. `*` before the level: a process wrote it, not the kernel. Lines that the kernel
/// printed in pieces are put together, unless --json is given. LOST says how many lines the kernel had overwritten before
/// they could be read.
///
/// Exit code 0: shown, or nothing matched, which is said; 1: there is no copy, or it cannot be read; 3: only root may read it.
#[derive(Args)]
pub struct Arguments {
    /// Show the last 10 lines, or with --since all since then, and go on with each that is written, over rotations; control-C
    /// ends it.
    #[arg(short, long)]
    follow: bool,
    /// Only the last N of those that are asked for.
    #[arg(short = 'n', long = "lines", value_name = "N")]
    lines: Option<usize>,
    /// Printed in the container whose id begins so, or about it.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Not before: RFC 3339, as 2026-01-31T03:00:00Z, a day (its midnight in UTC), as 2026-01-31, or so long ago, as 90s, 10m,
    /// 1h30m, 2d.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// At least this grave: emerg, alert, crit, err, warning, notice, info, debug.
    #[arg(long)]
    level: Option<Level>,
    /// Print the lines themselves, one JSON object each.
    #[arg(long)]
    json: bool,
    /// The copy, if it is not where the daemon writes it.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Arguments {
    /// How many lines are shown at first; `None`: all that are asked for.
    fn last(&self) -> Option<usize> {
        let followed = self.follow && self.since.is_none();
        self.lines.or(followed.then_some(FOLLOWED))
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = (arguments.file.clone()).unwrap_or_else(super::pins::kernel_log);
    let mut printer = Printer::new(Lines {
        since: arguments.since,
        container: arguments.container.clone(),
        level: arguments.level,
        json: arguments.json,
        ..Lines::default()
    });
    let shown = match arguments.last() {
        Some(lines) => last(&path, lines, &mut printer),
        None => show(&path, true, &mut printer),
    };
    let done = shown.and_then(|source| {
        if arguments.follow {
            follow(&path, source, &mut printer, wait)
        } else {
            Ok(())
        }
    });
    printer.end(
        &path,
        !arguments.follow && arguments.lines != Some(0),
        done,
        "it is kept while the daemon runs (`bulkhead run`), unless its policy says `kernel_log: off`; \
         if the policy names another file, say --file PATH",
    )
}

/// Lines that are shown before the first that is followed, as other programs have it.
const FOLLOWED: usize = 10;

/// A line, and as it stands in the file.
struct Kept {
    line: Line,
    bytes: Vec<u8>,
}

impl Entry for Kept {
    fn read(bytes: &[u8]) -> serde_json::Result<Self> {
        Ok(Self {
            line: serde_json::from_slice(bytes)?,
            bytes: bytes.to_owned(),
        })
    }
}

/// Lines as they are asked for.
#[derive(Default)]
struct Lines {
    since: Option<Moment>,
    container: Option<String>,
    level: Option<Level>,
    json: bool,
    /// A line that the next record may go on with, and what is added to it.
    begun: Option<(Line, String)>,
    /// Losses that no shown line came after: those that follow are told with them.
    lost: Option<Line>,
    /// A line was shown that is no loss.
    matched: bool,
    /// Of some line it is known who printed it.
    named: bool,
}

impl View for Lines {
    type Entry = Kept;

    fn asks_for(&mut self, kept: &Kept) -> bool {
        self.named |= kept
            .line
            .by
            .from
            .is_some_and(|from| from != Origin::Unknown);
        // A piece is asked for with the line that it is of.
        !self.json || self.accepts(&kept.line)
    }

    fn print(&mut self, kept: &Kept, out: &mut impl Write) -> io::Result<()> {
        if self.json {
            self.matched |= kept.line.lost.is_none();
            return out.write_all(&kept.bytes);
        }
        let line = &kept.line;
        if let Some((begun, more)) = &mut self.begun
            && goes_on(begun, line)
        {
            more.push_str(line.text.as_ref().map_or("", |text| text.as_str()));
            begun.seq = line.seq;
            return Ok(());
        }
        self.end_line(out)?;
        self.begun = Some((line.clone(), String::new()));
        Ok(())
    }

    fn rest(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.end_line(out)?;
        self.end_losses(out)
    }

    fn nothing(&self, path: &Path) -> Option<String> {
        let mut asked = Vec::new();
        asked.extend(self.container.iter().map(|id| format!("of container {id}")));
        asked.extend((self.level).map(|level| format!("of level {} or graver", level.name())));
        asked.extend(self.since.map(|since| format!("since {since}")));
        if self.matched || asked.is_empty() {
            return None;
        }
        let unnamed = if self.container.is_some() && !self.named {
            ", and of no line there it is known who printed it: `bulkhead status` has a line DEGRADED if that cannot be told here"
        } else {
            ""
        };
        Some(format!("{}{unnamed}", none_of("line", &asked, path)))
    }
}

impl Lines {
    /// Shows the line that was begun: no piece of it comes any more.
    fn end_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some((line, more)) = self.begun.take() else {
            return Ok(());
        };
        if !self.accepts(&line) {
            return Ok(());
        }
        if line.lost.is_some() {
            self.lost = Some(match self.lost.take() {
                Some(lost) => both(&lost, line),
                None => line,
            });
            return Ok(());
        }
        self.end_losses(out)?;
        self.matched = true;
        out.write_all(format!("{}{more}\n", readable(&line)).as_bytes())
    }

    fn end_losses(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.lost.take() {
            Some(lost) => out.write_all(format!("{}\n", readable(&lost)).as_bytes()),
            None => Ok(()),
        }
    }

    /// That lines are missing is said whatever is asked for: what is asked for may be among them.
    fn accepts(&self, line: &Line) -> bool {
        let lost = line.lost.is_some();
        (self.since).is_none_or(|since| line.time.is_some_and(|time| time >= since.0))
            && (self.level)
                .is_none_or(|least| lost || line.level.is_some_and(|level| level <= least))
            && (self.container.as_ref()).is_none_or(|prefix| {
                let mut ids = line.by.container.iter().chain(about(&line.by));
                lost || ids.any(|id| id.as_str().starts_with(prefix.as_str()))
            })
    }
}

/// Two losses that nothing is shown between, as one; with the reason, if it is that of both.
fn both(lost: &Line, next: Line) -> Line {
    let count = [lost.lost, next.lost].into_iter().flatten();
    Line {
        lost: Some(count.fold(0, u64::saturating_add)),
        reason: next
            .reason
            .filter(|reason| lost.reason.as_ref() == Some(reason)),
        ..next
    }
}

/// Whether a record is the next piece of a line: of the same boot and, where the kernel says so, the same caller.
fn goes_on(line: &Line, next: &Line) -> bool {
    next.fragment
        && line.lost.is_none()
        && line.boot == next.boot
        && Some(next.seq) == line.seq.checked_add(1)
        && line.facility == next.facility
        && line.extra.get("caller") == next.extra.get("caller")
}

/// One line for a terminal, without its end. No byte of what was logged is more than text: see
/// [`guard_user::record::Text`].
fn readable(line: &Line) -> String {
    let time = line.time.map_or_else(String::new, |time| {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    });
    if let Some(lost) = line.lost {
        let reason =
            (line.reason.as_ref()).map_or_else(String::new, |reason| format!(", {reason}"));
        let lines = if lost == 1 { "line" } else { "lines" };
        return format!("{time:<27}  LOST {lost} {lines}{reason}");
    }
    let facility = line.facility.as_ref().map_or("?", |name| name.as_str());
    let level = line.level.map_or("?", Level::name);
    let mark = if line.injected { '*' } else { ' ' };
    let by = printer(&line.by);
    let text = line.text.as_ref().map_or("", |text| text.as_str());
    let about = about(&line.by)
        .filter(|id| line.by.container.as_ref() != Some(*id))
        .map_or_else(String::new, |id| format!("(about {}) ", short(id)));
    format!("{time:<27}  {facility:<8} {mark}{level:<7}  {by:<14}  {about}{text}")
}

/// The container that a line is about.
fn about(by: &By) -> Option<&Text> {
    by.about.as_ref()?.container.as_ref()
}

fn short(id: &Text) -> String {
    id.as_str().chars().take(12).collect()
}

/// Who printed a line: a container's id, else in a word.
fn printer(by: &By) -> String {
    match (&by.container, by.from) {
        (Some(id), _) => short(id),
        (None, Some(Origin::Kernel)) => "kernel".to_owned(),
        (None, Some(Origin::Host)) => {
            (by.comm.as_ref()).map_or("host".to_owned(), |comm| comm.as_str().to_owned())
        }
        (None, Some(Origin::Container | Origin::Unknown) | None) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
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
        let user =
            r#""facility":"user","level":"warning","injected":true,"text":"\u001b[2Jforged""#;
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
        const PAGE: &str = include_str!("../../../docs/operating.md");
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
}
