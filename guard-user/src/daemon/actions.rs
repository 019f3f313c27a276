//! Carries out what was decided, and tells what came of it.

use std::{path::Path, time::Duration};

use super::{Daemon, now};
use crate::{
    act::{
        cgroup::Cgroup,
        freeze::{self, Froze},
        kill::{Kill, Progress},
        pids::{self, Applied},
        restrict,
    },
    decide::{
        ladder::StepAction,
        seen::{Decision, Seen, What},
        settings::{self, Max, Next},
    },
};

/// How long a kill may take of one tick; it goes on in the next.
const KILLING: Duration = Duration::from_millis(5);

impl Daemon {
    /// Does what a decision asks for; every decision is told.
    pub(super) fn carry_out(&mut self, decision: &Decision) {
        let id = decision.container;
        let outcome = match &decision.what {
            What::Act { step, .. } => Some(match step.act {
                StepAction::Freeze { .. } => self.freeze(id),
                StepAction::Kill => self.kill(id),
            }),
            What::Thaw { .. } => Some(match freeze::thaw(&self.hierarchy, id, &mut self.journal) {
                Ok(Froze::Done | Froze::Pending) => Ok("thawed"),
                Ok(Froze::Absent) => Ok("it is gone"),
                Ok(Froze::Nothing) => Ok("it was not frozen by us any more"),
                Ok(Froze::Others) => Ok("somebody else holds it frozen"),
                Err(error) => Err(error.to_string()),
            }),
            _ => None,
        };
        if matches!(outcome, Some(Err(_))) {
            self.engine.failed(id);
        }
        self.say_decision(decision, outcome);
    }

    fn freeze(&mut self, id: u64) -> Result<&'static str, String> {
        let cgroup = match Cgroup::open(&self.hierarchy, id) {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => return Ok("it is gone"),
            Err(error) => return Err(error.to_string()),
        };
        match freeze::freeze(&self.hierarchy, &cgroup, &mut self.journal) {
            Ok(Froze::Done) => Ok("frozen"),
            Ok(Froze::Pending) => Ok("freezing: some of its tasks are in the kernel"),
            Ok(Froze::Others) => Err("somebody else froze it before".to_owned()),
            Ok(Froze::Absent | Froze::Nothing) => Ok("it is gone"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn kill(&mut self, id: u64) -> Result<&'static str, String> {
        let cgroup = match Cgroup::open(&self.hierarchy, id) {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => return Ok("it is gone"),
            Err(error) => return Err(error.to_string()),
        };
        let kill = Kill::begin(&self.hierarchy, cgroup).map_err(|error| error.to_string())?;
        self.kills.insert(id, kill);
        self.go_on_killing();
        Ok(if self.kills.contains_key(&id) {
            "being killed"
        } else {
            "killed"
        })
    }

    /// Goes on with the kills that are under way.
    pub(super) fn go_on_killing(&mut self) {
        let ids: Vec<u64> = self.kills.keys().copied().collect();
        for id in ids {
            let Some(mut kill) = self.kills.remove(&id) else {
                continue;
            };
            match kill.go(&self.hierarchy, &mut self.journal, KILLING) {
                Ok(Progress::Again) => {
                    self.kills.insert(id, kill);
                }
                Ok(Progress::Done(killed)) => self.say_killed(id, Ok(&killed)),
                Err(error) => self.say_killed(id, Err(&error.to_string())),
            }
        }
    }

    /// Holds the cap in `pids.max`, where a rule enforces one.
    pub(super) fn keep_cap(&mut self, seen: &Seen) {
        let ours = self.cap_of(seen.profile);
        let wrote = self.journal.pids_max(seen.id);
        let wanted = match wrote {
            Some(_) => true,
            None => ours.is_some() && !self.is_settling(seen.id),
        };
        if !wanted || seen.pids.is_none() || self.is_off() {
            return;
        }
        let cgroup = match Cgroup::open(&self.hierarchy, seen.id) {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => return,
            Err(error) => return self.note("cgroup", error.to_string()),
        };
        let present = seen
            .cap
            .map_or(Max::Unlimited, |cap| Max::Number(u64::from(cap)));
        let next = self.engine.pids_max(seen.id, present, wrote, ours);
        let applied = pids::apply(&cgroup, next, &mut self.journal).unwrap_or_else(|error| {
            self.note("pids.max", error.to_string());
            Applied::Nothing
        });
        if applied != Applied::Done {
            self.engine.pids_max_not_done(seen.id, next);
        }
        self.say_cap(seen.id, present, next, applied);
    }

    /// Holds `kernel.dmesg_restrict`, where the policy asks for it.
    pub(super) fn keep_restricted(&mut self) {
        let (ours, wanted) = (self.journal.is_restricted(), self.plan.dmesg_restrict);
        if !ours && !wanted || self.is_off() {
            return;
        }
        let file = Path::new(restrict::FILE);
        let step = match restrict::thrown(file) {
            Ok(thrown) => self.restrict.next(thrown, ours, wanted),
            Err(error) => return self.note("dmesg-restrict", error.to_string()),
        };
        match restrict::apply(file, step, &mut self.journal) {
            Ok(applied) => self.say_restricted(step, applied),
            Err(error) => self.note("dmesg-restrict", error.to_string()),
        }
    }

    /// Whether a container is so new that its runtime may still be about to write its own `pids.max`.
    fn is_settling(&self, id: u64) -> bool {
        let known = self
            .looked
            .get(&id)
            .map_or(Duration::ZERO, |looked| now().saturating_sub(looked.since));
        settings::is_settling(self.rung.refuses(), known)
    }

    /// Whether there is something to tell of what was done about a cap.
    pub(super) const fn cap_is_news(next: Next, applied: Applied) -> bool {
        match next {
            Next::Leave => false,
            Next::Contested { .. } => true,
            Next::Write { .. } | Next::Restore { .. } => matches!(applied, Applied::Done),
        }
    }
}
