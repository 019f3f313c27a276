//! Who may do what with the kernel log, by every way there is.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ways::{Asks, Came, Opened, WAYS, Way};
use crate::{
    cgroup::{Cgroup, PATTERNS},
    daemon::{Daemon, Policy, status},
    hazards::{Needs, Scenario},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::every_way_is_refused_to_a_container_and_open_to_all_others",
        needs: Needs::Refusing,
        run: every_way_is_refused_to_a_container_and_open_to_all_others,
    },
    Scenario {
        name: "kernel_log::in_audit_mode_every_way_is_open_and_counted",
        needs: Needs::Ordinary,
        run: in_audit_mode_every_way_is_open_and_counted,
    },
    Scenario {
        name: "kernel_log::who_may_not_consume_it_reads_it_all_the_same",
        needs: Needs::Ends,
        run: who_may_not_consume_it_reads_it_all_the_same,
    },
    Scenario {
        name: "kernel_log::who_is_exempt_is_refused_nothing",
        needs: Needs::Ends,
        run: who_is_exempt_is_refused_nothing,
    },
    Scenario {
        name: "kernel_log::hooks_come_and_go_with_the_rules",
        needs: Needs::Refusing,
        run: hooks_come_and_go_with_the_rules,
    },
];

/// Every action of the kernel log.
const ACTIONS: [&str; 4] = [
    "kernel_log.read",
    "kernel_log.clear",
    "kernel_log.write",
    "kernel_log.console",
];

/// The ways that work on this machine without Bulkhead.
fn open_ways(container: &Cgroup, opened: &Opened) -> Result<Vec<&'static Way>> {
    let mut open = Vec::new();
    for way in WAYS {
        match way.go(Some(container), opened) {
            Ok(Came::Done) => open.push(way),
            Ok(Came::Refused) => println!("    refused without Bulkhead: {}", way.name),
            Err(error) => println!("    not here: {error:#}"),
        }
    }
    // All but pstore, which a kernel may not have.
    ensure!(
        open.len() + 1 >= WAYS.len(),
        "only {} of {} ways are open to a privileged container without Bulkhead",
        open.len(),
        WAYS.len()
    );
    Ok(open)
}

fn every_way_is_refused_to_a_container_and_open_to_all_others() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    let monitor = Cgroup::container()?;
    let service = Cgroup::service()?;
    let open = open_ways(&container, &opened)?;
    let policy = Policy::enforce("pids: {max: 4000}")?;
    policy.replace(&format!(
        "version: 1
mode: enforce
subjects:
  containers: {{cgroups: {PATTERNS}}}
  monitors: {{cgroups: [\"{}\"]}}
rules:
  - {{name: kept, subjects: [containers], deny: [kernel_log.clear, kernel_log.write]}}
  - {{name: unread, subjects: [containers], except: [monitors], deny: [kernel_log.read]}}
host: {{reserve: {{pids: 300}}}}
audit: {{file: {}}}
",
        monitor.path,
        policy.audit.display()
    ))?;
    let daemon = Daemon::start(&policy, &[])?;
    let mut wrong = Vec::new();
    for way in &open {
        let reads = way.asks == Asks::Read && way.also != Some(Asks::Clear);
        for (who, cgroup, expected) in [
            ("the container", Some(&container), Came::Refused),
            ("the host", None, Came::Done),
            ("a service of the host", Some(&service), Came::Done),
            (
                "the monitor",
                Some(&monitor),
                if reads { Came::Done } else { Came::Refused },
            ),
        ] {
            match way.go(cgroup, &opened) {
                Ok(came) if came == expected => {}
                other => wrong.push(format!("{who}: {}: {other:?}", way.name)),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "    {} ways refused with EPERM to a container, open to the host, its services and, for reading, a monitor",
        open.len()
    );
    let seen = status()?;
    let hooks = seen["hooks"].as_array().context("no hooks")?;
    for hook in hooks {
        println!(
            "    {} {} on {}: {}",
            hook["hook"], hook["state"], hook["rung"], hook["reason"]
        );
    }
    ensure!(
        hooks
            .iter()
            .filter(|hook| hook["state"] == "ENFORCING")
            .count()
            >= 2,
        "{hooks:?}"
    );
    for action in ACTIONS {
        ensure!(count(&seen, &container, action, "refused")? > 0, "{action}");
        ensure!(
            count(&seen, &container, action, "audited")? == 0,
            "{action}"
        );
    }
    ensure!(count(&seen, &monitor, "kernel_log.read", "refused")? == 0);
    ensure!(count(&seen, &monitor, "kernel_log.clear", "refused")? > 0);
    told(&policy, &container, "enforced")?;
    drop(daemon);
    for way in &open {
        ensure!(
            way.go(Some(&container), &opened)? == Came::Done,
            "refused after the daemon let go: {}",
            way.name
        );
    }
    Ok(())
}

fn in_audit_mode_every_way_is_open_and_counted() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    let open = open_ways(&container, &opened)?;
    let policy = Policy::write(
        "audit",
        "deny: [kernel_log.read, kernel_log.clear, kernel_log.write]",
        "reserve: {pids: 300}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    for way in &open {
        let before = status()?;
        ensure!(
            way.go(Some(&container), &opened)? == Came::Done,
            "refused in audit mode: {}",
            way.name
        );
        let after = status()?;
        for asks in [Some(way.asks), way.also].into_iter().flatten() {
            let action = match asks {
                Asks::Read => "kernel_log.read",
                Asks::Clear => "kernel_log.clear",
                Asks::Write => "kernel_log.write",
                Asks::Console => "kernel_log.console",
                Asks::Consume => "kernel_log.consume",
            };
            ensure!(
                count(&after, &container, action, "audited")?
                    > count(&before, &container, action, "audited").unwrap_or(0),
                "{} was not counted as {action}",
                way.name
            );
            ensure!(count(&after, &container, action, "refused")? == 0);
        }
    }
    told(&policy, &container, "audited")?;
    println!("    {} ways open and counted", open.len());
    Ok(())
}

fn who_may_not_consume_it_reads_it_all_the_same() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    let policy = Policy::enforce("deny: [kernel_log.consume]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let (mut refused, mut read) = (0, 0);
    for way in WAYS.iter().filter(|way| way.asks == Asks::Read) {
        let expected = if way.also == Some(Asks::Consume) {
            refused += 1;
            Came::Refused
        } else {
            read += 1;
            Came::Done
        };
        for (who, cgroup, expected) in [
            ("the container", Some(&container), expected),
            ("the host", None, Came::Done),
        ] {
            let came = way.go(cgroup, &opened);
            // A kernel may have no pstore.
            let is_here = way.go(None, &opened).is_ok();
            ensure!(
                !is_here || came.as_ref().is_ok_and(|came| *came == expected),
                "{who}: {}: {came:?}",
                way.name
            );
        }
    }
    let seen = status()?;
    // Opening /proc/kmsg, reading it by a descriptor of the host's, and syslog(2).
    ensure!(count(&seen, &container, "kernel_log.consume", "refused")? >= 3);
    ensure!(count(&seen, &container, "kernel_log.read", "refused")? == 0);
    println!("    {refused} ways that take lines away refused, {read} that only read open");
    Ok(())
}

fn who_is_exempt_is_refused_nothing() -> Result<()> {
    let opened = Opened::now()?;
    let (container, exempt) = (Cgroup::container()?, Cgroup::container()?);
    let open = open_ways(&container, &opened)?;
    let policy = Policy::enforce("pids: {max: 4000}")?;
    policy.replace(&format!(
        "version: 1
mode: enforce
subjects: {{containers: {{cgroups: {PATTERNS}}}}}
exempt: {{cgroups: [\"{}\"]}}
rules: [{{name: kept, subjects: [containers], deny: [kernel_log.read, kernel_log.clear, kernel_log.write]}}]
audit: {{file: {}}}
",
        exempt.path,
        policy.audit.display()
    ))?;
    let _daemon = Daemon::start(&policy, &[])?;
    for way in open {
        for (cgroup, expected) in [(&container, Came::Refused), (&exempt, Came::Done)] {
            let came = way.go(Some(cgroup), &opened)?;
            ensure!(
                came == expected,
                "{}: {came:?} by {}",
                way.name,
                cgroup.path
            );
        }
    }
    Ok(())
}

fn hooks_come_and_go_with_the_rules() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    let read = &WAYS[0];
    let policy = Policy::enforce("pids: {max: 4000}")?;
    let daemon = Daemon::start(&policy, &[])?;
    let hooks = || {
        let seen = status()?;
        let all = seen["hooks"].as_array().into_iter().flatten();
        Ok::<_, anyhow::Error>(all.filter(|hook| hook["hazard"] == "kernel_log").count())
    };
    ensure!(hooks()? == 0, "hooks without a rule");
    ensure!(read.go(Some(&container), &opened)? == Came::Done);
    let reloads = |rule: &str, expected: usize| -> Result<()> {
        policy.rewrite("enforce", rule, "reserve: {pids: 300}")?;
        daemon.reload()?;
        crate::host::wait_for("the reload", std::time::Duration::from_secs(20), || {
            Ok(hooks()? == expected)
        })
    };
    reloads("deny: [kernel_log.read]", 3)?;
    ensure!(read.go(Some(&container), &opened)? == Came::Refused);
    ensure!(read.go(None, &opened)? == Came::Done);
    reloads("pids: {max: 4000}", 0)?;
    ensure!(read.go(Some(&container), &opened)? == Came::Done);
    Ok(())
}

/// A counter of a container's actions.
pub(crate) fn count(status: &Value, container: &Cgroup, action: &str, which: &str) -> Result<u64> {
    let containers = status["containers"].as_array().context("no containers")?;
    let found = containers
        .iter()
        .find(|other| other["cgroup"].as_str() == Some(&container.path))
        .context("the container is not in status")?;
    Ok(found["actions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["action"] == action)
        .and_then(|one| one[which].as_u64())
        .unwrap_or(0))
}

/// The audit log tells of each action.
fn told(policy: &Policy, container: &Cgroup, outcome: &str) -> Result<()> {
    crate::host::wait_for("the records", std::time::Duration::from_secs(10), || {
        let records = policy.records()?;
        Ok(ACTIONS.into_iter().all(|action| {
            records.iter().any(|record| {
                record["kind"] == "action"
                    && record["action"] == action
                    && record["cgroup"].as_str() == Some(&container.path)
            })
        }))
    })
    .with_context(|| format!("{outcome}: {:?}", policy.records()))
}
