//! What every verb that needs the kernel asks first, and how it says that the host cannot.

use std::{fmt::Display, process::ExitCode};

use guard_user::kernel::rungs;

/// Whether Bulkhead can run here at all; mounts bpffs and securityfs where they are missing, and tells which.
pub fn usable() -> Result<Vec<(&'static str, &'static str)>, String> {
    let mut mounted = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root: run it with sudo".to_owned());
    }
    for (kind, at, magic) in [
        ("bpf", "/sys/fs/bpf", rungs::BPFFS),
        ("securityfs", "/sys/kernel/security", rungs::SECURITYFS),
    ] {
        match rungs::need_mounted(kind, at, magic) {
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
