//! Containers as OCI runtimes and podman start them.

use std::{
    fs,
    os::unix,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::Result;

use crate::cgroup::{self, Runtime};

/// What a container runs, and how.
pub struct Payload<'p> {
    /// The program and its arguments.
    pub args: &'p [&'p str],
    /// In a user namespace of its own.
    pub user_namespace: bool,
    /// The runtime does not wait for its end.
    pub detached: bool,
}

/// A file system for containers: the probe, and the host's programs.
///
/// # Errors
/// It cannot be made.
pub fn make_root(root: &Path) -> Result<()> {
    for below in [
        "proc",
        "sys",
        "dev",
        "tmp",
        "run",
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ] {
        fs::create_dir_all(root.join(below))?;
    }
    for below in ["bin", "sbin", "lib", "lib64"] {
        let link = root.join(below);
        if link.symlink_metadata().is_err() {
            unix::fs::symlink(format!("usr/{below}"), link)?;
        }
    }
    fs::copy(crate::bed::PROBE, root.join("probe"))?;
    Ok(())
}

/// Runs a container below `bundle` by an OCI runtime, under a name of its own.
///
/// # Errors
/// The runtime cannot be started.
pub fn oci(runtime: &str, bundle: &Path, payload: &Payload<'_>) -> Result<(String, Output)> {
    let number = cgroup::number();
    let id = format!("{runtime}-{number}");
    let mounts = serde_json::json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
    ]);
    let mut kinds = vec!["pid", "ipc", "uts", "mount", "network"];
    if payload.user_namespace {
        kinds.push("user");
    }
    let namespaces: Vec<_> = (kinds.into_iter())
        .map(|kind| serde_json::json!({"type": kind}))
        .collect();
    let mut config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": payload.args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin:/usr/bin"],
            "capabilities": capabilities(),
        },
        "root": {"path": "rootfs"},
        "mounts": mounts,
        "linux": {"namespaces": namespaces, "cgroupsPath": Runtime::Docker.path(number)},
    });
    if payload.user_namespace {
        for mappings in ["uidMappings", "gidMappings"] {
            config["linux"][mappings] =
                serde_json::json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    }
    fs::write(bundle.join("config.json"), config.to_string())?;
    let mut command = oci_command(runtime);
    command.args(["run", "--bundle"]).arg(bundle);
    command.stdin(Stdio::null());
    if !payload.detached {
        let output = command.arg(&id).output()?;
        return Ok((id, output));
    }
    // What runs on holds what it was given: with a pipe, its output would never end.
    let words = bundle.join("stderr");
    command
        .args(["--detach", &id])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&words)?);
    let mut output = command.output()?;
    output.stderr = fs::read(&words)?;
    Ok((id, output))
}

/// An OCI runtime, to be told what to do.
#[must_use]
pub fn oci_command(runtime: &str) -> Command {
    let mut command = Command::new(runtime);
    command.arg("--root").arg(format!("/run/{runtime}"));
    if runtime == "crun" {
        command.arg("--cgroup-manager=cgroupfs");
    }
    command
}

fn capabilities() -> serde_json::Value {
    let all = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_NET_ADMIN"];
    serde_json::json!({"bounding": all, "effective": all, "permitted": all})
}

/// Runs a container by podman, with more arguments of `podman run`.
///
/// # Errors
/// Podman cannot be started.
pub fn podman(bundle: &Path, more: &[&str], args: &[&str]) -> Result<Output> {
    Ok(Command::new("podman")
        .args([
            "--cgroup-manager=cgroupfs",
            "--runtime=crun",
            "--events-backend=none",
        ])
        .args([
            "--root=/run/podman-root",
            "--runroot=/run/podman-run",
            "--storage-driver=vfs",
        ])
        .args([
            "run",
            "--rm",
            "--network=none",
            "--log-driver=none",
            "--security-opt=seccomp=unconfined",
        ])
        .args(more)
        .arg("--rootfs")
        .arg(bundle.join("rootfs"))
        .args(args)
        .stdin(Stdio::null())
        .output()?)
}
