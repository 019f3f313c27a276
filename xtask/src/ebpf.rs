//! The kernel side's object: built from source, committed, and proved to be these sources'.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::debian::{Apt, output, run};

/// The version whose embedded LLVM loader fits rustc 1.95 (kernel object reproducibility depends on it too).
const BPF_LINKER: &str = "0.10.4";
const OBJECT: &str = "guard-ebpf/prebuilt/guard.bpf.o";

/// The workspace's root.
pub fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .context("xtask has no parent folder")?
        .to_path_buf())
}

/// Where cargo puts what it builds.
pub fn target() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => root()?.join("target"),
    })
}

/// Builds the object and puts it where it is committed.
pub fn build() -> Result<()> {
    let root = root()?;
    let bytes = compile(&root)?;
    let to = root.join(OBJECT);
    fs::create_dir_all(root.join("guard-ebpf/prebuilt"))
        .context("cannot make guard-ebpf/prebuilt")?;
    fs::write(&to, &bytes).with_context(|| format!("cannot write {}", to.display()))?;
    println!("{OBJECT}: {} bytes", bytes.len());
    Ok(())
}

/// Builds the object and compares it, byte for byte, with the committed one.
pub fn check() -> Result<()> {
    let root = root()?;
    let committed = fs::read(root.join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    ensure!(
        compile(&root)? == committed,
        "{OBJECT} is not what these sources build: run `cargo xtask ebpf` and commit it"
    );
    println!(
        "{OBJECT} is what these sources build ({} bytes)",
        committed.len()
    );
    Ok(())
}

fn compile(root: &Path) -> Result<Vec<u8>> {
    need_rust_src(root)?;
    need_bpf_linker()?;
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
    let flags = [
        "-Clinker=bpf-linker".to_owned(),
        "-Cdebuginfo=0".to_owned(),
        // With it LLVM fills memory by a loop over bytes, and the verifier follows each round of it.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // No path of the machine that builds may reach the object.
        format!("--remap-path-prefix={}=bulkhead", root.display()),
        format!("--remap-path-prefix={home}=cargo"),
    ];
    let target = root.join("target/ebpf");
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target",
            "bpfel-unknown-none",
        ])
        .current_dir(root.join("guard-ebpf"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the kernel side does not build");
    let object = target.join("bpfel-unknown-none/release/guard-ebpf");
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    no_mangled_symbol(&bytes)?;
    Ok(bytes)
}

/// A mangled name carries a hash of where `guard-common` lies, which is outside the kernel side's workspace: with one in it, the
/// object would be these sources' on this machine alone.
fn no_mangled_symbol(object: &[u8]) -> Result<()> {
    // What begins so among the code has no path behind it (the Rust reference, "v0 symbol format").
    let found = (object.windows(4))
        .position(|name| name.starts_with(b"\0_R") && b"CMXYNIB0123456789".contains(&name[3]));
    let Some(at) = found else { return Ok(()) };
    let name = object[at + 1..].split(|byte| *byte == 0).next();
    bail!(
        "the object has a function with a mangled name, {}: inline it, or name it with `#[unsafe(no_mangle)]`",
        String::from_utf8_lossy(name.unwrap_or_default())
    )
}

fn need_rust_src(root: &Path) -> Result<()> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(root)
        .output()
        .context("cannot start rustc")?;
    let sysroot = String::from_utf8(output.stdout).context("rustc's sysroot is not UTF-8")?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if sources.exists() {
        return Ok(());
    }
    let added = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .current_dir(root)
        .status();
    if added.is_ok_and(|status| status.success()) && sources.exists() {
        return Ok(());
    }
    rust_src_of_debian(root, Path::new(sysroot.trim())).context(
        "rust-src is missing: rustup could not add it, and Debian's package could not be had",
    )
}

/// Debian's package of the compiler's own sources, unpacked into the sysroot.
fn rust_src_of_debian(root: &Path, sysroot: &Path) -> Result<()> {
    let version = output(Command::new("rustc").arg("--version").current_dir(root))?;
    let version = version
        .split(' ')
        .nth(1)
        .context("rustc does not say its version")?;
    let folder = root.join("target/rust-src");
    let apt = Apt::new(&folder.join("apt"), &["trixie-backports", "trixie"])?;
    let package = apt.version("rust-src", &format!("{version}+"))?;
    println!("unpacking Debian's rust-src {package} into the sysroot");
    let tree = folder.join("tree");
    apt.unpack(&[format!("rust-src={package}")], &tree)?;
    let to = sysroot.join("lib/rustlib/src/rust");
    fs::create_dir_all(&to)?;
    run(Command::new("cp")
        .arg("-r")
        .arg(tree.join(format!("usr/src/rustc-{version}/library")))
        .arg(to))?;
    Ok(fs::remove_dir_all(tree)?)
}

fn need_bpf_linker() -> Result<()> {
    let found = Command::new("bpf-linker").arg("--version").output();
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(BPF_LINKER)) {
        return Ok(());
    }
    let status = Command::new("cargo")
        .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cannot install bpf-linker {BPF_LINKER}");
    Ok(())
}
