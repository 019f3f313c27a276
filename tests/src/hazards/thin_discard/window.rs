//! The time in which a device takes discards: from a new table, or its own making, until its queue is switched off. Whoever is asked
//! before is refused in it all the same, and what arrives is counted by who gave it.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{
    OFF, RULE,
    pool::{Came, Pool, ROOM, VOLUME, came, most, must},
    write,
};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy, bulkhead},
    hazards::{Needs, Scenario},
    host::{release, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "thin_discard::a_new_table_or_volume_takes_discards_for_less_than_a_tenth_of_a_second",
        needs: Needs::Ordinary,
        run: reloaded,
    },
    Scenario {
        name: "thin_discard::while_the_daemon_stands_still_a_new_table_is_refused_discards_all_the_same",
        needs: Needs::Ordinary,
        run: stands_still,
    },
    Scenario {
        name: "thin_discard::what_is_newly_put_onto_a_volume_is_refused_discards_as_well",
        needs: Needs::Ordinary,
        run: put_onto,
    },
    Scenario {
        name: "thin_discard::what_arrives_all_the_same_is_told_by_who_gave_it",
        needs: Needs::Ordinary,
        run: arrived,
    },
];

/// How soon they must be off again.
const SOON: Duration = Duration::from_millis(100);
/// Emulated processors take turns, of a tenth of a second where both are busy: the daemon, or who looks, may have missed two.
const TURNS: Duration = Duration::from_millis(300);

/// For how long at a time a device was seen to take discards, from before this is done to after it has stopped.
fn on_while(device: &str, act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| -> Result<Duration> {
            let (mut longest, mut since) = (Duration::ZERO, None);
            loop {
                let last = ended.load(Ordering::Acquire);
                // One that is not there yet takes none.
                let on = most(device).is_ok_and(|most| most > 0);
                if on {
                    let since = since.get_or_insert_with(Instant::now);
                    ensure!(
                        since.elapsed() < Duration::from_secs(10),
                        "discards of {device} stay on"
                    );
                } else if let Some(since) = since.take() {
                    longest = longest.max(since.elapsed());
                }
                if last && !on {
                    return Ok(longest);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        // It must have looked before.
        thread::sleep(Duration::from_millis(5));
        let done = act();
        // What a kernel tells of a device is heard of a little later.
        thread::sleep(SOON);
        ended.store(true, Ordering::Release);
        let longest = watch.join().map_err(|_| anyhow!("the watch panicked"))?;
        done.and(longest)
    })
}

/// Writes to a device without a pause.
struct Load(Child);

impl Load {
    fn start(device: &str) -> Result<Self> {
        let script = format!(
            "while dd if=/dev/zero of={device} bs=256K count=64 oflag=direct status=none; do :; done"
        );
        let load = Command::new("sh")
            .args(["-c", &script])
            .process_group(0)
            .spawn()?;
        Ok(Self(load))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Gives the pool's first volume the table that it has.
fn renewed(name: &str) -> String {
    format!(
        "dmsetup reload {name}-1 --table '0 {VOLUME} thin /dev/mapper/{name} 1'; dmsetup resume {name}-1"
    )
}

fn reloaded() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::write("enforce", RULE, OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    ensure!(most(&thin)? == 0, "discards of {thin} are on");
    write(&thin)?;
    // All the time somebody writes to the pool.
    let _load = Load::start(&pool.volume()?)?;
    let (name, discard) = (pool.name().to_owned(), format!("blkdiscard {thin}"));
    let mut on = Vec::new();
    for _ in 0..5 {
        on.push(on_while(&thin, || must(&renewed(&name)).map(drop))?);
        ensure!(
            came(us, &discard)? == Came::Refused,
            "the container may, with a new table"
        );
    }
    let snapshot = format!("/dev/mapper/{name}-3");
    on.push(on_while(&snapshot, || {
        let made = pool.snapshot(1)?;
        ensure!(made == snapshot, "the snapshot is {made}");
        let discard = format!("blkdiscard {snapshot}");
        ensure!(
            came(us, &discard)? == Came::Refused,
            "the container may, on a new snapshot"
        );
        ensure!(
            came(None, &discard)? == Came::Unsupported,
            "the host may, on a new snapshot"
        );
        Ok(())
    })?);
    // The pool grows under load.
    let before = pool.used()?;
    on.push(on_while(&thin, || {
        must(&format!(
            "dd if=/dev/zero of={thin} bs=1M count=64 oflag=direct status=none & \
             table=$(dmsetup table {name} | sed 's/^0 [0-9]* /0 {ROOM} /'); dmsetup reload {name} --table \"$table\"; \
             dmsetup suspend {name}; dmsetup resume {name}; wait"
        ))
        .map(drop)
    })?);
    ensure!(
        came(us, &discard)? == Came::Refused,
        "the container may, with a larger pool"
    );
    ensure!(pool.used()? >= before, "something was given back");
    on.sort();
    println!("    discards were on for {on:?}");
    let late = on.iter().filter(|on| **on >= SOON).count();
    ensure!(
        late <= 2 && on.iter().all(|on| *on < TURNS),
        "they were on for {on:?}"
    );
    Ok(())
}

/// The queue of a new table takes discards while nobody switches it off; the kernel side refuses them then as ever.
fn stands_still() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let container = Cgroup::container()?;
    let policy = Policy::write("enforce", RULE, OFF)?;
    let daemon = Daemon::start(&policy, &[])?;
    write(&thin)?;
    let before = pool.used()?;
    daemon.signal(Signal::SIGSTOP)?;
    let tried = in_the_window(&mut pool, &thin, &container);
    daemon.signal(Signal::SIGCONT)?;
    tried?;
    let went_on = Instant::now();
    wait_for("discards to be off again", Duration::from_secs(10), || {
        Ok(most(&thin)? == 0)
    })?;
    println!(
        "    off again {} ms after the daemon went on",
        went_on.elapsed().as_millis()
    );
    ensure!(pool.used()? >= before, "something was given back");
    Ok(())
}

fn in_the_window(pool: &mut Pool, thin: &str, container: &Cgroup) -> Result<()> {
    let name = pool.name().to_owned();
    must(&renewed(&name))?;
    // From 6.1 on a new table sets the queue's limits anew.
    let open = most(thin)? > 0;
    ensure!(
        open || release() < (6, 1),
        "a new table leaves discards off: there is no window to look into"
    );
    let new = pool.volume()?;
    ensure!(most(&new)? > 0, "a new volume takes none");
    write(&new)?;
    let before = pool.used()?;
    for device in [thin, &new] {
        let discard = format!("blkdiscard {device}");
        ensure!(
            came(Some(container), &discard)? == Came::Refused,
            "the container may discard {device}"
        );
        ensure!(
            came(None, &discard)? == Came::Unsupported,
            "the host may discard {device}"
        );
    }
    ensure!(pool.used()? == before, "something was given back");
    Ok(())
}

/// An array of md and a loop device over a file, made on volumes while the daemon lives: neither is the device mapper's, so that each is one
/// on dm-thin only when the daemon has heard of it.
fn put_onto() -> Result<()> {
    let mut pool = Pool::make()?;
    let container = Cgroup::container()?;
    let plain = pool.attach("plain", 64 << 20)?;
    let (below, holds) = (pool.volume()?, pool.volume()?);
    let at = pool.place()?.display().to_string();
    must(&format!(
        "mkfs.ext4 -qF -E nodiscard {holds}; mount {holds} {at}; dd if=/dev/urandom of={at}/file bs=1M count=32 conv=fsync status=none"
    ))?;
    let policy = Policy::write("enforce", RULE, OFF)?;
    let _daemon = Daemon::start(&policy, &[])?;
    for what in ["md", "loop"] {
        let new = match what {
            "md" => pool.array(&below)?,
            _ => must(&format!("losetup --find --show {at}/file"))?,
        };
        let made = Instant::now();
        write(&new)?;
        let before = pool.used()?;
        let discard = format!("blkdiscard {new}");
        let tries = [Some(&container), None].map(|who| came(who, &discard));
        let took = made.elapsed().as_millis();
        if what == "loop" {
            must(&format!("losetup -d {new}; umount {at}"))?;
        }
        let [contained, host] = tries;
        println!(
            "    {what}: the container's is {contained:?}, the host's {host:?}, within {took} ms"
        );
        ensure!(contained? == Came::Refused, "the container may, on {what}");
        ensure!(host? == Came::Unsupported, "the host may, on {what}");
        ensure!(pool.used()? >= before, "something was given back by {what}");
    }
    ensure!(
        came(Some(&container), &format!("blkdiscard {plain}"))? == Came::Done,
        "the neighbour is refused"
    );
    Ok(())
}

/// A journal (5.10), or a worker of the file system's, gives back what was deleted while a new table takes discards: no program can refuse
/// that to the kernel.
fn arrived() -> Result<()> {
    let mut pool = Pool::make()?;
    let thin = pool.volume()?;
    let at = pool.place()?.display().to_string();
    must(&format!(
        "mkfs.ext4 -qF -N 64 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 {thin}; mount -o discard {thin} {at}; \
         dd if=/dev/urandom of={at}/file bs=1M count=16 conv=fsync status=none"
    ))?;
    let policy = Policy::write("enforce", "pids: {max: 4000}", OFF)?;
    let daemon = Daemon::start(&policy, &[])?;
    ensure!(most(&thin)? == 0, "discards of {thin} are on");
    let before = pool.used()?;
    daemon.signal(Signal::SIGSTOP)?;
    let kernel = release();
    let deleted = must(&format!(
        "{}; mount -o remount,discard {at} || true; rm {at}/file; sync; sleep 7; sync",
        renewed(pool.name())
    ));
    daemon.signal(Signal::SIGCONT)?;
    deleted?;
    let given_back = before.saturating_sub(pool.used()?);
    ensure!(
        given_back > 100 || kernel < (5, 11),
        "{given_back} blocks were given back: nothing arrived"
    );
    if given_back <= 100 {
        // Mounted anew without, before the daemon was stopped: nothing discards there.
        return must(&format!("umount {at}")).map(drop);
    }
    let told = |words: &str| -> Result<bool> {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "discards"
                && record["severity"] == "high"
                && record["outcome"]
                    .as_str()
                    .is_some_and(|outcome| outcome.contains(words))
        }))
    };
    wait_for("the alarm", Duration::from_secs(30), || told("reached"))?;
    ensure!(
        told("; so far ")? && told(" (kernel)")?,
        "who gave them is not told: {:?}",
        policy.records()?
    );
    let said = bulkhead(&["thin", "status"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.contains("ARRIVED: ") && said.contains(" (kernel)"),
        "`thin status` does not say who: {said}"
    );
    let arrived = said.lines().find_map(|line| line.split_once("ARRIVED: "));
    println!("    {}", arrived.unwrap_or_default().1);
    wait_for("discards to be off again", Duration::from_secs(10), || {
        Ok(most(&thin)? == 0)
    })?;
    must(&format!("umount {at}")).map(drop)
}
