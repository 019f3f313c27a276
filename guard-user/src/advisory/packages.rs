//! The order of package versions, each by its distribution's own rules.

use std::{cmp::Ordering, str::FromStr};

use debversion::Version;
use rpm_version::Evr;

use super::vendor::Distribution;

/// Compares two package versions; `None` where one of them is none.
#[must_use]
pub fn compare(distribution: Distribution, one: &str, other: &str) -> Option<Ordering> {
    match distribution {
        Distribution::Debian => {
            let read = |text| Version::from_str(rebuilt_from(text)).ok();
            Some(read(one)?.cmp(&read(other)?))
        }
        Distribution::Ubuntu => Some(ubuntu(one)?.cmp(&ubuntu(other)?)),
        Distribution::RedHat | Distribution::Suse | Distribution::Amazon => {
            let read = |text| rpm(text).then(|| Evr::parse(text));
            Some(read(one)?.cmp(&read(other)?))
        }
    }
}

/// Whether this can be a version of the distribution's kernel package.
#[must_use]
pub fn is_version(distribution: Distribution, text: &str) -> bool {
    compare(distribution, text, text).is_some()
}

/// The version that a rebuild for an older release was made of: `6.12.95-1~bpo12+1` holds what 6.12.95-1 holds, though it
/// sorts before it.
fn rebuilt_from(version: &str) -> &str {
    let cut = ["~bpo", "~deb"].into_iter().filter_map(|mark| {
        let (before, after) = version.rsplit_once(mark)?;
        let plain = |letter: char| letter.is_ascii_digit() || matches!(letter, '+' | 'u');
        (!after.is_empty() && after.chars().all(plain)).then_some(before)
    });
    cut.min_by_key(|before| before.len()).unwrap_or(version)
}

/// `5.15.0-124.134`: the base, which names the series, the ABI's number and the upload's. What is rebuilt for an older
/// release has a `~20.04.1` behind it.
fn ubuntu(version: &str) -> Option<(&str, u32, u32)> {
    let (base, rest) = version.split_once('-')?;
    let rest = rest.split('~').next()?;
    let (abi, upload) = rest.split_once('.')?;
    let digits = |text: &str| -> Option<u32> {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    Some((base, digits(abi)?, digits(upload)?))
}

/// A version and a release, of the letters that rpm allows there.
fn rpm(version: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._+~^-".contains(letter);
    version.starts_with(|letter: char| letter.is_ascii_digit())
        && version.contains('-')
        && version.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn order(distribution: Distribution, one: &str, other: &str) -> Ordering {
        compare(distribution, one, other).unwrap_or_else(|| panic!("{one} {other}"))
    }

    #[test]
    fn each_distribution_has_its_own_order() {
        for (distribution, earlier, later) in [
            (Distribution::Debian, "6.1.170-1", "6.1.176-1"),
            (Distribution::Debian, "5.10.92-1", "5.10.103-1"),
            (Distribution::Debian, "5.10.46-4", "5.10.46-4+deb11u1"),
            (Distribution::Debian, "6.12.94-1~bpo12+1", "6.12.95-1"),
            (Distribution::Debian, "6.6.7-1~exp1", "6.6.7-1"),
            (Distribution::Ubuntu, "5.15.0-43.46", "5.15.0-124.134"),
            (Distribution::Ubuntu, "5.15.0-46.48", "5.15.0-46.49~20.04.1"),
            (
                Distribution::RedHat,
                "5.14.0-427.el9",
                "5.14.0-427.18.1.el9_4",
            ),
            (
                Distribution::RedHat,
                "5.14.0-427.9.1.el9_4",
                "5.14.0-427.18.1.el9_4",
            ),
            (
                Distribution::Amazon,
                "6.1.66-91.160.amzn2023",
                "6.1.102-108.177.amzn2023",
            ),
            (
                Distribution::Suse,
                "5.14.21-150400.24.63",
                "5.14.21-150400.24.103",
            ),
        ] {
            assert_eq!(order(distribution, earlier, later), Ordering::Less);
            assert_eq!(order(distribution, later, earlier), Ordering::Greater);
        }
    }

    #[test]
    fn a_rebuild_is_what_it_was_built_of() {
        for (one, other) in [
            ("6.12.95-1~bpo12+1", "6.12.95-1"),
            ("6.1.129-1~deb11u1", "6.1.129-1"),
        ] {
            assert_eq!(order(Distribution::Debian, one, other), Ordering::Equal);
        }
        assert_eq!(
            order(Distribution::Ubuntu, "5.15.0-46.49~20.04.1", "5.15.0-46.49"),
            Ordering::Equal
        );
        // What only looks like one stays what it is.
        assert_eq!(rebuilt_from("6.1.129-1~debug"), "6.1.129-1~debug");
    }

    #[test]
    fn what_is_no_version_is_none() {
        for (distribution, text) in [
            (Distribution::Debian, ""),
            (Distribution::Debian, "6.1 176"),
            (Distribution::Ubuntu, "5.15.0-46"),
            (Distribution::Ubuntu, "5.15.0-x.49"),
            (Distribution::RedHat, "5.14.0"),
            (Distribution::RedHat, "kernel-5.14.0-427.el9"),
        ] {
            assert!(!is_version(distribution, text), "{text}");
        }
    }

    #[test]
    fn dpkg_says_the_same() {
        let words = [
            "6.1.170-1",
            "6.1.176-1",
            "5.10.92-2",
            "5.10.103-1",
            "1:6.12.62-1+rpt1",
            "6.6.7-1~exp1",
            "6.6.7-1",
            "4.19.118-2+deb10u1",
            "4.19.118-2",
            "5.16.3-1~exp1",
            "2.6.32-48squeeze6",
            "6.1.0~rc3-1",
            "6.01.170-1",
            "6.1.170-01",
            "6.1-1a",
            "6.1-1+",
            "0:6.1-1",
            "6.1-0",
            "6.1",
        ];
        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("skipping: dpkg_says_the_same: there is no dpkg here");
            return;
        }
        for one in words {
            for other in words {
                let says = |relation: &str| {
                    let arguments = ["--compare-versions", one, relation, other];
                    Command::new("dpkg")
                        .args(arguments)
                        .status()
                        .unwrap()
                        .success()
                };
                let expected = if says("lt") {
                    Ordering::Less
                } else if says("eq") {
                    Ordering::Equal
                } else {
                    Ordering::Greater
                };
                assert_eq!(
                    order(Distribution::Debian, one, other),
                    expected,
                    "{one} {other}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn no_version_panics_and_every_order_is_one(
            one in "[0-9]{1,3}[-0-9a-z.+~^:]{0,20}", other in "\\PC{0,20}|[0-9]{1,25}[-0-9a-z.+~:]{0,20}",
        ) {
            for distribution in Distribution::ALL {
                let there = compare(distribution, &one, &other);
                let back = compare(distribution, &other, &one);
                prop_assert_eq!(there, back.map(Ordering::reverse));
                if is_version(distribution, &one) {
                    prop_assert_eq!(compare(distribution, &one, &one), Some(Ordering::Equal));
                }
            }
        }
    }
}
