//! `bulkhead thin`: pools of thin volumes, which a discard can turn against their host.

mod activate;
mod ask;
mod discard;
mod recover;
mod status;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Thin pools (dm-thin: docker's devicemapper, containerd's devmapper, LVM): save volumes, and end boot loops.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    how: How,
}

#[derive(Subcommand)]
enum How {
    Status(status::Arguments),
    Discard(discard::Arguments),
    Recover(recover::Arguments),
    Activate(activate::Arguments),
    Ask(ask::Arguments),
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.how {
        How::Status(arguments) => status::run(arguments),
        How::Discard(arguments) => discard::run(arguments),
        How::Recover(arguments) => recover::run(arguments),
        How::Activate(arguments) => activate::run(arguments),
        How::Ask(arguments) => ask::run(arguments),
    }
}
