//! `bulkhead explain`: the policy's language, from the program that reads it.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use guard_common::{action::Action, fork_storm::Reason};
use guard_user::{
    advisory::arm::arm_by_this_host,
    kernel::hooks::{self, Hook},
    policy::{
        describe::{self, Line},
        fields::{self, FIELDS, Field, children},
        load, meaning,
        model::{Pattern, Policy},
        pattern,
    },
};
use serde::Serialize;

use super::{
    check::to_stdout,
    glossary::{self, GLOSSARY},
};

/// The action that has no name in policies, as records name it.
const ACTION: &str = "fork";

/// Explain the policy's language: a field, an action, a rule of the policy that is in force here, or a pattern over the
/// kernel log.
///
/// Without a WORD: all fields. A field goes by its name or the end of its path (`forks`, `pids.max`, `reserve`), also by
/// a word that may be written there (`freeze`); an action or a reason by its name in records (`fork`,
/// `kernel_log.read`, `pids_cap`). Words of `status` and of records, as `rung` or ATTACHED, are explained as well.
///
/// Exit code 0: explained; 1: nothing goes by that word, and what it may have been is printed.
#[derive(Args)]
#[command(after_help = "Examples:
  bulkhead explain                     every field
  bulkhead explain forks               the fork rate, and what stands in it
  bulkhead explain pids.max
  bulkhead explain kernel_log.read     what refuses it
  bulkhead explain fork-storm          the rule of that name
  bulkhead explain hung-task           what a line of the kernel log means, and what to do")]
pub struct Arguments {
    /// A field, an action, the name of a rule or a pattern, or a word of what is printed.
    word: Option<String>,
    /// Look for rules in this policy, and not in the one that the daemon would load.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Explained {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    /// What the word means in what is printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    word: Option<String>,
    fields: Vec<&'static Field>,
    rules: Vec<OfRule>,
    patterns: Vec<OfPattern>,
}

/// A pattern over the kernel log, with the keys that a policy has for it.
#[derive(Serialize)]
struct OfPattern {
    name: String,
    severity: &'static str,
    r#match: String,
    means: String,
    r#do: String,
    samples: Vec<String>,
    defined_at: String,
    /// It raises no alarm here, since the policy ignores it.
    ignored: bool,
}

#[derive(Serialize)]
struct OfRule {
    #[serde(flatten)]
    line: Line,
    severity: &'static str,
    defined_at: String,
    /// Each subject, and its patterns.
    cgroups: Vec<(String, Vec<String>)>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(word) = &arguments.word else {
        to_stdout(|out| {
            if arguments.json {
                return writeln!(out, "{}", serde_json::to_string_pretty(FIELDS)?);
            }
            overview(out)
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    // A policy that is broken still has a language.
    let mut policy = load::in_force(arguments.policy.as_deref());
    if let Ok(policy) = &mut policy {
        // What cannot be judged says so of itself.
        let _ = arm_by_this_host(policy, None);
    }
    let explained = explain(word, policy.as_ref().ok());
    if explained.is_empty() {
        eprintln!("bulkhead: nothing goes by `{}`", word.escape_debug());
        let near = near_words(word, policy.as_ref().ok());
        if !near.is_empty() {
            eprintln!("  near it: {}", near.join(", "));
        }
        if let Err(problems) = &policy {
            eprintln!(
                "  rules could not be looked for, since the policy is not valid; {} in it, see `bulkhead check`",
                count(problems.0.len())
            );
        }
        eprintln!("  `bulkhead explain` shows all fields");
        return Ok(ExitCode::from(1));
    }
    to_stdout(|out| {
        if arguments.json {
            return writeln!(out, "{}", serde_json::to_string_pretty(&explained)?);
        }
        print(out, &explained)
    })?;
    Ok(ExitCode::SUCCESS)
}

impl Explained {
    fn is_empty(&self) -> bool {
        self.word.is_none()
            && self.fields.is_empty()
            && self.rules.is_empty()
            && self.patterns.is_empty()
    }
}

/// What a word may have been meant for, among all that is explained.
fn near_words(word: &str, policy: Option<&Policy>) -> Vec<String> {
    let mut known: Vec<&str> = vec![ACTION];
    known.extend(FIELDS.iter().map(|field| field.key()));
    known.extend(Action::ALL.iter().map(|action| action.name()));
    known.extend(Reason::ALL.iter().map(|reason| reason.name()));
    known.extend(GLOSSARY.iter().map(|entry| entry.word));
    let shipped = pattern::shipped().unwrap_or_default();
    known.extend(shipped.iter().map(|pattern| pattern.name.as_str()));
    if let Some(policy) = policy {
        known.extend(policy.patterns.iter().map(|pattern| pattern.name.as_str()));
        known.extend(policy.rules.iter().map(|rule| rule.name.as_str()));
    }
    let near = fields::near(word, known.iter().copied());
    let parts = fields::with_part(word, known.into_iter());
    let mut all: Vec<String> = Vec::new();
    for one in near.into_iter().chain(parts) {
        if !all.iter().any(|known| known == one) {
            all.push(one.to_owned());
        }
    }
    all
}

fn count(problems: usize) -> String {
    format!("{problems} problem{}", if problems == 1 { "" } else { "s" })
}

fn explain(word: &str, policy: Option<&Policy>) -> Explained {
    let mut explained = Explained::default();
    let field = |path: &str| FIELDS.iter().find(move |field| field.path == path);
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == word);
    if word == ACTION {
        explained.action = Some(
            "fork: a task of a container makes a process or a thread (fork, vfork, clone, clone3). A fork that is refused \
             fails with EAGAIN, before it costs the host a pid. Three limits are about it, of reason rate, pids_cap and \
             host_reserve in records:"
                .to_owned(),
        );
        explained.fields.extend(
            ["rules[].forks", "rules[].pids", "host.reserve"]
                .into_iter()
                .filter_map(field),
        );
    } else if let Some(action) = Action::ALL.into_iter().find(|action| action.name() == word) {
        explained.action = Some(of_action(action));
        explained.fields.extend(field("rules[].deny"));
    } else if let Some(reason) = reason.filter(|reason| *reason != Reason::Rate) {
        let path = match reason {
            Reason::Rate => "rules[].forks",
            Reason::PidsCap => "rules[].pids.max",
            Reason::HostReserve => "host.reserve",
        };
        explained.action = Some(format!(
            "{word}: the reason of a refused fork; the limit stands in `{path}`"
        ));
        explained.fields.extend(field(path));
    } else {
        explained.fields = fields::find(word);
    }
    explained.word = glossary::find(word).map(|entry| format!("{}: {}", entry.word, entry.says));
    let own = policy.map_or(&[][..], |policy| &policy.patterns);
    let shipped = pattern::shipped().unwrap_or_default();
    explained.patterns = (shipped.iter().chain(own))
        .filter(|pattern| pattern.name == word)
        .map(|pattern| of_pattern(pattern, policy))
        .collect();
    let Some(policy) = policy else {
        return explained;
    };
    let lines = describe::rules(policy, None);
    for line in lines.into_iter().filter(|line| line.rule == word) {
        let Some(rule) = policy.rules.iter().find(|rule| rule.name == word) else {
            continue;
        };
        explained.rules.push(OfRule {
            line,
            severity: rule.severity.name(),
            defined_at: rule.place.to_string(),
            cgroups: (policy.subjects.iter())
                .filter(|subject| rule.subjects.contains(&subject.name))
                .map(|subject| (subject.name.clone(), subject.cgroups.clone()))
                .collect(),
        });
    }
    explained
}

/// What an action is, what stands before it, by the hooks that judge it, and what does not.
fn of_action(action: Action) -> String {
    let judge = |hook: &&Hook| hook.actions.contains(&action);
    let mut text = format!("{}: {}", action.name(), meaning::what(action));
    let mut say = |words: &str| text.extend(["\n  ", words]);
    say("refused with EPERM, or counted, at");
    for hook in hooks::all().filter(judge) {
        say(&format!("  {:<20} {}", hook.name, hook.what));
        say(&format!("  {:<20} {}", "", where_seen(hook)));
        if let Some(lower) = hook.lower {
            say(&format!(
                "  {:<20} {}; where the kernel lets no program stand there",
                format!("or {}", lower.name),
                lower.what
            ));
            say(&format!("  {:<20} {}", "", where_seen(lower)));
        }
    }
    if action.is_setup() {
        say("not what a runtime does to start a container, before that executes anything");
    }
    let round = meaning::ways_round(action);
    if !round.is_empty() {
        say("known ways round it");
    }
    for way in round {
        say(&format!("  {way}"));
    }
    say(
        "rungs: lsm where `bpf` is an active security module, else fmod_ret; cgroup needs neither. Without both stands what is behind `or`, if anything, and `status` is DEGRADED",
    );
    say("`bulkhead doctor` says which of these refuse here, and which ways are open");
    say("a policy names it in");
    text
}

/// On which kernels of the tests a hook refuses, and on which rung.
fn where_seen(hook: &Hook) -> String {
    let Some(seen) = hooks::seen(hook) else {
        return "by a program of the root cgroup, on every kernel and rung".to_owned();
    };
    let kernels: Vec<String> = (seen.into_iter())
        .map(|(kernel, rung)| match rung {
            "–" => format!("{kernel}: it asks elsewhere"),
            rung => format!("{kernel}: {rung}"),
        })
        .collect();
    format!("[{}]", kernels.join("; "))
}

fn of_pattern(pattern: &Pattern, policy: Option<&Policy>) -> OfPattern {
    let ignored = policy.is_some_and(|policy| policy.ignore_patterns.contains(&pattern.name));
    OfPattern {
        name: pattern.name.clone(),
        severity: pattern.severity.name(),
        r#match: pattern.expression.clone(),
        means: pattern.means.clone(),
        r#do: pattern.advice.clone(),
        samples: pattern.samples.clone(),
        defined_at: pattern.place.to_string(),
        ignored: ignored && pattern.shipped,
    }
}

fn overview(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "A policy is YAML, in /etc/bulkhead/policy.yaml and policy.d/*.yaml. Its fields:\n"
    )?;
    let width = FIELDS
        .iter()
        .map(|field| field.path.len())
        .max()
        .unwrap_or(0);
    for field in FIELDS {
        writeln!(out, "  {:<width$}  {}", field.path, field.kind)?;
    }
    writeln!(
        out,
        "\n`bulkhead explain FIELD` tells what a field does, its default and an example;"
    )?;
    writeln!(
        out,
        "`bulkhead explain RULE` what a rule of the policy does; `bulkhead explain fork` what a fork is judged by;"
    )?;
    writeln!(
        out,
        "`bulkhead explain PATTERN` what a line of the kernel log means, and of a word in `status`, as ATTACHED, what that does."
    )?;
    writeln!(out, "`bulkhead check FILE` says whether a policy is valid.")
}

fn print(out: &mut dyn Write, explained: &Explained) -> io::Result<()> {
    if let Some(action) = &explained.action {
        writeln!(out, "{action}\n")?;
    }
    if let Some(word) = &explained.word {
        writeln!(out, "{word}\n")?;
    }
    for rule in &explained.rules {
        writeln!(
            out,
            "rule {} ({}, severity {})",
            rule.line.rule, rule.line.mode, rule.severity
        )?;
        writeln!(out, "  {}", rule.line.says)?;
        for told in &rule.line.armed {
            writeln!(out, "  kernel    {}", told.says)?;
        }
        writeln!(out, "  defined   {}", rule.defined_at)?;
        for (subject, patterns) in &rule.cgroups {
            writeln!(out, "  {subject} are the cgroups")?;
            for pattern in patterns {
                writeln!(out, "    {pattern}")?;
            }
        }
        writeln!(out)?;
    }
    for pattern in &explained.patterns {
        let ignored = if pattern.ignored {
            ", ignored here"
        } else {
            ""
        };
        writeln!(
            out,
            "pattern {} (severity {}{ignored})",
            pattern.name, pattern.severity
        )?;
        writeln!(out, "  means     {}", pattern.means)?;
        writeln!(out, "  do        {}", pattern.r#do)?;
        writeln!(out, "  matches   {}", pattern.r#match)?;
        writeln!(out, "  defined   {}", pattern.defined_at)?;
        for (number, sample) in pattern.samples.iter().enumerate() {
            let title = if number == 0 { "samples" } else { "" };
            writeln!(out, "  {title:<8}  {sample}")?;
        }
        writeln!(out)?;
    }
    for field in &explained.fields {
        writeln!(out, "{}", field.path)?;
        writeln!(out, "  {}", field.says)?;
        writeln!(out, "  holds     {}", field.kind)?;
        writeln!(out, "  default   {}", field.default)?;
        writeln!(out, "  example   {}", field.example)?;
        for (number, child) in children(field.path).enumerate() {
            let title = if number == 0 { "fields" } else { "" };
            writeln!(out, "  {title:<8}  {:<9} {}", child.key(), child.kind)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_what_is_printed_is_explained_and_a_field_is_none() {
        let of = |word: &str| explain(word, None);
        assert!(
            of("ATTACHED")
                .word
                .unwrap()
                .starts_with("ATTACHED: of a hook")
        );
        assert!(of("fmod_ret").word.is_some());
        assert!(of("nested").word.is_some());
        assert!(of("forks").word.is_none());
        assert!(of("nonsense").is_empty());
    }

    #[test]
    fn a_word_that_is_not_known_proposes_actions_patterns_and_words_of_what_is_printed() {
        let near = |word: &str| near_words(word, None);
        for (word, meant) in [
            ("user_namespace.crate", "user_namespace.create"),
            ("ATTACHD", "ATTACHED"),
            ("hang-task", "hung-task"),
            ("fork", "fork"),
        ] {
            assert_eq!(near(word).first().map(String::as_str), Some(meant));
        }
        assert!(
            near("oom").contains(&"oom-kill".to_owned()),
            "{:?}",
            near("oom")
        );
        assert!(near("kernel_log.raed").contains(&"kernel_log.read".to_owned()));
        assert!(near("xyzzy").is_empty());
    }
}
