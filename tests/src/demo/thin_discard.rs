//! The outage as it was: a discard reaches a thin pool whose metadata 5.10 dies on. Told step by step; where the kernel dies, it is
//! the console that says so.

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, ensure};

use super::play::{CRAFT, Steps, must, run};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
};

/// A pool of which one block of a volume is fatal, with a file system where it is healthy.
const POOL: &str = "modprobe -a loop dm_mod dm_thin_pool crc32c_generic ext4
    python3 /usr/local/share/bulkhead/craft.py /tmp/metadata; truncate -s 128M /tmp/data
    metadata=$(losetup --find --show /tmp/metadata); data=$(losetup --find --show /tmp/data)
    dmsetup create pool --table \"0 262144 thin-pool $metadata $data 128 0\"
    dmsetup create v1 --table '0 131072 thin /dev/mapper/pool 1'
    dmsetup create v2 --table '0 131072 thin /dev/mapper/pool 2'
    mke2fs -q -F -E nodiscard /dev/mapper/v1 25600; mkdir -p /tmp/mounted; mount /dev/mapper/v1 /tmp/mounted
    dd if=/dev/urandom of=/tmp/mounted/file bs=1M count=4 conv=fsync status=none; sha256sum < /tmp/mounted/file > /tmp/sum";
/// The file that was there is read from the disk, and another is written.
const GOES_ON: &str = "echo 3 > /proc/sys/vm/drop_caches; [ \"$(sha256sum < /tmp/mounted/file)\" = \"$(cat /tmp/sum)\" ]
    dd if=/dev/urandom of=/tmp/mounted/other bs=1M count=4 conv=fsync status=none; dmsetup status pool | grep -q ' rw '";
/// One fatal block, and a volume that has some.
const BLOCK: &str = "blkdiscard -f -o 32768000 -l 65536 /dev/mapper/v1";
const VOLUME: &str = "blkdiscard /dev/mapper/v2";
/// How long the kernel may take to die: its worker does it, after whoever asked.
const DYING: Duration = Duration::from_secs(3);

/// Plays the discard, with Bulkhead or without, and prints a line of JSON a step.
///
/// # Errors
/// Something of the play could not be set up, or went otherwise than it must with Bulkhead.
pub fn thin_discard(guarded: bool) -> Result<()> {
    let mut steps = Steps::default();
    ensure!(Path::new(CRAFT).exists(), "{CRAFT} is not there");
    must(POOL)?;
    steps.say("a thin pool, a file on it")?;
    let host = "reserve: {pids: 10%}, thin: {discard: off}";
    let policy = Policy::write("enforce", "pids: {max: 100000}", host)?;
    let _daemon = match guarded {
        true => Some(Daemon::start(&policy, &[])?),
        false => None,
    };
    let container = Cgroup::container()?;
    for (whose, cgroup) in [("a container's", Some(&container)), ("the host's", None)] {
        for script in [BLOCK, VOLUME] {
            let (done, said) = run(cgroup, script)?;
            steps.say(&format!("{whose} blkdiscard: {said}"))?;
            thread::sleep(DYING);
            ensure!(!(guarded && done), "{whose} {script} was done");
            let refused = match cgroup {
                Some(_) => "Operation not permitted",
                None => "Operation not supported",
            };
            ensure!(!guarded || said == refused, "{whose} {script}: {said}");
        }
    }
    must(GOES_ON)?;
    steps.say("the file reads back, another is written")
}
