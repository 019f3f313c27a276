//! Podman on the host: containers in its network, and builds.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Step, alike, tries};
use crate::docker::{ROOT, make_image_root, remove_link};

/// A shell's function: podman as the host has it, with its files where they are gone after the test.
pub const PODMAN: &str = "podman() { command podman --cgroup-manager=cgroupfs --events-backend=none --root=/tmp/bulkhead-podman \
    --runroot=/run/bulkhead-podman --storage-driver=overlay \"$@\"; }";

pub fn run() -> Result<()> {
    make_image_root(Path::new(ROOT))?;
    let step = |what, script: &str| Step {
        what,
        script: format!("{PODMAN}; {script}"),
    };
    let all = tries(&[
        "ip -o -4 address show eth0",
        "busybox ping -c 1 127.0.0.1",
        "chown 1:1 /tmp",
        "mount -t tmpfs none /run",
        "unshare --user true",
        "ip link add d0 type dummy",
    ]);
    let result = alike(&[
        step(
            "podman run",
            &format!("podman run --rm --volume=/usr:/usr:ro --rootfs {ROOT} sh -c \"{all}\""),
        ),
        step(
            "podman build, of nothing and of an image",
            &format!(
                "rm -rf /run/context && mkdir -p /run/context && tar -C {ROOT} -cf /run/context/root.tar . && \
                 printf 'FROM scratch\\nADD root.tar /\\nCOPY Dockerfile /file\\nRUN cat /file > /copy\\n' > /run/context/Dockerfile && \
                 podman build --network=none --tag=built /run/context > /dev/null && \
                 podman run --rm --network=none built sh -c 'busybox cmp /file /copy && id' && podman rmi built > /dev/null"
            ),
        ),
    ]);
    remove_link("cni-podman0");
    let _ = fs::remove_dir_all("/tmp/bulkhead-podman");
    result.map(drop)
}
