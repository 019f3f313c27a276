//! A release of the mainline or a stable tree: numbers are compared as numbers, and a candidate comes before its release.

use std::{cmp::Ordering, fmt};

/// `6.1.76`, `5.17-rc3`, `2.6.32.71`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// What a stable branch is named by: `[6, 1, 0]`, and `[2, 6, 32]` before 3.0.
    series: [u16; 3],
    /// The stable release within the branch; 0 is mainline's.
    patch: u16,
    /// The number of a release candidate of mainline.
    candidate: Option<u16>,
}

impl Upstream {
    /// Reads a release and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (release, rest) = Self::begin(text)?;
        rest.is_empty().then_some(release)
    }

    /// Reads the release that a text begins with, and what comes after it.
    #[must_use]
    pub fn begin<'t>(text: &'t str) -> Option<(Self, &'t str)> {
        let (first, rest) = number(text)?;
        let (second, rest) = number(rest.strip_prefix('.')?)?;
        let third = |text: &'t str| text.strip_prefix('.').and_then(number);
        let (value, rest) = third(rest).unwrap_or((0, rest));
        let (series, patch, rest) = if (first, second) == (2, 6) {
            let (patch, rest) = third(rest).unwrap_or((0, rest));
            ([2, 6, value], patch, rest)
        } else {
            // Since 3.0 a fourth number is a vendor's.
            ([first, second, 0], value, rest)
        };
        let candidate = rest.strip_prefix("-rc").and_then(number);
        let (candidate, rest) = match candidate {
            Some((value, after)) if patch == 0 => (Some(value), after),
            _ => (None, rest),
        };
        let release = Self {
            series,
            patch,
            candidate,
        };
        Some((release, rest))
    }

    /// The first and the last release that its branch can have.
    #[must_use]
    pub const fn branch(self) -> [Self; 2] {
        let first = Self {
            series: self.series,
            patch: 0,
            candidate: None,
        };
        let last = Self {
            patch: u16::MAX,
            ..first
        };
        [first, last]
    }

    /// Whether both are of one stable branch, the mainline release that it begins with included.
    #[must_use]
    pub fn same_branch(self, other: Self) -> bool {
        self.series == other.series
    }

    /// Whether it is a release of mainline, or a candidate for one.
    #[must_use]
    pub const fn is_mainline(self) -> bool {
        self.patch == 0
    }

    /// A candidate for a release.
    #[must_use]
    pub const fn is_candidate(self) -> bool {
        self.candidate.is_some()
    }

    /// Whether it is as late as `point`; `None` where `point` names a release, and this is one of its candidates: the
    /// change may have come with any of them.
    #[must_use]
    pub fn reaches(self, point: Self) -> Option<bool> {
        let unclear = self.series == point.series
            && self.is_candidate()
            && point.is_mainline()
            && !point.is_candidate();
        (!unclear).then(|| self >= point)
    }

    /// The branch, as it is named: `6.1`.
    #[must_use]
    pub fn series(self) -> String {
        match self.series {
            [2, 6, third] => format!("2.6.{third}"),
            [first, second, _] => format!("{first}.{second}"),
        }
    }
}

impl Ord for Upstream {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |one: &Self| (one.series, one.patch, one.candidate.unwrap_or(u16::MAX));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Upstream {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.series())?;
        if self.patch > 0 {
            write!(out, ".{}", self.patch)?;
        }
        match self.candidate {
            Some(candidate) => write!(out, "-rc{candidate}"),
            None => Ok(()),
        }
    }
}

/// The number that a text begins with.
fn number(text: &str) -> Option<(u16, &str)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Upstream {
        Upstream::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_a_candidate_comes_first() {
        let order = [
            "2.6.9",
            "2.6.32",
            "2.6.32.71",
            "2.6.33",
            "3.2",
            "5.10.92",
            "5.10.103",
            "5.17-rc9",
            "5.17-rc10",
            "5.17",
            "5.17.1",
            "6.1",
            "6.12",
        ];
        for pair in order.windows(2) {
            assert!(release(pair[0]) < release(pair[1]), "{pair:?}");
        }
        for text in order {
            assert_eq!(release(text).to_string(), text);
        }
        assert_eq!(release("6.12.0"), release("6.12"));
        assert_eq!(release("5.14.0-rc3"), release("5.14-rc3"));
    }

    #[test]
    fn what_is_no_release_is_none() {
        for text in [
            "", "6", "6.", ".1", "6.1.", "6.1.2.3", "99999.1", "6.1-rc", "v6.1", "6.1 ",
        ] {
            assert_eq!(Upstream::parse(text), None, "{text}");
        }
        let (begun, rest) = Upstream::begin("6.1.0-25-amd64").unwrap();
        assert_eq!((begun, rest), (release("6.1"), "-25-amd64"));
        let (begun, rest) = Upstream::begin("6.12.0-rc3-next-20241017").unwrap();
        assert_eq!((begun, rest), (release("6.12-rc3"), "-next-20241017"));
        let (begun, rest) = Upstream::begin("5.15.153.1-microsoft-standard-WSL2").unwrap();
        assert_eq!(
            (begun, rest),
            (release("5.15.153"), ".1-microsoft-standard-WSL2")
        );
    }

    #[test]
    fn a_candidate_reaches_its_release_perhaps_and_its_own_candidates_surely() {
        let candidate = release("5.14-rc3");
        assert_eq!(candidate.reaches(release("5.14")), None);
        assert_eq!(candidate.reaches(release("5.14-rc2")), Some(true));
        assert_eq!(candidate.reaches(release("5.14-rc4")), Some(false));
        assert_eq!(candidate.reaches(release("5.13")), Some(true));
        assert_eq!(release("5.14").reaches(release("5.14")), Some(true));
    }
}
