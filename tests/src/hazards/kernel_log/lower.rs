//! Where no program can be asked before each read: the device programs of cgroups refuse the nodes, and what stays open is said.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    refusing::count,
    ways::{Asks, Came, Opened, WAYS, Way},
};
use crate::{
    cgroup::{Cgroup, PATTERNS},
    daemon::{Daemon, Policy, lower_rung, poor_rung, status, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel_log::lower_rung_refuses_the_nodes_and_says_what_is_open",
        needs: Needs::Nothing,
        run: lower_rung_refuses_the_nodes_and_says_what_is_open,
    },
    Scenario {
        name: "kernel_log::lower_rung_refuses_what_the_rule_denies_and_no_more",
        needs: Needs::Nothing,
        run: lower_rung_refuses_what_the_rule_denies_and_no_more,
    },
    Scenario {
        name: "kernel_log::lower_rung_outlives_the_daemon_and_goes_with_its_release",
        needs: Needs::Nothing,
        run: lower_rung_outlives_the_daemon_and_goes_with_its_release,
    },
];

/// The rule that denies all.
const ALL: &str = "deny: [kernel_log.read, kernel_log.clear, kernel_log.write]";
const RESERVE: &str = "reserve: {pids: 300}";
/// How soon a container is found where the kernel side does not recognise it.
const FOUND: Duration = Duration::from_secs(10);

fn nodes() -> impl Iterator<Item = &'static Way> {
    WAYS.iter().filter(|way| way.opens())
}

/// A way that is refused to a container, as soon as that is known: at once where the kernel side recognises it.
fn refused_once_found(container: &Cgroup, way: &Way, opened: &Opened) -> Result<()> {
    if poor_rung().as_deref() == Some("setting") {
        return host::wait_for("the container to be found", FOUND, || {
            Ok(way.go(Some(container), opened)? == Came::Refused)
        });
    }
    ensure!(
        way.go(Some(container), opened)? == Came::Refused,
        "not refused: {}",
        way.name
    );
    Ok(())
}

fn hook(said: &Value, name: &str) -> Result<Value> {
    let hooks = said["hooks"].as_array().context("no hooks")?;
    let found = hooks.iter().find(|hook| hook["hook"] == name);
    found
        .cloned()
        .with_context(|| format!("no hook {name} in {hooks:?}"))
}

fn lower_rung_refuses_the_nodes_and_says_what_is_open() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    // What has cgroups of its own below it has no processes.
    let above = Cgroup::container()?;
    let monitor = Cgroup::container()?;
    let service = Cgroup::service()?;
    for way in nodes() {
        let came = way.go(Some(&container), &opened)?;
        ensure!(
            came == Came::Done,
            "{}: {came:?} without Bulkhead",
            way.name
        );
    }
    let policy = Policy::enforce(ALL)?;
    policy.replace(&format!(
        "version: 1
mode: enforce
subjects:
  containers: {{cgroups: {PATTERNS}}}
  monitors: {{cgroups: [\"{}\"]}}
rules:
  - {{name: mine, subjects: [containers], except: [monitors], {ALL}}}
host: {{{RESERVE}}}
audit: {{file: {}}}
",
        monitor.path,
        policy.audit.display()
    ))?;
    let _daemon = Daemon::start(&policy, lower_rung())?;
    let said = status()?;
    println!("    {} on {}; open:", said["state"], said["rung"]);
    let open = said["open"]
        .as_array()
        .context("nothing is said to be open")?;
    for way in open {
        println!("      {}", way.as_str().unwrap_or_default());
    }
    ensure!(said["state"] == "DEGRADED", "{}", said["state"]);
    let devices = hook(&said, "cgroup_device")?;
    ensure!(
        devices["state"] == "DEGRADED" && devices["rung"] == "cgroup",
        "{devices}"
    );
    ensure!(hook(&said, "file_permission")?["state"] == "OPEN");
    let open = Value::from(open.as_slice()).to_string();
    for way in [
        "syslog(2)",
        "/proc/kmsg",
        "descriptors of /dev/kmsg",
        "pstore",
        "tracefs",
    ] {
        ensure!(open.contains(way), "{way} is not said to be open: {open}");
    }
    let doctor = crate::daemon::bulkhead(&["doctor"])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(
        doctor.contains("open            kernel_log: descriptors of /dev/kmsg"),
        "{doctor}"
    );

    let nested = Cgroup::at(&format!("{}/nested", above.path))?;
    for way in nodes() {
        for (who, cgroup, expected) in [
            ("the container", Some(&container), Came::Refused),
            ("a cgroup nested in one", Some(&nested), Came::Refused),
            ("the host", None, Came::Done),
            ("a service of the host", Some(&service), Came::Done),
            ("the monitor", Some(&monitor), Came::Done),
        ] {
            let came = way.go(cgroup, &opened)?;
            ensure!(came == expected, "{who}: {}: {came:?}", way.name);
        }
    }
    // What was said to be open is open; what is no kernel log is nobody's business.
    let said_open = [
        "an inherited",
        "dmesg > ",
        "dmesg --syslog",
        "timeout 5 head",
    ];
    for way in WAYS
        .iter()
        .filter(|way| said_open.iter().any(|said| way.name.starts_with(said)))
    {
        ensure!(
            way.go(Some(&container), &opened)? == Came::Done,
            "{}",
            way.name
        );
    }
    others_are_open(&container)?;
    let said = status()?;
    for action in ["kernel_log.read", "kernel_log.write"] {
        let refused = count(&said, &container, action, "refused")?;
        println!("    {action}: {refused} refused");
        ensure!(refused > 0, "{action} is not counted");
        ensure!(count(&said, &monitor, action, "refused").unwrap_or(0) == 0);
    }
    Ok(())
}

/// Every other device is what it was, and nodes can be made, of the kernel log too.
fn others_are_open(container: &Cgroup) -> Result<()> {
    let mut command = std::process::Command::new("sh");
    command.args([
        "-ec",
        "for device in null zero full random urandom; do head -c 1 /dev/$device > /dev/null; done
         echo x > /dev/null; echo x 1<> /dev/zero
         rm -f /tmp/other; mknod /tmp/other c 1 3; echo x > /tmp/other; rm /tmp/other
         rm -f /tmp/log; mknod /tmp/log c 1 11; rm /tmp/log
         rm -f /tmp/block; mknod /tmp/block b 1 11; rm /tmp/block",
    ]);
    let output = container.enter(&mut command)?.output()?;
    ensure!(
        output.status.success(),
        "another device is refused: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn lower_rung_refuses_what_the_rule_denies_and_no_more() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    for (mode, action, asks) in [
        ("enforce", "kernel_log.read", Some(Asks::Read)),
        ("enforce", "kernel_log.write", Some(Asks::Write)),
        ("audit", "kernel_log.read", None),
    ] {
        let policy = Policy::write(mode, &format!("deny: [{action}]"), RESERVE)?;
        let _daemon = Daemon::start(&policy, lower_rung())?;
        let mut refused = 0;
        for way in nodes() {
            // Opened for both, either denies it.
            let both = way.name.contains("1<>");
            let expected = if asks.is_some() && (both || asks == Some(way.asks)) {
                refused += 1;
                Came::Refused
            } else {
                Came::Done
            };
            let came = way.go(Some(&container), &opened)?;
            ensure!(came == expected, "{mode} {action}: {}: {came:?}", way.name);
        }
        let said = status()?;
        let which = if mode == "audit" {
            "audited"
        } else {
            "refused"
        };
        let counted = count(&said, &container, action, which)?;
        println!("    {mode} {action}: {refused} ways refused, {counted} opens {which}");
        ensure!(counted > 0, "{mode} {action} is not counted");
        told(&policy, &container, action)?;
    }
    Ok(())
}

/// The audit log tells of it; by whom, wherever kernel memory can be read.
fn told(policy: &Policy, container: &Cgroup, action: &str) -> Result<()> {
    host::wait_for("the record", FOUND, || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == action
                && record["cgroup"].as_str() == Some(&container.path)
                && (poor_rung().as_deref() == Some("setting")
                    || record["process.executable.name"].is_string())
        }))
    })
    .with_context(|| format!("{:?}", policy.records()))
}

fn lower_rung_outlives_the_daemon_and_goes_with_its_release() -> Result<()> {
    let opened = Opened::now()?;
    let container = Cgroup::container()?;
    let read = nodes().next().context("no way")?;
    let policy = Policy::enforce(ALL)?;
    let mut daemon = Daemon::start(&policy, lower_rung())?;
    refused_once_found(&container, read, &opened)?;
    let fresh = Cgroup::container()?;
    refused_once_found(&fresh, read, &opened)?;

    daemon.kill()?;
    ensure!(
        read.go(Some(&container), &opened)? == Came::Refused,
        "open after kill -9"
    );
    let orphan = Cgroup::container()?;
    if poor_rung().as_deref() != Some("setting") {
        refused_once_found(&orphan, read, &opened)?;
    }
    // While the next one starts, nothing is open at any moment.
    let mut daemon = Daemon::spawn(&policy, lower_rung(), &[])?;
    let mut tries = 0;
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while status()?["ready"] != true {
        ensure!(
            std::time::Instant::now() < until,
            "not ready: {}",
            daemon.log()
        );
        ensure!(
            read.go(Some(&container), &opened)? == Came::Refused,
            "open at a takeover"
        );
        tries += 1;
    }
    daemon.wait_ready()?;
    println!("    refused {tries} times while a daemon took over");
    refused_once_found(&orphan, read, &opened)?;

    succeed(&["off"])?;
    ensure!(
        read.go(Some(&container), &opened)? == Came::Done,
        "refused while off"
    );
    succeed(&["on"])?;
    ensure!(
        read.go(Some(&container), &opened)? == Came::Refused,
        "open after on"
    );

    policy.rewrite("enforce", "pids: {max: 4000}", RESERVE)?;
    daemon.reload()?;
    host::wait_for("the rule to go", FOUND, || {
        Ok(read.go(Some(&container), &opened)? == Came::Done)
    })?;
    let seen = status()?;
    let hooks = seen["hooks"].as_array().context("no hooks")?;
    ensure!(hooks.iter().all(|hook| hook["hazard"] != "kernel_log"));
    policy.rewrite("enforce", ALL, RESERVE)?;
    daemon.reload()?;
    host::wait_for("the rule to come back", FOUND, || {
        Ok(read.go(Some(&container), &opened)? == Came::Refused)
    })?;

    daemon.stop()?;
    ensure!(
        read.go(Some(&container), &opened)? == Came::Done,
        "refused after SIGTERM"
    );
    Ok(())
}
