//! The state of everything, for `bulkhead status`; and what is left behind for one that finds no daemon.

use std::{fs, path::Path};

use guard_common::host::Host as HostTable;

use super::{Daemon, now, tick::nanoseconds};
use crate::{
    control::{
        RUN_DIRECTORY,
        status::{
            ContainerStatus, DenialStatus, HookStatus, Losses, RuleStatus, Status, Tried, actions,
        },
    },
    decide::seen::Frozen,
    kernel::install::number_of,
    record::Text,
};

/// What stays of the status when the daemon is gone, below [`RUN_DIRECTORY`]: everything but the counters, which stand
/// in the pinned tables.
pub const SUMMARY: &str = "summary.json";

impl Daemon {
    /// The whole status.
    pub(super) fn status(&mut self) -> Status {
        self.look_at_all();
        let host: HostTable = self.kernel.host.get(0);
        let now = nanoseconds(now());
        let off_for = match host.off_until_ns {
            u64::MAX => Some(-1),
            until if until > now => Some(((until - now) / 1_000_000_000) as i64),
            _ => None,
        };
        let mut containers: Vec<ContainerStatus> = self
            .roster
            .iter()
            .map(|known| {
                let state = self.kernel.containers.get(known.slot as usize);
                let looked = self.looked.get(&known.id).copied().unwrap_or_default();
                let treatment = number_of(state.profile)
                    .and_then(|number| self.plan.treatments.get(number as usize));
                ContainerStatus {
                    cgroup: known.path.as_path().into(),
                    cgroup_id: known.id,
                    runtime: known.runtime.to_owned(),
                    id: known.name.as_str().into(),
                    subjects: treatment
                        .map(|treatment| treatment.subjects.clone())
                        .unwrap_or_default(),
                    exempt: treatment.is_some_and(|treatment| treatment.exempt),
                    allowed: state.allowed,
                    refused: state.refused.into(),
                    audited: state.audited.into(),
                    actions: actions(&state.actions),
                    unread: state.unread,
                    refused_by_controller: looked.by_controller,
                    pids: looked.pids,
                    pids_max: looked.max,
                    frozen: match looked.frozen {
                        Frozen::No => "no",
                        Frozen::Ours => "ours",
                        Frozen::Others => "others",
                    }
                    .to_owned(),
                    breach: self.engine.open().any(|(id, _, _)| id == known.id),
                }
            })
            .collect();
        containers.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        Status {
            off_for,
            refused: host.refused,
            audited: host.audited,
            containers,
            host: self.pids,
            losses: Losses {
                events: host.events_lost,
                printers: host.printed_lost,
                records: self.audit.health().lost,
                unrecognised: host.unrecognised,
                unlisted: host.unlisted,
                walks: host.walks,
            },
            ..self.summary()
        }
    }

    pub(super) fn summary(&self) -> Status {
        let state = if self.is_off() {
            "OFF"
        } else if self.hooks_refuse() {
            self.rung.state()
        } else {
            "DEGRADED"
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.to_owned(),
            ready: true,
            pid: Some(u64::from(std::process::id())),
            rung: self.rung.name().to_owned(),
            tried: self
                .tried
                .iter()
                .map(|tried| Tried {
                    rung: tried.rung.name().to_owned(),
                    works: tried.works,
                    reason: tried.reason.clone(),
                })
                .collect(),
            hooks: self.hooks.iter().map(HookStatus::from).collect(),
            open: self.open_ways(),
            cgroups: format!(
                "{} at {}",
                self.hierarchy.version.name(),
                self.hierarchy.mount.display()
            ),
            policy: self.plan.names_of_sources(),
            audit: self.plan.audit.file.display().to_string(),
            kernel_log: self.kernel_log_status(),
            policy_refused: self.policy_refused.clone(),
            rules: self
                .plan
                .rules
                .iter()
                .map(|rule| RuleStatus {
                    name: rule.name.clone(),
                    mode: rule.mode.name().to_owned(),
                    limits: rule.limits.clone(),
                    idle: !rule.limits_anything,
                    armed: rule.armed.iter().map(DenialStatus::from).collect(),
                })
                .collect(),
            pools: self.pools(),
            degraded: self.notes.words().into_iter().map(Text::from).collect(),
            ..Status::default()
        }
    }

    /// Leaves the summary behind.
    pub(super) fn write_summary(&mut self) {
        let summary = self.summary();
        let path = Path::new(RUN_DIRECTORY).join(SUMMARY);
        let written = serde_json::to_vec(&summary)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&path, bytes));
        if let Err(error) = written {
            self.note(
                "summary",
                format!("cannot write {}: {error}", path.display()),
            );
        }
    }
}
