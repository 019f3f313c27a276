//! Scenarios by hazard. Each shows that the harm happens without Bulkhead, and not with it, and that the host still works.

pub mod advisories;
pub mod bpf;
pub mod cgroup_move;
pub mod default_policy;
pub mod fork_storm;
pub mod kernel_log;
pub mod module;
pub mod mount;
pub mod net_link;
pub mod netlink;
pub mod plain;
pub mod setting;
pub mod socket;
pub mod thin_discard;
pub mod thin_recover;
pub mod traffic_control;
pub mod unit;
pub mod user_namespace;

use std::{fs, path::Path};

use anyhow::Result;

use crate::{cgroup, daemon, host};

/// The machine that the tests run on.
pub struct Machine {
    /// cgroup v2.
    pub v2: bool,
    /// Kernel release.
    pub release: (u32, u32),
    /// The rung of a boot on which nothing can be refused.
    pub poor: Option<String>,
    /// This boot is for what takes minutes, and for nothing else.
    pub patient: bool,
    /// The kernel was told nothing that makes it another.
    pub ordinary: bool,
    /// What is asked for is yes or no, and soon.
    pub brief: bool,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let told = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Self {
            v2: cgroup::is_v2(),
            release: host::release(),
            poor: daemon::poor_rung(),
            patient: told.contains("bulkhead.tests=patient"),
            brief: told.contains("bulkhead.tests=brief"),
            ordinary: ![
                "lsm=",
                "lockdown=",
                "bulkhead.rung=",
                "systemd.unified_cgroup_hierarchy=",
            ]
            .into_iter()
            .any(|word| told.contains(word)),
        }
    }
}

/// The newest kernel of the machines is at least this.
const NEW: (u32, u32) = (6, 13);

/// What a scenario needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it runs everywhere.
    Nothing,
    /// A rung that refuses forks.
    Refusing,
    /// A rung that refuses forks, and cgroup v2.
    RefusingOnV2,
    /// A host on which forks can only be watched, or not even that.
    Poor,
    /// A kernel as Debian boots it: what has nothing to do with rungs and cgroups need not be shown on its variants.
    Ordinary,
    /// The same, and what it prints is compared over all of them.
    Compared,
    /// The same, on the oldest and on the newest kernel: what user space decides, or one place of the kernel that has not changed.
    Ends,
    /// Minutes of real runtimes, on every kernel as Debian boots it; not with `--ci` (`bulkhead.tests=brief`).
    Runtimes,
    /// Minutes, or nothing that the kernel has a part in: `bulkhead.tests=patient` on the kernel's command line.
    Patience,
}

/// One test.
pub struct Scenario {
    /// The behaviour.
    pub name: &'static str,
    /// Where it makes sense.
    pub needs: Needs,
    /// Fails with what was expected and what was seen.
    pub run: fn() -> Result<()>,
}

impl Scenario {
    /// Why it is not for a machine.
    #[must_use]
    pub fn missing(&self, machine: &Machine) -> Option<&'static str> {
        (self.needs.missing(machine)).or_else(|| self.left_to_others(machine))
    }

    /// What is asked to be brief shows on half of the kernels what is no refusal by itself: every kernel has its half, and every
    /// scenario its kernels.
    fn left_to_others(&self, machine: &Machine) -> Option<&'static str> {
        let is_one = |releases: &[(u32, u32)]| releases.contains(&machine.release);
        let first = match self.needs {
            Needs::Ends => is_one(&[(5, 10)]),
            Needs::Ordinary => is_one(&[(5, 10), (6, 12)]),
            Needs::Nothing
            | Needs::Refusing
            | Needs::RefusingOnV2
            | Needs::Compared
            | Needs::Poor
            | Needs::Runtimes
            | Needs::Patience => return None,
        };
        let turn = self.name.bytes().fold(0, |sum, byte| sum ^ byte) & 1 == 0;
        (machine.brief && turn != first).then_some("with --ci another kernel shows it")
    }
}

impl Needs {
    /// Why a machine does not have it.
    fn missing(self, machine: &Machine) -> Option<&'static str> {
        let poor = machine.poor.is_some();
        let between = machine.release > (5, 10) && machine.release < NEW;
        match self {
            Self::Refusing | Self::RefusingOnV2 if poor => Some("the rung refuses nothing"),
            Self::RefusingOnV2 if !machine.v2 => Some("cgroup v1"),
            Self::Poor if !poor => Some("the rung refuses"),
            Self::Ordinary | Self::Compared | Self::Runtimes if !machine.ordinary => {
                Some("the kernel's plain boot shows it")
            }
            Self::Ends if !machine.ordinary => Some("a kernel's plain boot shows it"),
            Self::Ends if between => Some("the oldest and the newest kernel show it"),
            Self::Runtimes if machine.brief => Some("it takes minutes: without --ci"),
            Self::Patience if !machine.patient => Some("one kernel shows it"),
            _ if machine.patient && self != Self::Patience => Some("another boot shows it"),
            Self::Nothing
            | Self::Refusing
            | Self::RefusingOnV2
            | Self::Poor
            | Self::Ordinary
            | Self::Compared
            | Self::Ends
            | Self::Runtimes
            | Self::Patience => None,
        }
    }
}

/// Every scenario.
#[must_use]
pub fn all() -> Vec<&'static Scenario> {
    [
        fork_storm::SCENARIOS,
        kernel_log::SCENARIOS,
        module::SCENARIOS,
        net_link::SCENARIOS,
        socket::SCENARIOS,
        user_namespace::SCENARIOS,
        bpf::SCENARIOS,
        netlink::SCENARIOS,
        traffic_control::SCENARIOS,
        setting::SCENARIOS,
        plain::SCENARIOS,
        mount::SCENARIOS,
        cgroup_move::SCENARIOS,
        thin_discard::SCENARIOS,
        thin_recover::SCENARIOS,
        advisories::SCENARIOS,
        unit::SCENARIOS,
        // Last, since Docker leaves modules and settings behind.
        default_policy::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    .flat_map(|group| group.iter())
    .collect()
}

/// Whether a program is on this machine.
#[must_use]
pub fn has(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|folder| fs::metadata(Path::new(folder).join(program)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_brief_leaves_out_no_scenario_and_halves_those_of_every_kernel() {
        let on = |release, brief| Machine {
            v2: true,
            release,
            poor: None,
            patient: false,
            ordinary: true,
            brief,
        };
        let releases = [(5, 10), (6, 1), (6, 12), (7, 3)];
        for scenario in all() {
            let shown = |brief| {
                let shows =
                    |release: &&(u32, u32)| scenario.missing(&on(**release, brief)).is_none();
                releases.iter().filter(shows).count()
            };
            let (brief, whole) = (shown(true), shown(false));
            match scenario.needs {
                Needs::Ends | Needs::Ordinary => assert_eq!(2 * brief, whole, "{}", scenario.name),
                Needs::Runtimes => assert_eq!((brief, whole), (0, 4)),
                _ => assert_eq!(brief, whole),
            }
        }
        for release in releases {
            let shown = all()
                .into_iter()
                .filter(|one| one.missing(&on(release, true)).is_none());
            assert!(shown.count() > 40, "{release:?}");
        }
    }
}
