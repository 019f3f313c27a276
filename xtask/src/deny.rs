//! Licences, bans and sources of everything that is linked, by `cargo deny`; advisories where their database can be reached.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::ebpf::root;

/// Checks the workspace and the kernel side.
pub fn check(ci: bool) -> Result<()> {
    for manifest in ["Cargo.toml", "guard-ebpf/Cargo.toml"] {
        run(manifest, &["bans", "licenses", "sources"])?;
    }
    if run("Cargo.toml", &["advisories"]).is_err() {
        // A machine without the database cannot tell whether there are any.
        let reached = program()?
            .args(["fetch", "db"])
            .output()
            .is_ok_and(|output| output.status.success());
        ensure!(!reached, "a dependency has an advisory");
        println!(
            "skipping: advisories: their database cannot be reached{}",
            if ci {
                ""
            } else {
                " (cargo deny fetch says why)"
            }
        );
    }
    Ok(())
}

fn run(manifest: &str, checks: &[&str]) -> Result<()> {
    let status = program()?
        .args([
            "--manifest-path",
            manifest,
            "--locked",
            "--log-level",
            "warn",
            "--config",
            "deny.toml",
        ])
        .args(["check", "--hide-inclusion-graph"])
        .args(checks)
        .status()
        .context("cannot start cargo-deny")?;
    ensure!(
        status.success(),
        "cargo deny check {} failed on {manifest}",
        checks.join(" ")
    );
    Ok(())
}

/// `cargo-deny`: this machine's, else one of our own, which is not optimised: it builds in a third of the time.
fn program() -> Result<Command> {
    let tools = root()?.join("target/tools");
    let own = tools.join("bin/cargo-deny");
    let works = |program: &Path| {
        Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let program = if works(Path::new("cargo-deny")) {
        PathBuf::from("cargo-deny")
    } else {
        if !works(&own) {
            println!("installing cargo-deny");
            let status = Command::new("cargo")
                .args([
                    "install",
                    "--quiet",
                    "--debug",
                    "--locked",
                    "cargo-deny",
                    "--root",
                ])
                .arg(&tools)
                .status()
                .context("cannot start cargo")?;
            ensure!(status.success(), "cannot install cargo-deny");
        }
        own
    };
    let mut command = Command::new(program);
    command.current_dir(root()?);
    Ok(command)
}
