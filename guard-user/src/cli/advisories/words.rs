//! The report of `bulkhead advisories` for people.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Result;
use guard_user::{advisory::judge::State, policy::model::Mode, record::Text};

use super::{Line, Report};

pub fn words(report: &Report<'_>, all: bool) -> Result<String> {
    let mut out = String::new();
    let kernel = &report.kernel;
    write!(
        out,
        "kernel    {} of {}",
        Text::from(kernel.release),
        kernel.vendor
    )?;
    if let Some(package) = kernel.package {
        write!(out, ", package {package}")?;
    }
    if kernel.upstream_exact {
        write!(out, ", built of {}", kernel.upstream)?;
    } else {
        write!(out, ", built of some release of {}", kernel.upstream)?;
    }
    match kernel.system {
        Some(system) => writeln!(out, "; on {}", Text::from(system))?,
        None => out.push('\n'),
    }
    for patch in kernel.livepatches {
        let patch = Text::from(patch.as_str());
        writeln!(
            out,
            "livepatch {patch} is in force: what it fixes is not known here"
        )?;
    }
    writeln!(out, "set       {}", report.from.join(", "))?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &report.advisories {
        *counts.entry(line.state).or_default() += 1;
        let state = [State::Affected, State::Unsure]
            .map(State::name)
            .contains(&line.state);
        if state || all {
            advisory(&mut out, line)?;
        }
    }
    let count = |state: State| counts.get(state.name()).copied().unwrap_or(0);
    let hidden = if all { "" } else { ": --all shows them" };
    writeln!(
        out,
        "\n{} affected, {} unsure; {} fixed and {} that this kernel never had{hidden}",
        count(State::Affected),
        count(State::Unsure),
        count(State::Fixed),
        count(State::NotAffected)
    )?;
    Ok(out)
}

fn advisory(out: &mut String, line: &Line<'_>) -> Result<()> {
    let state = line.state.replace('_', " ");
    writeln!(out, "\n{state:<13}{}  {}", line.id, Text::from(line.title))?;
    let mut say = |name: &str, text: &str| writeln!(out, "  {name:<11}{}", Text::from(text));
    say("why", &line.reason)?;
    say("harm", &format!("{}, by {}", line.harm, line.who))?;
    if let Some(historical) = line.historical {
        say("historical", historical)?;
    }
    for (index, trigger) in line.triggers.iter().enumerate() {
        say(if index == 0 { "trigger" } else { "" }, trigger)?;
    }
    for by in &line.covered {
        let leaves =
            (by.leaves.as_ref()).map_or(String::new(), |leaves| format!("; leaves {leaves}"));
        let not_for = match by.not_for.as_slice() {
            [] => String::new(),
            names => format!("; not for {}", names.join(", ")),
        };
        let audit = if by.mode == Mode::Audit.name() {
            ", which refuses nothing"
        } else {
            ""
        };
        let armed = if by.armed {
            ""
        } else {
            "; not armed on this kernel"
        };
        say(
            "covered",
            &format!(
                "by rule {} ({}{audit}{armed}), which denies {}{not_for}{leaves}",
                by.rule, by.mode, by.action
            ),
        )?;
    }
    if let Some(why) = &line.uncovered {
        say("covered", why)?;
    }
    Ok(())
}
