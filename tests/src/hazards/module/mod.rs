//! Modules of the kernel: a container that would have one loaded is refused, and the host loads what it likes.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::{self, may},
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "module::what_a_container_asks_for_is_not_loaded_and_what_the_host_asks_for_is",
        needs: Needs::Refusing,
        run: autoload,
    },
    Scenario {
        name: "module::only_what_a_rule_names_is_not_loaded",
        needs: Needs::Ordinary,
        run: by_name,
    },
    Scenario {
        name: "module::a_container_loads_none_by_itself_in_any_way",
        needs: Needs::Refusing,
        run: load,
    },
    Scenario {
        name: "module::a_hook_that_cannot_be_tried_is_not_said_to_refuse_and_does",
        needs: Needs::Ordinary,
        run: untried,
    },
    Scenario {
        name: "module::in_audit_mode_each_is_loaded_and_counted",
        needs: Needs::Ordinary,
        run: audited,
    },
]];

const AUTOLOAD: &str = "module.autoload";
const LOAD: &str = "module.load";

/// A module, and how it comes by asking for something else.
struct Asked {
    module: &'static str,
    name: &'static str,
    script: &'static str,
}

const ASKED: [Asked; 3] = [
    Asked {
        module: "dummy",
        name: "rtnl-link-dummy",
        script: "unshare --net ip link add x type dummy",
    },
    Asked {
        module: "phonet",
        name: "net-pf-35",
        script: "bulkhead-probe socket --family 35 --kind 2",
    },
    Asked {
        module: "minix",
        name: "fs-minix",
        script: "mount -t minix none /tmp; test $? = 32; grep -q minix /proc/filesystems",
    },
];

impl Asked {
    /// Whether it is there after somebody asked; it is taken away again.
    fn comes(&self, cgroup: Option<&Cgroup>) -> Result<bool> {
        ensure!(!is_loaded(self.module), "{} is loaded", self.module);
        let mut command = Command::new("sh");
        command.args(["-c", self.script]);
        let output = bed::output(cgroup, command)?;
        let loaded = is_loaded(self.module);
        ensure!(
            output.status.success() == loaded,
            "{}: {output:?}, and it is loaded: {loaded}",
            self.script
        );
        if loaded {
            // What used it may be just going.
            wait_for("it to go", Duration::from_secs(20), || {
                let gone = Command::new("modprobe")
                    .args(["-r", self.module])
                    .output()?;
                Ok(gone.status.success())
            })?;
        }
        Ok(loaded)
    }
}

fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

fn autoload() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    for asked in &ASKED {
        ensure!(
            asked.comes(Some(&container))?,
            "without Bulkhead: {}",
            asked.module
        );
    }
    let policy = Policy::enforce("deny: [module.autoload]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for asked in &ASKED {
        ensure!(
            !asked.comes(Some(&container))?,
            "a container: {}",
            asked.module
        );
        ensure!(asked.comes(None)?, "the host: {}", asked.module);
        ensure!(asked.comes(Some(&service))?, "a service: {}", asked.module);
    }
    let seen = status()?;
    // At least one request each; of a socket there are several.
    ensure!(count(&seen, &container, AUTOLOAD, "refused")? >= ASKED.len() as u64);
    ensure!(count(&seen, &container, AUTOLOAD, "audited")? == 0);
    enforcing(&seen, "module", "kernel_module_request")?;
    wait_for("the record", Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            let argument = record["argument"].as_str();
            record["action"] == AUTOLOAD
                && record["verdict"] == "deny"
                && ASKED.iter().any(|asked| argument == Some(asked.name))
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })
}

fn by_name() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let [first, others @ ..] = &ASKED;
    let rule = format!(
        "deny: [{{module.autoload: {{names: [{}, net-pf-4]}}}}]",
        first.name
    );
    let policy = Policy::enforce(&rule)?;
    let _daemon = Daemon::start(&policy, &[])?;
    ensure!(!first.comes(us)?, "{}", first.module);
    for asked in others {
        ensure!(asked.comes(us)?, "{}", asked.module);
    }
    let refused = count(&status()?, &container, AUTOLOAD, "refused")?;
    ensure!(refused == 1, "{refused} refused");
    Ok(())
}

/// The file of a module, as insmod takes it.
fn file_of(module: &str) -> Result<String> {
    let found = Command::new("modinfo")
        .args(["-F", "filename", module])
        .output()?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    ensure!(!path.is_empty(), "no module {module}: {found:?}");
    Ok(path)
}

fn ways() -> Result<Vec<String>> {
    let file = file_of("dummy")?;
    Ok(vec![
        "modprobe dummy".to_owned(),
        format!("insmod {file}"),
        format!("bulkhead-probe module {file}"),
    ])
}

fn taken_away(script: &str, loaded: bool) -> Result<()> {
    ensure!(is_loaded("dummy") == loaded, "{script}: not {loaded}");
    let gone = Command::new("rmmod").arg("dummy").output()?;
    ensure!(gone.status.success() == loaded, "{gone:?}");
    Ok(())
}

fn load() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let ways = ways()?;
    for script in &ways {
        ensure!(may(us, script)?, "without Bulkhead: {script}");
        taken_away(script, true)?;
    }
    let policy = Policy::enforce("deny: [module.load]")?;
    let _daemon = Daemon::start(&policy, &[])?;
    for script in &ways {
        ensure!(!may(us, script)?, "the container may: {script}");
        taken_away(script, false)?;
        ensure!(may(None, script)?, "the host may not: {script}");
        taken_away(script, true)?;
    }
    // By asking for what is not there it comes all the same: that is another action.
    ensure!(ASKED[0].comes(us)?, "autoload is refused too");
    let seen = status()?;
    let refused = count(&seen, &container, LOAD, "refused")?;
    ensure!(refused >= ways.len() as u64, "{refused} refused");
    enforcing(&seen, "module", "kernel_read_file")?;
    enforcing(&seen, "module", "kernel_load_data")
}

/// As the systemd unit has it: the self-test may not load a module either, and so sees nothing of the hook.
fn untried() -> Result<()> {
    let container = Cgroup::container()?;
    let policy = Policy::enforce("deny: [module.load]")?;
    let _daemon = Daemon::without_capability(&policy, "sys_module")?;
    let seen = status()?;
    ensure!(seen["state"] == "DEGRADED", "{}", seen["state"]);
    ensure!(
        seen["degraded"]
            .to_string()
            .contains("was not seen to be refused (kernel_read_file)"),
        "{}",
        seen["degraded"]
    );
    for script in ways()? {
        ensure!(
            !may(Some(&container), &script)?,
            "the container may: {script}"
        );
        taken_away(&script, false)?;
    }
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::write(
        "audit",
        "deny: [module.load, module.autoload]",
        "reserve: {pids: 300}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    for asked in &ASKED {
        ensure!(asked.comes(us)?, "{}", asked.module);
    }
    for script in ways()? {
        ensure!(may(us, &script)?, "refused: {script}");
        taken_away(&script, true)?;
    }
    let seen = status()?;
    for action in [LOAD, AUTOLOAD] {
        ensure!(
            count(&seen, &container, action, "audited")? >= 3,
            "{action}"
        );
        ensure!(
            count(&seen, &container, action, "refused")? == 0,
            "{action}"
        );
    }
    Ok(())
}
