//! The verbs, one file each. Exit codes: 0 done, 1 what was asked does not hold, 2 usage, 3 the host cannot.

mod doctor;
mod host;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Bulkhead keeps a container from taking down its host's kernel.
#[derive(Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Doctor(doctor::Arguments),
}

/// Runs the verb that the command line names.
pub fn main(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.verb {
        Verb::Doctor(arguments) => doctor::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bulkhead: {error:#}");
        ExitCode::from(1)
    })
}
