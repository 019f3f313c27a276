//! Who built a kernel, and what its version therefore says: a vendor that backports fixes has fewer bugs than its version,
//! one that backports features may have more.

/// Who publishes packages whose versions an advisory can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Debian itself, none of those built from it.
    Debian,
    /// Ubuntu.
    Ubuntu,
    /// Red Hat, and those that rebuild its packages with its numbers.
    RedHat,
    /// SUSE's enterprise kernels, openSUSE Leap's among them.
    Suse,
    /// Amazon Linux.
    Amazon,
}

impl Distribution {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Debian,
        Self::Ubuntu,
        Self::RedHat,
        Self::Suse,
        Self::Amazon,
    ];

    /// As files write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
            Self::RedHat => "redhat",
            Self::Suse => "suse",
            Self::Amazon => "amazon",
        }
    }

    /// As sentences do.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
            Self::RedHat => "Red Hat",
            Self::Suse => "SUSE",
            Self::Amazon => "Amazon",
        }
    }
}

/// Who built a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Nobody but the kernel's own authors: a release, a candidate, or a tree between two.
    Mainline,
    /// One of those whose packages advisories name.
    Of(Distribution),
    /// Built from Debian's packages: Kali, Raspberry Pi.
    DebianDerivative,
    /// Built from Ubuntu's: Proxmox.
    UbuntuDerivative,
    /// Built from Red Hat's, with numbers of its own: Oracle, `CloudLinux`.
    RedHatDerivative,
    /// Fedora.
    Fedora,
    /// openSUSE Tumbleweed.
    Tumbleweed,
    /// Whoever else.
    Unknown,
}

impl Vendor {
    /// In sentences.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Mainline => "mainline",
            Self::Of(distribution) => distribution.title(),
            Self::DebianDerivative => "a vendor that builds from Debian's packages",
            Self::UbuntuDerivative => "a vendor that builds from Ubuntu's packages",
            Self::RedHatDerivative => "a vendor that builds from Red Hat's packages",
            Self::Fedora => "Fedora",
            Self::Tumbleweed => "openSUSE Tumbleweed",
            Self::Unknown => "a vendor that is not known here",
        }
    }

    /// Whether its kernels have fixes that their version does not tell.
    #[must_use]
    pub const fn backports_fixes(self) -> bool {
        match self {
            Self::Mainline | Self::Fedora | Self::Tumbleweed => false,
            Self::Of(_)
            | Self::DebianDerivative
            | Self::UbuntuDerivative
            | Self::RedHatDerivative
            | Self::Unknown => true,
        }
    }

    /// Whether its kernels have features, and with them bugs, that are younger than their version.
    #[must_use]
    pub const fn backports_features(self) -> bool {
        match self {
            Self::Of(Distribution::RedHat | Distribution::Suse) | Self::RedHatDerivative => true,
            Self::Of(Distribution::Debian | Distribution::Ubuntu | Distribution::Amazon)
            | Self::Mainline
            | Self::DebianDerivative
            | Self::UbuntuDerivative
            | Self::Fedora
            | Self::Tumbleweed
            | Self::Unknown => false,
        }
    }

    /// Whether it goes on with branches that upstream has ended, and brings fixes to them by itself.
    #[must_use]
    pub const fn keeps_branches(self) -> bool {
        matches!(
            self,
            Self::Of(Distribution::Ubuntu) | Self::UbuntuDerivative
        )
    }

    /// Whether the date in its kernels' version is that of the package, and not a frozen one.
    #[must_use]
    pub const fn tells_the_date(self) -> bool {
        match self {
            Self::Of(_)
            | Self::DebianDerivative
            | Self::UbuntuDerivative
            | Self::RedHatDerivative => true,
            Self::Mainline | Self::Fedora | Self::Tumbleweed | Self::Unknown => false,
        }
    }
}
