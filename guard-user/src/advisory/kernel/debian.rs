//! Debian's kernels tell their package in `uname -v`, its derivatives likewise, with versions of their own.

use super::{Kernel, Told};
use crate::advisory::{
    upstream::Upstream,
    vendor::{Distribution, Vendor},
};

/// Letters that `uname -v` has room for: a version that ends there may have gone on.
const UNAME: usize = 64;

/// `5.10.0-46-amd64`, `#1 SMP Debian 5.10.262-1 (2026-07-31)`.
pub fn debian(told: &Told<'_>, kernel: &Kernel, suffix: &str) -> Option<Kernel> {
    let package = (told.version.split_once("Debian "))
        .filter(|(_, rest)| told.version.len() < UNAME || rest.contains(char::is_whitespace))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .or(told.package);
    if let Some(package) = package {
        // Another vendor's epoch says nothing of the upstream release behind it.
        let plain = package.split_once(':').map_or(package, |(_, rest)| rest);
        let (upstream, _) = Upstream::begin(plain)?;
        let own = is_debians(package) && !suffix.contains("rpt");
        return Some(Kernel {
            vendor: if own {
                Vendor::Of(Distribution::Debian)
            } else {
                Vendor::DebianDerivative
            },
            upstream,
            package: own.then(|| package.to_owned()),
            series: upstream.series(),
            ..kernel.clone()
        });
    }
    if suffix.contains("+rpt") || suffix.contains("-kali") {
        return Some(Kernel {
            vendor: Vendor::DebianDerivative,
            exact: !kernel.upstream.is_mainline(),
            ..kernel.clone()
        });
    }
    let machine = debian_machine(suffix)?;
    Some(Kernel {
        vendor: Vendor::Of(Distribution::Debian),
        // Until Debian 12 what stands there is a number of the ABI behind the first release of the branch.
        exact: machine == Numbers::Upstream,
        ..kernel.clone()
    })
}

/// What the numbers before Debian's name for a machine are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Abi,
    Upstream,
}

/// `-46-amd64`, `+deb13-amd64`, `-46-cloud-arm64`.
fn debian_machine(suffix: &str) -> Option<Numbers> {
    let (numbers, rest) = match suffix.strip_prefix("+deb") {
        Some(rest) => (Numbers::Upstream, rest),
        None => (Numbers::Abi, suffix.strip_prefix('-')?),
    };
    let (digits, machine) = rest.split_once('-')?;
    let machine = ["cloud-", "rt-"]
        .iter()
        .find_map(|flavour| machine.strip_prefix(flavour))
        .unwrap_or(machine);
    let machines = [
        "amd64",
        "arm64",
        "686",
        "686-pae",
        "armmp",
        "armmp-lpae",
        "powerpc64le",
        "s390x",
        "riscv64",
    ];
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && machines.contains(&machine)).then_some(numbers)
}

/// Whether a package version is one that Debian itself gives: no epoch, and nothing in the revision but its own marks.
pub fn is_debians(version: &str) -> bool {
    let Some((upstream, revision)) = version.split_once('-') else {
        return false;
    };
    let numbers = upstream
        .split_once("~rc")
        .map_or(upstream, |(before, _)| before);
    let mut rest =
        revision.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let begins = rest.len() < revision.len();
    let marks = ["+deb", "~deb", "~bpo", "~exp", "lenny", "squeeze", "wheezy"];
    while let Some(after) = marks.iter().find_map(|mark| rest.strip_prefix(mark)) {
        rest = after.trim_start_matches(|letter: char| {
            letter.is_ascii_digit() || matches!(letter, 'u' | '+')
        });
    }
    begins && rest.is_empty() && Upstream::parse(numbers).is_some()
}
