//! A map of the policy: only the keys that the language has there, each once; and the values of a field, in its unit.

use std::time::Duration;

use super::{
    fields::{FIELDS, Field, near},
    model::{Mode, Severity},
    problem::{At, Desk},
    units,
    yaml::{Node, Value},
};

/// What may stand in files of one kind, and what they are called in messages.
pub struct Language {
    pub fields: &'static [Field],
    /// What such a file holds.
    pub holds: &'static str,
    /// The same, counted.
    pub one: &'static str,
    /// What to do about one that is empty.
    pub begin: &'static str,
    /// What to do about one that is too large.
    pub split: &'static str,
    /// Sections that are not called by their path.
    pub titles: &'static [(&'static str, &'static str)],
    /// What to do about a key that nothing resembles.
    pub take_out: &'static str,
    /// Where to read about the section with this path.
    pub read_on: fn(&str) -> String,
}

/// The policy's.
pub const POLICY: Language = Language {
    fields: FIELDS,
    holds: "a policy",
    one: "one policy",
    begin: "begin with `version: 1`; `bulkhead explain` shows the language",
    split: "split it up into policy.d/*.yaml",
    titles: &[
        ("", "the policy"),
        ("subjects.NAME", "a subject"),
        ("rules[]", "a rule"),
        ("rules[].deny[].ACTION", "what an action is done to"),
        ("rules[].escalate[]", "a step of `escalate`"),
        ("kernel_log.patterns[]", "a pattern"),
        ("kernel_log.forward[]", "an outlet"),
    ],
    take_out: "take it out: what is not known would not be enforced",
    read_on: |path| format!("`bulkhead explain {}`", word(path)),
};

impl Language {
    /// The fields that may stand directly in what has this path.
    pub fn children(&self, parent: &str) -> impl Iterator<Item = &'static Field> {
        (self.fields.iter()).filter(move |field| field.parent() == parent)
    }

    fn keys(&self, path: &str) -> String {
        let keys: Vec<String> = self
            .children(path)
            .map(|field| format!("`{}`", field.key()))
            .collect();
        keys.join(", ")
    }

    /// A section in a message.
    fn title(&self, path: &str) -> String {
        (self.titles.iter())
            .find(|(known, _)| *known == path)
            .map_or_else(
                || format!("`{}`", word(path)),
                |(_, title)| (*title).to_owned(),
            )
    }
}

/// A map whose keys are known.
pub struct Section<'n> {
    pub at: At,
    language: &'static Language,
    path: &'static str,
    values: Vec<(&'static Field, At, &'n Node)>,
}

/// A field that is there.
#[derive(Clone, Copy)]
pub struct Given<'n> {
    pub field: &'static Field,
    pub key: At,
    pub node: &'n Node,
}

impl<'n> Section<'n> {
    /// Reads `node` as the policy's map with this path. `None`, and told: it is none.
    pub fn new(desk: &mut Desk, node: &'n Node, path: &'static str) -> Option<Self> {
        Self::of(&POLICY, desk, node, path)
    }

    /// The same in any language.
    pub fn of(
        language: &'static Language,
        desk: &mut Desk,
        node: &'n Node,
        path: &'static str,
    ) -> Option<Self> {
        let Value::Map(pairs) = &node.value else {
            let (name, keys) = (language.title(path), language.keys(path));
            desk.tell(
                node.at,
                format!("{name} is {}", node.value.kind()),
                &format!("a map with the keys {keys}"),
                &format!(
                    "write `key: value` lines below it, indented; see {}",
                    (language.read_on)(path)
                ),
            );
            return None;
        };
        let mut section = Self {
            at: node.at,
            language,
            path,
            values: Vec::new(),
        };
        for (key, value) in pairs {
            let text = match &key.value {
                Value::Text(text) => text.as_str(),
                Value::Nothing | Value::List(_) | Value::Map(_) => {
                    desk.tell(
                        key.at,
                        "a key that is not a word",
                        &language.keys(path),
                        "write one of these keys",
                    );
                    continue;
                }
            };
            let Some(field) = language.children(path).find(|field| field.key() == text) else {
                unknown(language, desk, key.at, text, path);
                continue;
            };
            if let Some((_, first, _)) = section
                .values
                .iter()
                .find(|(known, _, _)| known.path == field.path)
            {
                let first = desk.place(*first);
                twice(desk, key.at, &format!("`{text}`"), &first.to_string());
                continue;
            }
            section.values.push((field, key.at, value));
        }
        Some(section)
    }

    /// A field, if it is there.
    pub fn get(&self, key: &str) -> Option<Given<'n>> {
        (self.values.iter())
            .find(|(field, _, _)| field.key() == key)
            .map(|(field, key, node)| Given {
                field,
                key: *key,
                node,
            })
    }

    /// Every field that is there.
    pub fn all(&self) -> impl Iterator<Item = Given<'n>> {
        (self.values.iter()).map(|(field, key, node)| Given {
            field,
            key: *key,
            node,
        })
    }

    /// A field that must be there.
    pub fn need(&self, desk: &mut Desk, key: &'static str) -> Option<Given<'n>> {
        self.need_as(desk, key, None)
    }

    /// The same; `like`: what it holds, and how it is written, where that depends on what it stands in.
    pub fn need_as(
        &self,
        desk: &mut Desk,
        key: &'static str,
        like: Option<(&str, &str)>,
    ) -> Option<Given<'n>> {
        let given = self.get(key);
        if given.is_none()
            && let Some(field) = self
                .language
                .children(self.path)
                .find(|field| field.key() == key)
        {
            let at = At {
                length: 1,
                ..self.at
            };
            let name = self.language.title(self.path);
            let (kind, example) = like.unwrap_or((field.kind, field.example));
            desk.tell(
                at,
                format!("{name} has no `{key}`"),
                kind,
                &format!("add `{example}`"),
            );
        }
        given
    }
}

fn unknown(language: &Language, desk: &mut Desk, at: At, text: &str, path: &str) {
    let name = language.title(path);
    let short: String = text.chars().take(60).collect();
    let near = near(text, language.children(path).map(Field::key));
    // What may be written behind a key, where a key should stand.
    let value =
        || (language.children(path)).find_map(|field| Some((field.key(), field.word_near(text)?)));
    let advice = match near.first() {
        Some(near) => format!("did you mean `{near}`?"),
        None => match value() {
            Some((key, word)) => format!("did you mean `{key}: {word}`?"),
            None => language.take_out.to_owned(),
        },
    };
    desk.tell(
        at,
        format!("{name} has no field `{short}` that this version of Bulkhead knows"),
        &format!("one of {}", language.keys(path)),
        &advice,
    );
}

pub fn twice(desk: &mut Desk, at: At, what: &str, first: &str) {
    desk.tell(
        at,
        format!("{what} stands here again; it is already at {first}"),
        "each only once, in all files together",
        "take one of the two out, or give it another name",
    );
}

/// The path as `bulkhead explain` takes it.
fn word(path: &str) -> String {
    path.replace("[]", "")
        .replace("subjects.NAME", "subjects")
        .replace("rules.", "")
}

impl<'n> Given<'n> {
    /// Told: not what the field expects.
    pub fn wrong(&self, desk: &mut Desk, message: String) {
        desk.tell(
            self.node.at,
            message,
            self.field.kind,
            &format!("write it like `{}`", self.field.example),
        );
    }

    /// Its single value.
    pub fn text(&self, desk: &mut Desk) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Nothing | Value::List(_) | Value::Map(_) => {
                self.wrong(
                    desk,
                    format!("`{}` is {}", self.field.key(), self.node.value.kind()),
                );
                None
            }
        }
    }

    /// Its single value, as `read` reads it.
    pub fn parse<T>(&self, desk: &mut Desk, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(desk)?;
        let value = read(text);
        if value.is_none() {
            let key = self.field.key();
            let short: String = text.chars().take(60).collect();
            let unit = (self.field.unit()).filter(|_| units::digits(text).is_some());
            if let Some(unit) = unit {
                let advice = format!("write `{key}: {text}{unit}`, if that is meant");
                let message = format!("`{key}` is {short}, a number without a unit");
                desk.tell(self.node.at, message, self.field.kind, &advice);
            } else if let Some(word) = self.field.word_near(text) {
                let message = format!("`{key}` cannot be `{short}`");
                let advice = format!("did you mean `{key}: {word}`?");
                desk.tell(self.node.at, message, self.field.kind, &advice);
            } else {
                self.wrong(desk, format!("`{key}` cannot be `{short}`"));
            }
        }
        value
    }

    /// A count within bounds.
    pub fn count(&self, desk: &mut Desk, least: u32, most: u32) -> Option<u32> {
        let count = self.parse(desk, units::digits)?;
        self.within(desk, count, least, most, |count| count.to_string())
    }

    /// A duration within bounds.
    pub fn duration(&self, desk: &mut Desk, least: Duration, most: Duration) -> Option<Duration> {
        let time = self.parse(desk, units::duration)?;
        self.within(desk, time, least, most, units::write_duration)
    }

    /// A size within bounds, in bytes.
    pub fn size(&self, desk: &mut Desk, least: u64, most: u64) -> Option<u64> {
        let bytes = self.parse(desk, units::size)?;
        self.within(desk, bytes, least, most, units::write_size)
    }

    /// What it is, if that is within bounds.
    pub fn within<T: PartialOrd + Copy>(
        &self,
        desk: &mut Desk,
        value: T,
        least: T,
        most: T,
        write: impl Fn(T) -> String,
    ) -> Option<T> {
        if value < least || value > most {
            let (key, value) = (self.field.key(), write(value));
            let (least, most) = (write(least), write(most));
            self.wrong(
                desk,
                format!("`{key}` cannot be {value}: at least {least}, at most {most}"),
            );
            return None;
        }
        Some(value)
    }

    /// A mode.
    pub fn mode(&self, desk: &mut Desk) -> Option<Mode> {
        self.parse(desk, |text| match text {
            "audit" => Some(Mode::Audit),
            "enforce" => Some(Mode::Enforce),
            _ => None,
        })
    }

    /// A severity.
    pub fn severity(&self, desk: &mut Desk) -> Option<Severity> {
        self.parse(desk, |text| match text {
            "low" => Some(Severity::Low),
            "medium" => Some(Severity::Medium),
            "high" => Some(Severity::High),
            "critical" => Some(Severity::Critical),
            _ => None,
        })
    }

    /// Its items. A single value is an error: what looks like one pattern may be two.
    pub fn list(&self, desk: &mut Desk) -> Option<&'n [Node]> {
        match &self.node.value {
            Value::List(items) => Some(items),
            Value::Nothing | Value::Text(_) | Value::Map(_) => {
                self.wrong(
                    desk,
                    format!("`{}` is {}", self.field.key(), self.node.value.kind()),
                );
                None
            }
        }
    }

    /// It is a list without items.
    pub fn list_is_empty(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// Its items, each a single value.
    pub fn texts(&self, desk: &mut Desk) -> Option<Vec<(&'n str, At)>> {
        let mut texts = Vec::new();
        for item in self.list(desk)? {
            match &item.value {
                Value::Text(text) => texts.push((text.as_str(), item.at)),
                Value::Nothing | Value::List(_) | Value::Map(_) => {
                    let message =
                        format!("an item of `{}` is {}", self.field.key(), item.value.kind());
                    desk.tell(
                        item.at,
                        message,
                        self.field.kind,
                        &format!("write it like `{}`", self.field.example),
                    );
                }
            }
        }
        Some(texts)
    }
}
