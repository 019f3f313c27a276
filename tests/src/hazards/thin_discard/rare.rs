//! Ways that no tool takes: a discard said to be secure, f2fs's of a file's blocks, ext4's of its journal.

use anyhow::{Context, Result, ensure};

use super::{
    LEAVE, OFF, RULE,
    pool::{Came, Pool, came, must},
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
    hazards::{Needs, Scenario},
    host::release,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_discard::nor_does_a_way_that_no_tool_takes",
    needs: Needs::Ordinary,
    run: rare,
}];

/// Such a way: `$D` is the volume, `$A` a folder to mount at.
struct Way {
    name: &'static str,
    /// The first kernel that has it.
    since: (u32, u32),
    prepare: &'static str,
    act: &'static str,
    /// What comes of it without Bulkhead. dm-thin takes no secure discard, and says so.
    open: Came,
}

const WAYS: &[Way] = &[
    Way {
        name: "BLKSECDISCARD",
        since: (5, 10),
        prepare: "wipefs -aq $D; dd if=/dev/urandom of=$D bs=1M count=8 oflag=direct status=none",
        act: "python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), 0x127d, struct.pack(\"QQ\", 0, 8 << 20))' $D",
        open: Came::Unsupported,
    },
    Way {
        name: "F2FS_IOC_SEC_TRIM_FILE",
        since: (5, 10),
        // Of its blocks: F2FS_TRIM_FILE_DISCARD.
        prepare: "wipefs -aq $D; mkfs.f2fs -q $D > /dev/null; mount -t f2fs -o nodiscard $D $A
                  dd if=/dev/urandom of=$A/file bs=1M count=8 conv=fsync status=none",
        act: "python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), 0x4018f514, struct.pack(\"QQQ\", 0, 2 ** 64 - 1, 1))' $A/file",
        open: Came::Done,
    },
    Way {
        name: "EXT4_IOC_CHECKPOINT",
        since: (5, 14),
        // Of its journal: EXT4_IOC_CHECKPOINT_FLAG_DISCARD.
        prepare: "wipefs -aq $D; mkfs.ext4 -qF -J size=16 -E nodiscard,lazy_journal_init=0 $D; mount -o nodiscard $D $A",
        act: "python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x4004662b, struct.pack(\"I\", 1))' $A",
        open: Came::Done,
    },
];

fn rare() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let at = pool.place()?.display().to_string();
    let container = Cgroup::container()?;
    let neighbour = Cgroup::at("/neighbour")?;
    let (us, neighbour) = (Some(&container), Some(&neighbour));
    let ways: Vec<&Way> = WAYS.iter().filter(|way| release() >= way.since).collect();
    let each = |whose: &[Option<&Cgroup>], expected: &dyn Fn(&Way) -> Came| -> Result<()> {
        for way in &ways {
            for whose in whose {
                one(&pool, way, &thin, &at, *whose, expected(way)).context(way.name)?;
            }
        }
        Ok(())
    };
    each(&[us], &|way| way.open).context("without Bulkhead")?;
    let policy = Policy::write("enforce", RULE, LEAVE)?;
    let daemon = Daemon::start(&policy, &[])?;
    each(&[us], &|_| Came::Refused).context("the container")?;
    each(&[neighbour, None], &|way| way.open).context("whom no rule is about")?;
    drop(daemon);
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    each(&[us], &|_| Came::Refused).context("the container, off for all")?;
    each(&[neighbour, None], &|_| Came::Unsupported).context("off for all")
}

/// What comes of it, and that the pool has blocks back if and only if it was done.
fn one(
    pool: &Pool,
    way: &Way,
    thin: &str,
    at: &str,
    whose: Option<&Cgroup>,
    expected: Came,
) -> Result<()> {
    let here = |script: &str| format!("D={thin}; A={at}; {script}");
    must(&here(way.prepare))?;
    let before = pool.used()?;
    let seen = came(whose, &here(way.act))?;
    let back = pool.used()? < before;
    must(&here("umount -q $A || true"))?;
    ensure!(seen == expected, "{seen:?}, and not {expected:?}");
    ensure!(back == (seen == Came::Done), "{seen:?}, given back: {back}");
    Ok(())
}
