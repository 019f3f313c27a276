//! Identity: the policy's patterns as the one automaton that the kernel side and the daemon both walk.
//!
//! `*` stands for any bytes within one name, `**` as a whole name for any number of names (also none); everything else,
//! the backslash of systemd's `\x2d` too, stands for itself.

use std::collections::HashMap;

use guard_common::identity::{LABEL_USER_MADE, NameMatcher, PATH_MAX, TRANSITIONS};
use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, syntax},
};
use thiserror::Error;

/// Below this an unprivileged user makes cgroups himself: a match there may only tighten policy.
pub const USER_MADE: &str = "/**/user@*.service/**";

/// What a pattern is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The cgroups of the subject with this number, below 64.
    Subject(u8),
    /// Cgroups that are not that subject's after all.
    Except(u8),
    /// Cgroups that are never refused anything.
    Exempt,
}

/// What the patterns say of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Matched {
    /// A bit for each subject.
    pub subjects: u64,
    /// Refused nothing.
    pub exempt: bool,
    /// An unprivileged user could have made it; exceptions and exemptions are already ignored.
    pub user_made: bool,
}

/// Why patterns do not make an automaton.
#[derive(Debug, Error)]
pub enum NamesError {
    /// The automaton would be too large.
    #[error(
        "the cgroup patterns need {states} × {columns} transitions, and the kernel table holds {TRANSITIONS}: use fewer patterns with `**`"
    )]
    TooLarge {
        /// States.
        states: usize,
        /// Byte classes, and one.
        columns: usize,
    },
    /// The automaton cannot be built.
    #[error("the cgroup patterns cannot be compiled")]
    Build(#[from] Box<dense::BuildError>),
    /// More kinds of containers than the kernel tables hold.
    #[error("the rules treat containers in more than {0} different ways")]
    TooManyProfiles(usize),
}

/// The compiled patterns.
pub struct Names {
    table: Box<NameMatcher>,
}

impl Names {
    /// Compiles `patterns`. `label` says which profile (1 to 255) containers of a kind have, 0 for none; it is asked once
    /// for each kind.
    ///
    /// # Errors
    /// [`NamesError`].
    pub fn compile(
        patterns: &[(String, Role)],
        label: &mut dyn FnMut(&Matched) -> Result<u16, NamesError>,
    ) -> Result<Self, NamesError> {
        let mut expressions: Vec<String> =
            patterns.iter().map(|(glob, _)| expression(glob)).collect();
        expressions.push(expression(USER_MADE));
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .accelerate(false),
            )
            .thompson(thompson::Config::new().utf8(false))
            .syntax(
                syntax::Config::new()
                    .unicode(false)
                    .utf8(false)
                    .dot_matches_new_line(true),
            )
            .build_many(&expressions)
            .map_err(Box::new)?;

        // One byte stands for each class.
        let mut table = NameMatcher::empty();
        let mut representatives = Vec::new();
        for byte in 0..=u8::MAX {
            let class = dfa.byte_classes().get(byte);
            if usize::from(class) == representatives.len() {
                representatives.push(byte);
            }
            table.classes[usize::from(byte)] = class;
        }
        let stride = representatives.len() + 1;
        table.stride = stride as u32;

        let start = dfa
            .universal_start_state(Anchored::Yes)
            .or_else(|| {
                dfa.start_state_forward(&regex_automata::Input::new("").anchored(Anchored::Yes))
                    .ok()
            })
            .unwrap_or(StateID::ZERO);
        let mut numbers: HashMap<StateID, u16> = HashMap::new();
        let mut states = vec![start];
        // 0 is dead: what leads nowhere is not looked at.
        numbers.insert(start, 1);
        let mut at = 0;
        let mut labels: HashMap<Matched, u16> = HashMap::new();
        while let Some(&state) = states.get(at) {
            let row = (at + 1) * stride;
            if row + stride > TRANSITIONS || states.len() > usize::from(u16::MAX) - 1 {
                return Err(NamesError::TooLarge {
                    states: states.len(),
                    columns: stride,
                });
            }
            for (column, byte) in representatives.iter().enumerate() {
                let next = dfa.next_state(state, *byte);
                if dfa.is_dead_state(next) || dfa.is_quit_state(next) {
                    continue;
                }
                let number = *numbers.entry(next).or_insert_with(|| {
                    states.push(next);
                    states.len() as u16
                });
                table.transitions[row + column] = number;
            }
            let end = dfa.next_eoi_state(state);
            if dfa.is_match_state(end) {
                let matched = gather(
                    patterns,
                    (0..dfa.match_len(end)).map(|index| dfa.match_pattern(end, index).as_usize()),
                );
                if let Some(matched) = matched {
                    let number = match labels.get(&matched) {
                        Some(number) => *number,
                        None => {
                            let mut number = label(&matched)?;
                            if number != 0 && matched.user_made {
                                number |= LABEL_USER_MADE;
                            }
                            labels.insert(matched, number);
                            number
                        }
                    };
                    table.transitions[row + stride - 1] = number;
                }
            }
            at += 1;
        }
        table.start = 1;
        Ok(Self { table })
    }

    /// What goes into the kernel.
    #[must_use]
    pub fn table(&self) -> &NameMatcher {
        &self.table
    }

    /// The label of exactly this path, as the kernel side finds it; 0 for none.
    #[must_use]
    pub fn label(&self, path: &[u8]) -> u16 {
        if path.len() >= PATH_MAX - 1 {
            return 0;
        }
        let mut state = self.table.start as u16;
        for byte in path {
            state = self.table.step(state, *byte);
        }
        self.table.label(state)
    }

    /// The container that a path is in: its shortest prefix that has a label, and the label. A path that is not
    /// absolute, or climbs, is in none.
    #[must_use]
    pub fn container<'p>(&self, path: &'p [u8]) -> Option<(&'p [u8], u16)> {
        if path.first() != Some(&b'/') || path.split(|byte| *byte == b'/').any(|name| name == b"..")
        {
            return None;
        }
        (1..=path.len())
            .filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'))
            .map(|end| (&path[..end], self.label(&path[..end])))
            .find(|(_, label)| *label != 0)
    }
}

/// What the patterns with these numbers, together, say; `None`: not a container.
fn gather(patterns: &[(String, Role)], numbers: impl Iterator<Item = usize>) -> Option<Matched> {
    let (mut matched, mut except) = (Matched::default(), 0_u64);
    for number in numbers {
        match patterns.get(number).map(|(_, role)| *role) {
            Some(Role::Subject(subject)) => matched.subjects |= 1 << (subject & 63),
            Some(Role::Except(subject)) => except |= 1 << (subject & 63),
            Some(Role::Exempt) => matched.exempt = true,
            // The last expression is USER_MADE's.
            None => matched.user_made = true,
        }
    }
    if matched.user_made {
        matched.exempt = false;
    } else {
        matched.subjects &= !except;
    }
    (matched.subjects != 0).then_some(matched)
}

/// A glob as a regular expression over bytes, anchored at both ends.
fn expression(glob: &str) -> String {
    let mut text = String::from("\\A");
    for name in glob.split('/').skip(usize::from(glob.starts_with('/'))) {
        if name == "**" {
            text.push_str("(?:/[^/]+)*");
            continue;
        }
        text.push('/');
        for part in name.split_inclusive('*') {
            let literal = part.strip_suffix('*').unwrap_or(part);
            for byte in literal.bytes() {
                if byte.is_ascii_alphanumeric() || byte == b'_' {
                    text.push(char::from(byte));
                } else {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            }
            if part.ends_with('*') {
                text.push_str("[^/]*");
            }
        }
    }
    text.push_str("\\z");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[(&str, Role)]) -> Names {
        let patterns: Vec<(String, Role)> = patterns
            .iter()
            .map(|(glob, role)| ((*glob).to_owned(), *role))
            .collect();
        Names::compile(&patterns, &mut |matched| {
            Ok(if matched.exempt {
                200
            } else {
                matched.subjects as u16
            })
        })
        .unwrap()
    }

    #[test]
    fn a_star_stays_within_one_name_and_two_stars_cross_any_number() {
        let names = names(&[
            ("/system.slice/docker-*.scope", Role::Subject(0)),
            ("/kubepods/**/pod*/*", Role::Subject(1)),
        ]);
        for (path, label) in [
            ("/system.slice/docker-abc.scope", 1),
            ("/system.slice/docker-.scope", 1),
            ("/system.slice/docker-a/b.scope", 0),
            ("/system.slice/docker-abc.scop", 0),
            ("/system.slice/docker-abc.scope/x", 0),
            ("/kubepods/pod1/c", 2),
            ("/kubepods/burstable/pod1/c", 2),
            ("/kubepods/burstable/pod1", 0),
            ("/kubepods/a/b/pod1/c", 2),
            ("kubepods/pod1/c", 0),
        ] {
            assert_eq!(names.label(path.as_bytes()), label, "{path}");
        }
    }

    #[test]
    fn everything_but_a_star_stands_for_itself() {
        let names = names(&[(r"/machine.slice/machine-lxc\x2d*.scope", Role::Subject(0))]);
        assert_eq!(names.label(br"/machine.slice/machine-lxc\x2d1.scope"), 1);
        assert_eq!(names.label(b"/machine.slice/machine-lxc-1.scope"), 0);
        assert_eq!(names.label(br"/machinexslice/machine-lxc\x2d1.scope"), 0);
    }

    #[test]
    fn exceptions_and_exemptions_count_unless_a_user_could_have_made_the_name() {
        let names = names(&[
            ("/**/libpod-*", Role::Subject(0)),
            ("/**/libpod-conmon-*", Role::Except(0)),
            ("/**/libpod-trusted", Role::Exempt),
        ]);
        assert_eq!(names.label(b"/libpod-1"), 1);
        assert_eq!(names.label(b"/libpod-conmon-1"), 0);
        assert_eq!(names.label(b"/libpod-trusted"), 200);
        let user = "/user.slice/user@1000.service/x";
        for name in ["libpod-1", "libpod-conmon-1", "libpod-trusted"] {
            let path = format!("{user}/{name}");
            assert_eq!(names.label(path.as_bytes()), 1 | LABEL_USER_MADE, "{path}");
        }
    }

    #[test]
    fn a_container_is_the_outermost_match() {
        let names = names(&[("/**/docker/*", Role::Subject(0))]);
        let path = b"/docker/a/docker/b/c";
        assert_eq!(names.container(path), Some((&path[..9], 1)));
        assert_eq!(names.container(b"/docker"), None);
        assert_eq!(names.container(b"/../docker/a"), None);
        assert_eq!(names.container(b"docker/a"), None);
    }

    #[test]
    fn a_path_that_fills_the_kernels_buffer_is_no_containers() {
        let names = names(&[("/docker/*", Role::Subject(0))]);
        let path = |length: usize| format!("/docker/{}", "a".repeat(length - 8));
        assert_eq!(names.label(path(PATH_MAX - 2).as_bytes()), 1);
        assert_eq!(names.label(path(PATH_MAX - 1).as_bytes()), 0);
    }
}
