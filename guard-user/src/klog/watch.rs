//! Trouble that the kernel tells of and nobody reads: each line is held against patterns, and what matters is an alarm.
//!
//! Looking is pure. A line costs one pass for all patterns together; which groups it has is asked of a pattern that
//! matched. What a container's process can choose (its name, a file's name, a line written into /dev/kmsg) must raise no
//! shipped pattern: lines of user space are not held against these, and theirs begin with the kernel's own words.

pub mod npd;
pub mod pacing;

#[cfg(test)]
mod shipped;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::{policy::model::Pattern, record::Text};

/// Bytes that one compiled pattern may take.
const PATTERN_BYTES: usize = 256 << 10;
/// Bytes that all of them may take together.
const ALL_BYTES: usize = 4 << 20;
/// Bytes of the cache in which what was worked out for earlier lines is kept.
const CACHE_BYTES: usize = 4 << 20;
/// The groups of a pattern that an alarm knows.
pub const GROUPS: [&str; 3] = ["pid", "comm", "device"];

/// Why an expression is no pattern. Ends a sentence that begins with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is no regular expression of this language.
    #[error("cannot be read: {0}")]
    Syntax(String),
    /// Compiled, it takes more than is allowed.
    #[error("takes more than 256 KiB when it is compiled")]
    TooLarge,
    /// It has a group that an alarm has no place for.
    #[error("has a group `{0}`")]
    Group(String),
    /// It matches a line without a letter, and so every line.
    #[error("matches every line, an empty one too")]
    Everything,
}

impl Unfit {
    /// What to do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Syntax(_) => {
                "see https://docs.rs/regex for the syntax: no look-around, no back references; put it into single quotes"
            }
            Self::TooLarge => "write smaller counts in `{…}`, or `.*` in their place",
            Self::Group(_) => {
                "the groups are `pid`, `comm` and `device`; write `(?:…)` for any other"
            }
            Self::Everything => "begin with `^` and the kernel's own words",
        }
    }
}

/// Why patterns cannot be watched for.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// One of them is no pattern.
    #[error("pattern `{name}`: `match` {unfit}")]
    Unfit {
        /// Its name.
        name: String,
        /// Why.
        unfit: Unfit,
    },
    /// Together they take more than 4 MiB.
    #[error("the patterns take more than 4 MiB when they are compiled together")]
    TooManyStates,
}

/// Compiles one expression. `\d`, `\w` and `\s` are ASCII, and `.` is any byte but a newline: the log is bytes.
///
/// # Errors
/// [`Unfit`].
pub fn compile(expression: &str) -> Result<Regex, Unfit> {
    let regex = RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => Unfit::TooLarge,
            other => Unfit::Syntax(reason(&other.to_string())),
        })?;
    if let Some(group) = (regex.capture_names().flatten()).find(|name| !GROUPS.contains(name)) {
        return Err(Unfit::Group(group.to_owned()));
    }
    if regex.is_match(b"") {
        return Err(Unfit::Everything);
    }
    Ok(regex)
}

/// The last line of an error of `regex`, which says what is wrong; those before it draw the place.
fn reason(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// What a line is about, as far as its pattern has groups for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// A task, as the host numbers it.
    pub pid: Option<u32>,
    /// What that task calls itself: its own choice, proof of nothing.
    pub comm: Option<Text>,
    /// A disk, a network device, a file server.
    pub device: Option<Text>,
}

/// A line that matched a pattern.
#[derive(Clone, Debug)]
pub struct Alarm<'w> {
    /// The pattern.
    pub pattern: &'w Pattern,
    /// What its groups hold.
    pub about: About,
    /// The kernel did not say it: somebody wrote it into the log. Never of a shipped pattern.
    pub injected: bool,
}

/// All patterns, ready to be looked for.
#[derive(Clone, Debug)]
pub struct Watch {
    set: RegexSet,
    /// In the order of the set.
    patterns: Vec<(Pattern, Regex)>,
    /// Some pattern may be matched by what user space wrote.
    any_own: bool,
}

impl Watch {
    /// Compiles patterns, those that come first to be told first.
    ///
    /// # Errors
    /// A pattern is none, or they take too much together.
    pub fn new(patterns: &[Pattern]) -> Result<Self, PatternError> {
        let expressions = patterns.iter().map(|pattern| &pattern.expression);
        let mut compiled = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let regex = compile(&pattern.expression).map_err(|unfit| PatternError::Unfit {
                name: pattern.name.clone(),
                unfit,
            })?;
            compiled.push((pattern.clone(), regex));
        }
        let set = RegexSetBuilder::new(expressions)
            .unicode(false)
            .size_limit(ALL_BYTES)
            .dfa_size_limit(CACHE_BYTES)
            .build()
            // Each was read by itself already.
            .map_err(|_| PatternError::TooManyStates)?;
        Ok(Self {
            set,
            any_own: patterns.iter().any(|pattern| !pattern.shipped),
            patterns: compiled,
        })
    }

    /// The alarms that a line raises. `text` is the line's own, without time and level; `facility_is_kern`: its facility
    /// is 0, so the kernel said it, and not a program through /dev/kmsg or syslog(2).
    ///
    /// `/dev/kmsg` gives every line that a program writes another facility than 0 (kernel/printk/printk.c,
    /// `devkmsg_write`): what such a line says is not the kernel's word.
    pub fn look<'w>(
        &'w self,
        text: &str,
        facility_is_kern: bool,
    ) -> impl Iterator<Item = Alarm<'w>> + use<'w> {
        let bytes = text.as_bytes();
        let mut alarms = Vec::new();
        if (facility_is_kern || self.any_own) && self.set.is_match(bytes) {
            for number in self.set.matches(bytes) {
                let (pattern, regex) = &self.patterns[number];
                if facility_is_kern || !pattern.shipped {
                    alarms.push(Alarm {
                        pattern,
                        about: about(regex, bytes),
                        injected: !facility_is_kern,
                    });
                }
            }
        }
        alarms.into_iter()
    }
}

fn about(regex: &Regex, line: &[u8]) -> About {
    // Without groups of its own there is nothing to ask.
    let Some(captures) = (regex.captures_len() > 1)
        .then(|| regex.captures(line))
        .flatten()
    else {
        return About::default();
    };
    let group = |name| captures.name(name).map(|found| found.as_bytes());
    About {
        pid: group("pid")
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok()),
        comm: group("comm").map(Text::from_bytes),
        device: group("device").map(Text::from_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Place, Severity};

    pub fn pattern(name: &str, expression: &str, shipped: bool) -> Pattern {
        Pattern {
            name: name.to_owned(),
            expression: expression.to_owned(),
            severity: Severity::High,
            means: "-".to_owned(),
            advice: "-".to_owned(),
            samples: Vec::new(),
            shipped,
            place: Place {
                file: "test".to_owned(),
                line: 1,
                column: 1,
            },
        }
    }

    fn names(watch: &Watch, line: &str, kern: bool) -> Vec<String> {
        (watch.look(line, kern))
            .map(|alarm| alarm.pattern.name.clone())
            .collect()
    }

    #[test]
    fn a_line_raises_each_pattern_that_matches_and_no_other() {
        let watch = Watch::new(&[
            pattern(
                "disk",
                r"^disk (?P<device>\w+) of (?P<comm>.+):(?P<pid>\d+)",
                false,
            ),
            pattern("any-disk", "disk", false),
            pattern("other", "^other", false),
        ])
        .unwrap();
        assert_eq!(
            names(&watch, "disk sda of sh:7 failed", true),
            ["disk", "any-disk"]
        );
        assert_eq!(names(&watch, "a disk", true), ["any-disk"]);
        assert_eq!(names(&watch, "an other", true), Vec::<String>::new());
        let alarm = watch.look("disk sda of a\u{1b}b:7", true).next().unwrap();
        assert_eq!(alarm.about.pid, Some(7));
        assert_eq!(alarm.about.device.unwrap().as_str(), "sda");
        // What a process calls itself never reaches a terminal as it is.
        assert_eq!(alarm.about.comm.unwrap().as_str(), r"a\x1bb");
        // A number that no pid can be is none.
        let alarm = watch
            .look("disk sda of sh:99999999999", true)
            .next()
            .unwrap();
        assert_eq!(alarm.about.pid, None);
    }

    #[test]
    fn what_user_space_wrote_raises_a_hosts_own_pattern_and_no_shipped_one() {
        let watch = Watch::new(&[
            pattern("shipped", "^trouble", true),
            pattern("own", "^trouble", false),
        ])
        .unwrap();
        assert_eq!(names(&watch, "trouble", true), ["shipped", "own"]);
        assert_eq!(names(&watch, "trouble", false), ["own"]);
        assert!(watch.look("trouble", false).all(|alarm| alarm.injected));
        assert!(watch.look("trouble", true).all(|alarm| !alarm.injected));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let unfit = |expression: &str| compile(expression).unwrap_err();
        assert_eq!(unfit("(a"), Unfit::Syntax("unclosed group".to_owned()));
        assert!(matches!(unfit("(?=a)"), Unfit::Syntax(why) if why.contains("look-around")));
        assert!(matches!(unfit(r"(a)\1"), Unfit::Syntax(why) if why.contains("backreferences")));
        assert_eq!(unfit("(?:a{1000}){100}"), Unfit::TooLarge);
        assert_eq!(unfit("(?P<who>a)"), Unfit::Group("who".to_owned()));
        assert_eq!(unfit("a*"), Unfit::Everything);
        assert_eq!(unfit(""), Unfit::Everything);
        let error = Watch::new(&[pattern("p", "(a", false)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pattern `p`: `match` cannot be read: unclosed group"
        );
    }

    #[test]
    fn patterns_that_are_too_many_together_are_refused_before_they_fill_the_memory() {
        let wide: Vec<Pattern> = (0..200)
            .map(|number| pattern(&number.to_string(), &format!("{number}.{{0,900}}x"), false))
            .collect();
        assert!(Watch::new(&wide[..1]).is_ok());
        assert!(matches!(
            Watch::new(&wide),
            Err(PatternError::TooManyStates)
        ));
    }
}
