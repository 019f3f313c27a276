//! The audit log, read: what was refused, done and changed on this host, by whom, and why.

use std::{
    collections::VecDeque,
    io::{self, BufWriter, ErrorKind, IsTerminal, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand, ValueEnum};
use guard_user::record::{
    Kind, Record, Severity, audit,
    read::{self, Filter, Line, ReadError, Source},
    readable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::host;

/// How often a followed file is looked at.
const LOOK: u16 = 200;

/// Show the audit log: what was refused, done and changed on this host, by whom, and why.
///
/// Exit code 0: shown; 1: there is no audit log, or it cannot be read; 3: only root may read it.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    how: How,
}

#[derive(Subcommand)]
enum How {
    /// Show all records that are asked for, those in rotated files too, the oldest first.
    Show {
        /// Only the last N.
        #[arg(short = 'n', long = "lines", value_name = "N")]
        lines: Option<usize>,
        #[command(flatten)]
        which: Which,
    },
    /// Show the last records, and with -f each one that is written from now on.
    Tail {
        /// As many as this.
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
        lines: usize,
        /// Go on with each record that is written, over rotations; control-C ends it.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args)]
struct Which {
    /// Not before: RFC 3339, as 2026-01-31T03:00:00Z, or so long ago, as 90s, 10m, 3h, 2d.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before: as --since.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// Of the container whose id begins so.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Of this rule; may be given more than once.
    #[arg(long = "rule", value_name = "NAME")]
    rules: Vec<String>,
    /// Of this kind, as breach.began; may be given more than once.
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<Kind>,
    /// At least this grave: info, low, medium, high, critical.
    #[arg(long)]
    severity: Option<Severity>,
    /// Of this boot alone, or of all.
    #[arg(long, value_enum, default_value_t = Boot::All)]
    boot: Boot,
    /// The audit log, if it is not where the daemon writes it.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Print the records themselves, one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Boot {
    Current,
    All,
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
            container: self.container.clone(),
            rules: self.rules.clone(),
            kinds: self.kinds.clone(),
            severity: self.severity,
            boot: (self.boot == Boot::Current).then(audit::boot_id),
        }
    }
}

/// A time on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text} is not a time: say 2026-01-31T03:00:00Z, or how long ago: 90s, 10m, 3h, 2d"
            )
        };
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.to_utc()));
        }
        let unit = text.chars().last().ok_or_else(wrong)?;
        let number: i64 = text[..text.len() - unit.len_utf8()]
            .parse()
            .map_err(|_| wrong())?;
        let ago = match unit {
            's' => TimeDelta::try_seconds(number),
            'm' => TimeDelta::try_minutes(number),
            'h' => TimeDelta::try_hours(number),
            'd' => TimeDelta::try_days(number),
            _ => None,
        };
        ago.filter(|ago| *ago >= TimeDelta::zero())
            .and_then(|ago| Utc::now().checked_sub_signed(ago))
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let which = match &arguments.how {
        How::Show { which, .. } | How::Tail { which, .. } => which,
    };
    let path = which.file.clone().unwrap_or_else(super::pins::audit_log);
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        filter: which.filter(),
        json: which.json,
    };
    let done = match &arguments.how {
        How::Show { lines: None, .. } => show(&path, &mut printer),
        How::Show {
            lines: Some(lines), ..
        } => last(&path, *lines, &mut printer).map(drop),
        How::Tail {
            lines,
            follow: false,
            ..
        } => last(&path, *lines, &mut printer).map(drop),
        How::Tail { lines, .. } => follow(&path, *lines, &mut printer, wait),
    };
    match done.and_then(|()| printer.out.flush().context("cannot print")) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read it has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) if which.file.is_none() && !host::is_root() && error.is::<ReadError>() => {
            say(&format!(
                "{error:#}: the audit log is root's: run it with sudo"
            ));
            Ok(ExitCode::from(3))
        }
        Err(error) => match error.downcast_ref::<ReadError>() {
            Some(ReadError::None { .. }) => {
                say(&format!(
                    "{error}: it begins with the daemon's first start (`bulkhead run`); \
                     if the policy names another file, say --file PATH"
                ));
                Ok(ExitCode::from(1))
            }
            _ => Err(error),
        },
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A line beside the records; where standard error is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "bulkhead: {line}");
}

struct Printer<W> {
    out: W,
    filter: Filter,
    json: bool,
}

impl<W: Write> Printer<W> {
    /// The record of a line, if it is asked for; of a line that is no record, a word on standard error.
    fn asked_for(&self, line: Line) -> Option<Box<Record>> {
        match line {
            Line::Record(record) => self.filter.accepts(&record).then_some(record),
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

    fn print(&mut self, record: &Record) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.out, record)?;
            writeln!(self.out)
        } else {
            writeln!(self.out, "{}", readable(record))
        }
    }
}

fn show(path: &Path, printer: &mut Printer<impl Write>) -> Result<()> {
    for mut source in read::open(path)? {
        while let Some(line) = source.next(true)? {
            if let Some(record) = printer.asked_for(line) {
                printer.print(&record)?;
            }
        }
    }
    Ok(())
}

/// The last records, and the file that the next one goes to, read to its end.
fn last(path: &Path, lines: usize, printer: &mut Printer<impl Write>) -> Result<Source> {
    let mut sources = read::open(path)?;
    let (mut found, mut newest) = (VecDeque::new(), None);
    // The newest file first: the older are read only if it has too few.
    while let Some(mut source) = sources.pop_back() {
        let mut here = VecDeque::new();
        // The line without an end in the newest file may be one that is being written.
        let torn = newest.is_some();
        while let Some(line) = source.next(torn)? {
            if let Some(record) = printer.asked_for(line) {
                here.push_back(record);
                if here.len() + found.len() > lines {
                    here.pop_front();
                }
            }
        }
        here.append(&mut found);
        found = here;
        newest.get_or_insert(source);
        if found.len() >= lines {
            break;
        }
    }
    for record in &found {
        printer.print(record)?;
    }
    newest.with_context(|| format!("cannot read {}", path.display()))
}

/// The last records, and those that are written while `wait` says so.
fn follow(
    path: &Path,
    lines: usize,
    printer: &mut Printer<impl Write>,
    mut wait: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let mut source = last(path, lines, printer)?;
    loop {
        printer.out.flush()?;
        if !wait()? {
            return Ok(());
        }
        source.catch_up().context("cannot follow the audit log")?;
        // Asked before the reading: what is written between the two is in the old file, and read.
        let moved = !source.is(path);
        drain(&mut source, moved, printer)?;
        if !moved {
            continue;
        }
        // Those that were written after ours, the one that is written to last.
        let files = read::files(path);
        let ours = files.iter().position(|file| source.is(file));
        if ours.is_none() && files.len() > 1 {
            say(
                "the file was rotated away before it was read to its end; some records may be missing here",
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
            drain(&mut source, file != path, printer)?;
        }
    }
}

fn drain(source: &mut Source, torn: bool, printer: &mut Printer<impl Write>) -> Result<()> {
    while let Some(line) = source.next(torn)? {
        if let Some(record) = printer.asked_for(line) {
            printer.print(&record)?;
        }
    }
    Ok(())
}

/// Waits a moment; false if nobody reads what is printed any more.
fn wait() -> Result<bool> {
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
    use std::fs;

    use guard_user::record::{Settings, Writer};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// A log in a directory of a test's own, of files with two records each.
    struct Log {
        settings: Settings,
        writer: Writer,
    }

    impl Log {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("bulkhead-cli-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&directory);
            let settings = Settings {
                file: directory.join("audit.jsonl"),
                rotate_bytes: 400,
                keep: 20,
                ..Settings::default()
            };
            let writer = Writer::start(settings.clone(), None).unwrap();
            Self { settings, writer }
        }

        fn write(&self, records: u64) {
            for _ in 0..records {
                self.writer.write(Record::new(Kind::DaemonStart));
            }
            assert!(self.writer.flush(SOON));
        }

        fn printed(&self, print: impl FnOnce(&Path, &mut Printer<Vec<u8>>)) -> Vec<u64> {
            let mut printer = Printer {
                out: Vec::new(),
                filter: Filter::default(),
                json: true,
            };
            print(&self.settings.file, &mut printer);
            let text = String::from_utf8(printer.out).unwrap();
            text.lines()
                .map(|line| serde_json::from_str::<Record>(line).unwrap().seq)
                .collect()
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.settings.file.parent().unwrap());
        }
    }

    #[test]
    fn all_files_are_shown_in_order_and_the_last_records_over_more_than_one() {
        let log = Log::new("show");
        log.write(9);
        assert!(read::files(&log.settings.file).len() > 2);
        let all = log.printed(|path, printer| show(path, printer).unwrap());
        assert_eq!(all, (1..=9).collect::<Vec<_>>());
        for (asked, first) in [(0, 10), (1, 9), (5, 5), (9, 1), (20, 1)] {
            let last = log.printed(|path, printer| drop(last(path, asked, printer).unwrap()));
            assert_eq!(last, (first..=9).collect::<Vec<_>>(), "-n {asked}");
        }
    }

    #[test]
    fn following_shows_each_record_once_over_no_one_and_many_rotations() {
        let log = Log::new("follow");
        log.write(3);
        let mut writes = [0, 1, 0, 2, 9, 1, 0, 7].into_iter();
        let all = log.printed(|path, printer| {
            let wait = || {
                Ok(match writes.next() {
                    Some(records) => {
                        log.write(records);
                        true
                    }
                    None => false,
                })
            };
            follow(path, 2, printer, wait).unwrap();
        });
        assert_eq!(all, (2..=23).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_is_no_record_is_passed_over() {
        let log = Log::new("garbage");
        log.write(1);
        let mut text = fs::read(&log.settings.file).unwrap();
        text.extend_from_slice(b"\xff\x1b[2J\n\n{\"seq\":7}\n");
        fs::write(&log.settings.file, text).unwrap();
        log.write(1);
        let all = log.printed(|path, printer| show(path, printer).unwrap());
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn a_time_is_rfc_3339_or_so_long_ago() {
        let moment: Moment = "2026-01-31T04:00:00+01:00".parse().unwrap();
        assert_eq!(moment.0.to_rfc3339(), "2026-01-31T03:00:00+00:00");
        let moment: Moment = "10m".parse().unwrap();
        let ago = (Utc::now() - moment.0).num_seconds();
        assert!((600..=601).contains(&ago), "{ago}");
        for wrong in [
            "",
            "10",
            "m",
            "-5m",
            "ten minutes",
            "5w",
            "99999999999999d",
            "5µ",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
