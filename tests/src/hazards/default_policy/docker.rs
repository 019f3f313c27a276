//! Docker, a Docker in it, and a pod as a kubelet has it made.

use anyhow::{Result, ensure};

use super::{Step, alike, tries};
use crate::docker::{CONTAINERD, DOCKERD, Docker, IMAGE, ROOT, WITH_PROGRAMS};

/// What a container of `docker run` may do as it comes, and what it may not.
const ORDINARY: &[&str] = &[
    "ip -o address show eth0",
    "ping -c 1 127.0.0.1 || busybox ping -c 1 127.0.0.1",
    "chown 1:1 /tmp",
    "setpriv --reuid 1 --regid 1 --clear-groups true",
    "mknod /tmp/null c 1 3",
    "chroot / true",
    "strace true",
    "/probe call ring",
    "/probe socket --family 2 --kind 3 --protocol 1",
    "mount -t tmpfs none /run",
    "unshare --user true",
    "unshare --net true",
    "ip link add d0 type dummy",
    "ip link add b0 type bridge",
    "dmesg",
    "bpftool prog list",
    "echo 1 > /proc/sys/net/ipv4/ip_forward",
];

/// What people start privileged containers for.
const PRIVILEGED: &[&str] = &[
    "mkdir -p /mnt && mount -t tmpfs none /mnt",
    "mkdir /mnt/u /mnt/w /mnt/m && mount -t overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w none /mnt/m",
    "truncate -s 16M /mnt/disk && mkfs.ext4 -q /mnt/disk && mount -o loop /mnt/disk /mnt/m && umount /mnt/m",
    "unshare --user --map-root-user true",
    "ip netns add one && ip netns exec one ip link set lo up",
    "ip link add v0 type veth peer name v1 netns one",
    "ip link add d0 type dummy",
    "ip link add link d0 name d0.5 type vlan id 5",
    "ip link add b0 type bridge && ip link set d0 master b0",
    "tc qdisc add dev lo root handle 1: prio",
    "nft add table inet one",
    "iptables -A INPUT -p tcp --dport 1 -j DROP",
    "sysctl -w net.ipv4.ip_forward=1",
    "cat /proc/sys/kernel/core_pattern > /tmp/pattern && cat /tmp/pattern > /proc/sys/kernel/core_pattern",
    "modprobe dummy",
    "dmesg | grep -q .",
    "timeout 5 dd if=/dev/kmsg bs=8192 count=1",
    "strace true",
    "bpftool prog list",
    "bpftool map list",
    "dmsetup ls",
    "losetup --list",
    "/probe call ring",
    "/probe call perf",
    "nsenter --target 1 --net ip link",
];

/// Docker in Docker: it answers, runs a container in a network of its own, and another that is built.
const INNER: &str = "docker version > /dev/null || { cat /tmp/log; exit 1; }; ip -o link show docker0 | wc -l; \
    tar -C /root-of-image -c . | docker import - inner > /dev/null && \
    docker run --rm inner ip -o -4 address show eth0 | wc -l";

/// A kubelet's names for what containerd makes for it.
const POD: &str =
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01234567.slice/cri-containerd-";

fn steps() -> Vec<Step> {
    let programs = "--volume=/usr:/usr:ro";
    let with_programs = WITH_PROGRAMS.join(" ");
    let step = |what, script| Step { what, script };
    vec![
        step(
            "docker run, in a network of the user's and with a port",
            format!(
                "docker network create other > /dev/null && \
                 docker run --rm --network=other --publish=8080:80 {programs} {IMAGE} sh -c \"{}\" && docker network rm other",
                tries(ORDINARY)
            ),
        ),
        step(
            "docker exec, pause and stop",
            format!(
                "docker run --detach --network=none --name=long {IMAGE} sleep 600 > /dev/null && \
                 docker exec long id && docker exec --privileged long busybox dmesg | wc -c | grep -c . && \
                 docker pause long && docker unpause long && docker rm --force long"
            ),
        ),
        step(
            "docker build",
            format!(
                "mkdir -p /run/context && date > /run/context/file && \
                 printf 'FROM {IMAGE}\\nCOPY file /file\\nRUN cat /file > /copy && id > /who\\n' > /run/context/Dockerfile && \
                 docker build --network=none --tag=built /run/context > /dev/null && \
                 docker run --rm --network=none built sh -c 'busybox cmp /file /copy && cat /who' && docker rmi built > /dev/null"
            ),
        ),
        step(
            "docker run --privileged",
            format!(
                "docker run {with_programs} {IMAGE} sh -c \"{}\"",
                tries(PRIVILEGED)
            ),
        ),
        step(
            "Docker in Docker",
            format!("docker run {with_programs} {IMAGE} sh -c '{DOCKERD}; {INNER}'"),
        ),
        step(
            "a pod by containerd",
            format!(
                "ctr=\"ctr --address {CONTAINERD} --namespace k8s.io\"; \
                 run=\"$ctr run --rootfs --mount type=bind,src=/usr,dst=/usr,options=rbind:ro\"; \
                 $run --detach --cgroup {POD}0.scope {ROOT} pause /usr/bin/sleep 600 && \
                 pid=$($ctr task ls | awk '/^pause/ {{print $2}}') && \
                 $run --rm --with-ns network:/proc/$pid/ns/net --cgroup {POD}1.scope {ROOT} main /usr/bin/sh -c 'id; ip -o link | wc -l'; came=$?; \
                 $ctr task rm --force pause > /dev/null; $ctr container rm pause > /dev/null; exit $came"
            ),
        ),
    ]
}

pub fn run() -> Result<()> {
    let _docker = Docker::start()?;
    let policy = alike(&steps())?;
    // The bridge of the Docker in a container, which the built-in policy only counts.
    let records = policy.records()?;
    ensure!(
        records.iter().any(|record| {
            record["action"] == "bridge.create"
                && record["verdict"] == "audit"
                && record["container.runtime"] == "docker"
                && record["process.executable.name"] == "dockerd"
        }),
        "Docker's bridge in a container is not on record"
    );
    Ok(())
}
