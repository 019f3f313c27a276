//! Identity: the policy's patterns as the one automaton that the kernel side and the daemon both walk.
//!
//! `*` stands for any bytes within one name, `**` as a whole name for any number of names (also none); everything else,
//! the backslash of systemd's `\x2d` too, stands for itself.

use guard_common::identity::{NameMatcher, PATH_MAX, TRANSITIONS};
use thiserror::Error;

use super::automaton;

/// Below this an unprivileged user makes cgroups himself: a match there may only tighten policy.
pub const USER_MADE: &str = "/**/user@*.service/**";

/// Whether [`USER_MADE`] takes in a path, or all that a pattern can match.
#[must_use]
pub fn is_user_made(path: &str) -> bool {
    path.split('/')
        .any(|name| name.starts_with("user@") && name.ends_with(".service"))
}

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
    /// The patterns are too long.
    #[error("the cgroup patterns have more than about 60000 characters together")]
    TooLong,
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
        Ok(Self {
            table: automaton::build(patterns, label)?,
        })
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

#[cfg(test)]
mod tests {
    use guard_common::identity::LABEL_USER_MADE;

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
    fn the_daemon_and_the_automaton_agree_on_what_a_user_could_have_made() {
        let names = names(&[("/**", Role::Subject(0))]);
        for (path, user_made) in [
            (
                "/user.slice/user-1.slice/user@1.service/docker-1.scope",
                true,
            ),
            ("/user@1.service/x/y", true),
            ("/user@1.service", true),
            ("/user@.service/x", true),
            ("/user@1.slice/x", false),
            ("/xuser@1.service/x", false),
            ("/user@1/x.service/y", false),
            ("/system.slice/docker-1.scope", false),
        ] {
            let marked = names.label(path.as_bytes()) & LABEL_USER_MADE != 0;
            assert_eq!(
                (marked, is_user_made(path)),
                (user_made, user_made),
                "{path}"
            );
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
