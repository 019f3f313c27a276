//! Real runtimes start containers as ever, those in user namespaces too, with all that they do themselves denied; what they run may
//! do nothing of it.

use std::{fs, path::Path, process::Output, time::Duration};

use anyhow::{Result, ensure};

use super::{Needs, Scenario};
use crate::{
    bed::PROBE,
    daemon::{Daemon, Policy},
    host::wait_for,
    runtimes::{Payload, make_root, oci, oci_command, podman},
};

/// Real runtimes.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "user_namespace::runtimes_start_containers_as_ever_and_what_they_run_does_nothing_of_it",
    needs: Needs::Ordinary,
    run: runtimes,
}];

/// All that a container can be refused and that a runtime may do as well to start it.
const RULE: &str = "deny: [user_namespace.create, net_namespace.create, mount, key.create, module.load, module.autoload, bpf, \
                    perf_event_open, io_uring, userfaultfd, ptrace, swap, reboot, kernel_log.read, kernel_log.write, kernel_log.clear]";

/// Says that it runs, and what of it it could do.
const SCRIPT: &str = "echo started; unshare --user true && echo made; unshare --net true && echo apart; \
                      mount -t tmpfs none /tmp && echo mounted; /probe call session && echo keyed; true";
const ALL: &str = "started\nmade\napart\nmounted\nkeyed\n";

fn runtimes() -> Result<()> {
    let bundle = Path::new("/run/bulkhead-bundle-of-namespaces");
    make_root(&bundle.join("rootfs"))?;
    each(bundle, ALL)?;
    hostile(bundle, true)?;
    let policy = Policy::enforce(RULE)?;
    let _daemon = Daemon::start(&policy, &[])?;
    each(bundle, "started\n")?;
    hostile(bundle, false)
}

/// Starts a container in each way; each is to say this.
fn each(bundle: &Path, words: &str) -> Result<()> {
    let args = ["sh", "-c", SCRIPT];
    for runtime in ["crun", "runc"] {
        for user_namespace in [false, true] {
            let payload = Payload {
                args: &args,
                user_namespace,
                detached: false,
            };
            let (_, output) = oci(runtime, bundle, &payload)?;
            said(&format!("{runtime}, {user_namespace}"), &output, words)?;
        }
        // And of a container that runs.
        let payload = Payload {
            args: &["sleep", "600"],
            user_namespace: true,
            detached: true,
        };
        let (id, output) = oci(runtime, bundle, &payload)?;
        ensure!(
            output.status.success(),
            "{runtime} starts no container: {output:?}"
        );
        let output = oci_command(runtime)
            .arg("exec")
            .arg(&id)
            .args(args)
            .output()?;
        let gone = oci_command(runtime)
            .args(["delete", "--force", &id])
            .output()?;
        said(&format!("{runtime} exec"), &output, words)?;
        ensure!(gone.status.success(), "{gone:?}");
    }
    // podman's own profile for AppArmor refuses mounts.
    let usr = [
        "--volume=/usr:/usr:ro",
        "--cap-add=SYS_ADMIN",
        "--security-opt=apparmor=unconfined",
    ];
    let mapped = [&usr[..], &["--uidmap=0:0:65536", "--gidmap=0:0:65536"]].concat();
    for more in [&usr[..], &mapped] {
        said(
            &format!("podman {more:?}"),
            &podman(bundle, more, &args)?,
            words,
        )?;
    }
    Ok(())
}

/// What a container would have executed in the place of its program leads to no path: a file that it has removed.
fn hostile(bundle: &Path, made: bool) -> Result<()> {
    let args = [
        "sh",
        "-c",
        "exec 9< /tmp/removed; rm /tmp/removed; exec sleep 600",
    ];
    for runtime in ["crun", "runc"] {
        fs::copy(PROBE, bundle.join("rootfs/tmp/removed"))?;
        let payload = Payload {
            args: &args,
            user_namespace: false,
            detached: true,
        };
        let (id, output) = oci(runtime, bundle, &payload)?;
        ensure!(output.status.success(), "{runtime}: {output:?}");
        wait_for("the container", Duration::from_secs(20), || {
            Ok(!bundle.join("rootfs/tmp/removed").exists())
        })?;
        let output = oci_command(runtime)
            .args(["exec", &id, "/proc/1/fd/9", "user-namespace"])
            .output()?;
        let gone = oci_command(runtime)
            .args(["delete", "--force", &id])
            .output()?;
        ensure!(gone.status.success(), "{gone:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let refused = ["Operation not permitted", "Cannot allocate memory"];
        let came = output.status.success();
        ensure!(
            came == made && (made || refused.iter().any(|words| said.contains(words))),
            "{runtime} exec of a file without a path: {output:?}"
        );
    }
    Ok(())
}

fn said(who: &str, output: &Output, words: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said == words,
        "{who}: {} {said:?} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
