//! The tools by which people discard, knowing it or not, on a thin volume and on all that stands on one: the pool's own count of blocks
//! tells what they did.

use anyhow::{Context, Result, ensure};

use super::{
    OFF, RULE,
    pool::{Came, Pool, came, must},
    stacked,
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
    hazards::{Needs, Scenario},
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_discard::no_tool_gives_anything_back_on_whatever_stands_on_dm_thin",
    needs: Needs::Ordinary,
    run: tools,
}];

/// A tool: `$D` is the device, `$A` a folder to mount at.
struct Tool {
    name: &'static str,
    /// What there must be first: it takes up blocks of the pool.
    prepare: &'static str,
    /// What discards.
    act: &'static str,
    /// What undoes it, whether it was done or not.
    undo: &'static str,
    /// What a container is told that may not; `None`: it goes on without, and may say so or not.
    refused: Option<Came>,
}

/// A file system, mounted, on which something was deleted.
const DELETED: &str = "wipefs -aq $D; mkfs.ext4 -qF -N 64 -E nodiscard $D; mount $D $A; \
    dd if=/dev/zero of=$A/file bs=1M count=8 conv=fsync status=none; rm $A/file; sync";

/// On 384 MiB, of which little is ever written.
const TOOLS: &[Tool] = &[
    Tool {
        name: "mkfs.ext4",
        prepare: "wipefs -aq $D; dd if=/dev/zero of=$D bs=1M seek=40 count=32 oflag=direct status=none",
        act: "mkfs.ext4 -qF -N 64 -E lazy_journal_init=1 $D",
        undo: "true",
        refused: None,
    },
    Tool {
        name: "mkfs.xfs",
        prepare: "wipefs -aq $D; dd if=/dev/zero of=$D bs=1M seek=40 count=32 oflag=direct status=none",
        // It writes a log of 64 MiB, unless it takes this for a test of its own.
        act: "TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 mkfs.xfs -qf -l size=16m $D",
        undo: "true",
        refused: None,
    },
    Tool {
        name: "fstrim",
        prepare: DELETED,
        act: "fstrim $A",
        undo: "umount $A",
        refused: Some(Came::Refused),
    },
    Tool {
        // As util-linux's unit calls it. It asks the queue first, and leaves out what is switched off (not on 5.10, where that is not to be seen).
        name: "fstrim.timer",
        prepare: DELETED,
        act: "fstrim --listed-in /etc/fstab:/proc/self/mountinfo --verbose --quiet-unsupported",
        undo: "umount $A",
        refused: None,
    },
    Tool {
        name: "mount -o discard, and rm",
        prepare: "wipefs -aq $D; mkfs.ext4 -qF -N 64 -E nodiscard $D; mount $D $A; \
                  dd if=/dev/zero of=$A/file bs=1M count=8 conv=fsync status=none; umount $A",
        // On 5.10 the host's is mounted anew as soon as the daemon hears of it.
        act: "mount -o discard $D $A && sleep 1 && rm $A/file && sync && umount $A",
        undo: "umount -q $A || true",
        refused: Some(Came::Refused),
    },
    Tool {
        name: "swapon --discard",
        prepare: "wipefs -aq $D; dd if=/dev/zero of=$D bs=1M seek=40 count=32 oflag=direct status=none; mkswap -q $D",
        act: "swapon --discard=once $D",
        undo: "swapoff $D 2>/dev/null || true",
        refused: Some(Came::Refused),
    },
];

/// Of the 128 blocks of 64 KiB or more that are written each time, more than so many are free when they were discarded; a tool writes
/// some of its own.
const GIVEN_BACK: u64 = 64;

fn tools() -> Result<()> {
    let mut pool = Pool::make()?;
    let at = pool.place()?.display().to_string();
    let mut devices = vec![pool.volume()?];
    devices.extend(stacked(&mut pool)?);
    devices.extend(array(&mut pool)?);
    let container = Cgroup::container()?;
    let all = |devices: &[String], whose: Option<&Cgroup>, gives: bool| -> Result<()> {
        for device in devices {
            for tool in TOOLS {
                let given = given_back(&pool, tool, device, &at, whose)?;
                ensure!(
                    given == gives,
                    "{} on {device}: blocks were given back: {given}",
                    tool.name
                );
            }
        }
        Ok(())
    };
    all(&devices, None, true).context("without Bulkhead")?;
    let policy = Policy::write("enforce", RULE, OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    all(&devices, None, false).context("the host")?;
    // That it is refused on all of them stands in another scenario.
    all(&devices[..1], Some(&container), false).context("a container")
}

/// Whether the pool has blocks back after it.
fn given_back(
    pool: &Pool,
    tool: &Tool,
    device: &str,
    at: &str,
    whose: Option<&Cgroup>,
) -> Result<bool> {
    let here = |script: &str| format!("D={device}; A={at}; {script}");
    must(&here(tool.prepare))?;
    let before = pool.used()?;
    let script = here(tool.act);
    let seen = came(whose, &script)?;
    let given = before.saturating_sub(pool.used()?) > GIVEN_BACK;
    must(&here(tool.undo))?;
    let expected = whose.and(tool.refused).unwrap_or(seen);
    ensure!(seen == expected, "{script}: {seen:?}, and not {expected:?}");
    Ok(given)
}

/// An array of md on a thin volume, and a partition of it.
fn array(pool: &mut Pool) -> Result<Vec<String>> {
    let below = pool.volume()?;
    let array = pool.array(&below)?;
    must(&format!(
        "printf 'start=2048,type=83\n' | sfdisk -q --no-tell-kernel {array}; blockdev --rereadpt {array}"
    ))?;
    let part = format!("{array}p1");
    Ok(vec![part])
}
