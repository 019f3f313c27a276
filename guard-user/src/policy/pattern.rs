//! Patterns over the kernel log, as a policy and the file that Bulkhead brings with it write them.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::{
    fields::{near, with_part},
    model::{Pattern, Policy},
    parse::name,
    problem::{At, Desk, Problems, Source},
    section::{Given, Section, twice},
    yaml,
};
use crate::klog::watch;

/// The patterns that Bulkhead brings with it, in the form of a policy.
pub const SHIPPED: &str = include_str!("../../../policies/patterns/kernel.yaml");
/// What that file is called in messages.
pub const SHIPPED_NAME: &str = "(built in) patterns/kernel.yaml";
/// Patterns of one policy, beside the shipped ones.
const PATTERNS: usize = 256;
/// Characters of an expression.
const EXPRESSION: usize = 2048;
/// Characters of a text, and of a sample.
const TEXT: usize = 1024;
/// Samples of a pattern.
const SAMPLES: usize = 64;

/// What a file says about watching the kernel log.
#[derive(Default)]
pub(super) struct DraftWatch {
    pub patterns: Vec<(Pattern, At)>,
    pub ignore: Vec<(String, At)>,
}

/// The shipped patterns, in the order of their file.
///
/// # Errors
/// None that a test would not have found.
pub fn shipped() -> Result<&'static [Pattern], &'static Problems> {
    static READ: LazyLock<Result<Vec<Pattern>, Problems>> = LazyLock::new(|| {
        let source = Source {
            file: SHIPPED_NAME.to_owned(),
            text: SHIPPED.to_owned(),
        };
        let mut desk = Desk {
            sources: vec![source],
            problems: Vec::new(),
        };
        let mut draft = DraftWatch::default();
        match yaml::read(&desk.sources[0], 0) {
            Ok(node) => {
                if let Some(top) = Section::new(&mut desk, &node, "")
                    && let Some(given) = top.need(&mut desk, "kernel_log")
                    && let Some(section) = Section::new(&mut desk, given.node, "kernel_log")
                {
                    draft = watching(&mut desk, &section);
                }
            }
            Err(problem) => desk.problems.push(*problem),
        }
        if !desk.problems.is_empty() {
            return Err(Problems(desk.problems));
        }
        let shipped = |(pattern, _)| Pattern {
            shipped: true,
            ..pattern
        };
        Ok(draft.patterns.into_iter().map(shipped).collect())
    });
    READ.as_ref().map(Vec::as_slice)
}

/// What a policy says of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Its own.
    pub own: Vec<Pattern>,
    /// Names of shipped ones that are not watched for.
    pub ignore: Vec<String>,
}

impl Chosen {
    /// Of a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        Self {
            own: policy.patterns.clone(),
            ignore: policy.ignore_patterns.clone(),
        }
    }

    /// What is watched for: the shipped patterns but those that are ignored, then the policy's own.
    #[must_use]
    pub fn in_force(&self) -> Vec<Pattern> {
        let shipped = shipped().unwrap_or_default().iter();
        shipped
            .filter(|pattern| !self.ignore.contains(&pattern.name))
            .chain(&self.own)
            .cloned()
            .collect()
    }
}

/// Reads `patterns` and `ignore` of `kernel_log`.
pub(super) fn watching(desk: &mut Desk, section: &Section<'_>) -> DraftWatch {
    DraftWatch {
        patterns: (section.get("patterns"))
            .map(|given| patterns(desk, given))
            .unwrap_or_default(),
        ignore: (section.get("ignore"))
            .and_then(|given| given.texts(desk))
            .unwrap_or_default()
            .into_iter()
            .map(|(text, at)| (text.to_owned(), at))
            .collect(),
    }
}

/// Reads a list of patterns. One that is wrong is told, and left out.
pub(super) fn patterns(desk: &mut Desk, given: Given<'_>) -> Vec<(Pattern, At)> {
    let items = given.list(desk).unwrap_or_default();
    if items.len() > PATTERNS {
        let message = format!("{} patterns; at most {PATTERNS}", items.len());
        given.wrong(desk, message);
    }
    (items.iter().take(PATTERNS))
        .filter_map(|item| {
            let section = Section::new(desk, item, "kernel_log.patterns[]")?;
            pattern(desk, &section)
        })
        .collect()
}

fn pattern(desk: &mut Desk, section: &Section<'_>) -> Option<(Pattern, At)> {
    let named = section.need(desk, "name");
    let name = named.and_then(|given| {
        let text = given.text(desk)?;
        name(desk, text, given.node.at)
    });
    let expression = section
        .need(desk, "match")
        .and_then(|given| expression(desk, given));
    let severity = section
        .need(desk, "severity")
        .and_then(|given| given.severity(desk));
    let means = section
        .need(desk, "means")
        .and_then(|given| text(desk, given));
    let advice = section.need(desk, "do").and_then(|given| text(desk, given));
    let samples = section
        .get("samples")
        .map(|given| samples(desk, given, expression.as_ref().map(|(_, regex)| regex)))
        .unwrap_or_default();
    let (expression, _) = expression?;
    let at = named?.node.at;
    let pattern = Pattern {
        name: name?,
        expression,
        severity: severity?,
        means: means?,
        advice: advice?,
        samples,
        shipped: false,
        place: desk.place(at),
    };
    Some((pattern, at))
}

fn expression(desk: &mut Desk, given: Given<'_>) -> Option<(String, Regex)> {
    let text = given.text(desk)?;
    if text.chars().count() > EXPRESSION {
        let message = format!("`match` is longer than {EXPRESSION} characters");
        given.wrong(desk, message);
        return None;
    }
    match watch::compile(text) {
        Ok(regex) => Some((text.to_owned(), regex)),
        Err(unfit) => {
            desk.tell(
                given.node.at,
                format!("`match` {unfit}"),
                given.field.kind,
                unfit.advice(),
            );
            None
        }
    }
}

fn text(desk: &mut Desk, given: Given<'_>) -> Option<String> {
    let text = given.text(desk)?;
    let length = text.chars().count();
    if length == 0 || length > TEXT || text.chars().any(char::is_control) {
        let key = given.field.key();
        given.wrong(
            desk,
            format!("`{key}` is not one line of at most {TEXT} characters"),
        );
        return None;
    }
    Some(text.to_owned())
}

/// The samples, each of which the pattern must match, if there is one that could be read.
fn samples(desk: &mut Desk, given: Given<'_>, regex: Option<&Regex>) -> Vec<String> {
    let texts = given.texts(desk).unwrap_or_default();
    if texts.len() > SAMPLES {
        let message = format!("{} samples; at most {SAMPLES}", texts.len());
        given.wrong(desk, message);
    }
    for (text, at) in &texts {
        if regex.is_some_and(|regex| !regex.is_match(text.as_bytes())) {
            desk.tell(
                *at,
                "`match` does not match this sample",
                "a line of the kernel log, without time and level, that the pattern is for",
                "correct `match`, or take the line out",
            );
        }
    }
    (texts.into_iter().take(SAMPLES))
        .map(|(text, _)| text.to_owned())
        .collect()
}

/// Holds what all files say together: each name once, a shipped one only where it is ignored, and room for all.
pub(super) fn check(desk: &mut Desk, draft: &DraftWatch) {
    if draft.patterns.is_empty() && draft.ignore.is_empty() {
        // Reading the shipped ones costs 67 million instructions: a start that needs none is spared them.
        return;
    }
    let shipped = shipped().unwrap_or_default();
    let names = || shipped.iter().map(|pattern| pattern.name.as_str());
    for (number, (name, at)) in draft.ignore.iter().enumerate() {
        if let Some((_, first)) = draft.ignore[..number]
            .iter()
            .find(|(other, _)| other == name)
        {
            let first = desk.place(*first).to_string();
            twice(desk, *at, &format!("`{name}`"), &first);
        } else if !names().any(|known| known == name) {
            let (near, parts) = (near(name, names()), with_part(name, names()));
            let advice = match (near.first(), parts.as_slice()) {
                (Some(near), _) => format!("did you mean `{near}`?"),
                (None, [part]) => format!("did you mean `{part}`?"),
                (None, [_, ..]) => format!("did you mean one of `{}`?", parts.join("`, `")),
                (None, []) => "see the table in docs/hazards.md; a pattern of your own is taken out where it stands".to_owned(),
            };
            let short: String = name.chars().take(60).collect();
            desk.tell(
                *at,
                format!("no pattern that comes with Bulkhead is called `{short}`"),
                "the name of a shipped pattern",
                &advice,
            );
        }
    }
    for (number, (pattern, at)) in draft.patterns.iter().enumerate() {
        let name = &pattern.name;
        let first = (draft.patterns[..number].iter()).find(|(other, _)| other.name == *name);
        let ignored = draft.ignore.iter().any(|(ignored, _)| ignored == name);
        if let Some((first, _)) = first {
            let first = first.place.to_string();
            twice(desk, *at, &format!("pattern `{name}`"), &first);
        } else if !ignored && names().any(|known| known == name) {
            desk.tell(
                *at,
                format!("a pattern that comes with Bulkhead is called `{name}` already"),
                "a name of your own",
                &format!(
                    "choose another name; to replace that pattern, add `ignore: [{name}]` under `kernel_log`"
                ),
            );
        }
    }
    let own = || draft.patterns.iter().map(|(pattern, _)| pattern);
    let ignored = |pattern: &&Pattern| !draft.ignore.iter().any(|(name, _)| *name == pattern.name);
    let all: Vec<Pattern> = (shipped.iter().filter(ignored).chain(own()))
        .cloned()
        .collect();
    // One that does not compile by itself was told where it stands.
    if let Some((_, at)) = draft.patterns.last()
        && let Err(watch::PatternError::TooManyStates) = watch::Watch::new(&all)
    {
        desk.tell(
            *at,
            "the patterns of `kernel_log` are too many or too long together",
            "patterns that one pass over a line can look for",
            "begin them with `^` and the kernel's own words, and write small counts in `{…}`",
        );
    }
}
