//! The one binary, `bulkhead`: reads the command line and hands over to `cli`.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::main(&cli::Arguments::parse())
}
