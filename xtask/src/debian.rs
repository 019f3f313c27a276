//! Packages of other Debian suites, from the mirror that this machine's own apt names, without touching its state.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A private apt: its own lists, cache and empty package state, for a set of suites.
pub struct Apt {
    folder: PathBuf,
}

struct Mirror {
    archive: String,
    security: String,
    keyring: String,
}

impl Apt {
    /// An apt that knows `suites`; a name that ends in `-security` is looked up in the security archive.
    pub fn new(folder: &Path, suites: &[&str]) -> Result<Self> {
        let mirror = mirror()?;
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below))?;
        }
        let mut sources = String::new();
        for suite in suites {
            let archive = if suite.ends_with("-security") {
                &mirror.security
            } else {
                &mirror.archive
            };
            sources.push_str(&format!(
                "deb [signed-by={}] {archive} {suite} main\n",
                mirror.keyring
            ));
        }
        fs::write(folder.join("status"), "")?;
        // What was read last is noted only when it was read whole.
        let noted = folder.join("lists-of");
        let fresh = fs::read_to_string(&noted).is_ok_and(|text| text == sources);
        fs::write(folder.join("sources"), &sources)?;
        let apt = Self {
            folder: folder.to_path_buf(),
        };
        if !fresh {
            run(apt.command("apt-get").arg("update"))
                .context("cannot read Debian's package lists")?;
            fs::write(noted, sources)?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (key, value) in [
            ("Dir::Etc::sourcelist", "sources"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::State::status", "status"),
        ] {
            command
                .arg("-o")
                .arg(format!("{key}={}", self.folder.join(value).display()));
        }
        command
            .args([
                "-q",
                "-o",
                "Dir::Etc::sourceparts=/nonexistent",
                "-o",
                "APT::Sandbox::User=root",
            ])
            .args([
                "-o",
                "Acquire::Check-Valid-Until=false",
                "-o",
                "Dir::Etc::preferencesparts=/nonexistent",
            ]);
        command
    }

    /// The newest version of a package whose version begins with `prefix`.
    pub fn version(&self, package: &str, prefix: &str) -> Result<String> {
        let text = output(self.command("apt-cache").args(["madison", package]))?;
        text.lines()
            .filter_map(|line| line.split('|').nth(1).map(str::trim))
            .find(|version| version.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("Debian has no {package} {prefix}"))
    }

    /// Names of packages that match a regular expression, in apt's own order of versions.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let text = output(
            self.command("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    /// Downloads packages (`name` or `name=version`), without what they depend on, and unpacks them.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let folder = self.folder.join("single");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        run(self
            .command("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(&folder))?;
        unpack_all(&folder, into)?;
        Ok(fs::remove_dir_all(&folder)?)
    }

    /// Downloads packages with all that they depend on, and unpacks everything.
    pub fn unpack_closure(&self, packages: &[&str], into: &Path) -> Result<()> {
        // What an earlier list of packages asked for must not come along.
        let archives = self.folder.join("cache/archives");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(archives.join("partial"))?;
        run(self
            .command("apt-get")
            .args([
                "install",
                "--yes",
                "--download-only",
                "--no-install-recommends",
            ])
            .args(packages))?;
        unpack_all(&archives, into)?;
        Ok(fs::remove_dir_all(archives)?)
    }
}

fn unpack_all(folder: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            // tar keeps /bin -> usr/bin, which `dpkg-deb -x` would replace by a directory.
            let script =
                r#"dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink -C "$1""#;
            run(Command::new("sh")
                .args(["-ec", script])
                .arg(&path)
                .arg(into))?;
        }
    }
    Ok(())
}

/// Installs those of the packages that this machine lacks. Each pair is a program and its package.
pub fn need(tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| {
            output(Command::new("sh").args(["-c", "command -v \"$0\"", program])).is_err()
        })
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    let install = || {
        run(Command::new("apt-get")
            .args(["install", "-q", "-y", "--no-install-recommends"])
            // Another installation may be under way.
            .args(["-o", "DPkg::Lock::Timeout=300"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    if install().is_err() {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        install()?;
    }
    Ok(())
}

/// Runs a command in silence; its output is the error's.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(
        out.status.success(),
        "{} failed:\n{}",
        command.get_program().display(),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn mirror() -> Result<Mirror> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let mut lists: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    lists.sort();
    for list in lists {
        text.push_str("\n\n");
        text.push_str(&fs::read_to_string(list)?);
    }
    let (mut archive, mut security, mut keyring) = (None, None, None);
    for stanza in text.split("\n\n") {
        // One-line style and deb822.
        let words: Vec<&str> = stanza
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .collect();
        let uri = words.iter().find(|word| word.contains("://")).copied();
        let is_security = words.iter().any(|word| word.ends_with("-security"));
        let key = words
            .iter()
            .position(|word| *word == "Signed-By:")
            .and_then(|at| words.get(at + 1))
            .or_else(|| words.iter().find(|word| word.ends_with(".gpg")));
        if let Some(uri) = uri {
            if is_security {
                &mut security
            } else {
                &mut archive
            }
            .get_or_insert(uri.to_owned());
            if let Some(key) = key {
                keyring.get_or_insert((*key).to_owned());
            }
        }
    }
    Ok(Mirror {
        archive: archive.context("this machine's apt names no Debian archive")?,
        security: security.context("this machine's apt names no Debian security archive")?,
        keyring: keyring
            .unwrap_or_else(|| "/usr/share/keyrings/debian-archive-keyring.gpg".to_owned()),
    })
}
