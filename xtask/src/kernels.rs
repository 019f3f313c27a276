//! Debian's kernels: found, unpacked and made ready to boot, once, below `target/vm`.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::debian::{Apt, run};

/// A kernel that Bulkhead is tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Kernel {
    /// Debian 11.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// The newest that Debian has.
    Latest,
}

/// What boots.
pub struct Image {
    pub vmlinuz: PathBuf,
    pub initramfs: PathBuf,
    pub modules: PathBuf,
}

/// Modules without which nothing comes up.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_console", "ext4"];

impl Kernel {
    pub const fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Latest => "latest",
        }
    }

    const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V5_10 => &["bullseye", "bullseye-security"],
            Self::V6_1 => &["bookworm", "bookworm-security"],
            Self::V6_12 => &["trixie", "trixie-security"],
            Self::Latest => &["trixie-backports"],
        }
    }

    /// The kernel, ready to boot.
    pub fn image(self, vm: &Path) -> Result<Image> {
        let folder = vm.join(self.name());
        let image = Image {
            vmlinuz: folder.join("vmlinuz"),
            initramfs: folder.join("initramfs"),
            modules: folder.join("modules.img"),
        };
        let init = crate::ebpf::root()?.join("xtask/vm/init");
        if image.modules.exists() && newer(&image.initramfs, &init) {
            return Ok(image);
        }
        let tree = folder.join("tree");
        if !tree.exists() {
            self.fetch(&folder, &tree)?;
        }
        let release = release(&tree)?;
        let from = tree.join("usr/lib/modules").join(&release);
        let vmlinuz = [
            from.join("vmlinuz"),
            tree.join(format!("boot/vmlinuz-{release}")),
        ]
        .into_iter()
        .find(|path| path.exists())
        .context("the kernel package holds no vmlinuz")?;
        copy(&vmlinuz, &image.vmlinuz)?;
        disk(&tree.join("usr/lib/modules"), &image.modules)?;
        // Last, since its age says whether all of this is done.
        initramfs(&folder, &from, &init, &image.initramfs)?;
        Ok(image)
    }

    fn fetch(self, folder: &Path, tree: &Path) -> Result<()> {
        eprintln!("fetching Debian's kernel {}", self.name());
        let apt = Apt::new(&folder.join("apt"), self.suites())?;
        let version = match self {
            Self::Latest => "[0-9.]+",
            Self::V5_10 | Self::V6_1 | Self::V6_12 => &self.name().replace('.', "\\."),
        };
        let images = apt.names(&format!("^linux-image-{version}[-.].*amd64$"))?;
        let newest = images
            .iter()
            .filter(|name| {
                !["cloud", "rt-", "unsigned"]
                    .iter()
                    .any(|other| name.contains(other))
            })
            .max_by_key(|name| numbers(name))
            .with_context(|| format!("Debian has no kernel {}", self.name()))?;
        // The newest packages keep the kernel and its modules beside the image package.
        let mut packages = vec![newest.clone()];
        for kind in ["binary", "modules"] {
            let other = newest.replacen("image", kind, 1);
            packages.extend(apt.names(&format!("^{}$", other.replace('+', "\\+")))?);
        }
        let partial = folder.join("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(partial.join("usr/lib"))?;
        std::os::unix::fs::symlink("usr/lib", partial.join("lib"))?;
        apt.unpack(&packages, &partial)?;
        let release = release(&partial)?;
        run(Command::new("depmod").arg("-b").arg(&partial).arg(&release))?;
        Ok(fs::rename(&partial, tree)?)
    }
}

fn newer(what: &Path, than: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    matches!((time(what), time(than)), (Some(what), Some(than)) if what > than)
}

/// The numbers in a name, for comparing versions.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn release(tree: &Path) -> Result<String> {
    let mut entries = fs::read_dir(tree.join("usr/lib/modules"))?;
    let first = entries
        .next()
        .context("the kernel package holds no modules")??;
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// An ext4 image of a folder, with room for a few changes.
pub fn disk(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    let _ = fs::remove_file(&partial);
    let size = crate::debian::output(
        Command::new("du")
            .args(["-sm", "--apparent-size"])
            .arg(from),
    )?;
    let used: u64 = size
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .context("du said nothing")?;
    run(Command::new("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-O",
            "^metadata_csum,^orphan_file",
            "-m",
            "0",
            "-d",
        ])
        .arg(from)
        .arg(&partial)
        .arg(format!("{}M", used * 3 / 2 + 400)))?;
    Ok(fs::rename(partial, to)?)
}

fn initramfs(folder: &Path, modules: &Path, init: &Path, to: &Path) -> Result<()> {
    let root = folder.join("initramfs.d");
    let _ = fs::remove_dir_all(&root);
    for below in ["bin", "modules", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(root.join(below))?;
    }
    let busybox = folder.with_file_name("busybox");
    if !busybox.exists() {
        let apt = Apt::new(&folder.with_file_name("apt-root"), &["bookworm"])?;
        let tree = folder.with_file_name("busybox.d");
        apt.unpack(&["busybox-static".to_owned()], &tree)?;
        copy(&tree.join("bin/busybox"), &busybox)?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::copy(init, root.join("init"))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;

    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in BOOT_MODULES {
        // Not in modules.dep: built in.
        let stem = |path: &str| {
            path.rsplit('/')
                .next()
                .and_then(|file| file.split(".ko").next())
                .unwrap_or("")
                .replace('-', "_")
        };
        let Some((module, needs)) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| stem(path) == name)
        else {
            continue;
        };
        // modules.dep names what is needed first last.
        for path in needs.split_whitespace().rev().chain([module]) {
            if seen.insert(path.to_owned()) {
                order.push(path.to_owned());
            }
        }
    }
    // ext4 asks for this by its cryptographic name, which modules.dep does not know.
    for path in dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, _)| path)
    {
        if (path.contains("/crc32c_generic.ko") || path.contains("/crc32c-cryptoapi.ko"))
            && seen.insert(path.to_owned())
        {
            order.insert(0, path.to_owned());
        }
    }
    let mut list = String::new();
    for path in order {
        let from = modules.join(&path);
        let name = from
            .file_name()
            .context("a module without a name")?
            .to_string_lossy()
            .replace(".xz", "");
        let to = root.join("modules").join(&name);
        if path.ends_with(".xz") {
            run(Command::new("sh")
                .args(["-ec", "xz -dc \"$0\" > \"$1\""])
                .arg(&from)
                .arg(&to))?;
        } else {
            fs::copy(&from, &to)?;
        }
        list.push_str(&format!("/modules/{name}\n"));
    }
    fs::write(root.join("modules/order"), list)?;
    pack(&root, to)
}

/// Copies a file so that it is there whole or not at all.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    fs::copy(from, &partial).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::rename(partial, to)?)
}

/// A folder as a compressed cpio archive.
pub fn pack(root: &Path, to: &Path) -> Result<()> {
    let script = r#"cd "$0"; find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet | gzip -1 > "$1""#;
    let partial = to.with_extension("partial");
    run(Command::new("bash")
        .args(["-o", "pipefail", "-ec", script])
        .arg(root)
        .arg(&partial))?;
    Ok(fs::rename(partial, to)?)
}
