//! Actions that are refused whatever they are done to, each by what really does it: refused to a container, done by the host, a
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

/// All scenarios of these.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "net_namespace::none_is_made_in_a_container_in_any_way_and_all_are_on_the_host",
        needs: Needs::Refusing,
        run: || NET_NAMESPACE.refused(),
    },
    Scenario {
        name: "net_namespace::in_audit_mode_each_is_made_and_counted",
        needs: Needs::Ordinary,
        run: || NET_NAMESPACE.audited(),
    },
    Scenario {
        name: "perf_event::none_is_opened_in_a_container_and_all_are_on_the_host",
        needs: Needs::Refusing,
        run: || PERF_EVENT.refused(),
    },
    Scenario {
        name: "perf_event::in_audit_mode_each_is_opened_and_counted",
        needs: Needs::Ordinary,
        run: || PERF_EVENT.audited(),
    },
    Scenario {
        name: "io_uring::no_ring_is_made_in_a_container_and_all_are_on_the_host",
        needs: Needs::Refusing,
        run: || IO_URING.refused(),
    },
    Scenario {
        name: "io_uring::in_audit_mode_each_ring_is_made_and_counted",
        needs: Needs::Ordinary,
        run: || IO_URING.audited(),
    },
    Scenario {
        name: "userfaultfd::none_is_made_in_a_container_and_all_are_on_the_host",
        needs: Needs::Refusing,
        run: || USERFAULTFD.refused(),
    },
    Scenario {
        name: "userfaultfd::in_audit_mode_each_is_made_and_counted",
        needs: Needs::Ordinary,
        run: || USERFAULTFD.audited(),
    },
    Scenario {
        name: "ptrace::a_container_takes_hold_of_no_process_and_the_host_of_each",
        needs: Needs::Refusing,
        run: || PTRACE.refused(),
    },
    Scenario {
        name: "ptrace::in_audit_mode_each_is_held_and_counted",
        needs: Needs::Ordinary,
        run: || PTRACE.audited(),
    },
    Scenario {
        name: "swap::a_container_switches_none_on_or_off_and_the_host_does",
        needs: Needs::Refusing,
        run: || with_swap(|| SWAP.refused()),
    },
    Scenario {
        name: "swap::in_audit_mode_it_is_switched_and_counted",
        needs: Needs::Ordinary,
        run: || with_swap(|| SWAP.audited()),
    },
    Scenario {
        name: "reboot::a_container_asks_for_none_and_the_host_does",
        needs: Needs::Refusing,
        run: || REBOOT.refused(),
    },
    Scenario {
        name: "reboot::in_audit_mode_it_is_asked_for_and_counted",
        needs: Needs::Ordinary,
        run: || REBOOT.audited(),
    },
]];

/// An action.
struct Plain {
    action: &'static str,
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
    hazard: "perf_event",
    hooks: || &["perf_event_open"],
    ways: &["bulkhead-probe call perf"],
    others: &["cat /proc/sys/kernel/perf_event_paranoid"],
};

const IO_URING: Plain = Plain {
    action: "io_uring",
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
    hazard: "userfaultfd",
    hooks: anonymous,
    ways: &["bulkhead-probe call faults", "bulkhead-probe call faults32"],
    others: &["bulkhead-probe call ring", "bulkhead-probe call eventfd32"],
};

const PTRACE: Plain = Plain {
    action: "ptrace",
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
    hazard: "swap",
    hooks: || &["capable"],
    ways: &["swapon /run/bulkhead-swap"],
    others: &["swapon --show", "cat /proc/swaps"],
};

const REBOOT: Plain = Plain {
    action: "reboot",
    hazard: "reboot",
    hooks: || &["capable"],
    // The first says what is to become of Ctrl-Alt-Del.
    ways: &["ctrlaltdel soft", "bulkhead-probe call kexec"],
    // Its own pid namespace has nothing to say of that.
    others: &["unshare --pid --fork ctrlaltdel soft 2>&1 | grep -q 'Invalid argument'"],
};

impl Plain {
    fn rule(&self) -> String {
        format!("deny: [{}]", self.action)
    }

    fn does(&self, cgroup: Option<&Cgroup>, script: &str) -> Result<bool> {
        let done = may(cgroup, script)?;
        if done && self.action == "swap" {
            may(None, "swapoff /run/bulkhead-swap 2>/dev/null || true")?;
        }
        Ok(done)
    }

    fn refused(&self) -> Result<()> {
        let (container, neighbour) = (Cgroup::container()?, Cgroup::at("/neighbour")?);
        let service = Cgroup::service()?;
        let us = Some(&container);
        for script in self.ways.iter().chain(self.others) {
            ensure!(self.does(us, script)?, "without Bulkhead: {script}");
        }
        let policy = Policy::enforce(&self.rule())?;
        let daemon = Daemon::start(&policy, &[])?;
        for script in self.ways {
            ensure!(!self.does(us, script)?, "the container may: {script}");
            for other in [None, Some(&service), Some(&neighbour)] {
                let whose = other.map_or("the host", |cgroup| &cgroup.path);
                ensure!(self.does(other, script)?, "{whose} may not: {script}");
            }
        }
        for script in self.others {
            ensure!(self.does(us, script)?, "the container may not: {script}");
        }
        let seen = status()?;
        let refused = count(&seen, &container, self.action, "refused")?;
        ensure!(refused == self.ways.len() as u64, "{refused} are counted");
        ensure!(count(&seen, &container, self.action, "audited")? == 0);
        for hook in (self.hooks)() {
            enforcing(&seen, self.hazard, hook)?;
        }
        wait_for("the record", Duration::from_secs(10), || {
            Ok(policy.records()?.iter().any(|record| {
                record["kind"] == "action"
                    && record["action"] == self.action
                    && record["verdict"] == "deny"
                    && record["cgroup"].as_str() == Some(&container.path)
            }))
        })?;
        drop(daemon);
        for script in self.ways {
            ensure!(
                self.does(us, script)?,
                "nobody is there, and it is refused: {script}"
            );
        }
        Ok(())
    }

    fn audited(&self) -> Result<()> {
        let container = Cgroup::container()?;
        let policy = Policy::write("audit", &self.rule(), "reserve: {pids: 300}")?;
        let _daemon = Daemon::start(&policy, &[])?;
        for script in self.ways.iter().chain(self.others) {
            ensure!(self.does(Some(&container), script)?, "refused: {script}");
        }
        let seen = status()?;
        let audited = count(&seen, &container, self.action, "audited")?;
        ensure!(audited == self.ways.len() as u64, "{audited} are counted");
        ensure!(count(&seen, &container, self.action, "refused")? == 0);
        Ok(())
    }
}

/// With a device of 16 MiB to swap to.
fn with_swap(show: impl FnOnce() -> Result<()>) -> Result<()> {
    const MAKE: &str = "modprobe loop; dd if=/dev/zero of=/run/bulkhead-swap.img bs=1M count=16 && \
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
