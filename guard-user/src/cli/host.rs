//! What every verb that needs the kernel asks first, and how it says that the host cannot.

use std::{fmt::Display, process::ExitCode};

use guard_user::kernel::rungs;

const NEEDS_ROOT: &str = "needs root: run it with sudo";

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where we are not root: the line that says so, and the exit code. What the socket and the pins hold is root's alone.
pub fn not_root() -> Option<ExitCode> {
    (!is_root()).then(|| {
        eprintln!("bulkhead: {NEEDS_ROOT}");
        ExitCode::from(3)
    })
}

/// Whether Bulkhead can run here at all; mounts bpffs and securityfs where they are missing, and tells which.
pub fn usable() -> Result<Vec<(&'static str, &'static str)>, String> {
    let mut mounted = Vec::new();
    if !is_root() {
        return Err(NEEDS_ROOT.to_owned());
    }
    for (kind, at, magic, options) in [
        // As systemd does; without it anyone may make directories there, and pin what he likes.
        ("bpf", "/sys/fs/bpf", rungs::BPFFS, Some("mode=0700")),
        (
            "securityfs",
            "/sys/kernel/security",
            rungs::SECURITYFS,
            None,
        ),
    ] {
        match rungs::need_mounted(kind, at, magic, options) {
            Ok(true) => {
                eprintln!("bulkhead: mounted {kind} at {at}, where it was missing");
                mounted.push((kind, at));
            }
            Ok(false) => {}
            // Without it the active security modules cannot be read, and the self-test decides alone.
            Err(_) if kind == "securityfs" => {}
            Err(error) => return Err(format!("cannot mount {kind} at {at}: {error}")),
        }
    }
    Ok(mounted)
}

/// One clear line, and the exit code that says so.
pub fn cannot(reason: &dyn Display) -> ExitCode {
    eprintln!("bulkhead: this host cannot: {reason}");
    ExitCode::from(3)
}
