//! YAML as a tree that knows where everything stands; bounded, so that no file costs more than reading it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::{
    problem::{At, Problem, Source, TAB},
    section::{Language, POLICY},
};

/// Bytes of a file.
pub const FILE_BYTES: usize = 1 << 20;
/// Lists and maps within each other; the policy's language needs seven.
const DEPTH: usize = 16;
/// Values of a file, what aliases repeat included.
const NODES: usize = 100_000;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub at: At,
}

#[derive(Clone, Debug)]
pub enum Value {
    Nothing,
    /// A word or a number, as text.
    Text(String),
    List(Vec<Node>),
    /// With duplicate keys, in order.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// For messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "empty",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads the source with this number, which is a policy.
pub fn read(source: &Source, number: usize) -> Result<Node, Box<Problem>> {
    read_as(&POLICY, source, number)
}

/// The same in any language.
pub fn read_as(language: &Language, source: &Source, number: usize) -> Result<Node, Box<Problem>> {
    let start = At {
        source: number,
        line: 1,
        column: 1,
        length: 1,
    };
    if source.text.len() > FILE_BYTES {
        // No more of it was read.
        return Err(told(
            source,
            start,
            "the file has more than 1 MiB".to_owned(),
            "at most 1 MiB",
            language.split,
        ));
    }
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: DEPTH,
            flow_nesting_limit: DEPTH,
            max_nodes: NODES,
            max_events: 3 * NODES,
            max_documents: 1,
            max_aliases: 1000,
            max_anchors: 1000,
            max_total_scalar_bytes: 4 * FILE_BYTES,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let raw: Result<Option<Spanned<Raw>>, _> =
        serde_yaml::from_str_with_options(&source.text, options);
    match raw {
        Ok(Some(raw)) => Ok(node(raw, source, number)),
        Ok(None) => Err(told(
            source,
            start,
            "the file is empty".to_owned(),
            language.holds,
            language.begin,
        )),
        Err(error) => {
            let at = error.location().map_or(start, |location| At {
                source: number,
                line: location.line() as usize,
                column: location.column() as usize,
                length: 1,
            });
            if let serde_yaml::Error::Budget { .. } = error.without_snippet() {
                return Err(told(
                    source,
                    at,
                    format!(
                        "the file is more than {}: too deep, too much, or a second document",
                        language.one
                    ),
                    "one document, at most 16 levels deep, with at most 100000 values",
                    "take out the `---`, or what aliases repeat",
                ));
            }
            let message = error.without_snippet().to_string();
            // Where it is stands before the message already.
            let message = message.lines().next().unwrap_or_default();
            let message = message.split(" at line ").next().unwrap_or_default();
            let (at, advice) = match message.contains("tab").then(|| tab_from(source, at)) {
                Some(at) => (
                    at,
                    format!("replace the tab by blanks; it is shown as {TAB} here"),
                ),
                None if unquoted(source, at.line) => (at, UNQUOTED.to_owned()),
                None => (at, "correct the line, or the one above it".to_owned()),
            };
            Err(told(
                source,
                at,
                format!("this is not YAML that can be read: {message}"),
                "YAML 1.2: blanks for indentation, `key: value`, `- item`",
                &advice,
            ))
        }
    }
}

/// What to do where a text has letters that YAML takes for its own.
const UNQUOTED: &str = "correct the line, or the one above it; patterns are quoted, and whatever else has a `*`, `&`, `[` or `{` in \
                        it: `cgroups: [\"/docker/*\"]`";

/// Whether something stands in a line without quotes that YAML takes for an alias, an anchor, a tag, a list or a map, and
/// that reads like text.
fn unquoted(source: &Source, line: usize) -> bool {
    let line = source.text.split('\n').nth(line.saturating_sub(1));
    let (mut quote, mut before, mut blank) = (None, None, true);
    for letter in line.unwrap_or_default().chars() {
        let is_begin = blank || matches!(before, Some('[' | '{' | ','));
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '#') if blank => return false,
            (None, '"' | '\'') if is_begin => quote = Some(letter),
            (None, '*' | '&' | '!' | '%' | '@' | '`') if is_begin => return true,
            // Within a word.
            (None, '[' | '{') if !is_begin => return true,
            (None, '*' | '/' | '.') if matches!(before, Some(']' | '}')) && !blank => return true,
            (None, _) => {}
        }
        blank = letter.is_whitespace();
        before = Some(letter);
    }
    false
}

/// The first line with a tab from a place on: what runs on over several lines is told of where it begins.
fn tab_from(source: &Source, at: At) -> At {
    let mut lines = (1..)
        .zip(source.text.lines())
        .skip(at.line.saturating_sub(1));
    let column = |line: &str| line.chars().position(|letter| letter == '\t');
    match lines.find_map(|(number, line)| Some((number, column(line)?))) {
        Some((line, before)) if line > at.line => At {
            line,
            column: before + 1,
            ..at
        },
        _ => at,
    }
}

fn told(source: &Source, at: At, message: String, expected: &str, advice: &str) -> Box<Problem> {
    Box::new(Problem::new(source, at, message, expected, advice))
}

fn node(raw: Spanned<Raw>, source: &Source, number: usize) -> Node {
    let at = At {
        source: number,
        line: raw.referenced.line() as usize,
        column: raw.referenced.column() as usize,
        length: raw.referenced.span().len() as usize,
    };
    let value = match raw.value {
        Raw::Nothing => Value::Nothing,
        Raw::Text(text) => Value::Text(text),
        // As it is written: 5.10 is a version, and no other than 5.1; `on` is a key, and no other than `on`.
        Raw::Otherwise(value) => Value::Text(written(source, at).unwrap_or(value)),
        Raw::List(items) => Value::List(
            (items.into_iter())
                .map(|item| node(item, source, number))
                .collect(),
        ),
        Raw::Map(pairs) => Value::Map(
            (pairs.into_iter())
                .map(|(key, value)| (node(key, source, number), node(value, source, number)))
                .collect(),
        ),
    };
    Node { value, at }
}

/// What stands at a place of one line.
fn written(source: &Source, at: At) -> Option<String> {
    let line = source.text.split('\n').nth(at.line.checked_sub(1)?)?;
    let letters = line.chars().skip(at.column.checked_sub(1)?);
    let text: String = letters.take(at.length).collect();
    let text = text.trim_end();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "+-._".contains(letter);
    (!text.is_empty() && text.chars().all(plain)).then(|| text.to_owned())
}

enum Raw {
    Nothing,
    Text(String),
    /// What is read as something else than it says, where nobody can tell how it was written.
    Otherwise(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Otherwise(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        // With its point: a fraction must not pass for a count.
        Ok(Raw::Otherwise(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            map.push(pair);
        }
        Ok(Raw::Map(map))
    }
}
