//! Ubuntu's kernels tell the ABI in `uname -r`, the upload in `uname -v`, and all of it in `/proc/version_signature`.

use super::{Kernel, Told};
use crate::advisory::{
    upstream::Upstream,
    vendor::{Distribution, Vendor},
};

/// Flavours that Ubuntu builds, as far as the first word of their names.
const FLAVOURS: [&str; 10] = [
    "generic",
    "lowlatency",
    "aws",
    "azure",
    "gcp",
    "kvm",
    "oracle",
    "raspi",
    "gke",
    "ibm",
];

/// `5.15.0-124-generic`, `#134-Ubuntu SMP …`, `Ubuntu 5.15.0-124.134-generic 5.15.163`.
pub fn ubuntu(told: &Told<'_>, kernel: &Kernel, suffix: &str) -> Option<Kernel> {
    let signature = told.signature.or_else(|| {
        let (_, rest) = told.version.split_once("(Ubuntu ")?;
        Some(rest.split_once(')')?.0)
    });
    if let Some(signature) = signature {
        let mut words = signature.split_whitespace();
        let first = words.next()?;
        let package = if first.eq_ignore_ascii_case("ubuntu") {
            words.next()?
        } else {
            first
        };
        let merged = words.next().and_then(|word| {
            // `2.6.32.15+drm33.5`
            Upstream::begin(word).map(|(release, _)| release)
        });
        let base = package.split_once('-')?.0;
        let (version, flavour) = match package.rsplit_once('-') {
            Some((version, flavour)) if version.contains('-') => (version, flavour),
            _ => (package, "generic"),
        };
        return Some(Kernel {
            vendor: Vendor::Of(Distribution::Ubuntu),
            upstream: merged.unwrap_or(kernel.upstream),
            exact: merged.is_some(),
            package: Some(version.to_owned()),
            series: base.to_owned(),
            flavour: flavour.to_owned(),
            ..kernel.clone()
        });
    }
    if suffix.ends_with("-pve") {
        return Some(Kernel {
            vendor: Vendor::UbuntuDerivative,
            ..kernel.clone()
        });
    }
    let (abi, flavour) = suffix.strip_prefix('-')?.split_once('-')?;
    let numbers = abi.bytes().all(|byte| byte.is_ascii_digit()) && !abi.is_empty();
    // Builds of mainline for Ubuntu have a stable release before, and a long number behind it.
    let fits = numbers && abi.len() <= 4 && kernel.upstream.is_mainline();
    let upload = (told.version.strip_prefix('#'))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.strip_suffix("-Ubuntu"));
    let plain = flavour.split('-').next().unwrap_or_default();
    if !fits || upload.is_none() && !FLAVOURS.contains(&plain) {
        return None;
    }
    let base = kernel.release.split_once('-')?.0;
    Some(Kernel {
        vendor: Vendor::Of(Distribution::Ubuntu),
        exact: false,
        package: upload.map(|upload| format!("{base}-{abi}.{upload}")),
        series: base.to_owned(),
        flavour: flavour.to_owned(),
        ..kernel.clone()
    })
}
