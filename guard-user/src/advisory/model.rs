//! An advisory as data, which holds only what was checked.

use chrono::NaiveDate;

use super::{upstream::Upstream, vendor::Distribution};
use crate::policy::model::Place;

/// The worst that a bug is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The host stops, or a part of it hangs.
    Crash,
    /// Data of the host, or of others, is damaged.
    Corruption,
    /// Memory of the kernel or of others is read.
    Leak,
    /// The container acts as the host.
    Escape,
}

impl Harm {
    /// As files write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Corruption => "corruption",
            Self::Leak => "leak",
            Self::Escape => "escape",
        }
    }
}

/// What a container needs to get at a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing.
    Any,
    /// `CAP_NET_RAW`.
    NetRaw,
    /// A user namespace of its own.
    UserNamespace,
    /// Real capabilities on the host, or one of its devices.
    Privileged,
}

impl Reach {
    /// As files write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::NetRaw => "net_raw",
            Self::UserNamespace => "user_namespace",
            Self::Privileged => "privileged",
        }
    }

    /// Who has it, in words.
    #[must_use]
    pub const fn who(self) -> &'static str {
        match self {
            Self::Any => "any process",
            Self::NetRaw => "whoever has CAP_NET_RAW",
            Self::UserNamespace => "whoever may make a user namespace",
            Self::Privileged => "privileged containers",
        }
    }
}

/// Which releases of the mainline and stable trees have a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// What brought it: the mainline release, and first ones of stable branches.
    pub introduced: Vec<Upstream>,
    /// What fixed it, likewise.
    pub fixed: Vec<Upstream>,
    /// Commits that brought it.
    pub introduced_by: Vec<String>,
    /// Commits that fixed it.
    pub fixed_by: Vec<String>,
    /// No fix was public before this day.
    pub public: Option<NaiveDate>,
}

/// What a distribution says of the packages of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Whose.
    pub distribution: Distribution,
    /// The series within which versions are compared.
    pub series: String,
    /// Ubuntu's flavour.
    pub flavour: String,
    /// The first that is known to have the bug.
    pub from: Option<String>,
    /// What is known.
    pub known: Known,
}

/// What is known of a series of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The first version with the fix.
    Fixed(String),
    /// The last version that was looked at, without the fix.
    Unfixed(String),
    /// Why none ever had the bug.
    Never(String),
}

/// An action by which a container gets at a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// As policy names it.
    pub action: String,
    /// Its argument, in words.
    pub what: Option<String>,
    /// The kinds of links, the families of sockets or of netlink, or the modules that it takes; empty: whichever.
    pub kinds: Vec<String>,
    /// It takes a network namespace that is not the host's first.
    pub nested: bool,
    /// What stays open when it is refused.
    pub leaves: Option<String>,
}

/// What can be done about it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// Refusing one of these, at least one.
    By(Vec<Trigger>),
    /// Nothing, and why.
    Nothing(String),
}

/// A known bug of the kernel that a container can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advisory {
    /// The CVE, or a name.
    pub id: String,
    /// In a few words.
    pub title: String,
    /// What happens to a host.
    pub happens: String,
    /// The worst of it.
    pub harm: Harm,
    /// What a container needs.
    pub reach: Reach,
    /// Why no kernel that Bulkhead runs on can have it.
    pub historical: Option<String>,
    /// Releases that have it; `None`: no release of mainline and stable ever had.
    pub upstream: Option<Range>,
    /// Packages.
    pub packages: Vec<Package>,
    /// Kernel options, without `CONFIG_`.
    pub config: Vec<String>,
    /// What can be done about it.
    pub cover: Cover,
    /// Where to read more.
    pub references: Vec<String>,
    /// The day on which it was last checked.
    pub checked: NaiveDate,
    /// How.
    pub how: String,
    /// Where it is defined.
    pub place: Place,
}
