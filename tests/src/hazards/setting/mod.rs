//! Settings: a container that would switch off what refuses, or reach the kernel log by a setting, is refused.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, status},
    host::{Setting, release, wait_for},
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "setting::no_container_switches_off_what_refuses",
        needs: Needs::Refusing,
        run: switch,
    },
    Scenario {
        name: "setting::the_kernel_logs_settings_are_the_kernel_log",
        needs: Needs::Refusing,
        run: printk,
    },
]];

const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
const BRIDGE: &str = "unshare --net ip link add probe0 type bridge";

fn write(value: &str, name: &str) -> String {
    format!("/bin/echo {value} > /proc/sys/kernel/{name}")
}

fn switch() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let off = write("0", "ftrace_enabled");
    {
        // The harm: it takes every hook away.
        let policy = Policy::enforce("deny: [bridge.create]")?;
        let _daemon = Daemon::start(&policy, &[])?;
        ensure!(!may(us, BRIDGE)?);
        match Setting::new("kernel/ftrace_enabled", "0\n") {
            Ok(_off) => {
                ensure!(may(us, BRIDGE)?, "refused though the hooks are off");
                wait_for("it to be said", Duration::from_secs(10), || {
                    Ok(status()?.to_string().contains("kernel.ftrace_enabled is 0"))
                })?;
            }
            Err(error) => {
                let kept = release() < (6, 0) || release() >= (6, 13);
                ensure!(kept, "{error:#}");
                println!("    this kernel does not let it be: {error:#}");
            }
        }
    }
    let policy = Policy::enforce("deny: [bridge.create]")?;
    let daemon = Daemon::start(&policy, &[])?;
    ensure!(!may(us, &off)?, "the container may switch it off");
    ensure!(fs::read_to_string(SWITCH)?.trim() == "1");
    ensure!(!may(us, BRIDGE)?, "a bridge is made");
    ensure!(may(us, &format!("cat {SWITCH}"))?, "it may not be read");
    // The host's own, and other settings.
    ensure!(may(None, &write("1", "ftrace_enabled"))?);
    let service = Cgroup::service()?;
    ensure!(may(Some(&service), &write("1", "ftrace_enabled"))?);
    ensure!(may(
        us,
        &write("1", "ftrace_dump_on_oops").replace('1', "0")
    )?);
    ensure!(count(&status()?, &container, "guard.disable", "refused")? == 1);
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == "guard.disable"
                && record["verdict"] == "deny"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    drop(daemon);
    // A daemon that only audits refuses nothing, this neither.
    let policy = Policy::write("audit", "deny: [bridge.create]", "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    ensure!(may(us, &write("1", "ftrace_enabled"))?);
    Ok(())
}

fn printk() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let level = fs::read_to_string("/proc/sys/kernel/printk")?;
    let first = level.split_whitespace().next().unwrap_or("4").to_owned();
    let restrict = fs::read_to_string("/proc/sys/kernel/dmesg_restrict")?
        .trim()
        .to_owned();
    let console = write(&first, "printk");
    let delay = write("0", "printk_delay");
    let restrict = write(&restrict, "dmesg_restrict");
    let all = [&console, &delay, &restrict];
    for script in all {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce("deny: [kernel_log.console]")?;
    let daemon = Daemon::start(&policy, &[])?;
    ensure!(
        !may(us, &console)? && !may(us, &delay)?,
        "the console's level is open"
    );
    ensure!(may(us, &restrict)?, "reading is not denied");
    for script in all {
        ensure!(may(None, script)?, "the host may not: {script}");
    }
    ensure!(count(&status()?, &container, "kernel_log.console", "refused")? == 2);
    policy.rewrite(
        "audit",
        "deny: [kernel_log.console, kernel_log.read]",
        "reserve: {pids: 300}",
    )?;
    daemon.reload()?;
    wait_for("the reload", Duration::from_secs(20), || may(us, &console))?;
    ensure!(may(us, &restrict)?);
    let seen = status()?;
    ensure!(count(&seen, &container, "kernel_log.console", "audited")? >= 1);
    ensure!(count(&seen, &container, "kernel_log.read", "audited")? >= 1);
    Ok(())
}
