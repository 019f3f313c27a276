//! The outage itself: Debian's `dockerd`, started in a container, makes its bridge; refused, it says why, and the host's goes on.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    daemon::{Daemon, Policy},
    docker::{DOCKERD, Docker, IMAGE, ROOT, WITH_PROGRAMS, has_link, make_image_root, remove_link},
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "net_link::dockerd_in_a_container_makes_no_bridge_and_says_why_and_the_hosts_makes_its_own",
        needs: Needs::Ordinary,
        run: docker_in_docker,
    },
    Scenario {
        name: "net_link::podman_on_the_host_makes_its_bridge_and_one_in_its_container_is_refused",
        needs: Needs::Ordinary,
        run: podman,
    },
];

/// Where the number of the container is written.
const ID: &str = "/run/bulkhead-docker-in-docker";
/// What the kernel's EPERM is to Docker.
const EPERM: &str = "operation not permitted";

/// What came of a `dockerd` in a container.
struct Inner {
    /// Its cgroup.
    cgroup: String,
    /// It answers, and `docker0` is there.
    works: bool,
    /// Its own log.
    log: String,
}

/// Starts `dockerd` in a privileged container of the host's, as in the outage.
fn inner(docker: &Docker) -> Result<Inner> {
    let _ = fs::remove_file(ID);
    let script = format!(
        "{DOCKERD}; cat /tmp/log >&2; docker version > /dev/null && ip -o link show docker0"
    );
    let id = format!("--cidfile={ID}");
    let mut arguments = vec!["run", &id];
    arguments.extend(WITH_PROGRAMS);
    arguments.extend([IMAGE, "sh", "-c", &script]);
    let output = docker.tell(&arguments)?;
    let id = fs::read_to_string(ID).with_context(|| format!("no container: {output:?}"))?;
    Ok(Inner {
        cgroup: format!("/docker/{id}"),
        works: output.status.success(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn docker_in_docker() -> Result<()> {
    let policy = Policy::enforce("deny: [bridge.create]")?;
    let daemon = Daemon::start(&policy, &[])?;
    // The host's Docker makes its own bridge, and networks.
    let docker = Docker::start()?;
    ensure!(has_link("docker0"), "the host's has no bridge");
    docker.done(&["network", "create", "other"])?;
    let address = ["run", "--rm", "--network=other", IMAGE, "ip", "address"];
    let said = docker.done(&address)?;
    ensure!(said.contains("inet 172."), "no address: {said}");

    let with = inner(&docker)?;
    refusal(&with, "bridge.create", &policy)?;
    // One that no rule is about makes its own.
    let mut arguments = vec!["run", "--cgroup-parent=/neighbours", "--network=none"];
    arguments.extend(WITH_PROGRAMS);
    arguments.extend([IMAGE, "ip", "link", "add", "probe0", "type", "bridge"]);
    docker.done(&arguments)?;
    no_other_refused(&policy, &with.cgroup)?;

    drop(daemon);
    let without = inner(&docker)?;
    ensure!(without.works, "without Bulkhead: {}", without.log);
    Ok(())
}

/// It could not make its bridge, says so, and is on record.
fn refusal(inner: &Inner, action: &str, policy: &Policy) -> Result<()> {
    ensure!(!inner.works, "{action}: it works: {}", inner.log);
    let why = (inner.log.lines())
        .find(|line| line.contains("failed to start daemon") && line.contains(EPERM))
        .with_context(|| format!("{action}: dockerd does not say why: {}", inner.log))?;
    println!("    dockerd in a container: {why}");
    wait_for("the record", Duration::from_secs(10), || {
        let records = policy.records()?;
        let told = records.iter().find(|record| {
            record["action"] == action
                && record["verdict"] == "deny"
                && record["cgroup"] == inner.cgroup.as_str()
                && record["container.id"] == inner.cgroup.trim_start_matches("/docker/")
                && record["container.runtime"] == "docker"
                && record["process.executable.name"] == "dockerd"
        });
        Ok(told.is_some())
    })
    .with_context(|| format!("{:?}", policy.records()))
}

fn podman() -> Result<()> {
    let root = std::path::Path::new(ROOT);
    make_image_root(root)?;
    let policy = Policy::enforce("deny: [{net_link.create: {kinds: [bridge]}}]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    remove_link("cni-podman0");
    let mut command = Command::new("podman");
    command
        .args(["--cgroup-manager=cgroupfs", "--events-backend=none"])
        .args(["--root=/run/podman-root", "--runroot=/run/podman-run"])
        .args(["--storage-driver=vfs", "run", "--rm", "--log-driver=none"])
        .args(["--privileged", "--volume=/usr:/usr:ro", "--rootfs", ROOT])
        .args([
            "sh",
            "-c",
            "ip -o -4 address show eth0; ip link add probe0 type bridge",
        ]);
    let output = command.output().context("cannot start podman")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("inet "), "no address: {said} {errors}");
    ensure!(
        !output.status.success() && errors.contains("Operation not permitted"),
        "its container may: {errors}"
    );
    ensure!(has_link("cni-podman0"), "podman has no bridge");
    remove_link("cni-podman0");
    let mut cgroup = None;
    wait_for("the record", Duration::from_secs(10), || {
        let records = policy.records()?;
        let told = records.iter().find(|record| {
            record["action"] == "net_link.create"
                && record["verdict"] == "deny"
                && record["container.runtime"] == "podman"
        });
        cgroup = told.and_then(|record| record["cgroup"].as_str().map(str::to_owned));
        Ok(cgroup.is_some())
    })?;
    no_other_refused(&policy, &cgroup.unwrap_or_default())
}

/// Nobody but this container was refused anything.
fn no_other_refused(policy: &Policy, cgroup: &str) -> Result<()> {
    for record in policy.records()? {
        ensure!(
            record["verdict"] != "deny" || record["cgroup"] == cgroup,
            "{record}"
        );
    }
    Ok(())
}
