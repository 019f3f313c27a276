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
    /// What these loop devices are on.
    loops: Vec<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match arguments.pools {
        true => asked::say_pools(arguments.once)?,
        false => asked::say_loops(&mut io::stdout().lock(), &arguments.loops)?,
    }
    Ok(ExitCode::SUCCESS)
}
