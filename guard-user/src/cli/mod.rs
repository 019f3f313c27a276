//! The verbs, one file each. Exit codes: 0 done, 1 what was asked does not hold, 2 usage, 3 the host cannot.

mod advisories;
mod audit;
mod check;
mod doctor;
mod explain;
mod glossary;
mod host;
mod kernel_log;
mod log;
mod pins;
mod run;
mod status;
mod switch;
mod thin;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use guard_user::record::Text;

/// Bulkhead keeps a container from taking down its host's kernel.
#[derive(Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Arguments),
    Status(status::Arguments),
    Audit(audit::Arguments),
    KernelLog(kernel_log::Arguments),
    Check(check::Arguments),
    Doctor(doctor::Arguments),
    Advisories(advisories::Arguments),
    Explain(explain::Arguments),
    Thin(thin::Arguments),
    Off(switch::Off),
    On(switch::On),
}

/// Runs the verb that the command line names.
pub fn main(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Status(arguments) => status::run(arguments),
        Verb::Audit(arguments) => audit::run(arguments),
        Verb::KernelLog(arguments) => kernel_log::run(arguments),
        Verb::Check(arguments) => check::run(arguments),
        Verb::Doctor(arguments) => doctor::run(arguments),
        Verb::Advisories(arguments) => advisories::run(arguments),
        Verb::Explain(arguments) => explain::run(arguments),
        Verb::Thin(arguments) => thin::run(arguments),
        Verb::Off(arguments) => switch::off(arguments),
        Verb::On(arguments) => switch::on(arguments),
    };
    result.unwrap_or_else(|error| {
        // It may name a path that a container chose.
        let words = format!("{error:#}");
        let lines: Vec<String> = words
            .lines()
            .map(|line| Text::from(line).to_string())
            .collect();
        eprintln!("bulkhead: {}", lines.join("\n"));
        ExitCode::from(1)
    })
}

/// Prints; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
