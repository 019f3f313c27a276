//! One look a second: the kernel's counters, the containers that changed, and what has become due.

use std::{mem::offset_of, sync::atomic::Ordering, time::Duration};

use guard_common::{
    Container,
    action::{ACTIONS, Asked},
    fork_storm::Reason,
    host::Host as HostTable,
};

use super::{Daemon, now, start};
use crate::{
    act::{cgroup::Cgroup, freeze, membership, pids, restore},
    decide::{
        asked::Counts,
        seen::{Frozen, HostSeen, Limits, Seen},
        settings::Max,
    },
    kernel::{install::number_of, rungs::Rung},
};

/// Every container is looked at once in so many ticks, also when nothing is refused in it: for leaks, and for what others
/// write into `pids.max`.
const ROUND: std::ops::RangeInclusive<u64> = 2..=30;
/// So many of them in each tick, as long as that bears it: the more there are, the more seldom each is looked at.
const AT_A_TIME: u64 = 8;
/// Once in so many ticks what others do with `kernel.dmesg_restrict` is looked at.
const RESTRICTED: u64 = 5;
/// Once in so many ticks what nobody needs any more is cleared away.
const HOUSEKEEPING: u64 = 60;

/// A container's counters as they stood when they were last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// When it was looked at for the first time.
    pub since: Duration,
    refused: [u64; 3],
    audited: [u64; 3],
    actions: Counts,
    /// The pids controller's last counts, for the status.
    pub pids: Option<u64>,
    pub max: Option<u64>,
    pub by_controller: u64,
    pub frozen: Frozen,
}

/// What the kernel side could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    events: u64,
    untold: u64,
}

impl Losses {
    fn of(host: &HostTable) -> Self {
        Self {
            events: host.events_lost,
            untold: host.untold,
        }
    }

    /// Those that stand on record, by this daemon or the last.
    pub(super) fn told(host: &HostTable) -> Self {
        Self {
            events: host.lost_told,
            untold: host.untold,
        }
    }
}

/// As the engine takes them.
pub(super) fn counts(actions: &[Asked; ACTIONS]) -> Counts {
    actions.map(|asked| [asked.refused, asked.audited])
}

impl Daemon {
    /// The tick.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.kernel
            .host
            .long(0, offset_of!(HostTable, alive_ns))
            .store(now().as_nanos() as u64, Ordering::Relaxed);
        self.pids = start::set_ceiling(&self.kernel, &self.host, &self.plan);
        self.note_unjudged();
        self.drain();
        for words in self.notes.expire(self.ticks) {
            self.say_no_longer_degraded(&words);
        }
        self.reload_what_changed();
        self.note_audit_log();
        if self.ticks == 1 {
            // First what is enforced: the log waits in the kernel's own buffer, and what is printed meanwhile stays unknown.
            self.attach_rest();
            self.renew_kernel_log();
        }
        self.note_kernel_log();
        self.note_losses();
        self.look_for_containers();
        self.note_off_over();
        self.go_on_killing();
        if self.ticks.is_multiple_of(RESTRICTED) {
            self.keep_restricted();
        }
        if self.ticks % HOUSEKEEPING == 1 {
            self.clear_away();
        }
        self.look_at_thin();
        self.say_untold(now());
        let due = self.due();
        self.look(&due);
        self.save();
    }

    /// Clears away what nobody needs any more.
    fn clear_away(&mut self) {
        // Of one whose coming and going were both untold there may be a refusal all the same.
        self.roster.keep_known(&mut self.culprits);
        self.roster.keep_known(&mut self.looked);
        // What they printed was read long ago.
        self.directory.keep(|id| self.roster.get(id).is_some());
        if let Err(error) = restore::drop_vanished(&self.hierarchy, &mut self.journal) {
            self.note("journal", error.to_string());
        }
    }

    /// Containers whose counters moved, those that something is going on in, and those whose turn it is.
    fn due(&self) -> Vec<u64> {
        let round = (self.roster.len() as u64 / AT_A_TIME).clamp(*ROUND.start(), *ROUND.end());
        self.roster
            .iter()
            .filter(|known| {
                if self.busy.contains(&known.id)
                    || u64::from(known.slot) % round == self.ticks % round
                {
                    return true;
                }
                let state = self.kernel.containers.get(known.slot as usize);
                let looked = self.looked.get(&known.id).copied().unwrap_or_default();
                state.id == known.id
                    && ((state.refused, state.audited, counts(&state.actions))
                        != (looked.refused, looked.audited, looked.actions)
                        || state.moved_out as u32 != state.moved_told)
            })
            .map(|known| known.id)
            .collect()
    }

    /// Looks at containers, decides, and does what was decided.
    pub(super) fn look(&mut self, ids: &[u64]) {
        let seen: Vec<Seen> = ids.iter().filter_map(|id| self.see(*id)).collect();
        let moved: Vec<(u64, u32)> = (ids.iter())
            .filter_map(|id| Some((*id, self.moved_out(*id)?)))
            .collect();
        // Who did what was counted just now: the kernel side tells it before it counts.
        let others = self.hear_who();
        let host = HostSeen {
            pids: Some(self.pids.tasks),
            ceiling: (self.pids.ceiling != 0).then_some(self.pids.ceiling),
        };
        let limits = &self.plan.limits;
        // While everything is switched off nothing is escalated either.
        let off = self.is_off();
        let of = |profile: u32| -> Option<&Limits> {
            if off {
                return None;
            }
            limits.get(number_of(profile)? as usize)
        };
        let decisions = self.engine.tick(now(), &host, &seen, &of);
        for decision in &decisions {
            self.carry_out(decision);
        }
        for seen in &seen {
            self.keep_cap(seen);
        }
        self.busy = self.engine.open().map(|(id, _, _)| id).collect();
        self.busy.extend(self.engine.waiting());
        let journal = &self.journal;
        self.busy.extend(
            journal
                .changes()
                .filter(|(_, change)| change.kind() == crate::act::journal::Kind::Freeze)
                .map(|(id, _)| id),
        );
        self.busy.extend(self.kills.keys());
        for message in others {
            self.heard(message);
        }
        self.cap_fresh();
        // Of most of them a message has just told where to.
        for (id, count) in moved {
            self.say_moved_out_untold(id, count);
        }
    }

    /// One container as it is now; `None`: it is gone.
    pub(super) fn see(&mut self, id: u64) -> Option<Seen> {
        let known = self.roster.get(id)?.clone();
        let state: Container = self.kernel.containers.get(known.slot as usize);
        if state.id != id {
            return None;
        }
        let mut seen = Seen {
            id,
            profile: state.profile,
            allowed: state.allowed,
            refused: state.refused,
            audited: state.audited,
            user_made: known.user_made,
            actions: counts(&state.actions),
            ..Seen::default()
        };
        let mut looked = Looked {
            since: self.looked.get(&id).map_or_else(now, |before| before.since),
            refused: state.refused,
            audited: state.audited,
            actions: counts(&state.actions),
            ..Looked::default()
        };
        match Cgroup::open(&self.hierarchy, id) {
            Ok(Some(cgroup)) => {
                match pids::read(&cgroup) {
                    Ok(Some(pids)) => {
                        seen.pids = Some(pids.current);
                        seen.cap = match pids.max {
                            Max::Number(number) => u32::try_from(number).ok(),
                            Max::Unlimited => None,
                        };
                        seen.controller_refused = pids.refused;
                        seen.elsewhere = pids.elsewhere;
                        looked.pids = Some(pids.current);
                        looked.max = match pids.max {
                            Max::Number(number) => Some(number),
                            Max::Unlimited => None,
                        };
                        looked.by_controller = pids.refused;
                    }
                    Ok(None) => {}
                    Err(error) => self.note("pids", error.to_string()),
                }
                if seen.pids.is_none() && self.cap_of(state.profile).is_some() {
                    self.uncapped.insert(id);
                } else {
                    self.uncapped.remove(&id);
                }
                match freeze::frozen(&self.hierarchy, &cgroup, &mut self.journal) {
                    Ok(frozen) => seen.frozen = frozen,
                    // Told when it is to be frozen; to know is not needed before.
                    Err(_) => seen.frozen = Frozen::No,
                }
                // A kill freezes for its own ends: that is on no ladder.
                if self.kills.contains_key(&id) {
                    seen.frozen = Frozen::No;
                }
                looked.frozen = seen.frozen;
                seen.protected = self.busy.contains(&id)
                    && (number_of(state.profile).is_none()
                        || membership::holds(&self.hierarchy, &cgroup).is_some());
            }
            Ok(None) => {}
            Err(error) => self.note("cgroup", error.to_string()),
        }
        if self.rung == Rung::Observe {
            self.watched(&mut seen);
        }
        self.looked.insert(id, looked);
        Some(seen)
    }

    /// On the rung that can only watch, what an enforced limit would have refused is counted as audited: to the ladder,
    /// which is all that is left, it is a breach of what is enforced.
    pub(super) fn watched(&self, seen: &mut Seen) {
        let Some(number) = number_of(seen.profile) else {
            return;
        };
        for reason in Reason::ALL {
            if self.plan.enforces(number, reason) {
                let index = reason as usize;
                seen.refused[index] += std::mem::take(&mut seen.audited[index]);
            }
        }
    }

    /// The enforced cap of a profile.
    pub(super) fn cap_of(&self, profile: u32) -> Option<u32> {
        self.plan.limits.get(number_of(profile)? as usize)?.cap
    }

    /// The audit log's own trouble, which no record can be counted on to tell of: it is in the status as long as it lasts.
    fn note_audit_log(&mut self) {
        match self.audit.health().trouble {
            Some(why) => self.trouble("audit-log", format!("the audit log: {why}")),
            None => self.settled("audit-log"),
        }
    }

    /// Messages that were lost may have told of containers: the kernel table has all of them.
    fn note_losses(&mut self) {
        let host: HostTable = self.kernel.host.get(0);
        let losses = Losses::of(&host);
        if losses != self.losses {
            let lost = losses.events.saturating_sub(self.losses.events);
            if lost > 0 {
                self.say_events_lost(lost);
            }
            self.losses = losses;
            self.kernel
                .host
                .long(0, offset_of!(HostTable, lost_told))
                .store(losses.events, Ordering::Relaxed);
            self.resync();
        }
        if let Some(first) = self.uncapped.first().and_then(|id| self.roster.get(*id)) {
            let words = format!(
                "the pids cap is not held where the pids controller is not enabled: containers: {}, one is {}",
                self.uncapped.len(),
                first.path.display()
            );
            self.note("pids-controller", words);
        }
        if host.unrecognised != 0 {
            self.note(
                "unrecognised",
                format!(
                    "containers that could not be entered, since a kernel table was full, and are not governed: {}",
                    host.unrecognised
                ),
            );
        }
    }

    /// Keeps what must outlive us: who is frozen, where each ladder stands.
    pub(super) fn save(&mut self) {
        if self.engine.revision() == self.saved && !self.ticks.is_multiple_of(HOUSEKEEPING) {
            return;
        }
        match start::write_state(&self.engine) {
            Ok(()) => self.saved = self.engine.revision(),
            Err(error) => self.note("state", format!("cannot keep the ladders' state: {error}")),
        }
    }

    /// Notes what does not work until it is settled.
    pub(super) fn trouble(&mut self, what: &str, words: String) {
        if self.notes.stand(what, words.clone()) {
            self.say_degraded(&words);
        }
    }

    /// What was noted is over.
    pub(super) fn settled(&mut self, what: &str) {
        if let Some(words) = self.notes.settle(what) {
            self.say_no_longer_degraded(&words);
        }
    }

    /// Notes what did not work this time, once.
    pub(super) fn note(&mut self, what: &str, words: String) {
        if self.notes.meet(what, words.clone(), self.ticks) {
            self.say_degraded(&words);
        }
    }
}

/// A duration in nanoseconds of the kernel side's clock.
#[must_use]
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
