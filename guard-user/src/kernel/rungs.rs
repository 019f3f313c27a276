//! What this host can do: the mechanisms that a hook may run on, best first.

use std::{fmt, fs, io, str::FromStr};

/// The mechanism that refuses or watches (`docs/hazards.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// BPF LSM: the kernel asks us before it forks.
    Lsm,
    /// `BPF_MODIFY_RETURN` on the function that asks the security modules: the same, where `bpf` is not one of them.
    FmodRet,
    /// The device programs of cgroups: opening a node can be refused, and nothing else.
    Cgroup,
    /// A raw tracepoint that sees forks when they are done.
    Observe,
    /// No program at all: `pids.max` alone.
    Setting,
}

impl Rung {
    /// Those that a fork governor may run on, best first.
    pub const ALL: [Self; 4] = [Self::Lsm, Self::FmodRet, Self::Observe, Self::Setting];

    /// The name that records and `--rung` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::FmodRet => "fmod_ret",
            Self::Cgroup => "cgroup",
            Self::Observe => "observe",
            Self::Setting => "setting",
        }
    }

    /// What `status` and `doctor` call a host on this rung, once the self-test has seen it work.
    #[must_use]
    pub const fn state(self) -> &'static str {
        match self {
            Self::Lsm | Self::FmodRet => "ENFORCING",
            Self::Cgroup | Self::Observe | Self::Setting => "DEGRADED",
        }
    }

    /// Whether a fork can be refused before it happens.
    #[must_use]
    pub const fn refuses(self) -> bool {
        match self {
            Self::Lsm | Self::FmodRet => true,
            Self::Cgroup | Self::Observe | Self::Setting => false,
        }
    }

    /// The one that `--rung` names.
    ///
    /// # Errors
    /// There are others by that name, or none.
    pub fn to_force(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|rung| Self::ALL.contains(rung))
            .ok_or_else(|| {
                format!("no rung is called {text}; there are lsm, fmod_ret, observe and setting")
            })
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Rung {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.into_iter().chain([Self::Cgroup]);
        all.into_iter()
            .find(|rung| rung.name() == text)
            .ok_or_else(|| format!("no rung is called {text}"))
    }
}

/// The active security modules, as `/sys/kernel/security/lsm` names them; `None` where they cannot be read.
#[must_use]
pub fn security_modules() -> Option<Vec<String>> {
    let text = fs::read_to_string("/sys/kernel/security/lsm").ok()?;
    Some(text.trim().split(',').map(str::to_owned).collect())
}

/// Whether a BPF LSM program would ever be called: it loads and attaches either way.
#[must_use]
pub fn bpf_is_a_security_module() -> Option<bool> {
    security_modules().map(|modules| modules.iter().any(|name| name == "bpf"))
}

/// What lockdown takes away, and the way out.
pub const LOCKED_DOWN: &str = "kernel lockdown (confidentiality) forbids programs to read kernel memory: boot with \
                               lockdown=integrity";

/// Whether kernel lockdown forbids programs to read kernel memory (`confidentiality`).
#[must_use]
pub fn locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|text| text.contains("[confidentiality]"))
}

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
pub const BPFFS: i64 = 0xcafe_4a11;
/// `SECURITYFS_MAGIC`.
pub const SECURITYFS: i64 = 0x7363_6673;

/// Mounts a kernel file system where it is missing, with options of its own; whether it was. The directory is there either
/// way, in sysfs.
///
/// # Errors
/// What mount(2) said.
pub fn need_mounted(kind: &str, at: &str, magic: i64, options: Option<&str>) -> io::Result<bool> {
    if nix::sys::statfs::statfs(at).is_ok_and(|found| found.filesystem_type().0 == magic) {
        return Ok(false);
    }
    fs::create_dir_all(at)?;
    nix::mount::mount(
        Some(kind),
        at,
        Some(kind),
        nix::mount::MsFlags::MS_NOSUID
            | nix::mount::MsFlags::MS_NODEV
            | nix::mount::MsFlags::MS_NOEXEC,
        options,
    )?;
    Ok(true)
}
