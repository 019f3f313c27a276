//! What Bulkhead costs, on every kernel, in a machine whose clock counts guest instructions.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    ebpf::root,
    kernels::Kernel,
    test::{additions, build_release, build_tests},
    vm::{self, Boot, Streams},
};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// On these kernels alone.
    #[arg(long, value_enum)]
    kernel: Vec<Kernel>,
    /// Take the binaries as they were built last.
    #[arg(long)]
    no_build: bool,
    /// What is measured; without it, all.
    #[arg(long, value_enum)]
    only: Vec<What>,
    /// Turns of off and on; each is 3,000 rounds of each kind of work, 1,000 of exec.
    #[arg(long, default_value_t = 6)]
    turns: u32,
}

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Guest instructions of forks, refusals, the start and each hook.
    Cost,
    /// The same of files that are read while the kernel log is refused, and of each of its hooks.
    KernelLog,
    /// The same of ioctl(2) and rtnetlink while bridges are refused, and of each of those hooks.
    NetLink,
    /// The same of system calls that rules are armed for and not about: socket(2), mount(2), and others.
    Actions,
    /// Guest instructions of the start, with a small policy and with the built-in one.
    Start,
    /// The host's own programs during a bomb, on two processors.
    Latency,
    /// The cost with 10 and with 10,000 cgroups.
    Scale,
    /// How much of a flood of the kernel log is kept, by Bulkhead, dmesg and rsyslog.
    Flood,
}

/// One instruction is two nanoseconds; nothing but instructions moves the clock while a task runs. All that QEMU can emulate, which
/// is what every count in docs/ was made on.
const COUNTING: &str = "-icount shift=1,sleep=off -cpu max";
/// The same addresses at every boot.
const STILL: &str = "norandmaps nokaslr";

/// Boots each kernel and prints its tables.
pub fn run(options: &Options) -> Result<()> {
    if !options.no_build {
        build_release()?;
        build_tests()?;
    }
    let folder = root()?.join("target/vm/bench");
    fs::create_dir_all(&folder)?;
    for kernel in Kernel::value_variants() {
        if !options.kernel.is_empty() && !options.kernel.contains(kernel) {
            continue;
        }
        for what in What::value_variants() {
            if options.only.is_empty() || options.only.contains(what) {
                one(options, *kernel, *what, &folder)?;
            }
        }
    }
    Ok(())
}

fn one(options: &Options, kernel: Kernel, what: What, folder: &Path) -> Result<()> {
    let (arguments, smp, qemu) = match what {
        What::Cost => (format!("cost --turns {}", options.turns), 1, COUNTING),
        What::KernelLog => (format!("kernel-log --turns {}", options.turns), 1, COUNTING),
        What::NetLink => (format!("net-link --turns {}", options.turns), 1, COUNTING),
        What::Actions => (format!("actions --turns {}", options.turns), 1, COUNTING),
        What::Start => (format!("start --turns {}", options.turns), 1, COUNTING),
        What::Latency => ("latency".to_owned(), 2, ""),
        What::Scale => ("scale".to_owned(), 1, COUNTING),
        What::Flood => ("flood".to_owned(), 2, ""),
    };
    println!("\n== {}: {arguments}", kernel.name());
    let script = folder.join("script");
    fs::write(
        &script,
        format!("#!/bin/bash\nexec bulkhead-bench {arguments}\n"),
    )?;
    let outcome = vm::boot(
        &Boot {
            kernel,
            smp,
            memory: 1024,
            // The rung is the one that Debian's own command line gives.
            cmdline: STILL.to_owned(),
            timeout: 1800,
            add: additions()?,
            qemu: qemu.to_owned(),
            no_build: true,
            script,
        },
        Streams::Inherit,
    )?;
    if let Some(console) = outcome.console {
        println!("{console}");
    }
    ensure!(
        outcome.code == 0,
        "the measurement ended with {}",
        outcome.code
    );
    Ok(())
}
