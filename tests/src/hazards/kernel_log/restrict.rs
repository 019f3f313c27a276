//! `kernel.dmesg_restrict`: set only where the policy asks for it, and set back whatever became of the daemon.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    daemon::{Daemon, Policy, lower_rung, succeed},
    hazards::{Needs, Scenario},
    host::{Setting, sysctl, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "kernel_log::dmesg_restrict_is_set_on_request_and_set_back",
    needs: Needs::Patience,
    run: dmesg_restrict_is_set_on_request_and_set_back,
}];

const NAME: &str = "kernel/dmesg_restrict";
const RULE: &str = "pids: {max: 4000}";
const LEAVE: &str = "reserve: {pids: 300}";
const ON: &str = "reserve: {pids: 300}, dmesg_restrict: on";

fn is(value: u64, when: &str) -> Result<()> {
    let found = sysctl(NAME)?;
    ensure!(found == value, "{when}: {found}, not {value}");
    Ok(())
}

fn dmesg_restrict_is_set_on_request_and_set_back() -> Result<()> {
    let _before = Setting::new(NAME, "0")?;
    for (mode, host) in [("enforce", LEAVE), ("audit", ON)] {
        let policy = Policy::write(mode, RULE, host)?;
        let _daemon = Daemon::start(&policy, lower_rung())?;
        is(0, mode)?;
    }
    let policy = Policy::write("enforce", RULE, ON)?;
    let mut daemon = Daemon::start(&policy, lower_rung())?;
    is(1, "asked for")?;
    daemon.kill()?;
    is(1, "after kill -9")?;
    let mut daemon = Daemon::start(&policy, lower_rung())?;
    is(1, "with the next daemon")?;
    succeed(&["off"])?;
    is(0, "while off")?;
    succeed(&["on"])?;
    is(1, "on again")?;
    policy.rewrite("enforce", RULE, LEAVE)?;
    daemon.reload()?;
    wait_for("the setting to go back", Duration::from_secs(20), || {
        Ok(sysctl(NAME)? == 0)
    })?;
    policy.rewrite("enforce", RULE, ON)?;
    daemon.reload()?;
    wait_for("the setting", Duration::from_secs(20), || {
        Ok(sysctl(NAME)? == 1)
    })?;
    // Thrown back by somebody else: once more, and then no more.
    for expected in [1, 0] {
        std::fs::write(format!("/proc/sys/{NAME}"), "0")?;
        std::thread::sleep(Duration::from_secs(13));
        is(expected, "set back by somebody else")?;
    }
    daemon.stop()?;
    is(0, "after SIGTERM")?;

    // Killed, and let go without a daemon.
    let mut daemon = Daemon::start(&policy, lower_rung())?;
    is(1, "asked for anew")?;
    daemon.kill()?;
    succeed(&["off"])?;
    is(0, "off without a daemon")?;
    succeed(&["on"])?;
    drop(Daemon::start(&policy, lower_rung())?);
    is(0, "after the last daemon")?;

    // What was 1 before is nobody's to set back.
    let _set = Setting::new(NAME, "1")?;
    drop(Daemon::start(&policy, lower_rung())?);
    is(1, "set by somebody else")
}
