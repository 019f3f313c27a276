//! One look a second: the kernel's counters, the containers that changed, and what has become due.

use std::{collections::HashMap, mem::offset_of, sync::atomic::Ordering, time::Duration};

use guard_common::{
    Container, SLOT_USER_MADE, event::Gone, fork_storm::Reason, host::Host as HostTable,
};

use super::{Daemon, now, start};
use crate::{
    act::{cgroup::Cgroup, freeze, membership, pids, restore},
    decide::{
        seen::{Decision, Frozen, HostSeen, Limits, Seen},
        settings::Max,
    },
    kernel::{install::number_of, rungs::Rung},
    sense::ring::Message,
};

/// Every container is looked at once in so many ticks, also when nothing is refused in it: for leaks, and for what others
/// write into `pids.max`.
const ROUND: std::ops::RangeInclusive<u64> = 2..=30;
/// So many of them in each tick, as long as that bears it: the more there are, the more seldom each is looked at.
const AT_A_TIME: u64 = 8;
/// Once in so many ticks what nobody needs any more is cleared away.
const HOUSEKEEPING: u64 = 60;

/// A container's counters as they stood when they were last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    refused: [u64; 3],
    audited: [u64; 3],
    /// The pids controller's last counts, for the status.
    pub pids: Option<u64>,
    pub max: Option<u64>,
    pub by_controller: u64,
    pub frozen: Frozen,
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
        self.drain();
        self.reload_what_changed();
        self.note_losses();
        self.note_off_over();
        self.go_on_killing();
        if self.ticks % HOUSEKEEPING == 1
            && let Err(error) = restore::drop_vanished(&self.hierarchy, &mut self.journal)
        {
            self.note("journal", error.to_string());
        }
        let due = self.due();
        self.look(&due);
        self.save();
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
                    && (state.refused, state.audited) != (looked.refused, looked.audited)
            })
            .map(|known| known.id)
            .collect()
    }

    /// Looks at containers, decides, and does what was decided.
    pub(super) fn look(&mut self, ids: &[u64]) {
        let seen: Vec<Seen> = ids.iter().filter_map(|id| self.see(*id)).collect();
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
        let journal = &self.journal;
        self.busy.extend(
            journal
                .changes()
                .filter(|(_, change)| change.kind() == crate::act::journal::Kind::Freeze)
                .map(|(id, _)| id),
        );
        self.busy.extend(self.kills.keys());
    }

    /// One container as it is now; `None`: it is gone.
    fn see(&mut self, id: u64) -> Option<Seen> {
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
            ..Seen::default()
        };
        let mut looked = Looked {
            refused: state.refused,
            audited: state.audited,
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
                        looked.pids = Some(pids.current);
                        looked.max = match pids.max {
                            Max::Number(number) => Some(number),
                            Max::Unlimited => None,
                        };
                        looked.by_controller = pids.refused;
                    }
                    Ok(None) => self.note_no_controller(&seen),
                    Err(error) => self.note("pids", error.to_string()),
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
    fn watched(&self, seen: &mut Seen) {
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

    /// What the kernel side told.
    pub(super) fn heard(&mut self, message: Message) {
        match message {
            // The counters tell as much, and exactly; it is looked at now instead of in a second.
            Message::Fork { event, .. } => {
                self.culprits.insert(
                    event.container,
                    super::Culprit {
                        tgid: event.tgid,
                        comm: event.comm,
                    },
                );
                self.busy.insert(event.container);
            }
            Message::Made { event, path } => {
                self.roster.made(event.container, event.slot, path);
                // Whoever may make such names may make any number of them: they are not put on record one by one.
                let flags = self.kernel.containers.get(event.slot as usize).flags;
                if flags & SLOT_USER_MADE == 0 {
                    self.say_made(event.container);
                }
                self.busy.insert(event.container);
            }
            Message::Gone(gone) => self.gone(&gone),
            Message::MovedOut(event) => self.say_moved_out(&event),
        }
    }

    fn gone(&mut self, gone: &Gone) {
        let id = gone.event.container;
        let last = Seen {
            id,
            profile: gone.event.profile,
            allowed: gone.allowed,
            refused: gone.refused,
            audited: gone.audited,
            ..Seen::default()
        };
        let mut last = last;
        if self.rung == Rung::Observe {
            self.watched(&mut last);
        }
        let decisions: Vec<Decision> = self.engine.gone(now(), id, Some(&last));
        for decision in &decisions {
            self.carry_out(decision);
        }
        if self
            .roster
            .get(id)
            .is_some_and(|known| !known.path.to_string_lossy().contains("/user@"))
        {
            self.say_gone(gone);
        }
        self.roster.gone(id);
        self.looked.remove(&id);
        self.busy.remove(&id);
        self.culprits.remove(&id);
    }

    /// Messages that were lost may have told of containers: the kernel table has all of them.
    fn note_losses(&mut self) {
        let host: HostTable = self.kernel.host.get(0);
        if host.events_lost != self.events_lost {
            self.say_events_lost(host.events_lost - self.events_lost);
            self.events_lost = host.events_lost;
            self.resync();
        }
        if host.unrecognised != 0 {
            self.note(
                "unrecognised",
                format!(
                    "{} containers could not be entered, since a kernel table was full: they are not governed",
                    host.unrecognised
                ),
            );
        }
    }

    /// Brings the roster to what stands in the kernel table.
    fn resync(&mut self) {
        let mut there: HashMap<u64, u32> = HashMap::new();
        for slot in 0..self.kernel.containers.count() {
            let state = self.kernel.containers.get(slot);
            if state.id != 0 {
                there.insert(state.id, slot as u32);
            }
        }
        let vanished: Vec<u64> = self
            .roster
            .iter()
            .map(|known| known.id)
            .filter(|id| !there.contains_key(id))
            .collect();
        for id in vanished {
            let decisions = self.engine.gone(now(), id, None);
            for decision in &decisions {
                self.carry_out(decision);
            }
            self.roster.gone(id);
            self.looked.remove(&id);
        }
        for (id, slot) in there {
            if self.roster.get(id).is_none()
                && let Ok(Some(cgroup)) = Cgroup::open(&self.hierarchy, id)
                && let Some(path) = cgroup.path(&self.hierarchy)
            {
                self.roster.made(id, slot, path);
                self.busy.insert(id);
            }
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

    /// Notes what does not work, once.
    pub(super) fn note(&mut self, what: &str, words: String) {
        if self
            .degraded
            .insert(what.to_owned(), words.clone())
            .is_none()
        {
            self.say_degraded(&words);
        }
    }

    fn note_no_controller(&mut self, seen: &Seen) {
        let capped = number_of(seen.profile)
            .and_then(|number| self.plan.limits.get(number as usize))
            .is_some_and(|limits| limits.cap.is_some());
        if capped {
            let path = self
                .roster
                .get(seen.id)
                .map(|known| known.path.display().to_string())
                .unwrap_or_default();
            self.note(
                "pids-controller",
                format!(
                    "the pids cap is not held in {path}: the pids controller is not enabled there"
                ),
            );
        }
    }
}

/// A duration in nanoseconds of the kernel side's clock.
#[must_use]
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
