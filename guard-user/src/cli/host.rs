//! What every verb that needs the kernel asks first, and how it says that the host cannot.

use std::{fmt::Display, process::ExitCode};

use guard_user::kernel::rungs;

/// Whether the programs can run here at all; mounts bpffs and securityfs where they are missing.
pub fn usable() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root: run it with sudo".to_owned());
    }
    for (kind, at, probe) in [
        ("bpf", "/sys/fs/bpf", "/sys/fs/bpf"),
        ("securityfs", "/sys/kernel/security", "/sys/kernel/security"),
    ] {
        if let Err(error) = rungs::need_mounted(kind, at, probe) {
            return Err(format!("cannot mount {kind} at {at}: {error}"));
        }
    }
    if rungs::locked_down() {
        return Err(
            "kernel lockdown (confidentiality) forbids programs to read kernel memory: \
                    boot with lockdown=integrity"
                .to_owned(),
        );
    }
    Ok(())
}

/// One clear line, and the exit code that says so.
pub fn cannot(reason: &dyn Display) -> ExitCode {
    eprintln!("bulkhead: this host cannot: {reason}");
    ExitCode::from(3)
}
