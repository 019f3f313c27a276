//! The policy held against its files, its language, its docs, and against what nobody would write.

mod compiled;
mod files;
mod language;
mod paths;
mod patterns;
mod properties;

use super::{load, model::Policy};

/// A policy with one subject, `containers`, and `more`.
fn policy(more: &str) -> Policy {
    load::from_bytes("test.yaml", text(more).as_bytes())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// The first line of each problem of such a policy, without the file.
fn problems(more: &str) -> Vec<String> {
    let problems = load::from_bytes("test.yaml", text(more).as_bytes()).unwrap_err();
    let first = |text: String| {
        text.lines()
            .next()
            .unwrap_or_default()
            .replace("test.yaml:", "")
    };
    problems
        .0
        .iter()
        .map(|problem| first(problem.to_string()))
        .collect()
}

fn text(more: &str) -> String {
    format!("version: 1\nsubjects: {{containers: {{cgroups: [\"/docker/*\"]}}}}\n{more}")
}
