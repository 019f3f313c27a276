//! Every action is denied: a runtime goes on doing what it does to start a container, and what it starts may do nothing of it.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{Step, go, podman::PODMAN, systemd::MAKE};
use crate::{
    daemon::{Daemon, Policy},
    docker::{Docker, IMAGE},
    hazards::fork_storm::EVERYTHING,
};

/// What a privileged container may do without a rule, and may not with it.
const MOUNTS: &str = "mount -t tmpfs none /tmp 2>&1";

fn steps() -> Vec<Step> {
    let step = |what, script| Step { what, script };
    // systemd mounts, and makes namespaces for its services: those that cannot do without fail, and what it does for the whole comes up.
    let systemd = |more: &str| {
        format!(
            "{PODMAN}; {MAKE} && podman run --detach --network=none --log-driver=none --systemd=always {more} \
             --name=booted --rootfs $tree/root /sbin/init > /dev/null && podman exec booted sh -c \"\
             n=0; while [ \\$n -lt 300 ]; do n=\\$((n+1)); how=\\$(systemctl is-system-running --wait 2> /dev/null); \
             case \\$how in running|degraded) echo started; break;; esac; sleep 0.2; done; \
             echo \\$how >&2; systemctl list-units --failed --plain --no-legend | cut -d' ' -f1 >&2; \
             systemctl is-active dbus.socket multi-user.target\"; came=$?; \
             podman rm --force --time=0 booted > /dev/null; umount $tree/root && rm -rf $tree; exit $came"
        )
    };
    vec![
        step(
            "docker run, in a network of the user's and with a port",
            format!(
                "docker network create other > /dev/null && docker run --rm --network=other --publish=8080:80 {IMAGE} \
                 sh -c 'id; ip -o -4 address show eth0 | wc -l' && docker network rm other"
            ),
        ),
        step(
            "docker exec, pause and stop",
            format!(
                "docker run --detach --network=none --name=long {IMAGE} sleep 600 > /dev/null && docker exec long id && \
                 docker exec --privileged --user 1 long id && docker pause long && docker unpause long && \
                 docker stop --time=1 long && docker rm long"
            ),
        ),
        step(
            "docker run --privileged, with the host's pids and volumes",
            format!(
                "docker run --rm --privileged --pid=host --volume=/usr:/usr:ro --tmpfs=/scratch {IMAGE} sh -c 'id; ls -d /scratch'"
            ),
        ),
        step(
            "docker build",
            format!(
                "mkdir -p /run/context && echo one > /run/context/file && \
                 printf 'FROM {IMAGE}\\nCOPY file /file\\nRUN cat /file > /copy\\n' > /run/context/Dockerfile && \
                 docker build --network=none --tag=built /run/context > /dev/null && \
                 docker run --rm --network=none built cat /copy && docker rmi built > /dev/null"
            ),
        ),
        step("systemd", systemd("")),
        step("systemd, privileged", systemd("--privileged")),
    ]
}

pub fn run() -> Result<()> {
    let docker = Docker::start()?;
    let mounts = || docker.tell(&["run", "--rm", "--privileged", IMAGE, "sh", "-c", MOUNTS]);
    let loaded = Command::new("modprobe").arg("dm_mod").status()?;
    ensure!(loaded.success(), "there is no device mapper");
    let without = go(&steps())?;
    ensure!(
        mounts()?.status.success(),
        "a privileged container mounts nothing"
    );
    let policy = Policy::enforce(EVERYTHING)?;
    let daemon = Daemon::start(&policy, &[])?;
    let with = go(&steps())?;
    for (step, (without, with)) in steps().iter().zip(without.iter().zip(&with)) {
        println!(
            "    {}: {}",
            step.what,
            with.said.trim().replace('\n', ", ")
        );
        ensure!(without == with, "{}: {without:?}, then {with:?}", step.what);
    }
    let refused = mounts()?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    let words = ["permission denied", "Operation not permitted"];
    ensure!(
        !refused.status.success() && words.iter().any(|words| said.contains(words)),
        "what is started may mount: {refused:?}"
    );
    drop(daemon);
    // Runtimes that were refused something while they set a container up would be on record by their names.
    for record in policy.records()? {
        if record["verdict"] == "deny" {
            println!(
                "    refused: {} by {}, {} times",
                record["action"], record["process.executable.name"], record["count"]
            );
        }
        let by = record["process.executable.name"]
            .as_str()
            .unwrap_or_default();
        ensure!(
            record["verdict"] != "deny" || !["runc", "crun", "dockerd", "containerd"].contains(&by),
            "refused to a runtime: {record}"
        );
    }
    Ok(())
}
