//! Thin discard: on each way to a device that stands on dm-thin a discard is refused, and the pool's own count of blocks says so.

mod daemons;
mod filling;
mod kept_off;
pub mod pool;
mod rare;
mod silent;
mod tools;
mod unasked;
mod window;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::pool::{Came, Pool, came, must};
use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    hazards::has,
    host::{release, wait_for},
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[
    &[
        Scenario {
            name: "thin_discard::no_way_leads_to_a_thin_volume_nor_to_what_stands_on_it",
            needs: Needs::Ordinary,
            run: every_way,
        },
        Scenario {
            name: "thin_discard::a_file_system_on_dm_thin_is_neither_trimmed_nor_mounted_with_discard",
            needs: Needs::Ends,
            run: file_systems,
        },
        Scenario {
            name: "thin_discard::in_audit_mode_each_discard_is_done_and_counted",
            needs: Needs::Ends,
            run: audited,
        },
    ],
    kept_off::SCENARIOS,
    window::SCENARIOS,
    daemons::SCENARIOS,
    filling::SCENARIOS,
    rare::SCENARIOS,
    silent::SCENARIOS,
    tools::SCENARIOS,
    unasked::SCENARIOS,
];

const DISCARD: &str = "discard";
/// A rule for containers, and nothing for the host.
const RULE: &str = "deny: [discard]\nwhen: {device: dm-thin}";
const LEAVE: &str = "reserve: {pids: 300}, thin: {discard: leave}";
const OFF: &str = "reserve: {pids: 300}, thin: {discard: off}";

/// Writes to a device what can be discarded.
fn write(device: &str) -> Result<()> {
    must(&format!(
        "dd if=/dev/urandom of={device} bs=512K count=2 oflag=direct status=none"
    ))
    .map(drop)
}

/// What stands on a thin volume: a part of it as kpartx makes it, a logical volume, LUKS.
fn stacked(pool: &mut Pool) -> Result<Vec<String>> {
    let name = pool.name().to_owned();
    let below = pool.volume()?;
    let part = pool.map(
        &format!("{name}-part1"),
        &format!("0 {} linear {below} 2048", pool::VOLUME - 2048),
    )?;
    let below = pool.volume()?;
    let lvm = format!(
        "--config 'activation {{udev_sync=0 udev_rules=0}} \
         devices {{obtain_device_list_from_udev=0 filter=[\"a|{below}$|\", \"r|.*|\"]}}'"
    );
    must(&format!(
        "pvcreate -q {lvm} {below} 2>&1; vgcreate -q {lvm} vg{name} {below} 2>&1; \
         lvcreate -q {lvm} -y -Wn -Zn -l 90 -n volume vg{name} 2>&1"
    ))?;
    let logical = pool.took(&format!("vg{name}-volume"));
    let below = pool.volume()?;
    must(&format!(
        "printf secret > /tmp/key; \
         cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-file /tmp/key {below}; \
         cryptsetup open --allow-discards --key-file /tmp/key {below} {name}-luks"
    ))?;
    let luks = pool.took(&format!("{name}-luks"));
    Ok(vec![part, logical, luks])
}

/// Each way on each device, by each of these: what comes of it, and whether the pool has blocks back then.
fn each(
    pool: &Pool,
    devices: &[String],
    ways: &[&str],
    expected: &[(Option<&Cgroup>, Came)],
) -> Result<()> {
    for device in devices {
        for way in ways {
            for (whose, expected) in expected {
                write(device)?;
                let before = pool.used()?;
                let script = format!("{way} {device}");
                let seen = came(*whose, &script)?;
                ensure!(
                    seen == *expected,
                    "{script}: {seen:?}, and not {expected:?}"
                );
                let back = pool.used()? < before;
                ensure!(
                    back == (seen == Came::Done),
                    "{script}: {seen:?}, given back: {back}"
                );
            }
        }
    }
    Ok(())
}

fn every_way() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let mut all = vec![thin.clone()];
    all.extend(stacked(&mut pool)?);
    let plain = pool.attach("plain", 16 << 20)?;
    let container = Cgroup::container()?;
    let neighbour = Cgroup::at("/neighbour")?;
    let us = Some(&container);
    let mut ways = vec!["blkdiscard", "bulkhead-probe discard --way ioctl32"];
    if release() >= (6, 12) {
        ways.push("bulkhead-probe discard --way io-uring");
    }
    each(&pool, &all, &ways, &[(us, Came::Done)]).context("without Bulkhead")?;
    // A rule for containers, and nothing for the host: both edges.
    let policy = Policy::write("enforce", RULE, LEAVE)?;
    let daemon = Daemon::start(&policy, &[])?;
    let neighbour = Some(&neighbour);
    let done = [(neighbour, Came::Done), (None, Came::Done)];
    each(&pool, &all, &ways, &[(us, Came::Refused)])?;
    each(&pool, &all, &ways, &done)?;
    let zeroes = format!("blkdiscard --zeroout --length 1M {thin}");
    ensure!(came(us, &zeroes)? == Came::Done, "writing zeros is refused");
    plain_goes_on(&pool, us, &plain)?;
    // Nor does it for what only the device mapper is to be asked.
    let linear = format!("{}-linear", pool.name());
    must(&format!(
        "dmsetup create {linear} --table '0 8192 linear {plain} 0'"
    ))?;
    let script = format!("bulkhead-probe call mapper-of-null && blkdiscard /dev/mapper/{linear}");
    wait_for("it to be known for another", Duration::from_secs(5), || {
        Ok(came(us, &script)? == Came::Done)
    })?;
    for _ in 0..20 {
        ensure!(
            came(us, &script)? == Came::Done,
            "a container has made a plain device one on dm-thin"
        );
    }
    must(&format!("dmsetup remove {linear}"))?;
    let seen = status()?;
    let refused = count(&seen, &container, DISCARD, "refused")?;
    ensure!(
        refused >= (all.len() * ways.len()) as u64,
        "{refused} are counted"
    );
    for hook in [
        "file_ioctl",
        "file_open",
        "fs_context_parse_param",
        "sb_kern_mount",
        "sb_remount",
    ] {
        enforcing(&seen, "thin_discard", hook)?;
    }
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["action"] == DISCARD
                && record["verdict"] == "deny"
                && record["argument"]
                    .as_str()
                    .is_some_and(|on| on.starts_with("block "))
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    drop(daemon);
    // Switched off for everybody: the host is told that there are none.
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    let off = [
        (us, Came::Refused),
        (neighbour, Came::Unsupported),
        (None, Came::Unsupported),
    ];
    each(&pool, &all, &ways, &off)?;
    swap(&mut pool, us)?;
    plain_goes_on(&pool, None, &plain)?;
    // kill -9 of the daemon changes nothing, also for what comes after it.
    let other = format!("{}-other", pool.name());
    must(&format!(
        "dmsetup create {other} --table '0 8192 linear {plain} 0'"
    ))?;
    let script = format!("blkdiscard /dev/mapper/{other}");
    wait_for("it to be known for another", Duration::from_secs(5), || {
        Ok(came(None, &script)? == Came::Done)
    })?;
    daemon.kill()?;
    let new = pool.volume()?;
    // It has the number of a device that was known for another, and was taken away while nobody looked.
    let again = {
        must(&format!("dmsetup remove {other}"))?;
        pool.volume()?
    };
    for device in [&thin, &new, &again] {
        let script = format!("blkdiscard {device}");
        ensure!(
            came(us, &script)? == Came::Refused,
            "nobody is there, and the container may: {script}"
        );
        ensure!(
            came(None, &script)? == Came::Unsupported,
            "nobody is there, and the host may: {script}"
        );
    }
    Ok(())
}

/// A loop device beside the pool goes on discarding.
fn plain_goes_on(pool: &Pool, cgroup: Option<&Cgroup>, plain: &str) -> Result<()> {
    write(plain)?;
    let before = pool.taken("plain")?;
    let script = format!("blkdiscard {plain}");
    ensure!(
        came(cgroup, &script)? == Came::Done,
        "refused on a plain device: {script}"
    );
    ensure!(pool.taken("plain")? < before, "{script} gives nothing back");
    Ok(())
}

fn swap(pool: &mut Pool, us: Option<&Cgroup>) -> Result<()> {
    let device = pool.volume()?;
    must(&format!("mkswap -q {device}"))?;
    for (flag, whose, expected) in [
        ("--discard", us, Came::Refused),
        ("--discard", None, Came::Unsupported),
        ("", us, Came::Done),
    ] {
        let script = format!("swapon {flag} {device}");
        let seen = came(whose, &script)?;
        ensure!(seen == expected, "{script}: {seen:?}, and not {expected:?}");
    }
    must(&format!("swapoff {device}")).map(drop)
}

fn file_systems() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let plain = pool.attach("plain", 320 << 20)?;
    let at = pool.place()?;
    let at = at.display();
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::write("enforce", RULE, LEAVE)?;
    let daemon = Daemon::start(&policy, &[])?;
    for kind in ["ext4", "xfs", "f2fs", "btrfs"] {
        if !has(&format!("mkfs.{kind}")) {
            println!("skipping: {kind}: there is no mkfs.{kind}");
            continue;
        }
        // The tools discard the whole device first, and go on where they may not.
        let make = |device: &str| {
            format!(
                "wipefs -aq {device}; mkfs.{kind} {device} > /dev/null 2>&1 || mkfs.{kind} -f {device} > /dev/null"
            )
        };
        write(&thin)?;
        let before = pool.used()?;
        ensure!(came(us, &make(&thin))? == Came::Done);
        ensure!(
            pool.used()? >= before,
            "mkfs.{kind} in the container gave something back"
        );
        let undo = format!("umount {at}");
        for (device, expected) in [(&thin, Came::Refused), (&plain, Came::Done)] {
            if device == &plain {
                must(&make(device))?;
            }
            // Of btrfs the kernel side learns too late which device it is on.
            let expected = if kind == "btrfs" {
                Came::Refused
            } else {
                expected
            };
            let mount = format!("mount -t {kind} -o discard {device} {at}");
            let seen = came(us, &mount)?;
            ensure!(seen == expected, "{mount}: {seen:?}, and not {expected:?}");
            if seen == Came::Done {
                must(&undo)?;
            }
            let newly = format!(
                "bulkhead-probe mount --way new --fs {kind} --option source={device} --option discard --at {at}"
            );
            let seen = came(us, &newly)?;
            ensure!(seen == expected, "{newly}: {seen:?}, and not {expected:?}");
            let without = format!("mount -t {kind} -o nodiscard {device} {at}");
            ensure!(came(us, &without)? == Came::Done, "refused: {without}");
            for anew in [
                format!("mount -o remount,discard {at}"),
                format!("bulkhead-probe mount --way picked --option discard --at {at}"),
            ] {
                let seen = came(us, &anew)?;
                ensure!(
                    seen == expected,
                    "{kind} on {device}: {anew}: {seen:?}, and not {expected:?}"
                );
            }
            must(&undo)?;
        }
        let mount = format!("mount -t {kind} -o discard {thin} {at}");
        ensure!(
            came(None, &mount)? == Came::Done,
            "the host may not: {mount}"
        );
        must(&format!(
            "dd if=/dev/urandom of={at}/file bs=1M count=8 conv=fsync status=none; rm {at}/file; sync"
        ))?;
        let trim = format!("fstrim {at}");
        ensure!(
            came(us, &trim)? == Came::Refused,
            "the container may trim {kind}"
        );
        ensure!(
            came(None, &trim)? == Came::Done,
            "the host may not trim {kind}"
        );
        must(&undo)?;
    }
    early(&mut pool, us)?;
    drop(daemon);
    Ok(())
}

/// What is refused to be mounted is not looked at: a journal that is replayed discards what its last user left to be deleted.
fn early(pool: &mut Pool, us: Option<&Cgroup>) -> Result<()> {
    let (name, at) = (pool.name().to_owned(), pool.place()?);
    let (thin, at) = (format!("/dev/mapper/{name}-1"), at.display());
    // A snapshot of what is mounted has a journal to be replayed.
    must(&format!(
        "wipefs -aq {thin}; mkfs.ext4 -qF {thin}; mount {thin} {at}; \
         dd if=/dev/urandom of={at}/file bs=1M count=4 conv=fsync status=none; \
         dmsetup suspend --noflush --nolockfs {name}-1; dmsetup message {name} 0 'create_snap 99 1'; \
         dmsetup resume {name}-1; umount {at}"
    ))?;
    let left = pool.map(
        &format!("{name}-99"),
        &format!("0 {} thin /dev/mapper/{name} 99", pool::VOLUME),
    )?;
    let is_left = || -> Result<bool> {
        Ok(must(&format!("dumpe2fs -h {left} 2>/dev/null"))?.contains("needs_recovery"))
    };
    ensure!(is_left()?, "there is nothing to be replayed");
    // An option that is not taken takes nothing back.
    let heedless = |options: &str| {
        format!(
            "bulkhead-probe mount --way made --fs xfs --heedless --option source={left} {options}"
        )
    };
    for script in [
        format!("mount -t ext4 -o discard {left} {at}"),
        format!("mount -t ext4 -o discard,nodiscard {left} {at}"),
        heedless("--option discard --option nodiscard=x"),
    ] {
        let seen = came(us, &script)?;
        ensure!(seen == Came::Refused, "{script}: {seen:?}");
        ensure!(is_left()?, "{script}: the journal is replayed");
    }
    must(&format!(
        "mount -t ext4 -o nodiscard {left} {at}; umount {at}"
    ))?;
    ensure!(!is_left()?, "nothing is ever replayed");
    Ok(())
}

fn audited() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let container = Cgroup::container()?;
    let policy = Policy::write("audit", RULE, OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    let most = pool::most(&thin)?;
    ensure!(most > 0, "audit mode has switched discards off");
    let script = format!("blkdiscard {thin}");
    for whose in [Some(&container), None] {
        write(&thin)?;
        let before = pool.used()?;
        ensure!(came(whose, &script)? == Came::Done, "refused: {script}");
        ensure!(pool.used()? < before, "{script} gave nothing back");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, DISCARD, "audited")? == 1);
    ensure!(count(&seen, &container, DISCARD, "refused")? == 0);
    wait_for("the record of the host's", Duration::from_secs(30), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "discards"
                && record["verdict"] == "audit"
                && record["rule"] == "host.thin"
        }))
    })
}
