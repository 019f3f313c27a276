//! The audit log, read: what was refused, done and changed on this host, by whom, and why.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use guard_user::record::{Kind, Record, Severity, audit, read::Filter, readable};

use super::log::{self, Moment, Printer, View, last, none_of, show, wait};

/// Show the audit log: what was refused, done and changed on this host, by whom, and why.
///
/// Exit code 0: shown, or nothing matched, which is said; 1: there is no audit log, or it cannot be read; 3: only root may
/// read it.
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
    /// Not before: RFC 3339, as 2026-01-31T03:00:00Z, a day (its midnight in UTC), as 2026-01-31, or so long ago, as 90s, 10m,
    /// 1h30m, 2d.
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

    /// What is asked for, to be said where nothing is that.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.container.iter().map(|id| format!("of container {id}")));
        if !self.rules.is_empty() {
            words.push(format!("of rule {}", self.rules.join(" or ")));
        }
        if !self.kinds.is_empty() {
            let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
            words.push(format!("of kind {}", kinds.join(" or ")));
        }
        words
            .extend((self.severity).map(|least| format!("of severity {} or graver", least.name())));
        words.extend(self.since.map(|since| format!("since {since}")));
        words.extend(self.until.map(|until| format!("before {until}")));
        words.extend((self.boot == Boot::Current).then(|| "of this boot".to_owned()));
        words
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let which = match &arguments.how {
        How::Show { which, .. } | How::Tail { which, .. } => which,
    };
    let path = which.file.clone().unwrap_or_else(super::pins::audit_log);
    let mut printer = Printer::new(Records {
        asked: which.words(),
        ..Records::new(which.filter(), which.json)
    });
    let all = !matches!(
        arguments.how,
        How::Tail { follow: true, .. }
            | How::Tail { lines: 0, .. }
            | How::Show { lines: Some(0), .. }
    );
    let done = match &arguments.how {
        How::Show { lines: None, .. } => show(&path, true, &mut printer).map(drop),
        How::Show {
            lines: Some(lines), ..
        } => last(&path, *lines, &mut printer).map(drop),
        How::Tail { lines, follow, .. } => {
            last(&path, *lines, &mut printer).and_then(|source| match follow {
                true => log::follow(&path, source, &mut printer, wait),
                false => Ok(()),
            })
        }
    };
    printer.end(
        &path,
        all,
        done,
        "it begins with the daemon's first start (`bulkhead run`); if the policy names another file, say --file PATH",
    )
}

/// Records as they are asked for.
struct Records {
    filter: Filter,
    /// The same in words.
    asked: Vec<String>,
    json: bool,
    /// One was shown.
    matched: bool,
}

impl Records {
    const fn new(filter: Filter, json: bool) -> Self {
        Self {
            filter,
            asked: Vec::new(),
            json,
            matched: false,
        }
    }
}

impl View for Records {
    type Entry = Record;

    fn asks_for(&mut self, record: &Record) -> bool {
        let accepts = self.filter.accepts(record);
        self.matched |= accepts;
        accepts
    }

    fn print(&mut self, record: &Record, out: &mut impl Write) -> io::Result<()> {
        let text = if self.json {
            serde_json::to_string(record)?
        } else {
            readable(record)
        };
        out.write_all(format!("{text}\n").as_bytes())
    }

    fn nothing(&self, path: &Path) -> Option<String> {
        (!self.matched && !self.asked.is_empty()).then(|| none_of("record", &self.asked, path))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use guard_user::record::{Settings, Writer, read};

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

        fn printed(&self, print: impl FnOnce(&Path, &mut Printer<Vec<u8>, Records>)) -> Vec<u64> {
            let mut printer = Printer {
                out: Vec::new(),
                view: Records::new(Filter::default(), true),
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
        let all = log.printed(|path, printer| drop(show(path, true, printer).unwrap()));
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
            let source = last(path, 2, printer).unwrap();
            log::follow(path, source, printer, wait).unwrap();
        });
        assert_eq!(all, (2..=23).collect::<Vec<_>>());
    }

    #[test]
    fn that_nothing_matched_is_said_where_something_was_asked_for_and_nothing_else_is_said() {
        let log = Log::new("nothing");
        log.write(1);
        let said = |rule: Option<&str>, asked: &[&str]| {
            let mut printer = Printer {
                out: Vec::new(),
                view: Records {
                    asked: asked.iter().map(|&one| one.to_owned()).collect(),
                    ..Records::new(
                        Filter {
                            rules: rule.into_iter().map(str::to_owned).collect(),
                            ..Filter::default()
                        },
                        true,
                    )
                },
            };
            drop(show(&log.settings.file, true, &mut printer).unwrap());
            printer.view.nothing(Path::new("/log"))
        };
        assert_eq!(said(None, &["of rule x"]), None);
        assert_eq!(said(Some("x"), &[]), None);
        assert_eq!(
            said(Some("x"), &["of rule x", "of this boot"]).as_deref(),
            Some("no record of rule x and of this boot is in /log")
        );
    }

    #[test]
    fn a_line_that_is_no_record_is_passed_over() {
        let log = Log::new("garbage");
        log.write(1);
        let mut text = fs::read(&log.settings.file).unwrap();
        text.extend_from_slice(b"\xff\x1b[2J\n\n{\"seq\":7}\n");
        fs::write(&log.settings.file, text).unwrap();
        log.write(1);
        let all = log.printed(|path, printer| drop(show(path, true, printer).unwrap()));
        assert_eq!(all, [1, 2]);
    }
}
