//! An outage, played twice: without Bulkhead and with it, side by side.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::{
    ebpf::root,
    kernels::Kernel,
    test::{additions, build_release, build_tests},
    vm::{self, Boot, CRASHED, Streams},
};

/// What makes a thin pool that 5.10 dies on, and where the play finds it.
const CRAFT: &str = "tests/data/dm-thin-bug/craft.py:/usr/local/share/bulkhead/craft.py";
/// What 5.10 says then.
pub const THIN_BUG: &str = "kernel BUG at drivers/md/persistent-data/dm-btree-remove.c:181!";

/// Bytes of the disk that a machine keeps from one boot to the next.
const DISK: u64 = 512 << 20;
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
pub enum Outage {
    /// A service leaks threads; every pid of the host is used up, and nobody can log in.
    ForkStorm,
    /// A discard reaches a thin pool, and the kernel dies.
    ThinDiscard,
    /// What activates a pool takes the kernel down with it, at each boot anew.
    BootLoop,
}

impl Outage {
    const fn name(self) -> &'static str {
        match self {
            Self::ForkStorm => "fork-storm",
            Self::ThinDiscard => "thin-discard",
            Self::BootLoop => "boot-loop",
        }
    }

    /// A kernel that it happens on.
    const fn kernel(self) -> Kernel {
        match self {
            Self::ForkStorm => Kernel::V6_12,
            Self::ThinDiscard | Self::BootLoop => Kernel::V5_10,
        }
    }

    /// How often the machine boots, with one disk that it keeps.
    const fn boots(self) -> usize {
        match self {
            Self::ForkStorm | Self::ThinDiscard => 1,
            Self::BootLoop => 2,
        }
    }

    /// What the kernel says that dies of it, if it does so on this boot.
    const fn last_words(self, guarded: bool, boot: usize) -> Option<&'static str> {
        match self {
            Self::ThinDiscard if !guarded => Some(THIN_BUG),
            // That it crashes is not known before it has.
            Self::BootLoop if !guarded || boot == 0 => Some(THIN_BUG),
            _ => None,
        }
    }

    /// What the columns hold, and what a line of the play becomes in one.
    const fn heads(self) -> (&'static str, &'static str) {
        match self {
            Self::ForkStorm => ("s", "pids in use    host programs"),
            Self::ThinDiscard | Self::BootLoop => ("", "on 5.10"),
        }
    }

    fn column(self, line: &str) -> Option<String> {
        match self {
            Self::ForkStorm => second(line),
            Self::ThinDiscard | Self::BootLoop => step(line),
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
    let outage = options.outage;
    for side in &sides {
        for said in said(outage, side) {
            let _ = fs::remove_file(said);
        }
    }
    println!("{:>4} {:<WIDTH$} | with Bulkhead", "", "without Bulkhead");
    let (unit, half) = outage.heads();
    println!("{unit:>4} {half:<WIDTH$} | {half}");
    thread::scope(|scope| {
        let machines: Vec<_> = sides
            .iter()
            .zip(["", "--guarded"])
            .map(|(side, argument)| scope.spawn(move || play(outage, argument, side)))
            .collect();
        let mut shown = 0;
        loop {
            let done = machines.iter().all(|machine| machine.is_finished());
            let columns = sides.each_ref().map(|side| columns_of(outage, side));
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

/// Plays it once; what it says on each boot is in the files of [`said`]. On a boot whose kernel the outage kills, it must have been killed,
/// by its own last words.
///
/// # Errors
/// It went otherwise.
pub fn play(outage: Outage, argument: &str, side: &Path) -> Result<()> {
    let script = side.with_extension("script");
    let name = outage.name();
    fs::write(
        &script,
        format!("#!/bin/bash\nexec bulkhead-demo {name} {argument}\n"),
    )?;
    let mut add = additions()?;
    add.push(format!("{}/{CRAFT}", root()?.display()));
    let disk = side.with_extension("disk");
    let mut boot = Boot {
        kernel: outage.kernel(),
        smp: 2,
        memory: 1024,
        cmdline: String::new(),
        timeout: 300,
        add,
        qemu: String::new(),
        no_build: true,
        script,
    };
    if outage.boots() > 1 {
        File::create(&disk)?.set_len(DISK)?;
        boot.qemu = format!("-drive file={},format=raw,if=virtio", disk.display());
    }
    for (number, said) in said(outage, side).into_iter().enumerate() {
        one_boot(
            &boot,
            &said,
            outage.last_words(!argument.is_empty(), number),
        )?;
        let text = fs::read_to_string(&said)?;
        ensure!(
            outage.boots() == 1 || text.contains(&format!("boot {}", number + 1)),
            "the machine did not keep its disk:\n{text}"
        );
    }
    let _ = fs::remove_file(&disk);
    Ok(())
}

/// One boot of a play, which ends with the kernel's last words where there are any.
fn one_boot(boot: &Boot, side: &Path, last_words: Option<&str>) -> Result<()> {
    let outcome = vm::boot(boot, Streams::File(side.to_path_buf()))?;
    let said = fs::read_to_string(side).unwrap_or_default();
    let console = outcome.console.unwrap_or_default();
    match last_words {
        None => ensure!(
            outcome.code == 0,
            "the play ended with {}:\n{said}{console}",
            outcome.code
        ),
        Some(words) => {
            ensure!(
                outcome.code == CRASHED && console.contains(words),
                "the kernel did not say `{words}`, and the play ended with {}:\n{said}{console}",
                outcome.code
            );
            let line = format!("{said}{{\"step\":99,\"said\":\"{words}\"}}\n");
            fs::write(side, line).with_context(|| format!("cannot write {}", side.display()))?;
        }
    }
    Ok(())
}

/// The files of what a machine says, one for each boot.
pub fn said(outage: Outage, side: &Path) -> Vec<PathBuf> {
    let file = |boot| side.with_added_extension(format!("{boot}.log"));
    (1..=outage.boots()).map(file).collect()
}

/// What a machine has told so far, a column's text for each line.
fn columns_of(outage: Outage, side: &Path) -> Vec<String> {
    let boots = said(outage, side).into_iter();
    let text: String = boots
        .filter_map(|said| fs::read_to_string(said).ok())
        .collect();
    text.lines()
        .filter_map(|line| outage.column(line))
        .collect()
}

/// What a step of a play says.
fn step(line: &str) -> Option<String> {
    let said = line.strip_suffix("\"}")?.split_once("\"said\":\"")?.1;
    // The end of a kernel's last words is what matters.
    let short = said.replace("drivers/md/persistent-data/", "");
    Some(short.chars().take(WIDTH).collect())
}

fn second(line: &str) -> Option<String> {
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
        let text = second(line).unwrap();
        assert!(
            text.starts_with(" 4095 / 4096   0 of 5 ok  Resource temporarily"),
            "{text}"
        );
        assert_eq!(second(&line[..40]), None);
        assert_eq!(second("not a second"), None);
    }
}
