//! Actions that are refused whatever they are done to, or to what a rule names, each by what really does it: refused to a container, done by the host, a
//! service and a container that no rule is about, counted in audit mode, and what is near it left alone.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::{release, wait_for},
};

/// All scenarios of these. One daemon is given one rule after the other: to start one for each takes minutes here.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "plain::each_is_refused_to_a_container_and_done_by_the_host_and_by_others",
        needs: Needs::Refusing,
        run: refused,
    },
    Scenario {
        name: "plain::in_audit_mode_each_is_done_and_counted",
        needs: Needs::Ordinary,
        run: audited,
    },
]];

const ALL: [Plain; 11] = [
    NET_NAMESPACE,
    PERF_EVENT,
    IO_URING,
    USERFAULTFD,
    PTRACE,
    SWAP,
    REBOOT,
    SYSRQ,
    DEVICE,
    DEVICE_MAPPER,
    SETTING,
];

/// An action.
struct Plain {
    action: &'static str,
    /// What of it is denied; empty: all.
    of: &'static str,
    hazard: &'static str,
    /// The hooks that stand before it.
    hooks: fn() -> &'static [&'static str],
    /// Scripts that do it, each once.
    ways: &'static [&'static str],
    /// Scripts that do what is near it.
    others: &'static [&'static str],
}

/// Where the kernel asks of a file without a name.
fn anonymous() -> &'static [&'static str] {
    if release() >= (5, 12) {
        &["inode_init_security_anon"]
    } else {
        &["file_alloc_security"]
    }
}

const NET_NAMESPACE: Plain = Plain {
    action: "net_namespace.create",
    of: "",
    hazard: "net_namespace",
    hooks: || &["capable"],
    ways: &[
        "unshare --net true",
        "unshare --user --net true",
        "unshare --mount --net --pid --fork true",
        "bulkhead-probe user-namespace --net --way unshare",
        "bulkhead-probe user-namespace --net --way unshare32",
        "bulkhead-probe user-namespace --net --way clone",
        "bulkhead-probe user-namespace --net --way clone3",
        "bulkhead-probe user-namespace --net --then memfd",
    ],
    others: &[
        "unshare --user true",
        "unshare --mount --uts --ipc --pid --fork true",
        "nsenter --net=/proc/self/ns/net true",
        "bulkhead-probe user-namespace --way clone",
    ],
};

const PERF_EVENT: Plain = Plain {
    action: "perf_event_open",
    of: "",
    hazard: "perf_event",
    hooks: || &["perf_event_open"],
    ways: &["bulkhead-probe call perf"],
    others: &["cat /proc/sys/kernel/perf_event_paranoid"],
};

const IO_URING: Plain = Plain {
    action: "io_uring",
    of: "",
    hazard: "io_uring",
    hooks: anonymous,
    ways: &["bulkhead-probe call ring"],
    others: &[
        "bulkhead-probe call faults",
        "bulkhead-probe call eventfd32",
    ],
};

const USERFAULTFD: Plain = Plain {
    action: "userfaultfd",
    of: "",
    hazard: "userfaultfd",
    hooks: anonymous,
    ways: &["bulkhead-probe call faults", "bulkhead-probe call faults32"],
    others: &["bulkhead-probe call ring", "bulkhead-probe call eventfd32"],
};

const PTRACE: Plain = Plain {
    action: "ptrace",
    of: "",
    hazard: "ptrace",
    hooks: || &["ptrace_access_check", "ptrace_traceme"],
    ways: &[
        "bulkhead-probe call readv; exit $?",
        "bulkhead-probe call getfd; exit $?",
        "bulkhead-probe call traceme",
        // The kernel says EACCES there.
        "head -c 0 /proc/$PPID/mem || { echo 'Operation not permitted' >&2; exit 1; }",
    ],
    others: &[
        "readlink /proc/$PPID/exe",
        "cat /proc/$PPID/status",
        "ps ax",
    ],
};

/// A device with room to swap, by [`with_swap`].
const SWAP: Plain = Plain {
    action: "swap",
    of: "",
    hazard: "swap",
    hooks: || &["capable"],
    ways: &["swapon /run/bulkhead-swap"],
    others: &["swapon --show", "cat /proc/swaps"],
};

const REBOOT: Plain = Plain {
    action: "reboot",
    of: "",
    hazard: "reboot",
    hooks: || &["capable"],
    // The first says what is to become of Ctrl-Alt-Del.
    ways: &["ctrlaltdel soft", "bulkhead-probe call kexec"],
    // Its own pid namespace has nothing to say of that.
    others: &["unshare --pid --fork ctrlaltdel soft 2>&1 | grep -q 'Invalid argument'"],
};

const SYSRQ: Plain = Plain {
    action: "sysrq",
    of: "",
    hazard: "setting",
    hooks: || &["cgroup_sysctl", "file_open"],
    // The first has the kernel say which commands there are.
    ways: &[
        "echo h > /proc/sysrq-trigger",
        "mkdir -p /run/proc && mount -t proc proc /run/proc && echo h > /run/proc/sysrq-trigger; \
         came=$?; umount /run/proc; exit $came",
        "cat /proc/sys/kernel/sysrq | tee /proc/sys/kernel/sysrq",
    ],
    others: &[
        "cat /proc/sys/kernel/sysrq",
        "cat /proc/sys/kernel/core_pattern | tee /proc/sys/kernel/core_pattern",
    ],
};

const DEVICE: Plain = Plain {
    action: "device.open",
    of: "devices: ['char 1:5', 'block 7:*']",
    hazard: "device",
    hooks: || &["file_open"],
    ways: &[
        "head -c 1 /dev/zero",
        "rm -f /run/zero; mknod /run/zero c 1 5; head -c 1 /run/zero",
        "head -c 0 /dev/loop0",
    ],
    others: &[
        "head -c 1 /dev/urandom",
        "head -c 0 /dev/vda 2>/dev/null || head -c 0 /dev/null",
        "ls -l /dev/zero /dev/loop0",
    ],
};

const DEVICE_MAPPER: Plain = Plain {
    action: "device_mapper.control",
    of: "",
    hazard: "device_mapper",
    hooks: || &["file_ioctl"],
    ways: &["bulkhead-probe call mapper"],
    others: &["head -c 0 /dev/mapper/control"],
};

const SETTING: Plain = Plain {
    action: "kernel_setting.write",
    of: "paths: [/proc/sys/kernel/core_pattern, /sys/kernel/mm/ksm/run, '**/oom_score_adj']",
    hazard: "setting",
    hooks: || &["file_open"],
    ways: &[
        "cat /proc/sys/kernel/core_pattern | tee /proc/sys/kernel/core_pattern",
        "mkdir -p /run/proc && mount -t proc proc /run/proc && cat /run/proc/sys/kernel/core_pattern | \
         tee /run/proc/sys/kernel/core_pattern; came=$?; umount /run/proc; exit $came",
        "cat /sys/kernel/mm/ksm/run | tee /sys/kernel/mm/ksm/run",
        "echo 0 > /proc/self/oom_score_adj",
    ],
    others: &[
        "cat /proc/sys/kernel/core_pattern /sys/kernel/mm/ksm/run /proc/self/oom_score_adj",
        "cat /proc/sys/kernel/core_uses_pid | tee /proc/sys/kernel/core_uses_pid",
        "cat /sys/kernel/mm/ksm/sleep_millisecs | tee /sys/kernel/mm/ksm/sleep_millisecs",
        "echo x > /run/oom_score_adj",
    ],
};

impl Plain {
    fn rule(&self) -> String {
        if self.of.is_empty() {
            return format!("deny: [{}]", self.action);
        }
        format!("deny: [{{{}: {{{}}}}}]", self.action, self.of)
    }

    fn does(&self, cgroup: Option<&Cgroup>, script: &str) -> Result<bool> {
        let done = may(cgroup, script)?;
        if done && self.action == "swap" {
            may(None, "swapoff /run/bulkhead-swap 2>/dev/null || true")?;
        }
        Ok(done)
    }

    /// With the rule in force.
    fn refused(
        &self,
        policy: &Policy,
        container: &Cgroup,
        others: [Option<&Cgroup>; 3],
    ) -> Result<()> {
        let us = Some(container);
        for script in self.ways {
            ensure!(!self.does(us, script)?, "the container may: {script}");
            for other in others {
                let whose = other.map_or("the host", |cgroup| &cgroup.path);
                ensure!(self.does(other, script)?, "{whose} may not: {script}");
            }
        }
        for script in self.others {
            ensure!(self.does(us, script)?, "the container may not: {script}");
        }
        let seen = status()?;
        let refused = count(&seen, container, self.action, "refused")?;
        ensure!(
            refused == self.ways.len() as u64,
            "{}: {refused} are counted",
            self.action
        );
        ensure!(count(&seen, container, self.action, "audited")? == 0);
        wait_for("the record", Duration::from_secs(10), || {
            Ok(policy.records()?.iter().any(|record| {
                record["kind"] == "action"
                    && record["action"] == self.action
                    && record["verdict"] == "deny"
                    && record["cgroup"].as_str() == Some(&container.path)
            }))
        })
    }

    /// With it in audit mode.
    fn audited(&self, container: &Cgroup) -> Result<()> {
        for script in self.ways.iter().chain(self.others) {
            ensure!(self.does(Some(container), script)?, "refused: {script}");
        }
        let seen = status()?;
        let audited = count(&seen, container, self.action, "audited")?;
        ensure!(
            audited == self.ways.len() as u64,
            "{}: {audited} are counted",
            self.action
        );
        ensure!(count(&seen, container, self.action, "refused")? == 0);
        Ok(())
    }

    /// Puts the rule in force, in the place of another.
    fn rule_in(&self, mode: &str, policy: &Policy, daemon: &Daemon) -> Result<()> {
        policy.rewrite(mode, &self.rule(), "reserve: {pids: 300}")?;
        daemon.reload()?;
        wait_for(self.action, Duration::from_secs(30), || {
            let seen = status()?;
            Ok((self.hooks)()
                .iter()
                .all(|hook| enforcing(&seen, self.hazard, hook).is_ok()))
        })
    }
}

fn refused() -> Result<()> {
    let (container, neighbour) = (Cgroup::container()?, Cgroup::at("/neighbour")?);
    let service = Cgroup::service()?;
    let others = [None, Some(&service), Some(&neighbour)];
    with_swap(|| {
        let both = |one: &Plain| one.ways.iter().chain(one.others);
        for one in &ALL {
            for script in both(one) {
                ensure!(
                    one.does(Some(&container), script)?,
                    "without Bulkhead: {script}"
                );
            }
        }
        let policy = Policy::enforce("deny: [bridge.create]")?;
        let daemon = Daemon::start(&policy, &[])?;
        for one in &ALL {
            one.rule_in("enforce", &policy, &daemon)?;
            one.refused(&policy, &container, others)?;
        }
        drop(daemon);
        for one in &ALL {
            for script in one.ways {
                ensure!(
                    one.does(Some(&container), script)?,
                    "nobody is there: {script}"
                );
            }
        }
        Ok(())
    })
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    with_swap(|| {
        let policy = Policy::write("audit", "deny: [bridge.create]", "reserve: {pids: 300}")?;
        let daemon = Daemon::start(&policy, &[])?;
        for one in &ALL {
            one.rule_in("audit", &policy, &daemon)?;
            one.audited(&container)?;
        }
        Ok(())
    })
}

/// With a device of 16 MiB to swap to.
fn with_swap(show: impl FnOnce() -> Result<()>) -> Result<()> {
    const MAKE: &str = "modprobe loop; modprobe dm_mod; dd if=/dev/zero of=/run/bulkhead-swap.img bs=1M count=16 && \
                        ln -sf $(losetup --find --show /run/bulkhead-swap.img) /run/bulkhead-swap && \
                        mkswap /run/bulkhead-swap";
    const TAKE_AWAY: &str =
        "losetup --detach $(readlink /run/bulkhead-swap); rm -f /run/bulkhead-swap*";
    let shell = |script: &str| {
        Command::new("sh")
            .args(["-c", script])
            .output()
            .context("cannot start sh")
    };
    let made = shell(MAKE)?;
    ensure!(made.status.success(), "{made:?}");
    let shown = show();
    shell(TAKE_AWAY)?;
    let swaps = fs::read_to_string("/proc/swaps")?;
    ensure!(swaps.lines().count() <= 1, "something is left: {swaps}");
    shown
}
