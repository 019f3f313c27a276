//! Whether a release of the mainline and stable trees has a bug, by the points at which it came and went.

use std::mem;

use super::{model::Range, upstream::Upstream};

/// What is known of one release, or of all that it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    /// The bug came later: with this release.
    NotYet(Upstream),
    /// It has it.
    Yes,
    /// It has the fix, since this release.
    Fixed(Upstream),
    /// It cannot be told: a candidate of the very release, or only the branch is known.
    Unclear,
}

/// Whether `release` has what `range` tells of.
#[must_use]
pub fn has(range: &Range, release: Upstream) -> Has {
    let came = reached(&range.introduced, release);
    let went = reached(&range.fixed, release);
    match (came, went) {
        (_, Reached::Yes(point)) => Has::Fixed(point),
        // It is the first that has it, or the first of all.
        (Reached::No, _) => match next(&range.introduced, release) {
            Some(point) => Has::NotYet(point),
            None => Has::Unclear,
        },
        (Reached::Unclear, _) | (_, Reached::Unclear) => Has::Unclear,
        (Reached::Yes(_), Reached::No) => Has::Yes,
    }
}

/// The same, where the stable release within the branch of `release` is not known.
#[must_use]
pub fn has_branch(range: &Range, release: Upstream) -> Has {
    let [first, last] = release.branch().map(|end| has(range, end));
    if mem::discriminant(&first) == mem::discriminant(&last) {
        first
    } else {
        Has::Unclear
    }
}

enum Reached {
    Yes(Upstream),
    No,
    Unclear,
}

/// Whether a change whose points these are is in `release`. A branch's own point decides for the branch; where it has
/// none, only what mainline had when the branch began is in it.
fn reached(points: &[Upstream], release: Upstream) -> Reached {
    let own = points.iter().any(|point| point.same_branch(release));
    let mut unclear = false;
    let mut last = None;
    for point in points {
        let counts = if own {
            point.same_branch(release)
        } else {
            point.is_mainline()
        };
        match counts.then(|| release.reaches(*point)) {
            Some(Some(true)) => last = last.max(Some(*point)),
            Some(None) => unclear = true,
            Some(Some(false)) | None => {}
        }
    }
    match last {
        Some(point) => Reached::Yes(point),
        None if unclear => Reached::Unclear,
        None => Reached::No,
    }
}

/// The point that `release` is before: its own branch's, else mainline's.
fn next(points: &[Upstream], release: Upstream) -> Option<Upstream> {
    (points.iter())
        .filter(|point| **point > release)
        .min_by_key(|point| (!point.same_branch(release), !point.is_mainline(), **point))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(words: &str) -> Vec<Upstream> {
        words
            .split_whitespace()
            .map(|word| Upstream::parse(word).unwrap())
            .collect()
    }

    fn of(introduced: &str, fixed: &str, release: &str) -> String {
        let range = Range {
            introduced: releases(introduced),
            fixed: releases(fixed),
            introduced_by: Vec::new(),
            fixed_by: Vec::new(),
            public: None,
        };
        let words = |has| match has {
            Has::NotYet(point) => format!("before {point}"),
            Has::Yes => "yes".to_owned(),
            Has::Fixed(point) => format!("fixed {point}"),
            Has::Unclear => "unclear".to_owned(),
        };
        match release.strip_suffix(".*") {
            Some(branch) => words(has_branch(&range, Upstream::parse(branch).unwrap())),
            None => words(has(&range, Upstream::parse(release).unwrap())),
        }
    }

    #[test]
    fn a_branch_goes_by_its_own_points() {
        // act_pedit: it came to stable branches by a backport.
        let (came, went) = ("5.10.117 5.15.41 5.17.9 5.18", "5.10.260 6.1.177 7.1");
        for (release, expected) in [
            ("5.4.300", "before 5.18"),
            ("5.10.116", "before 5.10.117"),
            ("5.10.117", "yes"),
            ("5.10.259", "yes"),
            ("5.10.260", "fixed 5.10.260"),
            ("5.16.20", "before 5.18"),
            ("5.17.9", "yes"),
            ("5.18", "yes"),
            ("6.1.176", "yes"),
            ("6.1.177", "fixed 6.1.177"),
            // No stable release of this branch has the fix.
            ("6.5.13", "yes"),
            ("7.0.99", "yes"),
            ("7.1", "fixed 7.1"),
            ("8.0", "fixed 7.1"),
            ("5.10.*", "unclear"),
            ("6.5.*", "yes"),
            ("7.2.*", "fixed 7.1"),
            ("4.19.*", "before 5.18"),
        ] {
            assert_eq!(of(came, went, release), expected, "{release}");
        }
    }

    #[test]
    fn a_candidate_of_the_very_release_is_unclear() {
        let (came, went) = ("5.14-rc3", "6.1");
        for (release, expected) in [
            ("5.14-rc2", "before 5.14-rc3"),
            ("5.14-rc3", "yes"),
            ("6.1-rc1", "unclear"),
            ("6.1", "fixed 6.1"),
        ] {
            assert_eq!(of(came, went, release), expected, "{release}");
        }
        assert_eq!(of("6.1", "6.2", "6.1-rc1"), "unclear");
    }

    #[test]
    fn what_nobody_fixed_is_there() {
        assert_eq!(of("3.2", "", "7.3.4"), "yes");
        assert_eq!(of("3.2", "", "3.1"), "before 3.2");
    }
}
