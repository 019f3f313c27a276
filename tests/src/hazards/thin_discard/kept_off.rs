//! Discards of what stands on dm-thin stay switched off, whatever is done to the devices, and are on again when nobody wants that any
//! more.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    OFF,
    pool::{Came, Pool, came, most, must},
    write,
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, bulkhead, succeed},
    hazards::{Needs, Scenario},
    host::{release, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "thin_discard::what_was_switched_off_is_on_again_with_off_and_at_the_end",
        needs: Needs::Ends,
        run: restored,
    },
    Scenario {
        name: "thin_discard::a_daemon_that_cannot_ask_switches_nothing_on",
        needs: Needs::Ends,
        run: blind,
    },
    Scenario {
        name: "thin_discard::it_is_off_by_default_where_the_kernel_has_a_bug_and_by_the_verb_at_once",
        needs: Needs::Ends,
        run: by_default_and_by_the_verb,
    },
    Scenario {
        name: "thin_discard::what_the_host_has_mounted_with_discard_stops_or_is_told_of",
        needs: Needs::Ends,
        run: mounted,
    },
];

/// Waits for discards of a device to be off.
fn off_again(device: &str) -> Result<()> {
    let began = Instant::now();
    while most(device)? != 0 {
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "discards of {device} stay on"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn restored() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let before = most(&thin)?;
    ensure!(before > 0, "a thin volume takes no discards by itself");
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    ensure!(most(&thin)? == 0, "discards of {thin} are on");
    succeed(&["off"])?;
    // Older kernels give back no more than the driver takes at once.
    ensure!(most(&thin)? > 0, "`off` leaves discards off");
    ensure!(
        came(None, &format!("blkdiscard {thin}"))? == Came::Done,
        "`off` refuses"
    );
    succeed(&["on"])?;
    ensure!(most(&thin)? == 0, "`on` leaves discards on");
    policy.rewrite("enforce", "pids: {max: 4000}", super::LEAVE)?;
    daemon.reload()?;
    wait_for("discards to be on again", Duration::from_secs(10), || {
        Ok(most(&thin)? > 0)
    })?;
    policy.rewrite("enforce", "pids: {max: 4000}", OFF)?;
    daemon.reload()?;
    wait_for("discards to be off again", Duration::from_secs(10), || {
        Ok(most(&thin)? == 0)
    })?;
    // One that is killed leaves them off, and the next one knows what they were.
    daemon.kill()?;
    ensure!(most(&thin)? == 0, "kill -9 switches discards on");
    let mut daemon = Daemon::start(&policy, &[])?;
    daemon.stop()?;
    ensure!(most(&thin)? > 0, "the end leaves discards off");
    Ok(())
}

/// Who cannot see what a device stands on knows no more than before: of a volume, of what stands on it, and of a loop device over a file
/// there.
fn blind() -> Result<()> {
    let mut pool = Pool::make()?;
    let (name, thin, under) = (pool.name().to_owned(), pool.volume()?, pool.volume()?);
    let above = pool.map(
        &format!("{name}-above"),
        &format!("0 65536 linear {under} 0"),
    )?;
    let carries = pool.volume()?;
    let at = pool.place()?.display().to_string();
    let looped = must(&format!(
        "mkfs.ext4 -qF -E nodiscard {carries}; mount {carries} {at}; truncate -s 16M {at}/file; losetup --find --show {at}/file"
    ))?;
    let result = see_nothing(&mut pool, &thin, &above, &looped);
    must(&format!("losetup -d {looped}"))?;
    result
}

fn see_nothing(pool: &mut Pool, thin: &str, above: &str, looped: &str) -> Result<()> {
    let container = Cgroup::container()?;
    // By the kernel's bugs where it has any, which is asked anew at each reload.
    let host = match release() < (6, 1) {
        true => "reserve: {pids: 300}, thin: {discard: where-affected}",
        false => OFF,
    };
    let policy = Policy::write("enforce", super::RULE, host)?;
    let daemon = Daemon::start(&policy, &[])?;
    let name = pool.name().to_owned();
    for (what, cover, undo) in [
        (
            "no device mapper",
            "mv /dev/mapper/control /dev/mapper/away; mknod /dev/mapper/control c 1 3",
            "rm /dev/mapper/control; mv /dev/mapper/away /dev/mapper/control",
        ),
        (
            "no class",
            "mount -t tmpfs none /sys/class",
            "umount --lazy /sys/class",
        ),
        (
            "no devices",
            "mount -t tmpfs none /sys/class/block",
            "umount --lazy /sys/class/block",
        ),
    ] {
        write(thin)?;
        let before = pool.used()?;
        let covered = must(cover);
        let tried = daemon.reload().and_then(|()| {
            // What the kernel tells of devices meanwhile, where it can be told of them, and a look of the daemon's own.
            let _ = must(&format!(
                "dmsetup suspend {name}-2; dmsetup resume {name}-2"
            ));
            std::thread::sleep(Duration::from_secs(2));
            daemon.reload()?;
            let mut on = Vec::new();
            for device in [thin, above, looped] {
                let script = format!("blkdiscard {device}");
                if came(Some(&container), &script)? != Came::Refused {
                    on.push(format!("a container may discard {device}"));
                }
                if came(None, &script)? != Came::Unsupported {
                    on.push(format!("the host may discard {device}"));
                }
                if device != looped && most(device)? != 0 {
                    on.push(format!("the queue of {device} takes discards"));
                }
            }
            Ok(on)
        });
        must(undo)?;
        covered?;
        let on = tried?;
        ensure!(on.is_empty(), "{what}: {on:?}");
        // A file system there may have written meanwhile.
        ensure!(pool.used()? >= before, "{what}: blocks were given back");
        daemon.reload()?;
        let new = pool.volume()?;
        off_again(&new)?;
    }
    Ok(())
}

/// What is mounted with discard is mounted anew when the kernel tells of it: a look once a second would be in time for three of ten.
fn at_once(thin: &str, at: &str) -> Result<()> {
    const TIMES: usize = 8;
    must(&format!("mkfs.ext4 -qF -N 64 -E nodiscard {thin}"))?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        must(&format!("mount -o discard {thin} {at}"))?;
        let began = Instant::now();
        wait_for("it to be mounted anew", Duration::from_secs(10), || {
            let mounts = fs::read_to_string("/proc/self/mounts")?;
            let mut here = mounts.lines().filter(|line| line.contains(at));
            Ok(here.all(|line| !line.contains("discard")))
        })?;
        took.push(began.elapsed().as_millis());
        must(&format!("umount {at}"))?;
    }
    println!("    mounted anew after {took:?} ms");
    let soon = took.iter().filter(|took| **took < 300).count();
    ensure!(soon >= 6, "mounted anew after {took:?} ms");
    Ok(())
}

/// File systems that discard by themselves: asked to, asked to by their own superblock, and one that 5.10 cannot tell otherwise.
fn mounted() -> Result<()> {
    let mut pool = Pool::make()?;
    let at = pool.place()?;
    let at = at.display();
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let mut daemon = Daemon::start(&policy, &[])?;
    for (make, option, stops) in [
        ("mkfs.ext4 -q", "-o discard", true),
        ("mke2fs -q -t ext4 -E nodiscard", "", true),
        ("mkfs.xfs -q -K", "-o discard", release() >= (5, 19)),
    ] {
        let thin = pool.volume()?;
        must(&format!("{make} {thin}"))?;
        if option.is_empty() {
            must(&format!("tune2fs -o discard {thin}"))?;
        }
        must(&format!("mount {option} {thin} {at}"))?;
        // It is heard of at once.
        std::thread::sleep(Duration::from_millis(500));
        must(&format!(
            "dd if=/dev/urandom of={at}/file bs=1M count=16 conv=fsync status=none"
        ))?;
        let before = pool.used()?;
        // What is deleted is discarded when the journal is written, every five seconds.
        must(&format!("rm {at}/file; sync; sleep 7; sync"))?;
        // The journal itself may have grown; what was deleted are 256 blocks.
        let given_back = before.saturating_sub(pool.used()?);
        ensure!(
            (given_back < 100) == stops,
            "{make}, {option}: {given_back} blocks were given back"
        );
        must(&format!("umount {at}"))?;
    }
    if release() < (5, 19) {
        at_once(&pool.volume()?, &at.to_string())?;
        for since in [false, true] {
            daemon = mounted_since(daemon, &policy, &pool.volume()?, &at.to_string(), since)?;
        }
    }
    let _daemon = daemon;
    let told = || -> Result<bool> {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "discards"
                && record["severity"] == "high"
                && record["outcome"]
                    .as_str()
                    .is_some_and(|words| words.contains("reached"))
        }))
    };
    if release() >= (5, 19) {
        ensure!(!told()?, "something arrived");
        return Ok(());
    }
    wait_for("the alarm", Duration::from_secs(30), told)?;
    // What this kernel leaves open is said by whoever is asked.
    for verb in [&["doctor"][..], &["thin", "status"]] {
        let said = bulkhead(verb)?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        for words in ["any xfs mounted so", "iSCSI, NVMe and vhost"] {
            ensure!(said.contains(words), "{verb:?} says no {words}: {said}");
        }
    }
    Ok(())
}

/// `off` mounts with discard again what a daemon that was killed had mounted anew without, and not what somebody mounted without it
/// `since` then.
fn mounted_since(
    mut daemon: Daemon,
    policy: &Policy,
    thin: &str,
    at: &str,
    since: bool,
) -> Result<Daemon> {
    let with_discard = || -> Result<bool> {
        let options = must(&format!("findmnt -no FS-OPTIONS {at}"))?;
        Ok(options.split(',').any(|option| option == "discard"))
    };
    must(&format!(
        "mkfs.ext4 -qF -N 64 -E nodiscard {thin}; mount -o discard {thin} {at}"
    ))?;
    wait_for("it to be mounted anew", Duration::from_secs(10), || {
        Ok(!with_discard()?)
    })?;
    daemon.kill()?;
    if since {
        must(&format!("umount {at}; mount {thin} {at}"))?;
    }
    let daemon = Daemon::start(policy, &[])?;
    succeed(&["off"])?;
    ensure!(
        with_discard()? != since,
        "after `off` it is mounted with discard: {}",
        !since
    );
    succeed(&["on"])?;
    must(&format!("umount {at}"))?;
    Ok(daemon)
}

fn by_default_and_by_the_verb() -> Result<()> {
    // The BUG and the lost blocks are in 5.10 (policies/advisories), and in no kernel as new as the other.
    let has_a_bug = release() < (6, 1);
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let policy = Policy::write(
        "enforce",
        "pids: {max: 4000}",
        "reserve: {pids: 300}, thin: {discard: where-affected}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    let goes = |wanted: bool, what: &str| -> Result<()> {
        write(&thin)?;
        let before = pool.used()?;
        let seen = came(None, &format!("blkdiscard {thin}"))?;
        let (expected, gives) = match wanted {
            true => (Came::Done, pool.used()? < before),
            false => (Came::Unsupported, pool.used()? == before),
        };
        ensure!(seen == expected && gives, "{what}: {seen:?}");
        ensure!(
            wanted || most(&thin)? == 0,
            "{what}: the queue takes discards"
        );
        Ok(())
    };
    goes(!has_a_bug, "by default")?;
    for (to, wanted) in [
        ("off", false),
        ("on", true),
        ("off", false),
        ("policy", !has_a_bug),
    ] {
        succeed(&["thin", "discard", to])?;
        goes(wanted, &format!("after `thin discard {to}`"))?;
    }
    Ok(())
}
