//! What runs here, from the host's own files: the kernel's words first, and the package database only where they do not
//! name the package, since what is installed need not be what was booted.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::kernel::Kernel;

/// Bytes of a file that is read here; dpkg's is by far the largest.
const BYTES: u64 = 64 << 20;

/// Why it cannot be said what runs here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of /proc.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It reads like no kernel's version.
    #[error("this kernel calls itself {release}, which is no version")]
    Release {
        /// What it says.
        release: String,
    },
}

/// The kernel that runs, and what surrounds it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel.
    pub kernel: Kernel,
    /// The system's name, by os-release.
    pub system: Option<String>,
    /// Live patches that are in force: they change no version.
    pub livepatches: Vec<String>,
    /// The kernel's configuration.
    config: Option<String>,
}

impl Host {
    /// What runs where `root` is the host's root.
    ///
    /// # Errors
    /// The kernel's version cannot be read, or is none.
    pub fn of(root: &Path) -> Result<Self, HostError> {
        let need = |name: &str| {
            let path = root.join(name);
            read(&path).map_err(|source| HostError::Read { path, source })
        };
        let release = need("proc/sys/kernel/osrelease")?.trim().to_owned();
        let version = need("proc/sys/kernel/version")?;
        let maybe = |name: &str| read(&root.join(name)).ok();
        let signature = maybe("proc/version_signature");
        // The banner tells more than uname where uname's 64 letters end early, and on Debian before 2012.
        let banner = maybe("proc/version").and_then(|banner| Kernel::parse(&banner).ok());
        let told = Kernel::told(
            &release,
            version.trim(),
            signature.as_deref().map(str::trim),
        );
        let mut kernel = match (told, banner) {
            (Some(told), Some(banner))
                if told.package.is_none() && banner.release == told.release =>
            {
                banner
            }
            (Some(told), _) => told,
            (None, _) => return Err(HostError::Release { release }),
        };
        if let Some(installed) =
            maybe("var/lib/dpkg/status").and_then(|status| dpkg(&status, &release))
        {
            kernel.set_debian(&installed);
        }
        let config = [
            format!("boot/config-{release}"),
            format!("lib/modules/{release}/config"),
            format!("usr/lib/modules/{release}/config"),
        ];
        Ok(Self {
            kernel,
            system: maybe("etc/os-release").and_then(|text| pretty_name(&text)),
            livepatches: livepatches(&root.join("sys/kernel/livepatch")),
            config: config.iter().find_map(|name| maybe(name)),
        })
    }

    /// Whether the kernel's configuration says that an option is not set. One that it does not name may have had another
    /// name then, and clears nothing.
    #[must_use]
    pub fn unset(&self, option: &str) -> bool {
        let line = format!("# CONFIG_{option} is not set");
        (self.config.as_ref()).is_some_and(|config| config.lines().any(|known| known == line))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The version of the package that installed this kernel.
fn dpkg(status: &str, release: &str) -> Option<String> {
    let name = format!("Package: linux-image-{release}");
    let paragraph = status
        .split("\n\n")
        .find(|paragraph| paragraph.lines().any(|line| line == name))?;
    let version = paragraph
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))?;
    Some(version.trim().to_owned())
}

fn pretty_name(text: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn livepatches(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = (entries.flatten())
        .filter(|entry| read(&entry.path().join("enabled")).is_ok_and(|text| text.trim() == "1"))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::vendor::{Distribution, Vendor};

    fn root(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("bulkhead-host-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_running_kernel_decides_and_not_what_is_installed() {
        let root = root(
            "running",
            &[
                ("proc/sys/kernel/osrelease", "6.1.0-25-amd64\n"),
                (
                    "proc/sys/kernel/version",
                    "#1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)\n",
                ),
                (
                    "var/lib/dpkg/status",
                    "Package: linux-image-6.1.0-25-amd64\nVersion: 6.1.106-9\n\n",
                ),
                (
                    "boot/config-6.1.0-25-amd64",
                    "CONFIG_TIPC=m\n# CONFIG_N_GSM is not set\n",
                ),
                (
                    "etc/os-release",
                    "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
                ),
                ("sys/kernel/livepatch/fix_one/enabled", "1\n"),
                ("sys/kernel/livepatch/fix_two/enabled", "0\n"),
            ],
        );
        let host = Host::of(&root).unwrap();
        assert_eq!(host.kernel.vendor, Vendor::Of(Distribution::Debian));
        assert_eq!(host.kernel.package.as_deref(), Some("6.1.106-3"));
        assert_eq!(
            host.system.as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(host.livepatches, ["fix_one"]);
        assert!(host.unset("N_GSM"));
        assert!(!host.unset("TIPC") && !host.unset("NEVER_HEARD_OF"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_package_database_is_asked_where_the_kernel_says_nothing() {
        let said = [
            ("proc/sys/kernel/osrelease", "6.1.0-25-amd64\n"),
            ("proc/sys/kernel/version", "#1 SMP\n"),
        ];
        let bare = root("bare", &said);
        let host = Host::of(&bare).unwrap();
        assert_eq!(host.kernel.package, None);
        assert!(!host.kernel.exact && !host.unset("TIPC"));
        fs::write(bare.join("proc/sys/kernel/osrelease"), "unknown\n").unwrap();
        assert!(Host::of(&bare).unwrap_err().to_string().contains("unknown"));
        fs::remove_dir_all(bare).unwrap();
        let status = "Package: zsh\nVersion: 5.9-4\n\nPackage: linux-image-6.1.0-25-amd64\nStatus: x\nVersion: 6.1.106-3\n";
        let files = [said[0], said[1], ("var/lib/dpkg/status", status)];
        let with = root("dpkg", &files);
        let host = Host::of(&with).unwrap();
        assert_eq!(host.kernel.package.as_deref(), Some("6.1.106-3"));
        assert_eq!(host.kernel.upstream.to_string(), "6.1.106");
        fs::remove_dir_all(with).unwrap();
    }
}
