//! Every test in one command.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Formatting, lints and unit tests of the workspace, formatting of the kernel side, and the committed object.
pub fn run() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path", "guard-ebpf/Cargo.toml", "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?;
    cargo(&["test", "--workspace", "--locked"])?;
    crate::ebpf::check()
}

/// Builds the binary that the virtual machines run.
pub fn build_release() -> Result<()> {
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "bulkhead",
    ])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new("cargo")
        .args(arguments)
        .current_dir(crate::ebpf::root()?)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}
