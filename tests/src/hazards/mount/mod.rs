//! Mounts: a container that would mount something, or a file system of a type that a rule names, is refused by either way of mounting;
//! the host mounts what it likes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard, and of keys.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "mount::a_container_mounts_nothing_in_any_way_and_the_host_does",
        needs: Needs::Refusing,
        run: everything,
    },
    Scenario {
        name: "mount::only_what_a_rule_names_is_not_mounted",
        needs: Needs::Refusing,
        run: by_type,
    },
    Scenario {
        name: "mount::in_audit_mode_each_mount_is_made_and_counted_once",
        needs: Needs::Ordinary,
        run: audited,
    },
    Scenario {
        name: "key::a_container_makes_no_key_of_a_type_that_a_rule_names_and_the_host_does",
        needs: Needs::Refusing,
        run: keys,
    },
    Scenario {
        name: "key::in_audit_mode_each_is_made_and_counted",
        needs: Needs::Ordinary,
        run: keys_audited,
    },
]];

const MOUNT: &str = "mount";

/// What is mounted, each in another way.
const FILE_SYSTEMS: [&str; 7] = [
    "mount -t tmpfs none /tmp && umount /tmp",
    "mount -t tmpfs -o size=1m,mode=700 none /tmp && umount /tmp",
    "bulkhead-probe mount --way old",
    "bulkhead-probe mount --way new",
    "bulkhead-probe mount --way new --option size=1m",
    "bulkhead-probe mount --way made",
    "bulkhead-probe mount --way given --option source=x",
];

/// What becomes of what is mounted already, at a place of the host's.
const OTHERWISE: [&str; 6] = [
    "mount --bind /tmp /tmp && umount /tmp",
    "mount -o remount,ro /run/bulkhead-mount && mount -o remount,rw /run/bulkhead-mount",
    "mount --make-private /run/bulkhead-mount",
    "mkdir -p /run/bulkhead-moved && mount --move /run/bulkhead-mount /run/bulkhead-moved && \
     mount --move /run/bulkhead-moved /run/bulkhead-mount",
    "bulkhead-probe mount --way tree",
    // Into a tree of its own, where it changes nothing for others.
    "unshare --mount --propagation unchanged sh -c 'mkdir -p /run/bulkhead-mount/old && cd /run/bulkhead-mount && \
     pivot_root . old'",
];

/// What is none of it.
const OTHERS: [&str; 3] = [
    "cat /proc/self/mountinfo",
    "findmnt /",
    "unshare --mount --propagation unchanged true",
];

/// A place of the host's with something mounted at it, which is not shared, so that it can be moved.
struct Place;

impl Place {
    fn make() -> Result<Self> {
        may(
            None,
            "mkdir -p /run/bulkhead-mount && mount -t tmpfs none /run/bulkhead-mount && \
             mount --make-private /run && mount --make-private /run/bulkhead-mount || \
             mount --make-private / ",
        )?;
        Ok(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = may(
            None,
            "umount /run/bulkhead-mount; rmdir /run/bulkhead-mount; true",
        );
    }
}

fn everything() -> Result<()> {
    let container = Cgroup::container()?;
    let (service, neighbour) = (Cgroup::service()?, Cgroup::at("/neighbour")?);
    let us = Some(&container);
    let _place = Place::make()?;
    let all = || FILE_SYSTEMS.iter().chain(&OTHERWISE);
    for script in all().chain(&OTHERS) {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce("deny: [mount]")?;
    let daemon = Daemon::start(&policy, &[])?;
    for script in all() {
        ensure!(!may(us, script)?, "the container may: {script}");
        for other in [None, Some(&service), Some(&neighbour)] {
            let whose = other.map_or("the host", |cgroup| &cgroup.path);
            ensure!(may(other, script)?, "{whose} may not: {script}");
        }
    }
    for script in OTHERS {
        ensure!(may(us, script)?, "the container may not: {script}");
    }
    let seen = status()?;
    let refused = count(&seen, &container, MOUNT, "refused")?;
    ensure!(refused >= all().count() as u64, "{refused} are counted");
    ensure!(count(&seen, &container, MOUNT, "audited")? == 0);
    for hook in [
        "sb_mount",
        "fs_context_parse_param",
        "sb_kern_mount",
        "sb_remount",
        "move_mount",
        "sb_pivotroot",
    ] {
        enforcing(&seen, MOUNT, hook)?;
    }
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["action"] == MOUNT
                && record["verdict"] == "deny"
                && record["argument"] == "tmpfs"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    drop(daemon);
    for script in all() {
        ensure!(
            may(us, script)?,
            "nobody is there, and it is refused: {script}"
        );
    }
    Ok(())
}

fn by_type() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let _place = Place::make()?;
    let ramfs = |script: &str| {
        script
            .replace("tmpfs", "ramfs")
            .replace("mount --way", "mount --fs ramfs --way")
    };
    // It takes one option alone.
    let of_ramfs = || {
        FILE_SYSTEMS
            .iter()
            .filter(|script| !script.contains("size="))
            .map(|script| ramfs(script))
    };
    let policy = Policy::enforce("deny: [{mount: {fs: [ramfs, overlay]}}]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in of_ramfs() {
        ensure!(!may(us, &script)?, "the container may: {script}");
        ensure!(may(None, &script)?, "the host may not: {script}");
    }
    // A subtype is none of the type's name.
    let subtype = "bulkhead-probe mount --way old --fs ramfs.bulkhead";
    ensure!(!may(us, subtype)?, "the container may: {subtype}");
    let overlay = "mkdir -p /run/bulkhead-mount/l /run/bulkhead-mount/u /run/bulkhead-mount/w && mount -t overlay \
                   -o lowerdir=/run/bulkhead-mount/l,upperdir=/run/bulkhead-mount/u,workdir=/run/bulkhead-mount/w none /tmp && \
                   umount /tmp";
    ensure!(!may(us, overlay)?, "the container may: {overlay}");
    ensure!(may(None, overlay)?, "the host may not: {overlay}");
    // What the host mounted of it is not changed either.
    let at = "/run/bulkhead-mount/kept";
    let again = format!("mount -o remount,ro {at} && mount -o remount,rw {at}");
    for (kind, is_denied) in [("ramfs", true), ("tmpfs", false)] {
        let made = may(None, &format!("mkdir -p {at} && mount -t {kind} none {at}"))?;
        ensure!(made && may(us, &again)? != is_denied, "of {kind}: {again}");
        ensure!(
            may(None, &again)? && may(None, &format!("umount {at}"))?,
            "the host: {again}"
        );
    }
    for script in FILE_SYSTEMS.iter().chain(&OTHERWISE).chain(&OTHERS) {
        ensure!(may(us, script)?, "the container may not: {script}");
    }
    let seen = status()?;
    let refused = count(&seen, &container, MOUNT, "refused")?;
    ensure!(
        refused == of_ramfs().count() as u64 + 3,
        "{refused} are counted"
    );
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let _place = Place::make()?;
    let policy = Policy::write("audit", "deny: [mount]", "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    // The last one makes no file system.
    let [made @ .., given] = &FILE_SYSTEMS;
    for script in made {
        ensure!(may(us, script)?, "refused: {script}");
    }
    ensure!(may(us, given)?, "refused: {given}");
    let audited = count(&status()?, &container, MOUNT, "audited")?;
    // By the newer calls it is moved to where it is seen.
    let moved = made
        .iter()
        .filter(|script| script.contains("--way new"))
        .count();
    let by_tool = audited.saturating_sub((made.len() + moved) as u64);
    ensure!(
        audited >= (made.len() + moved) as u64 && by_tool <= 2,
        "{audited} are counted"
    );
    for script in OTHERWISE {
        ensure!(may(us, script)?, "refused: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, MOUNT, "audited")? >= audited + OTHERWISE.len() as u64);
    ensure!(count(&seen, &container, MOUNT, "refused")? == 0);
    Ok(())
}

const KEY: &str = "key.create";

fn keys() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let session = "bulkhead-probe call session";
    let both = ["bulkhead-probe call key", session];
    for script in both {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce("deny: [{key.create: {types: [user, asymmetric]}}]")?;
    let daemon = Daemon::start(&policy, &[])?;
    ensure!(!may(us, both[0])?, "the container may: {}", both[0]);
    ensure!(may(None, both[0])?, "the host may not: {}", both[0]);
    // Of another type.
    ensure!(may(us, session)?, "the container may not: {session}");
    ensure!(may(us, "bulkhead-probe call key --kind logon || true")?);
    let seen = status()?;
    ensure!(count(&seen, &container, KEY, "refused")? == 1);
    enforcing(&seen, "key", "key_alloc")?;
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["action"] == KEY && record["verdict"] == "deny" && record["argument"] == "user"
        }))
    })?;
    policy.rewrite("enforce", "deny: [key.create]", "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || {
        Ok(!may(us, session)?)
    })?;
    ensure!(!may(us, both[0])?, "the container may: {}", both[0]);
    ensure!(may(None, session)?, "the host may not: {session}");
    Ok(())
}

fn keys_audited() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::write(
        "audit",
        "deny: [{key.create: {types: [user]}}]",
        "reserve: {pids: 300}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in ["bulkhead-probe call key", "bulkhead-probe call session"] {
        ensure!(may(Some(&container), script)?, "refused: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, KEY, "audited")? == 1);
    ensure!(count(&seen, &container, KEY, "refused")? == 0);
    Ok(())
}
