//! `bulkhead thin discard`: discards on dm-thin off or on at once, whatever the policy says.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use guard_user::{
    control::{SOCKET, client},
    thin::discard::{Asked, ask},
};

use crate::cli::host;

/// Switch discards on dm-thin off for everybody, the host's own programs included, or leave them on.
///
/// It holds at once, whatever `host.thin.discard` says, and until it is said otherwise or the host is booted anew. `policy`: as the
/// policy says again. Rules about `discard` hold for containers in any case.
#[derive(Args)]
pub struct Arguments {
    /// What.
    #[arg(value_enum)]
    to: To,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// Nobody gets one through.
    Off,
    /// They are left on.
    On,
    /// As the policy says.
    Policy,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    // Whether one runs is known first: what nobody heeds is not said.
    client::status(Path::new(SOCKET)).context(
        "no daemon answers, and only it can do this: start it with `bulkhead run`, or its service",
    )?;
    let (asked, done) = match arguments.to {
        To::Off => (
            Some(Asked::Off),
            "off, for everybody, until `bulkhead thin discard on` or `policy`",
        ),
        To::On => (
            Some(Asked::On),
            "left on, until `bulkhead thin discard off` or `policy`",
        ),
        To::Policy => (None, "as the policy says"),
    };
    ask(asked).context("cannot keep what was asked for")?;
    client::reload(Path::new(SOCKET))
        .context("the daemon's policy cannot be loaded: `bulkhead check`")?;
    println!("discards on dm-thin: {done}");
    Ok(ExitCode::SUCCESS)
}
