//! Problems: whoever reads one at three in the morning sees where it is, what was expected and what to write instead.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::model::Place;

/// Problems of one policy that are told at most.
pub const PROBLEMS: usize = 100;
/// Characters of a source line that are shown.
const WIDTH: usize = 160;

/// What a tab is shown as.
pub(crate) const TAB: char = '→';

/// The text of a policy file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    /// What stands in it.
    pub text: String,
}

/// A position in a source, by its number among the policy's sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub source: usize,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters.
    pub length: usize,
}

/// Something in a policy file that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters that are meant.
    #[serde(skip)]
    length: usize,
    /// What is wrong.
    pub message: String,
    /// The source line.
    pub source: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub advice: String,
}

/// All that is wrong with a policy, at least one thing, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                out.write_char('\n')?;
            }
            problem.fmt(out)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem of a file as a whole.
    #[must_use]
    pub fn of_file(file: &str, message: String, expected: &str, advice: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            length: 0,
            message,
            source: String::new(),
            expected: expected.to_owned(),
            advice: advice.to_owned(),
        }
    }

    pub(crate) fn new(
        source: &Source,
        at: At,
        message: String,
        expected: &str,
        advice: &str,
    ) -> Self {
        // YAML takes a carriage return by itself for the end of a line as well.
        let line = (source.text.split('\n'))
            .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
            .nth(at.line.saturating_sub(1))
            .unwrap_or_default();
        Self {
            file: source.file.clone(),
            line: at.line.max(1),
            column: at.column.max(1),
            length: at.length,
            message,
            // A control character must not reach the terminal, and each must keep its column.
            source: line
                .chars()
                .map(|letter| match letter {
                    '\t' => TAB,
                    letter if letter.is_control() => ' ',
                    letter => letter,
                })
                .collect(),
            expected: expected.to_owned(),
            advice: advice.to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )?;
        if !self.source.is_empty() {
            let number = self.line.to_string();
            let blank = " ".repeat(number.len());
            // A window of a long line, around the place.
            let from = (self.column + WIDTH / 4).saturating_sub(WIDTH);
            let shown: String = self.source.chars().skip(from).take(WIDTH).collect();
            let rest = shown
                .trim_end()
                .chars()
                .count()
                .saturating_sub(self.column - 1 - from);
            let carets = "^".repeat(self.length.min(rest).max(1));
            writeln!(out, "{number} | {}", shown.trim_end())?;
            writeln!(
                out,
                "{blank} | {}{carets}",
                " ".repeat(self.column - 1 - from)
            )?;
        }
        writeln!(out, "  expected: {}", self.expected)?;
        writeln!(out, "  do: {}", self.advice)
    }
}

/// All sources of a policy, and what was found wrong with them.
pub(crate) struct Desk {
    pub sources: Vec<Source>,
    pub problems: Vec<Problem>,
}

impl Desk {
    /// Notes a problem, unless there are too many already.
    pub fn tell(&mut self, at: At, message: impl Into<String>, expected: &str, advice: &str) {
        if self.problems.len() < PROBLEMS
            && let Some(source) = self.sources.get(at.source)
        {
            self.problems
                .push(Problem::new(source, at, message.into(), expected, advice));
        }
    }

    pub fn place(&self, at: At) -> Place {
        Place {
            file: self
                .sources
                .get(at.source)
                .map_or_else(String::new, |source| source.file.clone()),
            line: at.line,
            column: at.column,
        }
    }
}
