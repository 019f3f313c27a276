//! A log, shown: all of it, its last entries, or each as it is written, over rotations.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write},
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use guard_user::record::read::{self, Entry, Line, ReadError, Source};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::host;

/// How often a followed file is looked at.
const LOOK: u16 = 200;

/// Which entries of a log are shown, and how.
pub trait View {
    /// What its lines are.
    type Entry: Entry;

    /// Whether this one is shown.
    fn asks_for(&mut self, entry: &Self::Entry) -> bool;

    /// Shows one, or what it goes on from: each thing that is shown is one write, for those who count them.
    fn print(&mut self, entry: &Self::Entry, out: &mut impl Write) -> io::Result<()>;

    /// Shows what it kept back for the next one: for now there is none.
    fn rest(&mut self, _out: &mut impl Write) -> io::Result<()> {
        Ok(())
    }

    /// Something was asked for, and none of `path` is that: says so. `None`: something was shown, or nothing asked for.
    fn nothing(&self, path: &Path) -> Option<String>;
}

/// A view and where it is printed.
pub struct Printer<W, V> {
    pub out: W,
    pub view: V,
}

impl<V: View> Printer<BufWriter<StdoutLock<'static>>, V> {
    /// To standard output.
    pub fn new(view: V) -> Self {
        Self {
            out: BufWriter::new(io::stdout().lock()),
            view,
        }
    }
}

impl<W: Write, V: View> Printer<W, V> {
    /// What came of it, for the shell. `none` says what to do where there is no log. `all`: all that there is was looked at,
    /// and nothing more is waited for.
    pub fn end(mut self, path: &Path, all: bool, done: Result<()>, none: &str) -> Result<ExitCode> {
        let done = done
            .and_then(|()| Ok(self.view.rest(&mut self.out)?))
            .and_then(|()| self.out.flush().context("cannot print"));
        match done {
            Ok(()) => {
                if let Some(words) = self.view.nothing(path).filter(|_| all) {
                    say(&format!("nothing matched: {words}"));
                }
                Ok(ExitCode::SUCCESS)
            }
            // Whoever read it has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            Err(error) if !host::is_root() && error.is::<ReadError>() => {
                say(&format!("{error:#}: this log is root's: run it with sudo"));
                Ok(ExitCode::from(3))
            }
            Err(error) => match error.downcast_ref::<ReadError>() {
                Some(ReadError::None { .. }) => {
                    say(&format!("{error}: {none}"));
                    Ok(ExitCode::from(1))
                }
                _ => Err(error),
            },
        }
    }
}

/// The entry of a line, if it is asked for; of a line that is none, a word on standard error.
fn asked_for<V: View>(view: &mut V, line: Line<V::Entry>) -> Option<Box<V::Entry>> {
    match line {
        Line::Entry(entry) => view.asks_for(&entry).then_some(entry),
        Line::Bad(bad) => {
            say(&format!(
                "{} at byte {}: {}; passed over",
                bad.file.display(),
                bad.offset,
                bad.reason
            ));
            None
        }
    }
}

/// What was asked for, in words: no line of these is there.
pub fn none_of(what: &str, asked: &[String], path: &Path) -> String {
    format!("no {what} {} is in {}", asked.join(" and "), path.display())
}

/// A time on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub DateTime<Utc>);

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text} is not a time: say 2026-01-31T03:00:00Z, 2026-01-31, or how long ago: 90s, 10m, 1h30m, 2d"
            )
        };
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Ok(Self(day.and_time(NaiveTime::MIN).and_utc()));
        }
        ago(text)
            .and_then(|ago| Utc::now().checked_sub_signed(ago))
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// `90s`, and sums as `1h30m`: the larger unit first, each once, so that `1m30` or `5m5m` is no slip that passes.
fn ago(text: &str) -> Option<TimeDelta> {
    const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
    let (mut rest, mut sum, mut last) = (text, TimeDelta::zero(), i64::MAX);
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let unit = rest[end..].chars().next()?;
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let number: i64 = rest[..end].parse().ok()?;
        let part = TimeDelta::try_seconds(number.checked_mul(seconds)?)?;
        sum = sum.checked_add(&part)?;
        if seconds >= last {
            return None;
        }
        (last, rest) = (seconds, &rest[end + unit.len_utf8()..]);
    }
    (!text.is_empty()).then_some(sum)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A line beside the entries; where standard error is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "bulkhead: {line}");
}

/// All entries that are asked for, the oldest first, and the file that the next one goes to, read to its end. `torn`: a line
/// there that has no end is said.
pub fn show(
    path: &Path,
    torn: bool,
    printer: &mut Printer<impl Write, impl View>,
) -> Result<Source> {
    let mut newest = None;
    let mut sources = read::open(path)?;
    while let Some(mut source) = sources.pop_front() {
        let torn = torn || !sources.is_empty();
        drain(&mut source, torn, &mut printer.view, &mut printer.out)?;
        newest = Some(source);
    }
    newest.with_context(|| format!("cannot read {}", path.display()))
}

/// The last entries, and the file that the next one goes to, read to its end.
pub fn last(
    path: &Path,
    lines: usize,
    printer: &mut Printer<impl Write, impl View>,
) -> Result<Source> {
    let mut sources = read::open(path)?;
    let (mut found, mut newest) = (VecDeque::new(), None);
    // The newest file first: the older are read only if it has too few.
    while let Some(mut source) = sources.pop_back() {
        let mut here = Last {
            most: lines - found.len(),
            shown: VecDeque::new(),
        };
        // The line without an end in the newest file may be one that is being written.
        let torn = newest.is_some();
        drain(&mut source, torn, &mut printer.view, &mut here)?;
        printer.view.rest(&mut here)?;
        here.shown.append(&mut found);
        found = here.shown;
        newest.get_or_insert(source);
        if found.len() >= lines {
            break;
        }
    }
    for shown in &found {
        printer.out.write_all(shown)?;
    }
    newest.with_context(|| format!("cannot read {}", path.display()))
}

/// The last of what is shown: a view writes each at once.
struct Last {
    most: usize,
    shown: VecDeque<Vec<u8>>,
}

impl Write for Last {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shown.push_back(bytes.to_vec());
        if self.shown.len() > self.most {
            self.shown.pop_front();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written behind the end of `source`, while `wait` says so.
pub fn follow(
    path: &Path,
    mut source: Source,
    printer: &mut Printer<impl Write, impl View>,
    mut wait: impl FnMut() -> Result<bool>,
) -> Result<()> {
    loop {
        printer.view.rest(&mut printer.out)?;
        printer.out.flush()?;
        if !wait()? {
            return Ok(());
        }
        source
            .catch_up()
            .with_context(|| format!("cannot follow {}", path.display()))?;
        // Asked before the reading: what is written between the two is in the old file, and read.
        let moved = !source.is(path);
        drain(&mut source, moved, &mut printer.view, &mut printer.out)?;
        if !moved {
            continue;
        }
        // Those that were written after ours, the one that is written to last.
        let files = read::files(path);
        let ours = files.iter().position(|file| source.is(file));
        if ours.is_none() && files.len() > 1 {
            say(
                "the file was rotated away before it was read to its end; some lines may be missing here",
            );
        }
        let next = ours.map_or(files.len() - 1, |at| at + 1);
        for file in files.iter().skip(next) {
            match Source::open(file) {
                Ok(newer) => source = newer,
                // Just being rotated: the next look finds it.
                Err(ReadError::None { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            drain(
                &mut source,
                file != path,
                &mut printer.view,
                &mut printer.out,
            )?;
        }
    }
}

fn drain(
    source: &mut Source,
    torn: bool,
    view: &mut impl View,
    out: &mut impl Write,
) -> Result<()> {
    while let Some(line) = source.next(torn)? {
        if let Some(entry) = asked_for(view, line) {
            view.print(&entry, out)?;
        }
    }
    Ok(())
}

/// Waits a moment; false if nobody reads what is printed any more.
pub fn wait() -> Result<bool> {
    let out = io::stdout();
    if out.is_terminal() {
        std::thread::sleep(Duration::from_millis(LOOK.into()));
        return Ok(true);
    }
    // No event is asked for: a pipe without a reader is told all the same.
    let mut watched = [PollFd::new(out.as_fd(), PollFlags::empty())];
    match poll(&mut watched, PollTimeout::from(LOOK)) {
        Ok(0) | Err(nix::Error::EINTR) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error).context("cannot wait"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_so_long_ago() {
        let moment: Moment = "2026-01-31T04:00:00+01:00".parse().unwrap();
        assert_eq!(moment.0.to_rfc3339(), "2026-01-31T03:00:00+00:00");
        let moment: Moment = "10m".parse().unwrap();
        let ago = (Utc::now() - moment.0).num_seconds();
        assert!((600..=601).contains(&ago), "{ago}");
        let moment: Moment = "1h30m".parse().unwrap();
        let ago = (Utc::now() - moment.0).num_seconds();
        assert!((5400..=5401).contains(&ago), "{ago}");
        let moment: Moment = "2026-01-31".parse().unwrap();
        assert_eq!(moment.0.to_rfc3339(), "2026-01-31T00:00:00+00:00");
        for wrong in [
            "1h30",
            "30m1h",
            "5m5m",
            "1h 30m",
            "2026-02-30",
            "2026-01-31T03:00",
            "",
            "10",
            "m",
            "-5m",
            "ten minutes",
            "5w",
            "99999999999999d",
            "99999999999999999999s",
            "5µ",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
