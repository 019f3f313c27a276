//! A host that dies as it activates its pool, and so at each boot: what starts there activates a pool and discards what was deleted
//! before, as docker does. One boot of it; where the kernel dies, it is the console that says so. Bulkhead's daemon is not running: what
//! it knows of would have been refused, and the next outage is one that nobody knows of yet.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use super::play::{CRAFT, Steps, must, run};
use crate::daemon::{bulkhead, succeed};

/// The disk that the machine keeps, mounted where Bulkhead has its markers as well. It is made on the first boot.
const DISK: &str = "modprobe -a ext4 crc32c_generic; mkdir -p /mnt/kept /var/lib/bulkhead
    mount /dev/vdc /mnt/kept 2> /dev/null || { mkfs.ext4 -q /dev/vdc; mount /dev/vdc /mnt/kept; }
    mkdir -p /mnt/kept/bulkhead; mount --bind /mnt/kept/bulkhead /var/lib/bulkhead";
/// A pool of which one block of a volume is fatal, with a file where it is healthy.
const POOL: &str = "cd /mnt/kept; python3 $CRAFT metadata; truncate -s 128M data
    $ACTIVATE
    mke2fs -q -F -E nodiscard /dev/mapper/v1 25600; mkdir -p /mnt/v1; mount /dev/mapper/v1 /mnt/v1
    head -c 4000000 /dev/urandom > /mnt/v1/file; sha256sum < /mnt/v1/file > sum
    umount /mnt/v1; dmsetup remove v1; dmsetup remove pool; losetup --detach-all; sync";
const ACTIVATE: &str = "export DM_DISABLE_UDEV=1; modprobe -a loop dm_mod dm_thin_pool; cd /mnt/kept
    dmsetup create pool --table \"0 262144 thin-pool $(losetup --find --show metadata) $(losetup --find --show data) 128 0\"
    dmsetup create v1 --table '0 131072 thin /dev/mapper/pool 1'";
/// What is started at each boot.
const START: &str = "$ACTIVATE
    blkdiscard -f -o 32768000 -l 65536 /dev/mapper/v1; sleep 3";
/// What is in the pool is had all the same.
const SAVED: &str = "cd /mnt/kept; [ \"$(sha256sum < saved/files/file)\" = \"$(cat sum)\" ]";
const RECOVER: [&str; 11] = [
    "thin",
    "recover",
    "--metadata=/mnt/kept/metadata",
    "--data=/mnt/kept/data",
    "--volume",
    "1",
    "--size",
    "64M",
    "--to",
    "/mnt/kept/saved",
    "--yes",
];
/// How often it has come so far.
const COUNT: &str = "/mnt/kept/boots";

/// Plays one boot, with the activation wrapped or not, and prints a line of JSON a step.
///
/// # Errors
/// Something of the play could not be set up, or went otherwise than it must with Bulkhead.
pub fn boot_loop(guarded: bool) -> Result<()> {
    let mut steps = Steps::default();
    ensure!(Path::new(CRAFT).exists(), "{CRAFT} is not there");
    must(DISK)?;
    let boot = fs::read_to_string(COUNT).map_or(1, |text| text.len() + 1);
    if boot == 1 {
        must(&POOL.replace("$CRAFT", CRAFT).replace("$ACTIVATE", ACTIVATE))?;
    }
    fs::write(COUNT, "x".repeat(boot))?;
    must("sync")?;
    steps.say(&format!("boot {boot}: the pool is activated"))?;
    let start = START.replace("$ACTIVATE", ACTIVATE);
    if !guarded {
        let (_, said) = run(None, &start)?;
        return steps.say(&format!("it came to an end: {said}"));
    }
    let activate = ["thin", "activate", "docker", "--", "sh", "-ec", &start];
    let output = bulkhead(&activate)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("docker is held back"),
        "{}: {said}",
        output.status
    );
    steps.say("it is held back, and the host is up")?;
    ensure!(
        run(None, "dmsetup info pool")?.1.contains("does not exist"),
        "the pool is there"
    );
    succeed(&RECOVER)?;
    must(SAVED)?;
    steps.say("bulkhead thin recover: the file is identical")
}
