//! What `bulkhead status` tells; field names are the API of `status --json` and of the Varlink interface. What a container
//! may have named is [`Text`], here as in the record: a terminal shows it as it is.

use guard_common::action::{ACTIONS, Action, Asked};
use serde::{Deserialize, Serialize};
use zlink::introspect::{CustomType, Type};

use crate::{
    kernel::{hooks::Proved, rungs::Rung},
    policy::{armed::Arming, model::Mode},
    record::Text,
};

/// Forks, by the reason for which they were refused or would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ByReason {
    /// Faster than rate and burst allow.
    pub rate: u64,
    /// More pids than the cap allows.
    pub pids_cap: u64,
    /// Only the host's reserve is left.
    pub host_reserve: u64,
}

impl From<[u64; 3]> for ByReason {
    fn from([rate, pids_cap, host_reserve]: [u64; 3]) -> Self {
        Self {
            rate,
            pids_cap,
            host_reserve,
        }
    }
}

/// What became of one action in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ActionStatus {
    /// Its name, as `kernel_log.read`.
    pub action: String,
    /// How often it was refused.
    pub refused: u64,
    /// How often it was allowed, and enforcing would have refused it.
    pub audited: u64,
}

/// A hook that judges actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct HookStatus {
    /// The hazard that it is for.
    pub hazard: String,
    /// The hook, as the kernel calls it.
    pub hook: String,
    /// `ENFORCING`: seen to refuse. `DEGRADED`: likewise, and other ways are open. `ATTACHED`: there was nothing to try it on.
    /// `OPEN`: it refuses nothing.
    pub state: String,
    /// `lsm`, `fmod_ret` or `cgroup`; empty where it is on none.
    pub rung: String,
    /// What it stands before.
    pub what: String,
    /// What was seen, or why it does not work.
    pub reason: String,
}

/// A rung that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Tried {
    /// `lsm`, `fmod_ret`, `observe` or `setting`.
    pub rung: String,
    /// Whether the self-test saw it work.
    pub works: bool,
    /// What was seen, or why not.
    pub reason: String,
}

/// The host's pids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct HostPids {
    /// The smaller of `kernel.pid_max` and `kernel.threads-max`.
    pub limit: u64,
    /// Tasks that there are.
    pub tasks: u64,
    /// Pids that only the host may use; 0: no reserve.
    pub reserve: u64,
    /// Containers are refused at this many, if the rule `host.reserve` is enforced on a rung that refuses; 0: no reserve.
    pub ceiling: u64,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ContainerStatus {
    /// Its cgroup's path from the hierarchy's root.
    pub cgroup: Text,
    /// The cgroup's id.
    pub cgroup_id: u64,
    /// The runtime that its path speaks of.
    pub runtime: String,
    /// Its id there.
    pub id: Text,
    /// Subjects of the policy that it is one of.
    pub subjects: Vec<String>,
    /// Whether the policy exempts it: it is refused nothing. Not known without a daemon, and then `false`.
    pub exempt: bool,
    /// Forks allowed.
    pub allowed: u64,
    /// Forks refused by the kernel side.
    pub refused: ByReason,
    /// Forks that enforcing would have refused.
    pub audited: ByReason,
    /// Actions that were refused or audited.
    pub actions: Vec<ActionStatus>,
    /// Forks at which the pids cap was not judged, since the number of pids could not be read.
    pub unread: u64,
    /// Forks that the pids controller refused at the cap that stands in `pids.max`.
    pub refused_by_controller: u64,
    /// Pids that it has; absent where they cannot be counted.
    pub pids: Option<u64>,
    /// `pids.max` as it stands; absent where it is `max`, and where `pids` is absent.
    pub pids_max: Option<u64>,
    /// `no`, `ours` or `others`.
    pub frozen: String,
    /// Whether a breach is open.
    pub breach: bool,
}

/// The host's copy of the kernel log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct KernelLogStatus {
    /// The file.
    pub file: String,
    /// Lines that this daemon wrote.
    pub kept: u64,
    /// Lines that could not be had since this daemon runs; the file says where.
    pub lost: u64,
    /// The kernel's number of the last line that the file accounts for; absent: there is none of this boot.
    pub last_seq: Option<u64>,
    /// Why it cannot be read or written; absent when it can.
    pub trouble: Option<Text>,
    /// Who else gets its lines.
    #[serde(default)]
    pub forward: Vec<ForwardStatus>,
    /// Lines that were not forwarded, since they came from a receiver.
    #[serde(default)]
    pub echoes: u64,
}

/// A thin pool of the device mapper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct PoolStatus {
    /// As the device mapper calls it.
    pub name: Text,
    /// What it can do, and what is wrong with it; `unknown` where it does not say.
    pub state: String,
    /// Whole percents of its data that are used.
    pub data_percent: u64,
    /// Whole percents of its metadata that are used.
    pub metadata_percent: u64,
    /// Seconds until either is full; absent where neither fills steadily.
    pub full_in: Option<i64>,
}

/// Who else gets the lines of the kernel log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct ForwardStatus {
    /// Who, as `tcp:logs.example.net:601`.
    pub to: String,
    /// Lines that were sent.
    pub sent: u64,
    /// Lines that wait.
    pub waiting: u64,
    /// Lines that it did not take in time.
    pub dropped: u64,
    /// Why it gets none; absent when it does.
    pub trouble: Option<Text>,
}

/// What was lost; all zero on a healthy host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Losses {
    /// Messages of the kernel side that found no room; what they told was counted all the same.
    pub events: u64,
    /// Messages about who printed a line of the kernel log that found no room: those lines are nobody's.
    pub printers: u64,
    /// Audit records that could not be written.
    pub records: u64,
    /// Containers for which a kernel table had no room: they are not governed.
    pub unrecognised: u64,
    /// Cgroups in containers for which the table had no room: their container is found through their ancestors.
    pub unlisted: u64,
    /// Forks and cgroups whose container was found so: what the want of room costs.
    pub walks: u64,
}

/// Something that a rule with `kernel: affected` denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct DenialStatus {
    /// What, as `netlink of nf_tables, xfrm`.
    pub denies: String,
    /// Whether it is in force on this kernel.
    pub armed: bool,
    /// The ids of the advisories that arm it; none where it is in force since they cannot be read.
    pub by: Vec<String>,
    /// The whole in words: by which advisories, or why not.
    pub says: String,
}

impl From<&Arming> for DenialStatus {
    fn from(told: &Arming) -> Self {
        Self {
            denies: told.denies.clone(),
            armed: told.armed,
            by: told.by.clone(),
            says: told.says.clone(),
        }
    }
}

/// A rule and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// What it limits here, in a few words.
    pub limits: String,
    /// It does nothing on this kernel, whatever its mode: it says `kernel: affected`, and nothing of it is armed.
    #[serde(default)]
    pub idle: bool,
    /// Of a rule with `kernel: affected`, what is armed here and what is not; empty of any other.
    #[serde(default)]
    pub armed: Vec<DenialStatus>,
}

/// All that `bulkhead status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// `ENFORCING`, `DEGRADED` or `OFF`.
    pub state: String,
    /// Hooks are attached and self-tested, and the existing containers are found.
    pub ready: bool,
    /// Process id of the daemon; absent where none answers.
    pub pid: Option<u64>,
    /// The mechanism that decides: `lsm`, `fmod_ret`, `observe` or `setting`.
    pub rung: String,
    /// Rungs that were tried, best first.
    pub tried: Vec<Tried>,
    /// Hooks that judge actions; none where no rule is about one.
    pub hooks: Vec<HookStatus>,
    /// Ways to what rules deny that are open on this host.
    pub open: Vec<String>,
    /// cgroup version that containers are told apart in, `v1` or `v2`, and its mount point.
    pub cgroups: String,
    /// Files of the policy.
    pub policy: Vec<String>,
    /// The audit log.
    pub audit: String,
    /// The copy of the kernel log; absent when none is kept.
    pub kernel_log: Option<KernelLogStatus>,
    /// Why the last policy was refused; absent when it was not.
    pub policy_refused: Option<String>,
    /// The rules.
    pub rules: Vec<RuleStatus>,
    /// Seconds until everything is switched on again; absent when it is on, -1: until `bulkhead on`.
    pub off_for: Option<i64>,
    /// The host's pids.
    pub host: HostPids,
    /// Forks refused, of all containers that ever were.
    pub refused: u64,
    /// Forks audited, of all containers that ever were.
    pub audited: u64,
    /// The containers.
    pub containers: Vec<ContainerStatus>,
    /// The host's thin pools, as far as they are watched.
    #[serde(default)]
    pub pools: Vec<PoolStatus>,
    /// What does not work as it should, and what to do about it.
    pub degraded: Vec<Text>,
    /// What was lost.
    pub losses: Losses,
}

impl RuleStatus {
    /// Whether it refuses anything on this kernel.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.mode == Mode::Enforce.name() && !self.idle
    }
}

/// One reply of many: all but the containers comes first, then each container by itself. In one piece a thousand containers
/// would take the protocol's writer minutes: it begins anew for each 256 bytes of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Told {
    /// All but the containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// A container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerStatus>,
}

impl Status {
    /// As it is told, reply by reply.
    pub fn told(mut self) -> impl ExactSizeIterator<Item = Told> {
        let containers = std::mem::take(&mut self.containers);
        let mut told = Vec::with_capacity(1 + containers.len());
        told.push(Told {
            status: Some(self),
            container: None,
        });
        told.extend(containers.into_iter().map(|container| Told {
            status: None,
            container: Some(container),
        }));
        told.into_iter()
    }

    /// Takes up a reply.
    pub fn hear(&mut self, told: Told) {
        if let Some(status) = told.status {
            *self = status;
        }
        self.containers.extend(told.container);
    }
}

/// Those of a container's actions that were ever refused or audited.
#[must_use]
pub fn actions(asked: &[Asked; ACTIONS]) -> Vec<ActionStatus> {
    Action::ALL
        .into_iter()
        .zip(asked)
        .filter(|(_, asked)| asked.refused + asked.audited > 0)
        .map(|(action, asked)| ActionStatus {
            action: action.name().to_owned(),
            refused: asked.refused,
            audited: asked.audited,
        })
        .collect()
}

impl From<&Proved> for HookStatus {
    fn from(proved: &Proved) -> Self {
        Self {
            hazard: proved.hook.hazard.to_owned(),
            hook: proved.hook.name.to_owned(),
            state: proved.state().to_owned(),
            rung: proved.rung.map_or("", Rung::name).to_owned(),
            what: proved.hook.what.to_owned(),
            reason: proved.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_pieces_of_one_container_is_heard_whole() {
        let whole = Status {
            rung: "lsm".to_owned(),
            refused: 7,
            containers: (0..3)
                .map(|cgroup_id| ContainerStatus {
                    cgroup_id,
                    ..ContainerStatus::default()
                })
                .collect(),
            ..Status::default()
        };
        let mut heard = Status::default();
        let told = whole.clone().told();
        assert_eq!(told.len(), 4);
        for (number, told) in told.enumerate() {
            assert_eq!(told.status.is_some(), number == 0);
            assert_eq!(told.container.is_some(), number > 0);
            heard.hear(told);
        }
        assert_eq!(heard, whole);
    }
}
