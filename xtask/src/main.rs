//! The one door to building and testing Bulkhead: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod debian;
mod ebpf;
mod kernels;
mod test;
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
    /// Run every test that there is: formatting, lints, unit tests, the committed object.
    Test,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().task {
        Task::Ebpf { check: false } => ebpf::build()?,
        Task::Ebpf { check: true } => ebpf::check()?,
        Task::Vm(boot) => {
            test::build_release()?;
            let code = vm::boot(&boot, vm::Streams::Inherit)?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        Task::Test => test::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
