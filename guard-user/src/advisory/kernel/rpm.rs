//! Kernels from rpm packages tell the package in `uname -r`.

use super::Kernel;
use crate::advisory::vendor::{Distribution, Vendor};

/// Architectures that stand behind a package's release.
const MACHINES: [&str; 6] = ["x86_64", "aarch64", "ppc64le", "s390x", "i686", "noarch"];

/// `5.14.0-427.18.1.el9_4.x86_64`.
pub fn red_hat(kernel: &Kernel) -> Option<Kernel> {
    let place = kernel.release.find(".el").filter(|place| {
        let after = kernel.release.get(place + 3..).unwrap_or_default();
        after.starts_with(|letter: char| letter.is_ascii_digit())
    })?;
    let (before, rest) = kernel.release.split_at(place);
    let rest = rest.get(1..)?;
    let end = rest
        .char_indices()
        .find(|(index, letter)| *index > 1 && !letter.is_ascii_digit() && *letter != '_')
        .map_or(rest.len(), |(index, _)| index);
    let (dist, behind) = rest.split_at(end);
    let own = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    // `.x86_64`, or what a rebuild adds to the numbers: `.0.1`, `uek`, `.5es.20`.
    let more: Vec<&str> = behind.split('.').filter(|word| !word.is_empty()).collect();
    let plain = !behind.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && (before.split(['-', '.'])).all(own)
        && (more.iter()).all(|word| own(word) || MACHINES.contains(word));
    let numbers: String = (more.iter())
        .take_while(|word| own(word))
        .map(|word| format!(".{word}"))
        .collect();
    Some(Kernel {
        vendor: if plain {
            Vendor::Of(Distribution::RedHat)
        } else {
            Vendor::RedHatDerivative
        },
        package: plain.then(|| format!("{before}.{dist}{numbers}")),
        series: dist.to_owned(),
        ..kernel.clone()
    })
}

/// Amazon, Fedora and SUSE, whose kernels with other names than `default` (`azure`, `rt`) are known by who built them.
pub fn other(kernel: &Kernel, suffix: &str, builder: &str) -> Option<Kernel> {
    let numbered = |mark: &str| {
        (suffix.split('.')).any(|word| {
            let digits = word.strip_prefix(mark).unwrap_or_default();
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    if numbered("amzn") {
        let package = match kernel.release.rsplit_once('.') {
            Some((package, machine)) if MACHINES.contains(&machine) => package,
            _ => &kernel.release,
        };
        return Some(Kernel {
            vendor: Vendor::Of(Distribution::Amazon),
            package: Some(package.to_owned()),
            ..kernel.clone()
        });
    }
    if numbered("fc") {
        return Some(Kernel {
            vendor: Vendor::Fedora,
            ..kernel.clone()
        });
    }
    let revision = suffix.strip_prefix('-')?;
    if !builder.contains("geeko@buildhost") && !revision.ends_with("-default") {
        return None;
    }
    let revision = revision
        .rsplit_once('-')
        .map_or(revision, |(before, _)| before);
    let enterprise = revision.contains('.');
    Some(Kernel {
        vendor: if enterprise {
            Vendor::Of(Distribution::Suse)
        } else {
            Vendor::Tumbleweed
        },
        // With the third number as it stands there, 0 or not.
        package: enterprise.then(|| {
            let numbers = kernel.release.split_once('-');
            let (numbers, _) = numbers.unwrap_or((&kernel.release, ""));
            format!("{numbers}-{revision}")
        }),
        series: revision.split('.').next().unwrap_or_default().to_owned(),
        ..kernel.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::super::Kernel;

    #[test]
    fn a_package_of_suse_has_its_third_number_as_it_stands() {
        for (release, package) in [
            ("6.4.0-150600.23.25-default", "6.4.0-150600.23.25"),
            ("5.14.21-150400.24.103-default", "5.14.21-150400.24.103"),
        ] {
            let kernel = Kernel::parse(release).unwrap();
            assert_eq!(kernel.package.as_deref(), Some(package));
        }
    }
}
