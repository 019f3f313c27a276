//! An outage, played twice on 6.12: without Bulkhead and with it, side by side.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::{
    ebpf::root,
    kernels::Kernel,
    test::{additions, build_release, build_tests},
    vm::{self, Boot, Streams},
};

/// Width of a column.
const WIDTH: usize = 54;

/// What to play.
#[derive(Args)]
pub struct Options {
    /// Which outage.
    #[arg(value_enum)]
    outage: Outage,
    /// Take the binaries as they were built last.
    #[arg(long)]
    no_build: bool,
}

/// An outage that happened.
#[derive(Clone, Copy, ValueEnum)]
enum Outage {
    /// A service leaks threads; every pid of the host is used up, and nobody can log in.
    ForkStorm,
}

impl Outage {
    const fn name(self) -> &'static str {
        match self {
            Self::ForkStorm => "fork-storm",
        }
    }
}

/// Plays it.
pub fn run(options: &Options) -> Result<()> {
    if !options.no_build {
        build_release()?;
        build_tests()?;
    }
    let folder = root()?.join("target/vm/demo");
    fs::create_dir_all(&folder)?;
    let sides = ["", "--guarded"].map(|argument| folder.join(format!("side{argument}")));
    for side in &sides {
        let _ = fs::remove_file(side);
    }
    println!("{:>4} {:<WIDTH$} | with Bulkhead", "", "without Bulkhead");
    let half = "pids in use    host programs";
    println!("{:>4} {half:<WIDTH$} | {half}", "s");
    thread::scope(|scope| {
        let machines: Vec<_> = sides
            .iter()
            .zip(["", "--guarded"])
            .map(|(side, argument)| {
                scope.spawn(move || play(options.outage, argument, side.clone()))
            })
            .collect();
        let mut shown = 0;
        loop {
            let done = machines.iter().all(|machine| machine.is_finished());
            let columns = sides.each_ref().map(seconds);
            // One side may end before the other.
            loop {
                let (left, right) = (columns[0].get(shown), columns[1].get(shown));
                match (left, right, done) {
                    (None, None, _) | (None, _, false) | (_, None, false) => break,
                    (left, right, _) => println!(
                        "{shown:>4} {:<WIDTH$} | {}",
                        left.map_or("", String::as_str),
                        right.map_or("", String::as_str)
                    ),
                }
                shown += 1;
            }
            if done {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        for machine in machines {
            match machine.join() {
                Ok(result) => result?,
                Err(_) => bail!("a machine's thread panicked"),
            }
        }
        ensure!(shown > 0, "neither machine said anything");
        Ok(())
    })
}

fn play(outage: Outage, argument: &str, side: PathBuf) -> Result<()> {
    let script = side.with_extension("script");
    fs::write(
        &script,
        format!(
            "#!/bin/bash\nexec bulkhead-demo {} {argument}\n",
            outage.name()
        ),
    )?;
    let outcome = vm::boot(
        &Boot {
            kernel: Kernel::V6_12,
            smp: 2,
            memory: 1024,
            cmdline: String::new(),
            timeout: 300,
            add: additions()?,
            qemu: String::new(),
            no_build: true,
            script,
        },
        Streams::File(side.clone()),
    )?;
    ensure!(
        outcome.code == 0,
        "the play ended with {}:\n{}{}",
        outcome.code,
        fs::read_to_string(side).unwrap_or_default(),
        outcome.console.unwrap_or_default()
    );
    Ok(())
}

/// What a machine has told so far, a column's text for each second.
fn seconds(side: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(side).unwrap_or_default();
    text.lines().filter_map(column).collect()
}

fn column(line: &str) -> Option<String> {
    let line = line.strip_prefix('{')?.strip_suffix('}')?;
    let field = |name: &str| {
        let rest = line.split_once(&format!("\"{name}\":"))?.1;
        Some(match rest.strip_prefix('"') {
            Some(text) => text.split('"').next()?,
            None => rest.split(',').next()?,
        })
    };
    let refused: u64 = field("refused")?.parse().ok()?;
    let said = field("said")?;
    let said = said.split(" (os error").next()?;
    let told = if said.is_empty() && refused > 0 {
        format!("{refused} forks refused")
    } else {
        said.to_owned()
    };
    let told: String = told.chars().take(26).collect();
    Some(format!(
        "{:>5} / {:<5}  {} of {} ok  {told}",
        field("tasks")?,
        field("limit")?,
        field("worked")?,
        field("spawns")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_becomes_a_column_and_a_half_written_one_does_not() {
        let line = r#"{"second":3,"tasks":4095,"limit":4096,"worked":0,"spawns":5,"refused":0,"said":"Resource temporarily unavailable (os error 11)"}"#;
        let text = column(line).unwrap();
        assert!(
            text.starts_with(" 4095 / 4096   0 of 5 ok  Resource temporarily"),
            "{text}"
        );
        assert_eq!(column(&line[..40]), None);
        assert_eq!(column("not a second"), None);
    }
}
