//! `bulkhead thin activate`: no pool takes its host down twice.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use guard_user::{
    record::Text,
    thin::{
        activate::{self, FOLDER, Marker},
        recover::Interrupts,
    },
};

use crate::cli::{host, switch};

/// Activate a pool, unless that crashed the kernel before.
///
/// A marker in /var/lib/bulkhead/thin is on the disk before COMMAND begins, and goes when it has ended. If the kernel
/// crashes meanwhile, the marker is still there on the next boot: the pool is then held back, until somebody says --override. So it is
/// where the kernel says that it died meanwhile (an oops or a BUG, which COMMAND may have ended by) and goes on.
/// A marker that cannot be written keeps nothing from being activated, and is told.
///
///   bulkhead thin activate vg/pool -- lvchange -ay vg/pool
///   bulkhead thin activate docker --begin      in a unit, before what activates; --end behind it
///   bulkhead thin activate vg/pool --override  let it go; behind it, -- COMMAND tries at once
///
/// Exit code 0: COMMAND succeeded; 1: the pool is held back, or COMMAND failed; 3: only root may do it.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The pool: any name, by which its marker is found again.
    #[arg(value_name = "POOL", value_parser = name)]
    pool: String,
    /// Forget that it crashed the kernel: the next time, or COMMAND now, activates it.
    #[arg(long = "override")]
    again: bool,
    /// Only write the marker.
    #[arg(long, conflicts_with_all = ["end", "command"])]
    begin: bool,
    /// Only remove this boot's marker.
    #[arg(long, conflicts_with = "command")]
    end: bool,
    /// Keep the marker for so long after COMMAND has succeeded, as 30s: a crash may come a little later.
    #[arg(long, value_name = "TIME", value_parser = switch::seconds, requires = "command")]
    settle: Option<u64>,
    /// What activates it.
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["begin", "end", "again"])]
    command: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    let (folder, pool) = (Path::new(FOLDER), arguments.pool.as_str());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read /proc/sys/kernel/random/boot_id")?;
    let boot_id = boot_id.trim();
    if arguments.end {
        end(folder, pool, boot_id)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.again {
        if activate::end(folder, pool, boot_id, true)? {
            eprintln!("bulkhead: {} is not held back any more", Text::from(pool));
        }
    } else if let Some(marker) = activate::held(folder, pool, boot_id) {
        eprintln!("bulkhead: {}", words(&marker));
        return Ok(ExitCode::from(1));
    }
    if arguments.command.is_empty() && !arguments.begin {
        return Ok(ExitCode::SUCCESS);
    }
    let died = activate::has_died();
    let marker = Marker {
        pool: Text::from(pool),
        boot_id: Text::from(boot_id),
        time: Text::from(chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        command: Text::from(if arguments.begin {
            "a unit that says --begin".to_owned()
        } else {
            arguments.command.join(" ")
        }),
        // Once more on the same boot: what was left then counts still.
        had_died: died && !activate::is_to_stay(folder, pool, died),
    };
    if let Err(error) = activate::begin(folder, &marker, pool) {
        let error = anyhow::Error::from(error);
        eprintln!("bulkhead: if this crashes the kernel, the next boot will not know: {error:#}");
    }
    if arguments.begin {
        return Ok(ExitCode::SUCCESS);
    }
    let done = command(&arguments.command, arguments.settle);
    end(folder, pool, boot_id)?;
    done
}

/// Takes this boot's marker away, unless the kernel died meanwhile.
fn end(folder: &Path, pool: &str, boot_id: &str) -> Result<()> {
    if activate::is_to_stay(folder, pool, activate::has_died()) {
        eprintln!(
            "bulkhead: the kernel died of something while {0} was being activated, and goes on: on the next boot {0} is held back. If it was \
             something else, `bulkhead thin activate {0} --override`",
            Text::from(pool)
        );
        return Ok(());
    }
    activate::end(folder, pool, boot_id, false)?;
    Ok(())
}

fn command(words: &[String], settle: Option<u64>) -> Result<ExitCode> {
    let Some((program, rest)) = words.split_first() else {
        bail!("no command");
    };
    let mut child = Command::new(program)
        .args(rest)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // Whoever ends us ends an activation in good order: it is waited for, and its marker goes. Not before, or the command would
    // inherit that signals are held.
    let interrupts = Interrupts::hold()?;
    let status = child.wait()?;
    if !status.success() {
        eprintln!("bulkhead: {program} ended with {status}");
        return Ok(ExitCode::from(1));
    }
    let until = Instant::now() + Duration::from_secs(settle.unwrap_or(0));
    while Instant::now() < until && interrupts.wait(200).is_ok() {}
    Ok(ExitCode::SUCCESS)
}

fn words(marker: &Marker) -> String {
    let pool = &marker.pool;
    format!(
        "{pool} is held back: an earlier boot began to activate it at {} ({}), and did not live to see the end.\n\
         Save what is in it without activating it: `bulkhead thin recover --help`.\n\
         To try once more: `bulkhead thin activate {pool} --override`, and then what activates it",
        marker.time, marker.command
    )
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 80 {
        return Err("a name has 1 to 80 bytes".to_owned());
    }
    Ok(text.to_owned())
}
