//! `bulkhead thin ask`: what devices say, for a daemon that must not hang with them. Not for people.

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::Args;
use guard_user::sense::asked;

/// Ask block devices what they say of themselves, for the daemon and for `thin status`.
#[derive(Args)]
#[command(hide = true)]
pub struct Arguments {
    /// How each thin pool is.
    #[arg(long)]
    pools: bool,
    /// Once, not once a second.
    #[arg(long, requires = "pools")]
    once: bool,
    /// Which of these devices have a file system that discards though nobody asks.
    #[arg(long, conflicts_with = "pools")]
    unasked: bool,
    /// Else: what these loop devices are on.
    names: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match (arguments.pools, arguments.unasked) {
        (true, _) => asked::say_pools(arguments.once)?,
        (false, true) => asked::say_unasked(&arguments.names)?,
        (false, false) => asked::say_loops(&mut io::stdout().lock(), &arguments.names)?,
    }
    Ok(ExitCode::SUCCESS)
}
