//! The host's copy of the kernel log, read: what the kernel said, and what somebody wrote among it.

mod words;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use guard_user::{
    klog::{line::Line, names::Origin, record::Level},
    record::{Text, read::Entry},
};

use self::words::{about, readable};
use super::log::{Moment, Printer, View, follow, last, none_of, show, wait};

/// Show the host's copy of the kernel log: what the kernel said since it is kept, over restarts and reboots.
///
/// A line is time, facility, level, who printed it, and text; before the text stands which container it is about, if that is
/// another. Who: a container's id, a process of the host, `kernel` for its
/// threads and interrupts, `?` where it cannot be told. `*` before the level: a process wrote it, not the kernel. Lines that the kernel
/// printed in pieces are put together, unless --json is given. LOST says how many lines the kernel had overwritten before
/// they could be read. Where the lines of another boot begin stands `-- boot ID --`.
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
    /// The boot of what was shown last.
    boot: Option<Text>,
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
        self.begin_boot(&line, out)?;
        out.write_all(format!("{}{more}\n", readable(&line)).as_bytes())
    }

    fn end_losses(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.lost.take() {
            Some(lost) => {
                self.begin_boot(&lost, out)?;
                out.write_all(format!("{}\n", readable(&lost)).as_bytes())
            }
            None => Ok(()),
        }
    }

    /// Says that another boot begins: what stands above is the last that a kernel said which may have died.
    fn begin_boot(&mut self, line: &Line, out: &mut impl Write) -> io::Result<()> {
        let before = self.boot.replace(line.boot.clone());
        match before.is_some_and(|before| before != line.boot) {
            true => out.write_all(format!("-- boot {} --\n", line.boot).as_bytes()),
            false => Ok(()),
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

/// Whether a record is the next piece of a line: of the same boot, the same printer and, where the kernel says so, the same caller. A
/// process can have the kernel take its line for another's next piece, by what it calls itself.
fn goes_on(line: &Line, next: &Line) -> bool {
    let printer = |line: &Line| (line.by.container.clone(), line.by.pid, line.by.from);
    next.fragment
        && printer(line) == printer(next)
        && line.lost.is_none()
        && line.boot == next.boot
        && Some(next.seq) == line.seq.checked_add(1)
        && line.facility == next.facility
        && line.extra.get("caller") == next.extra.get("caller")
}

#[cfg(test)]
mod tests;
