//! Whether a kernel has a bug, and why that is said: the package first, since distributions fix ahead of stable; then the
//! release; and what cannot be told is `unsure`, which counts as affected.

use std::cmp::Ordering;

use chrono::TimeDelta;

use super::{
    kernel::Kernel,
    model::{Advisory, Known, Package, Range},
    packages::compare,
    ranges::{Has, has, has_branch},
    upstream::Upstream,
    vendor::{Distribution, Vendor},
};

/// A fix may be under embargo, and built into packages, so long before it is public.
const EMBARGO: TimeDelta = TimeDelta::days(30);

/// Whether a kernel has a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has.
    Affected,
    /// It may have: counts as affected.
    Unsure,
    /// It had, and has the fix.
    Fixed,
    /// It never had.
    NotAffected,
}

impl State {
    /// In `--json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affected => "affected",
            Self::Unsure => "unsure",
            Self::Fixed => "fixed",
            Self::NotAffected => "not_affected",
        }
    }

    /// Whether a rule that says `kernel: affected` holds.
    #[must_use]
    pub const fn arms(self) -> bool {
        match self {
            Self::Affected | Self::Unsure => true,
            Self::Fixed | Self::NotAffected => false,
        }
    }
}

/// A state, and the reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The state.
    pub state: State,
    /// Why.
    pub reason: String,
}

impl Judgement {
    fn new(state: State, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: reason.into(),
        }
    }
}

/// Whether `kernel` has the bug. `unset` tells of a kernel option whether the kernel's own configuration says that it is
/// not set.
pub fn judge(advisory: &Advisory, kernel: &Kernel, unset: &dyn Fn(&str) -> bool) -> Judgement {
    if let [first, more @ ..] = advisory.config.as_slice()
        && advisory.config.iter().all(|option| unset(option))
    {
        let more = if more.is_empty() { "" } else { " and the like" };
        let reason = format!("this kernel is built without CONFIG_{first}{more}");
        return Judgement::new(State::NotAffected, reason);
    }
    let Some(range) = &advisory.upstream else {
        return by_package(advisory, kernel).unwrap_or_else(|| {
            let reason =
                "no release of mainline or stable has it, and none of this vendor's is known to";
            Judgement::new(State::NotAffected, reason)
        });
    };
    let told = if kernel.exact {
        has(range, kernel.upstream)
    } else {
        has_branch(range, kernel.upstream)
    };
    if let Has::NotYet(point) = told
        && !kernel.vendor.backports_features()
    {
        // What came to older branches as a fix of something else came to a branch that only its vendor goes on with as well, if he took that.
        let of_its_own = |point: &Upstream| point.same_branch(kernel.upstream);
        let came_early = range.introduced.len() > 1
            && kernel.vendor.keeps_branches()
            && !range.introduced.iter().any(of_its_own);
        let reason = not_yet(kernel, point);
        if !came_early {
            return Judgement::new(State::NotAffected, reason);
        }
        return by_package(advisory, kernel).unwrap_or_else(|| {
            let reason = format!("{reason}, and it came to older branches with fixes, which its vendor may have taken");
            Judgement::new(State::Unsure, reason)
        });
    }
    by_package(advisory, kernel).unwrap_or_else(|| by_release(range, told, kernel))
}

/// What the distribution says of the kernel's package, if it says anything.
fn by_package(advisory: &Advisory, kernel: &Kernel) -> Option<Judgement> {
    let distribution = kernel.distribution()?;
    let version = kernel.package.as_deref()?;
    let mut packages = advisory.packages.iter();
    packages.find_map(|package| {
        (package.distribution == distribution)
            .then(|| of_package(package, kernel, version))
            .flatten()
    })
}

fn of_package(package: &Package, kernel: &Kernel, version: &str) -> Option<Judgement> {
    let distribution = package.distribution;
    let title = distribution.title();
    let same = package.series == kernel.series
        && (distribution != Distribution::Ubuntu || package.flavour == kernel.flavour);
    if !same {
        return line(package, kernel, version);
    }
    if let Some(from) = &package.from
        && compare(distribution, version, from)? == Ordering::Less
    {
        let reason = format!("{title} is known to have it from {from} on, this is {version}");
        return Some(Judgement::new(State::Unsure, reason));
    }
    let judgement = match &package.known {
        Known::Never(because) => Judgement::new(State::NotAffected, because.as_str()),
        Known::Fixed(fixed) => {
            let state = match compare(distribution, version, fixed)? {
                Ordering::Less => State::Affected,
                Ordering::Equal | Ordering::Greater => State::Fixed,
            };
            Judgement::new(
                state,
                format!("{title} fixed it in {fixed}, this is {version}"),
            )
        }
        Known::Unfixed(last) => match compare(distribution, version, last)? {
            Ordering::Greater => {
                let reason = format!(
                    "{title} had no fix in {last}, the last that was looked at; this is {version}"
                );
                Judgement::new(State::Unsure, reason)
            }
            Ordering::Less | Ordering::Equal => {
                let reason = format!("{title} had no fix in {last}, this is {version}");
                Judgement::new(State::Affected, reason)
            }
        },
    };
    Some(judgement)
}

/// Red Hat's minor releases begin at builds of one line, 427 of `el9` for 9.4: a fix in the line is in all that begin later.
/// Of those that began earlier this says nothing, since they may have got it as well.
fn line(package: &Package, kernel: &Kernel, version: &str) -> Option<Judgement> {
    let (major, _) = kernel.series.split_once('_')?;
    let Known::Fixed(fixed) = &package.known else {
        return None;
    };
    let build = |version: &str| -> Option<u32> {
        let (_, release) = version.split_once('-')?;
        release.split('.').next()?.parse().ok()
    };
    let fits = package.distribution == Distribution::RedHat && package.series == major;
    (fits && build(version)? >= build(fixed)?).then(|| {
        let reason = format!("Red Hat fixed it in {fixed}, this is {version}");
        Judgement::new(State::Fixed, reason)
    })
}

fn by_release(range: &Range, told: Has, kernel: &Kernel) -> Judgement {
    let vendor = kernel.vendor;
    let this = this(kernel);
    match told {
        Has::Fixed(point) => {
            Judgement::new(State::Fixed, format!("fixed upstream in {point}, {this}"))
        }
        Has::NotYet(point) => {
            let reason = format!(
                "{}, but {} brings features, and their bugs, to older releases",
                not_yet(kernel, point),
                vendor.title()
            );
            Judgement::new(State::Unsure, reason)
        }
        Has::Yes | Has::Unclear => {
            let fixed = fixes(range, kernel);
            if let Some(public) = range.public
                && let Some(built) = kernel.built.filter(|_| vendor.tells_the_date())
                && built + EMBARGO < public
                && told == Has::Yes
            {
                let reason = format!(
                    "{fixed}, and it was built on {built}, before a fix was public ({public})"
                );
                return Judgement::new(State::Affected, reason);
            }
            if told == Has::Unclear {
                return Judgement::new(State::Unsure, format!("{fixed}; the release says no more"));
            }
            if !vendor.backports_fixes() {
                return Judgement::new(State::Affected, fixed);
            }
            let but = if vendor == Vendor::Unknown {
                "may have fixed it without a new version"
            } else {
                "fixes bugs without a new version, and no package of this series is known to have the fix"
            };
            let reason = format!("{fixed}; {} {but}", vendor.title());
            Judgement::new(State::Unsure, reason)
        }
    }
}

/// `it came with 5.18, this is 5.10.92`
fn not_yet(kernel: &Kernel, point: Upstream) -> String {
    format!("it came with {point}, {}", this(kernel))
}

fn this(kernel: &Kernel) -> String {
    if kernel.exact {
        format!("this is {}", kernel.upstream)
    } else {
        format!("this is some {}", kernel.upstream.series())
    }
}

/// Where the fix is, for a kernel that is before it.
fn fixes(range: &Range, kernel: &Kernel) -> String {
    let this = this(kernel);
    let own = (range.fixed.iter()).find(|point| point.same_branch(kernel.upstream));
    let first = (range.fixed.iter())
        .filter(|point| point.is_mainline())
        .min();
    match (own, first) {
        (Some(point), _) => format!("fixed upstream in {point}, {this}"),
        (None, Some(point)) => {
            let series = kernel.upstream.series();
            format!("fixed upstream in {point}, in no release of {series}; {this}")
        }
        (None, None) => format!("no release is known to have a fix; {this}"),
    }
}
