//! systemd as the first process of a container, with a whole Debian of its own, unprivileged and privileged.

use anyhow::Result;

use super::{Step, alike, podman::PODMAN};

/// The host's own tree, of which nothing changes, with what the package systemd-sysv adds, and without what a container that runs
/// systemd does not run as well.
pub const MAKE: &str = "tree=/run/bulkhead-systemd; mkdir -p $tree/upper $tree/work $tree/root && \
    mount -t overlay -o lowerdir=/,upperdir=$tree/upper,workdir=$tree/work none $tree/root && \
    ln -sf /lib/systemd/systemd $tree/root/sbin/init && \
    for unit in containerd.service docker.service docker.socket podman.service podman.socket podman-restart.service \
        podman-auto-update.service podman-auto-update.timer cni-dhcp.service cni-dhcp.socket; do \
        ln -s /dev/null $tree/root/etc/systemd/system/$unit; done";
/// Says how it is, and which units failed, once nothing is to be started any more.
const ASK: &str = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); \
    how=$(systemctl is-system-running --wait 2> /dev/null); \
    case $how in running|degraded) break;; esac; sleep 0.2; done; \
    echo $how; systemctl list-units --failed --plain --no-legend | cut -d' ' -f1 | sort; \
    systemctl is-active systemd-journald rsyslog";

pub fn run() -> Result<()> {
    // Within double quotes.
    let ask = ASK.replace('$', "\\$");
    let step = |what, more: &str| Step {
        what,
        script: format!(
            "{PODMAN}; {MAKE} && podman run --detach --network=none --log-driver=none --systemd=always {more} \
             --name=booted --rootfs $tree/root /sbin/init > /dev/null && podman exec booted sh -c \"{ask}\"; came=$?; \
             podman rm --force --time=0 booted > /dev/null; umount $tree/root && rm -rf $tree; exit $came"
        ),
    };
    alike(&[
        step("systemd", ""),
        step("systemd, privileged", "--privileged"),
    ])
    .map(drop)
}
