//! A host that already watches its kernel log with node-problem-detector keeps its rules: they become patterns.
//!
//! The form is that of its `pkg/systemlogmonitor` (`config.go`, `types/types.go`): `rules` of a type, a reason and a Go
//! expression; a permanent one names one of the `conditions`. It adds `\z` to each expression (`log_buffer.go`, `Match`),
//! and so does this.

use std::fmt::Write as _;

use regex::bytes::Regex;
use serde::Deserialize;

use super::compile;
use crate::policy::{
    model::{Pattern, Place, Severity},
    pattern::shipped,
};

/// Rules of one file.
const RULES: usize = 256;
/// Characters of a name.
const NAME: usize = 60;

/// Why a file gives no patterns at all.
#[derive(Debug, thiserror::Error)]
pub enum NpdError {
    /// It is no such configuration.
    #[error("{file}:{line}:{column}: this is no configuration of node-problem-detector: {why}")]
    Json {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Why.
        why: String,
    },
    /// It watches something else.
    #[error("{file}: it does not watch the kernel log, but {what}")]
    OtherLog {
        /// The file.
        file: String,
        /// What.
        what: String,
    },
    /// It has more rules than a policy may have patterns.
    #[error("{file}: {count} rules; a policy has at most {RULES} patterns")]
    TooMany {
        /// The file.
        file: String,
        /// How many.
        count: usize,
    },
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its rules as patterns, in their order.
    pub patterns: Vec<Pattern>,
    /// Rules that cannot be patterns.
    pub skipped: Vec<Skipped>,
}

/// A rule that cannot be a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its number in the file, from 1.
    pub number: usize,
    /// Its reason.
    pub reason: String,
    /// Why it cannot.
    pub why: String,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    plugin: String,
    #[serde(default, rename = "logPath")]
    log_path: String,
    #[serde(default, rename = "pluginConfig")]
    plugin_config: PluginConfig,
    #[serde(default)]
    conditions: Vec<Condition>,
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
struct PluginConfig {
    /// Journald's: whose lines.
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    /// What it says while all is well.
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    condition: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    pattern: String,
}

/// Reads a kernel monitor's configuration; `file` is what it is called in messages. Keys that are not about patterns
/// (bufferSize, lookback, source, metricsReporting) are passed over.
///
/// # Errors
/// [`NpdError`]. A single rule that cannot be a pattern is in [`Imported::skipped`].
pub fn import(file: &str, bytes: &[u8]) -> Result<Imported, NpdError> {
    let config: Config = serde_json::from_slice(bytes).map_err(|error| {
        let why = error.to_string();
        // Where it is stands before the message already.
        let why = why.split(" at line ").next().unwrap_or_default();
        NpdError::Json {
            file: file.to_owned(),
            line: error.line().max(1),
            column: error.column().max(1),
            why: why.to_owned(),
        }
    })?;
    if let Some(what) = other_log(&config) {
        return Err(NpdError::OtherLog {
            file: file.to_owned(),
            what,
        });
    }
    if config.rules.len() > RULES {
        return Err(NpdError::TooMany {
            file: file.to_owned(),
            count: config.rules.len(),
        });
    }
    let mut imported = Imported {
        patterns: Vec::new(),
        skipped: Vec::new(),
    };
    for (number, rule) in (1..).zip(&config.rules) {
        match read(rule, &config.conditions) {
            Ok((severity, means, expression)) => {
                let name = name(number, &rule.reason, &imported.patterns);
                imported.patterns.push(Pattern {
                    name,
                    expression,
                    severity,
                    means,
                    advice: advice(rule),
                    samples: Vec::new(),
                    shipped: false,
                    place: Place {
                        file: file.to_owned(),
                        line: 1,
                        column: 1,
                    },
                });
            }
            Err(why) => imported.skipped.push(Skipped {
                number,
                reason: rule.reason.clone(),
                why,
            }),
        }
    }
    Ok(imported)
}

/// What a configuration watches, if that is not the kernel log.
fn other_log(config: &Config) -> Option<String> {
    let of_kernel = match config.plugin.as_str() {
        "kmsg" => true,
        "journald" => config.plugin_config.source == "kernel",
        "filelog" => config.log_path.ends_with("/kern.log"),
        _ => false,
    };
    (!of_kernel).then(|| match config.plugin.as_str() {
        "" => "nothing: it has no `plugin`".to_owned(),
        "journald" => format!("the journal of `{}`", config.plugin_config.source),
        "filelog" => format!("the file `{}`", config.log_path),
        other => format!("what the plugin `{other}` finds"),
    })
}

/// A rule's severity, meaning and expression, or why it has none.
fn read(rule: &Rule, conditions: &[Condition]) -> Result<(Severity, String, String), String> {
    if rule.pattern.is_empty() {
        return Err("it has no `pattern`: it runs a program".to_owned());
    }
    let (severity, means) = match rule.kind.as_str() {
        "temporary" => (
            Severity::Medium,
            format!("{} (node-problem-detector, an event).", rule.reason),
        ),
        "permanent" => {
            let condition = conditions.iter().find(|one| one.kind == rule.condition);
            let well = match condition {
                Some(condition) if !condition.message.is_empty() => {
                    format!("; without it, {}", condition.message)
                }
                Some(_) => String::new(),
                None => return Err(format!("there is no condition `{}`", rule.condition)),
            };
            let (kind, reason) = (&rule.condition, &rule.reason);
            (
                Severity::High,
                format!(
                    "{reason}: the node is in the condition {kind}{well} (node-problem-detector)."
                ),
            )
        }
        other => {
            return Err(format!(
                "its type is `{other}`, neither temporary nor permanent"
            ));
        }
    };
    if spans_lines(&rule.pattern) {
        return Err("its pattern spans several lines, and alarms are about one".to_owned());
    }
    let expression = format!(r"{}\z", rule.pattern);
    let compiled: Result<Regex, _> = compile(&expression);
    compiled.map_err(|unfit| format!("its pattern {unfit}"))?;
    Ok((severity, means, expression))
}

/// Whether an expression asks for a newline, as itself or as `\n`.
fn spans_lines(expression: &str) -> bool {
    let mut letters = expression.chars();
    while let Some(letter) = letters.next() {
        if letter == '\n' || letter == '\\' && letters.next() == Some('n') {
            return true;
        }
    }
    false
}

fn advice(rule: &Rule) -> String {
    if rule.kind == "permanent" {
        let kind = &rule.condition;
        format!("What you do for a node in the condition {kind}. Write it here.")
    } else {
        "Read the lines around it. Write here what you do about it.".to_owned()
    }
}

/// A name that no other pattern has, the shipped ones included, made of a reason.
fn name(number: usize, reason: &str, taken: &[Pattern]) -> String {
    let plain: String = (reason.chars().take(NAME))
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
            _ => '-',
        })
        .collect();
    let plain = if plain.is_empty() {
        format!("npd-{number}")
    } else {
        plain
    };
    let free = |name: &str| {
        let shipped = shipped().unwrap_or_default().iter();
        !taken.iter().chain(shipped).any(|known| known.name == name)
    };
    if free(&plain) {
        return plain;
    }
    let numbered = (2..).map(|count: usize| format!("{plain}-{count}"));
    // There is always one: the numbers have no end.
    numbered
        .into_iter()
        .find(|name| free(name))
        .unwrap_or(plain)
}

/// The patterns as a part of a policy, in YAML.
#[must_use]
pub fn yaml(patterns: &[Pattern]) -> String {
    let mut out = String::from("kernel_log:\n  patterns:");
    if patterns.is_empty() {
        out.push_str(" []\n");
        return out;
    }
    out.push('\n');
    for pattern in patterns {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "    - name: {}", quoted(&pattern.name));
        let _ = writeln!(out, "      match: {}", quoted(&pattern.expression));
        let _ = writeln!(out, "      severity: {}", pattern.severity.name());
        let _ = writeln!(out, "      means: {}", quoted(&pattern.means));
        let _ = writeln!(out, "      do: {}", quoted(&pattern.advice));
    }
    out
}

/// A text as YAML reads it again: in single quotes, in which a backslash is itself; what cannot stand there, as JSON does.
fn quoted(text: &str) -> String {
    if text
        .chars()
        .any(|letter| letter.is_control() || !letter.is_ascii())
    {
        // Every JSON string is one of YAML; a string can always be written.
        return serde_json::to_string(text).unwrap_or_default();
    }
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{klog::watch::Watch, policy::load};

    const MONITOR: &str = include_str!("../../../tests/data/klog/npd-kernel-monitor.json");

    fn config(rules: &str) -> String {
        format!(
            r#"{{"plugin": "kmsg", "conditions": [{{"type": "C", "message": "well"}}], "rules": [{rules}]}}"#
        )
    }

    fn skipped(rule: &str) -> String {
        let imported = import("x", config(rule).as_bytes()).unwrap();
        assert_eq!(imported.patterns, []);
        imported.skipped[0].why.clone()
    }

    /// What a policy with this part in it says of its patterns.
    fn again(part: &str) -> Vec<Pattern> {
        let text = format!("version: 1\nsubjects: {{c: {{cgroups: [\"/docker/*\"]}}}}\n{part}");
        load::from_bytes("x", text.as_bytes())
            .unwrap_or_else(|problems| panic!("{problems}\n{part}"))
            .patterns
    }

    #[test]
    fn a_kernel_monitors_rules_become_patterns_that_a_policy_takes() {
        let imported = import("m.json", MONITOR.as_bytes()).unwrap();
        assert_eq!(imported.skipped, []);
        let read = again(&yaml(&imported.patterns));
        let what = |patterns: &[Pattern]| -> Vec<(String, String, Severity, String, String)> {
            (patterns.iter().cloned())
                .map(|one| {
                    (
                        one.name,
                        one.expression,
                        one.severity,
                        one.means,
                        one.advice,
                    )
                })
                .collect()
        };
        assert_eq!(what(&read), what(&imported.patterns));
        let names: Vec<(&str, &str)> = (read.iter())
            .map(|one| (one.name.as_str(), one.severity.name()))
            .collect();
        assert_eq!(
            names,
            [
                ("TaskBlocked", "medium"),
                ("DiskError", "medium"),
                ("DiskError-2", "medium"),
                ("RuntimeBlocked", "high"),
            ]
        );
        assert_eq!(
            read[3].means,
            "RuntimeBlocked: the node is in the condition KernelStuck; without it, the kernel isn't stuck (node-problem-detector)."
        );
        let watch = Watch::new(&read).unwrap();
        let raised = |line: &str| -> Vec<String> {
            (watch.look(line, true))
                .map(|alarm| alarm.pattern.name.clone())
                .collect()
        };
        assert_eq!(
            raised("INFO: task dockerd:12 blocked for more than 120 seconds."),
            ["TaskBlocked", "RuntimeBlocked"]
        );
        assert_eq!(
            raised("Buffer I/O error on dev sda, logical block 4"),
            ["DiskError"]
        );
        assert_eq!(raised("disk's end"), ["DiskError-2"]);
        // As node-problem-detector has it, what follows the pattern must be nothing.
        assert_eq!(raised("disk's end is near"), Vec::<String>::new());
    }

    #[test]
    fn a_rule_that_is_no_pattern_is_skipped_and_says_why() {
        let rule = |more: &str| format!(r#"{{"type": "temporary", "reason": "R", {more}}}"#);
        assert!(skipped(&rule(r#""pattern": "a(?=b)""#)).contains("look-around"));
        assert!(skipped(&rule(r#""pattern": "\\p{Greek}""#)).contains("Unicode"));
        assert!(skipped(&rule(r#""pattern": "a\\nb""#)).contains("several lines"));
        assert!(skipped(&rule(r#""pattern": "a\nb""#)).contains("several lines"));
        assert!(skipped(&rule(r#""pattern": "x*""#)).contains("matches every line"));
        assert!(skipped(&rule(r#""path": "/bin/x""#)).contains("runs a program"));
        let odd = r#"{"type": "sometimes", "reason": "R", "pattern": "a"}"#;
        assert!(skipped(odd).contains("`sometimes`"));
        let lost = r#"{"type": "permanent", "condition": "D", "reason": "R", "pattern": "a"}"#;
        assert_eq!(skipped(lost), "there is no condition `D`");
        // A backslash that is itself, before an n, is no newline.
        let path = config(&rule(r#""pattern": "C:\\\\new""#));
        assert_eq!(import("x", path.as_bytes()).unwrap().skipped, []);
    }

    #[test]
    fn a_reason_that_is_no_name_becomes_one_and_no_shipped_patterns_name() {
        let rules: Vec<String> = ["two words", "", "oops", "two words", "Z\u{e9}"]
            .iter()
            .map(|reason| {
                format!(r#"{{"type": "temporary", "reason": "{reason}", "pattern": "a"}}"#)
            })
            .collect();
        let imported = import("x", config(&rules.join(", ")).as_bytes()).unwrap();
        let read = again(&yaml(&imported.patterns));
        let names: Vec<&str> = read.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["two-words", "npd-2", "oops-2", "two-words-2", "Z-"]);
    }

    #[test]
    fn what_is_no_kernel_monitor_is_refused_with_the_place_or_the_log() {
        let said = |text: &str| import("x.json", text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            said("{\"plugin\": \"kmsg\",\n \"rules\": [}"),
            "x.json:2:12: this is no configuration of node-problem-detector: expected value"
        );
        assert!(said("{}").starts_with("x.json:1:2: ") && said("{}").contains("`rules`"));
        assert!(said("").starts_with("x.json:1:1: "));
        assert!(
            said(r#"{"plugin": "kmsg", "rules": [{"pattern": 4}]}"#).contains("expected a string")
        );
        let other = |more: &str| said(&format!(r#"{{{more}, "rules": []}}"#));
        assert!(other(r#""plugin": "custom""#).contains("the plugin `custom`"));
        assert!(
            other(r#""plugin": "journald", "pluginConfig": {"source": "dockerd"}"#)
                .contains("`dockerd`")
        );
        assert!(
            other(r#""plugin": "filelog", "logPath": "/var/log/docker.log""#)
                .contains("docker.log")
        );
        let kernel = r#"{"plugin": "journald", "pluginConfig": {"source": "kernel"}, "rules": []}"#;
        assert_eq!(
            yaml(&import("x", kernel.as_bytes()).unwrap().patterns),
            "kernel_log:\n  patterns: []\n"
        );
        let one = r#"{"type": "temporary", "reason": "R", "pattern": "a"}"#;
        let many = config(&vec![one; 257].join(", "));
        assert!(said(&many).contains("257 rules"));
    }
}
