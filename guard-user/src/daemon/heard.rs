//! What the kernel side tells: who did what, and which containers come and go.

use std::collections::HashMap;

use guard_common::{
    action::{Action, Told},
    event::{Event, Gone},
};

use super::{Culprit, Daemon, now, tick::counts};
use crate::{
    act::cgroup::Cgroup,
    decide::seen::{Decision, Seen},
    kernel::rungs::Rung,
    sense::ring::{self, Message},
};

impl Daemon {
    /// Reads all messages that the ring holds.
    pub(super) fn drain(&mut self) {
        while let Some(message) = self.next_message() {
            self.heard(message);
        }
        self.cap_fresh();
    }

    /// The same behind a look at the counters: who did what is known before it is told. All else waits until that look is over, which
    /// knows nothing of it.
    pub(super) fn hear_who(&mut self) -> Vec<Message> {
        let mut others = Vec::new();
        while let Some(message) = self.next_message() {
            match message {
                Message::Fork { .. } | Message::Action { .. } => self.heard(message),
                Message::Made { .. } | Message::Gone(_) | Message::MovedOut(_) => {
                    others.push(message);
                }
            }
        }
        others
    }

    fn next_message(&mut self) -> Option<Message> {
        loop {
            let item = self.kernel.events.next()?;
            // What cannot be read was counted as lost.
            if let Some(message) = ring::read(&item) {
                return Some(message);
            }
        }
    }

    /// What the kernel side told.
    pub(super) fn heard(&mut self, message: Message) {
        match message {
            // The counters tell as much, and exactly; it is looked at now instead of in a second.
            Message::Fork { event, .. } => self.asked_by(&event, None),
            Message::Action { event, action, .. } => self.asked_by(&event, Some(action)),
            Message::Made { event, path } => {
                self.directory.add(event.container, &path);
                self.roster.made(event.container, event.slot, path);
                self.say_made(event.container);
                self.busy.insert(event.container);
                self.fresh.push(event.container);
            }
            Message::Gone(gone) => self.gone(&gone),
            Message::MovedOut(event) => self.say_moved_out(&event),
        }
    }

    /// Remembers who it was: the counters do not tell.
    fn asked_by(&mut self, event: &Event, action: Option<Action>) {
        self.culprits.entry(event.container).or_default().insert(
            action,
            Culprit {
                tgid: event.tgid,
                comm: event.comm,
                told: match action {
                    Some(_) => event.other,
                    None => Told::default(),
                },
            },
        );
        self.busy.insert(event.container);
    }

    fn gone(&mut self, gone: &Gone) {
        let id = gone.event.container;
        let last = Seen {
            id,
            profile: gone.event.profile,
            allowed: gone.allowed,
            refused: gone.refused,
            audited: gone.audited,
            actions: counts(&gone.actions),
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
        if gone.moved_out > 0 {
            self.say_moved_out_unknown(id, gone.moved_out);
        }
        self.say_gone(gone);
        self.forget(id);
    }

    /// A container is gone.
    pub(super) fn forget(&mut self, id: u64) {
        self.roster.gone(id);
        self.looked.remove(&id);
        self.busy.remove(&id);
        self.culprits.remove(&id);
        self.uncapped.remove(&id);
    }

    /// New containers are looked at at once: where no program refuses forks, their cap in `pids.max` is all that holds
    /// them.
    pub(super) fn cap_fresh(&mut self) {
        for id in std::mem::take(&mut self.fresh) {
            let profile = self
                .roster
                .get(id)
                .map(|known| self.kernel.containers.get(known.slot as usize).profile);
            if profile.and_then(|profile| self.cap_of(profile)).is_some()
                && let Some(seen) = self.see(id)
            {
                self.keep_cap(&seen);
            }
        }
    }

    /// Where the kernel side does not recognise them, we do, a second late.
    pub(super) fn look_for_containers(&mut self) {
        if !self.looking {
            return;
        }
        self.reconcile();
        let new: Vec<u64> = self
            .roster
            .iter()
            .map(|known| known.id)
            .filter(|id| !self.looked.contains_key(id))
            .collect();
        for id in new {
            self.say_made(id);
            self.busy.insert(id);
            self.fresh.push(id);
        }
        self.cap_fresh();
    }

    /// Brings the roster to what stands in the kernel table.
    pub(super) fn resync(&mut self) {
        let mut there: HashMap<u64, u32> = HashMap::new();
        for slot in self.kernel.slots() {
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
            self.forget(id);
        }
        for (id, slot) in there {
            if self.roster.get(id).is_none()
                && let Ok(Some(cgroup)) = Cgroup::open(&self.hierarchy, id)
                && let Some(path) = cgroup.path(&self.hierarchy)
            {
                self.directory.add(id, &path);
                self.roster.made(id, slot, path);
                self.busy.insert(id);
            }
        }
    }
}
