//! The one door to building and testing Bulkhead: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod ebpf;
mod test;

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
    /// Run every test that there is: formatting, lints, unit tests, the committed object.
    Test,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Ebpf { check: false } => ebpf::build(),
        Task::Ebpf { check: true } => ebpf::check(),
        Task::Test => test::run(),
    }
}
