//! A pool as Debian's own dockerd makes it, in its folder: what it wrote down is read when it is gone.

use std::fs;

use anyhow::{Result, ensure};

use super::bed::nothing_left;
use crate::{
    daemon::succeed,
    docker::{Docker, IMAGE},
    hazards::{Needs, Scenario},
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_recover::a_volume_of_dockers_own_making_comes_back_by_its_containers_name",
    needs: Needs::Runtimes,
    run: own_making,
}];

/// Files can be read directly there; see `Lab`.
const DATA: &str = "/var/tmp/bulkhead-docker-thin";
const TO: &str = "/var/tmp/bulkhead-docker-thin-out";
/// A million bytes in files of some sizes, and what a file system has besides files.
const TREE: &str = "rm -rf /tmp/tree; mkdir -p /tmp/tree/a/b; cd /tmp/tree; \
    for n in 1 2 3 4; do head -c 250000 /dev/urandom > a/b/$n; done; head -c 777 /dev/urandom > 'a name'; \
    ln -s a/b/1 link; ln a/b/2 again; chmod 4750 a/b/3; chown 1000:1001 a/b/4; touch -d 2020-01-01 a/b";
/// All of it, with owners, modes, links and times, of which docker's own copy has whole seconds.
const LIST: &str = "find . -type d -printf '%p %U:%G %m %T@ \\n' -o -printf '%p %U:%G %m %n %s %T@ %l\\n' | sed 's/[.][0-9]\\{10\\} / /' | sort; \
    find . -type f -print0 | sort -z | xargs -0 sha256sum";

fn own_making() -> Result<()> {
    let _ = fs::remove_dir_all(DATA);
    let _ = fs::remove_dir_all(TO);
    shell("modprobe -a loop dm_mod dm_thin_pool")?;
    let docker = Docker::start_with(&[
        "--data-root",
        DATA,
        "--storage-driver=devicemapper",
        "--storage-opt=dm.basesize=300M",
        "--storage-opt=dm.loopdatasize=2G",
        "--storage-opt=dm.loopmetadatasize=16M",
        "--storage-opt=dm.fs=ext4",
        "--storage-opt=dm.override_udev_sync_check=true",
    ])?;
    docker.done(&["create", "--name=web", IMAGE, "sh"])?;
    docker.done(&["create", "--name=other", IMAGE, "sh"])?;
    shell(TREE)?;
    docker.done(&["cp", "--archive", "/tmp/tree", "web:/tree"])?;
    docker.leave()?;
    let result = come_back();
    fs::remove_dir_all(DATA)?;
    fs::remove_dir_all(TO)?;
    fs::remove_dir_all("/tmp/tree")?;
    result
}

fn come_back() -> Result<()> {
    let folder = format!("{DATA}/devicemapper/devicemapper");
    let sums = format!("sha256sum {folder}/metadata {folder}/data");
    let before = shell(&sums)?;
    let [metadata, data] = ["metadata", "data"].map(|part| format!("--{part}={folder}/{part}"));
    let pool = ["thin", "recover", &metadata, &data, "--docker", DATA];
    let list = succeed(&[&pool[..], &["--list"]].concat())?;
    for name in ["web", "other"] {
        ensure!(list.contains(name), "{name} is not in the list: {list}");
    }
    succeed(&[&pool[..], &["--volume", "web", "--to", TO, "--yes"]].concat())?;
    let [wanted, came] = ["/tmp/tree", &format!("{TO}/files/rootfs/tree")]
        .map(|folder| shell(&format!("cd {folder}; {LIST}")));
    let (wanted, came) = (wanted?, came?);
    ensure!(wanted == came, "{wanted}\nis not\n{came}");
    ensure!(shell(&sums)? == before, "the pool was written to");
    nothing_left()
}

fn shell(script: &str) -> Result<String> {
    crate::hazards::thin_discard::pool::must(script)
}
