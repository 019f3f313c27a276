//! The host's copy of the kernel log, read: what the kernel said, and what somebody wrote among it.

use std::{
    io::{self, Write},
    path::PathBuf,
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

use super::log::{Moment, Printer, View, follow, show, wait};

/// Show the host's copy of the kernel log: what the kernel said since it is kept, over restarts and reboots.
///
/// A line is time, facility, level, who printed it, and text; before the text stands which container it is about, if that is
/// another. Who: a container's id, a process of the host, `kernel` for its
/// threads and interrupts, `?` where it cannot be told. `*` before the level: a process wrote it, not the kernel. Lines that the kernel
/// printed in pieces are put together, unless --json is given. LOST says how many lines the kernel had overwritten before
/// they could be read.
///
/// Exit code 0: shown; 1: there is no copy, or it cannot be read.
#[derive(Args)]
pub struct Arguments {
    /// Go on with each line that is written, over rotations; control-C ends it.
    #[arg(short, long)]
    follow: bool,
    /// Printed in the container whose id begins so, or about it.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Not before: RFC 3339, as 2026-01-31T03:00:00Z, or so long ago, as 90s, 10m, 3h, 2d.
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

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = (arguments.file.clone()).unwrap_or_else(super::pins::kernel_log);
    let mut printer = Printer::new(Lines {
        since: arguments.since,
        container: arguments.container.clone(),
        level: arguments.level,
        json: arguments.json,
        begun: None,
    });
    let done = show(&path, !arguments.follow, &mut printer).and_then(|source| {
        if arguments.follow {
            follow(&path, source, &mut printer, wait)
        } else {
            Ok(())
        }
    });
    printer.end(
        done,
        "it is kept while the daemon runs (`bulkhead run`), unless its policy says `kernel_log: off`; \
         if the policy names another file, say --file PATH",
    )
}

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
struct Lines {
    since: Option<Moment>,
    container: Option<String>,
    level: Option<Level>,
    json: bool,
    /// A line that the next record may go on with, and what is added to it.
    begun: Option<(Line, String)>,
}

impl View for Lines {
    type Entry = Kept;

    fn asks_for(&self, kept: &Kept) -> bool {
        // A piece is asked for with the line that it is of.
        !self.json || self.accepts(&kept.line)
    }

    fn print(&mut self, kept: &Kept, out: &mut impl Write) -> io::Result<()> {
        if self.json {
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
        self.rest(out)?;
        self.begun = Some((line.clone(), String::new()));
        Ok(())
    }

    fn rest(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.begun.take() {
            Some((line, more)) if self.accepts(&line) => {
                writeln!(out, "{}{more}", readable(&line))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Lines {
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
        let reason = line.reason.as_ref().map_or("", |reason| reason.as_str());
        return format!("{time:<27}  LOST {lost} lines, {reason}");
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
    use std::{fs, path::Path};

    use super::*;

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
        let mut view = Lines {
            since: None,
            container: None,
            level: None,
            json: false,
            begun: None,
        };
        change(&mut view);
        let mut printer = Printer {
            out: Vec::new(),
            view,
        };
        drop(show(path, true, &mut printer).unwrap());
        printer.view.rest(&mut printer.out).unwrap();
        let text = String::from_utf8(printer.out).unwrap();
        text.lines().map(str::to_owned).collect()
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
    fn json_is_the_line_as_it_stands_also_what_a_later_version_says() {
        let path = file("json", &[(1, r#""text":"x","beyond":{"later":[1]}"#)]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(shown(&path, |view| view.json = true), [text.trim_end()]);
        fs::remove_file(path).unwrap();
    }
}
