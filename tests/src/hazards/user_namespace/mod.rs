//! User namespaces: a container that would make one although a policy denies it is refused; what a runtime makes to start one is not.

mod coming;
mod runtimes;
mod setup;

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::{release, wait_for},
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[
    &[
        Scenario {
            name: "user_namespace::none_is_made_in_a_container_in_any_way_and_all_are_on_the_host",
            needs: Needs::Refusing,
            run: refused,
        },
        Scenario {
            name: "user_namespace::in_audit_mode_each_is_made_and_counted",
            needs: Needs::Ordinary,
            run: audited,
        },
    ],
    setup::SCENARIOS,
    coming::SCENARIOS,
    runtimes::SCENARIOS,
];

const RULE: &str = "deny: [user_namespace.create]";
const ACTION: &str = "user_namespace.create";

/// Each way to make one, by what was executed in the container.
const WAYS: [&str; 9] = [
    "unshare --user true",
    "unshare --user --map-root-user --fork --pid --mount-proc true",
    "bulkhead-probe user-namespace --way unshare",
    "bulkhead-probe user-namespace --way unshare32",
    "bulkhead-probe user-namespace --way clone",
    "bulkhead-probe user-namespace --way clone3",
    "bulkhead-probe user-namespace --then fork",
    "bulkhead-probe user-namespace --then memfd",
    "bulkhead-probe user-namespace --then mounts --then memfd",
];

/// What is no user namespace, or was made by another.
const OTHERS: [&str; 4] = [
    "unshare --net true",
    "unshare --mount --uts --ipc true",
    "unshare --pid --fork true",
    "setpriv --reuid 1 --clear-groups true",
];

fn refused() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    let us = Some(&container);
    for script in WAYS.iter().chain(&OTHERS) {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce(RULE)?;
    let daemon = Daemon::start(&policy, &[])?;
    for script in WAYS {
        ensure!(!may(us, script)?, "the container may: {script}");
        ensure!(may(None, script)?, "the host may not: {script}");
        ensure!(may(Some(&service), script)?, "a service may not: {script}");
    }
    for script in OTHERS {
        ensure!(may(us, script)?, "the container may not: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, ACTION, "refused")? == WAYS.len() as u64);
    ensure!(count(&seen, &container, ACTION, "audited")? == 0);
    let name = if release() >= (6, 1) {
        "userns_create"
    } else {
        "cred_prepare"
    };
    enforcing(&seen, "user_namespace", name)?;
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == ACTION
                && record["verdict"] == "deny"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    // Denied no more, nothing stays of it; denied again, it is again.
    policy.rewrite("enforce", "deny: [bridge.create]", "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || may(us, WAYS[0]))?;
    policy.rewrite("enforce", RULE, "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the other reload", Duration::from_secs(20), || {
        Ok(!may(us, WAYS[0])?)
    })?;
    drop(daemon);
    ensure!(may(us, WAYS[0])?, "nobody is there, and it is refused");
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::write("audit", RULE, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in WAYS.iter().chain(&OTHERS) {
        ensure!(may(Some(&container), script)?, "refused: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, ACTION, "audited")? == WAYS.len() as u64);
    ensure!(count(&seen, &container, ACTION, "refused")? == 0);
    Ok(())
}
