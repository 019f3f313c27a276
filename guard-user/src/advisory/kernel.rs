//! What a kernel says of itself: who built it, of which upstream release, as which package and when.

mod date;
mod debian;
mod rpm;
mod ubuntu;

use chrono::NaiveDate;

use super::{
    upstream::Upstream,
    vendor::{Distribution, Vendor},
};

/// Characters of what a kernel says.
const SAID: usize = 4096;

/// A kernel, as far as its own words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`, or what stands for it.
    pub release: String,
    /// Who built it.
    pub vendor: Vendor,
    /// The release of mainline or stable that it is, or is built of.
    pub upstream: Upstream,
    /// Whether the stable release in [`Self::upstream`] is told; else only its branch is.
    pub exact: bool,
    /// The package version, as the distribution writes it.
    pub package: Option<String>,
    /// The line of packages within which its version can be compared.
    pub series: String,
    /// Ubuntu's flavour.
    pub flavour: String,
    /// The day on which it was built, or its package made.
    pub built: Option<NaiveDate>,
}

impl Kernel {
    /// Reads what somebody knows of a kernel: `uname -r`, with `uname -v` behind it or not; `uname -a`; a line of
    /// `/proc/version` or `/proc/version_signature`; or a distribution's name and a package version.
    ///
    /// # Errors
    /// What it should have been.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > SAID {
            return Err(format!(
                "more than {SAID} characters are no kernel's version"
            ));
        }
        let told = Told::of(text);
        told.and_then(|told| told.kernel()).ok_or_else(|| {
            let short: String = text.chars().take(60).collect();
            format!(
                "`{short}` is no kernel's version: write what `uname -r` or `uname -rv` says, a line of /proc/version, or a \
                 distribution and a package version, as in `debian 6.1.170-1`"
            )
        })
    }

    /// A kernel by what `uname -r`, `uname -v` and `/proc/version_signature` say of it.
    #[must_use]
    pub fn told(release: &str, version: &str, signature: Option<&str>) -> Option<Self> {
        let told = Told {
            release,
            version,
            signature,
            builder: "",
            package: None,
        };
        told.kernel()
    }

    /// The distribution whose packages its version can be compared with.
    #[must_use]
    pub const fn distribution(&self) -> Option<Distribution> {
        match self.vendor {
            Vendor::Of(distribution) => Some(distribution),
            Vendor::Mainline
            | Vendor::DebianDerivative
            | Vendor::UbuntuDerivative
            | Vendor::RedHatDerivative
            | Vendor::Fedora
            | Vendor::Tumbleweed
            | Vendor::Unknown => None,
        }
    }

    /// Which it is, in words: the package where its vendor numbers them, else the release.
    #[must_use]
    pub fn words(&self) -> String {
        match (&self.package, self.distribution()) {
            (Some(package), Some(distribution)) => format!("{} {package}", distribution.title()),
            (Some(_) | None, _) => self.release.clone(),
        }
    }

    /// Takes over the version that Debian's package database has for it, where it tells none itself.
    pub fn set_debian(&mut self, version: &str) {
        if self.vendor == Vendor::Of(Distribution::Debian)
            && self.package.is_none()
            && debian::is_debians(version)
            && let Some((upstream, _)) = Upstream::begin(version)
        {
            self.upstream = upstream;
            self.exact = true;
            self.package = Some(version.to_owned());
        }
    }
}

/// The parts of what a kernel says.
struct Told<'t> {
    release: &'t str,
    /// From `#1` on.
    version: &'t str,
    signature: Option<&'t str>,
    /// Who built it and with what, in `/proc/version`.
    builder: &'t str,
    /// Debian's package, where something else than `version` tells it: until 2012 it stood in brackets behind the release.
    package: Option<&'t str>,
}

impl<'t> Told<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let plain = |release| Self {
            release,
            version: "",
            signature: None,
            builder: "",
            package: None,
        };
        if !first.starts_with(|letter: char| letter.is_ascii_digit()) {
            let package = rest.split_whitespace().next().unwrap_or_default();
            return match first.to_ascii_lowercase().as_str() {
                "linux" => Self::banner(rest),
                "mainline" | "upstream" | "fedora" | "redhat" | "rhel" | "centos" | "alma"
                | "almalinux" | "rocky" | "amazon" => Some(plain(package)),
                "debian" => Some(Self {
                    package: Some(package),
                    ..plain(package)
                }),
                "ubuntu" => Some(Self {
                    signature: Some(text),
                    ..plain(package)
                }),
                _ => None,
            };
        }
        Some(Self {
            version: rest,
            ..plain(first)
        })
    }

    /// `Linux version RELEASE (…) (…) #1 …`, or `Linux HOST RELEASE #1 …`, both behind `Linux`.
    fn banner(rest: &'t str) -> Option<Self> {
        let (_, rest) = rest.split_once(char::is_whitespace)?;
        let rest = rest.trim_start();
        let (release, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        // A `#` in a compiler's name would come before; none has a digit behind it.
        let number = rest.match_indices('#').find(|(place, _)| {
            let after = rest.get(place + 1..).unwrap_or_default();
            after.starts_with(|letter: char| letter.is_ascii_digit())
        });
        let version = number.and_then(|(place, _)| rest.get(place..));
        let package = (rest.trim_start().strip_prefix("(Debian "))
            .and_then(|rest| rest.split_once(')'))
            .map(|(package, _)| package);
        Some(Self {
            release,
            version: version.unwrap_or_default(),
            signature: None,
            builder: number.map_or(rest, |(place, _)| &rest[..place]),
            package,
        })
    }

    fn kernel(&self) -> Option<Kernel> {
        let release = self.release;
        let (upstream, suffix) = Upstream::begin(release)?;
        let kernel = Kernel {
            release: release.to_owned(),
            vendor: Vendor::Unknown,
            upstream,
            exact: true,
            package: None,
            series: upstream.series(),
            flavour: "generic".to_owned(),
            built: date::date(self.version),
        };
        let kernel = debian::debian(self, &kernel, suffix)
            .or_else(|| ubuntu::ubuntu(self, &kernel, suffix))
            .or_else(|| rpm::red_hat(&kernel))
            .or_else(|| rpm::other(&kernel, suffix, self.builder))
            .unwrap_or_else(|| match is_mainline(suffix) {
                true => Kernel {
                    vendor: Vendor::Mainline,
                    ..kernel
                },
                // Many vendors leave the number of the stable release at 0, whatever it is.
                false => Kernel {
                    vendor: Vendor::Unknown,
                    exact: !kernel.upstream.is_mainline(),
                    ..kernel
                },
            });
        Some(kernel)
    }
}

/// What follows a release in mainline's own trees: nothing, commits since a tag, linux-next.
fn is_mainline(suffix: &str) -> bool {
    let hash = |word: &str| {
        (word.strip_prefix('g'))
            .is_some_and(|hex| hex.len() >= 7 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = suffix.trim_start_matches('-').split('-').collect();
    match words.as_slice() {
        [""] => suffix.is_empty(),
        ["next", day] | ["next", day, ..] if digits(day) => words.len() == 2,
        [count, commit] => digits(count) && hash(commit),
        _ => false,
    }
}
