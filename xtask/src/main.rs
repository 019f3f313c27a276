//! The one door to building and testing Bulkhead: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod bench;
mod debian;
mod demo;
mod deny;
mod ebpf;
mod kernels;
mod rungs;
mod test;
mod variants;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build and test Bulkhead.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel side from source into guard-ebpf/prebuilt.
    Ebpf {
        /// Change nothing: fail unless the committed object is the one that the sources build.
        #[arg(long)]
        check: bool,
    },
    /// Boot one of Debian's kernels and run a script there.
    Vm(vm::Boot),
    /// Run every test that there is: formatting, lints, unit tests, the committed object, dependencies, and each hazard
    /// in virtual machines on every kernel.
    Test(test::Options),
    /// Write the table of hooks and rungs in docs/hazards.md, from the logs of the last run of all tests.
    Rungs,
    /// Play an outage twice on 6.12, without Bulkhead and with it, side by side.
    Demo(demo::Options),
    /// Measure in virtual machines what Bulkhead costs, in guest instructions.
    Bench(bench::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().task {
        Task::Ebpf { check: false } => ebpf::build()?,
        Task::Ebpf { check: true } => ebpf::check()?,
        Task::Vm(boot) => {
            if !boot.no_build {
                test::build_release()?;
            }
            let outcome = vm::boot(&boot, vm::Streams::Inherit)?;
            if let Some(console) = outcome.console {
                let what = if outcome.code == vm::TIMED_OUT {
                    "was switched off at its time limit"
                } else {
                    "crashed"
                };
                eprintln!("the machine {what}; the end of its console:\n{console}");
            }
            return Ok(ExitCode::from(
                u8::try_from(outcome.code).unwrap_or(u8::MAX),
            ));
        }
        Task::Test(options) => test::run(&options)?,
        Task::Rungs => rungs::write()?,
        Task::Demo(options) => demo::run(&options)?,
        Task::Bench(options) => bench::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
