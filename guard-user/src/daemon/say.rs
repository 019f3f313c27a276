//! Every word that the daemon puts on record.

use std::{mem::offset_of, sync::atomic::Ordering, time::Duration};

use guard_common::{
    Container, SLOT_USER_MADE,
    event::{Event, Gone},
};

use super::{Daemon, now, start::unwatched, switch};
use crate::{
    act::{
        cgroup::Cgroup,
        journal::Change,
        kill::{How, Killed},
        pids::Applied,
        restore::{Restored, Undone},
    },
    decide::{
        restrict,
        settings::{Max, Next},
        telling,
    },
    identity::roster::Entered,
    kernel::rungs::Rung,
    record::{Kind, Measure, Record, Severity, Verdict},
};

/// A setting's name in records.
const DMESG_RESTRICT: &str = "kernel.dmesg_restrict";
/// See [`DMESG_RESTRICT`].
pub(super) const MOUNT_DISCARD: &str = "mount option discard";
/// See [`DMESG_RESTRICT`].
pub(super) const DISCARD_MAX_BYTES: &str = "queue/discard_max_bytes";

/// What a daemon that takes over finds.
pub(super) struct Gap {
    /// The last sign of life, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

impl Daemon {
    pub(super) fn say(&mut self, record: Record) {
        self.audit.write(record);
    }

    /// A record that a container can bring about. About those that users could have made only so many are written.
    pub(super) fn say_about(&mut self, user_made: bool, record: Record) {
        if self.telling.tells(user_made, now()) {
            self.say(record);
        }
    }

    /// How many of them were not written, if it is time to say so.
    pub(super) fn say_untold(&mut self, now: Duration) {
        if let Some(count) = self.telling.untold(now) {
            self.say(
                Record::new(Kind::Lost)
                    .severity(Severity::Medium)
                    .count(count)
                    .reason(format!(
                        "records about containers that users could have made: no more than {} are written in {} s",
                        telling::RECORDS,
                        telling::PER.as_secs()
                    )),
            );
        }
    }

    /// Whether an unprivileged user could have made a container that is known.
    pub(super) fn is_user_made(&self, id: u64) -> bool {
        self.roster.get(id).is_some_and(|known| known.user_made)
    }

    /// A record of a container, if its path is known still.
    pub(super) fn of(&self, kind: Kind, id: u64) -> Record {
        let record = Record::new(kind).rung(self.rung);
        match self.roster.get(id) {
            Some(known) => {
                use std::os::unix::ffi::OsStrExt;
                record.container(known.path.as_os_str().as_bytes())
            }
            None => record.reason(format!("cgroup id {id}")),
        }
    }

    pub(super) fn say_started(&mut self, gap: Option<Gap>, entered: &Entered, took: Duration) {
        let before = if gap.is_some() {
            "took over what the last daemon left in force"
        } else {
            "nothing was in force before"
        };
        self.say(
            Record::new(Kind::DaemonStart)
                .severity(Severity::Info)
                .rung(self.rung)
                .outcome(before)
                .measured(Measure::StartMs, millis(took))
                .measured(Measure::Containers, entered.containers as u64)
                .measured(Measure::Rules, self.plan.rules.len() as u64),
        );
        let tried: Vec<String> = self
            .tried
            .iter()
            .map(|tried| format!("{}: {}", tried.rung, tried.reason))
            .collect();
        let severity = match self.rung {
            Rung::Lsm | Rung::FmodRet => Severity::Info,
            Rung::Cgroup | Rung::Observe | Rung::Setting => Severity::High,
        };
        self.say(
            Record::new(Kind::RungChosen)
                .severity(severity)
                .rung(self.rung)
                .reason(if tried.is_empty() {
                    "no program was tried".to_owned()
                } else {
                    tried.join("; ")
                }),
        );
        if let Some(gap) = gap {
            self.say(
                Record::new(Kind::DaemonGap)
                    .severity(Severity::Low)
                    .reason("nobody watched; what was enforced stayed so, and was counted")
                    .measured(Measure::GapMs, millis(unwatched(gap.since_ns))),
            );
        }
        self.say_loaded("start");
        for words in self.notes.words() {
            self.say_degraded(&words);
        }
    }

    pub(super) fn say_mounted(&mut self) {
        for (kind, at) in self.options.mounted.clone() {
            self.say(
                Record::new(Kind::SettingChanged)
                    .severity(Severity::Info)
                    .setting("mount", "", at)
                    .outcome(format!("mounted {kind}, which was missing")),
            );
        }
    }

    pub(super) fn say_loaded(&mut self, why: &str) {
        self.say(
            Record::new(Kind::PolicyLoaded)
                .severity(Severity::Info)
                .policy(self.plan.names_of_sources().join(", "))
                .reason(why)
                .measured(Measure::Rules, self.plan.rules.len() as u64)
                .measured(Measure::Containers, self.roster.len() as u64),
        );
        self.say_armed();
    }

    pub(super) fn say_refused(&mut self, why: &str, mistakes: &str) {
        self.say(
            Record::new(Kind::PolicyRefused)
                .severity(Severity::High)
                .reason(mistakes)
                .outcome(format!("{why}: the old policy is still in force")),
        );
    }

    pub(super) fn say_degraded(&mut self, words: &str) {
        self.say(
            Record::new(Kind::Degraded)
                .severity(Severity::Medium)
                .reason(words),
        );
    }

    pub(super) fn say_no_longer_degraded(&mut self, words: &str) {
        self.say(
            Record::new(Kind::Degraded)
                .severity(Severity::Info)
                .reason(words)
                .outcome("over"),
        );
    }

    pub(super) fn say_events_lost(&mut self, count: u64) {
        self.say(
            Record::new(Kind::Lost)
                .severity(Severity::Low)
                .count(count)
                .reason("messages of the kernel side; what they told stands in the counters"),
        );
    }

    /// Whoever may make such names may make any number of them: their coming and going is not put on record.
    pub(super) fn say_made(&mut self, id: u64) {
        if self.is_user_made(id) {
            return;
        }
        let record = self.of(Kind::ContainerMade, id).severity(Severity::Info);
        self.say(record);
    }

    /// As [`Self::say_made`].
    pub(super) fn say_gone(&mut self, gone: &Gone) {
        let id = gone.event.container;
        if self.roster.get(id).is_none_or(|known| known.user_made) {
            return;
        }
        let mut record = self
            .of(Kind::ContainerGone, id)
            .severity(Severity::Info)
            .measured(Measure::Allowed, gone.allowed);
        let refused = [
            Measure::RefusedRate,
            Measure::RefusedPidsCap,
            Measure::RefusedHostReserve,
        ];
        let audited = [
            Measure::AuditedRate,
            Measure::AuditedPidsCap,
            Measure::AuditedHostReserve,
        ];
        for (measures, counts) in [(refused, gone.refused), (audited, gone.audited)] {
            for (measure, count) in measures.into_iter().zip(counts) {
                if count > 0 {
                    record = record.measured(measure, count);
                }
            }
        }
        self.say(record);
    }

    /// A task that left its container; with it all that left since the last record.
    pub(super) fn say_moved_out(&mut self, event: &Event) {
        let state = self.kernel.containers.get(event.slot as usize);
        let count = u64::from((state.moved_out as u32).wrapping_sub(state.moved_told));
        // Told by the look at its counters already, or the container is gone.
        if count == 0 || state.id != event.container {
            return;
        }
        self.moves_are_told(event.slot, state.moved_out as u32);
        let user_made = match self.roster.get(event.container) {
            Some(known) => known.user_made,
            // It came untold, as only users' do when there are many: its slot tells, as long as it has one.
            None => state.id != event.container || state.flags & SLOT_USER_MADE != 0,
        };
        let [to, ..] = event.other;
        let to = Cgroup::open(&self.hierarchy, to)
            .ok()
            .flatten()
            .and_then(|cgroup| cgroup.path(&self.hierarchy))
            .map_or_else(
                || format!("cgroup id {to}"),
                |path| path.display().to_string(),
            );
        let record = self
            .of(Kind::MovedOut, event.container)
            .count(count)
            .severity(Severity::High)
            .action("cgroup.leave")
            .verdict(Verdict::Allow)
            .process(event.tgid, &event.comm)
            .reason(match event.reason {
                0 => format!("moved a task to {to}"),
                _ => format!("made a task in {to} (CLONE_INTO_CGROUP)"),
            });
        self.say_about(user_made, record);
    }

    /// How many tasks have left a container so far, modulo 2^32.
    pub(super) fn moved_out(&self, id: u64) -> Option<u32> {
        let known = self.roster.get(id)?;
        let state = self.kernel.containers.get(known.slot as usize);
        (state.id == id).then_some(state.moved_out as u32)
    }

    /// Tasks that left their container when `count` had, as far as no message told of them.
    pub(super) fn say_moved_out_untold(&mut self, id: u64, count: u32) {
        let Some(slot) = self.roster.get(id).map(|known| known.slot) else {
            return;
        };
        let state = self.kernel.containers.get(slot as usize);
        let untold = count.wrapping_sub(state.moved_told).cast_signed();
        if state.id == id && untold > 0 {
            self.moves_are_told(slot, count);
            self.say_moved_out_unknown(id, untold.unsigned_abs().into());
        }
    }

    pub(super) fn say_moved_out_unknown(&mut self, id: u64, count: u64) {
        let record = self
            .of(Kind::MovedOut, id)
            .count(count)
            .severity(Severity::High)
            .action("cgroup.leave")
            .verdict(Verdict::Allow)
            .reason("moved tasks out, or made them outside; where to was not told: only the first in a second is");
        self.say_about(self.is_user_made(id), record);
    }

    /// So many moves of a container stand on record.
    fn moves_are_told(&self, slot: u32, count: u32) {
        self.kernel
            .containers
            .word(slot as usize, offset_of!(Container, moved_told))
            .store(count, Ordering::Relaxed);
    }

    pub(super) fn say_switched(&mut self, on: bool, done: &[String]) {
        let kind = if on { Kind::SwitchOn } else { Kind::SwitchOff };
        self.say(
            Record::new(kind)
                .severity(Severity::High)
                .outcome(done.join("; ")),
        );
    }

    pub(super) fn say_restored(&mut self, one: &Restored) {
        let words = switch::words_of(one, self.roster.get(one.cgroup).map(|known| &known.path));
        let (setting, old, new) = match one.change {
            Change::PidsMax { old, ours } => ("pids.max", ours.to_string(), old.to_string()),
            // The step that froze it has its own record of the thaw.
            Change::Freeze { .. } => ("cgroup.freeze", "1".to_owned(), "0".to_owned()),
            Change::DmesgRestrict => (DMESG_RESTRICT, "1".to_owned(), "0".to_owned()),
            Change::MountDiscard { .. } => {
                (MOUNT_DISCARD, "nodiscard".to_owned(), "discard".to_owned())
            }
            Change::Discards { old, .. } => (DISCARD_MAX_BYTES, "0".to_owned(), old.to_string()),
        };
        if matches!(one.outcome, Ok(Undone::Vanished)) {
            return;
        }
        let record = match one.change {
            Change::PidsMax { .. } | Change::Freeze { .. } => {
                self.of(Kind::SettingRestored, one.cgroup)
            }
            Change::DmesgRestrict | Change::Discards { .. } | Change::MountDiscard { .. } => {
                Record::new(Kind::SettingRestored)
            }
        }
        .severity(Severity::Info);
        let record = record.setting(setting, old, new).outcome(words);
        self.say(record);
    }

    pub(super) fn say_restricted(&mut self, step: restrict::Step, applied: Applied) {
        let done = matches!(applied, Applied::Done);
        let record = match step {
            restrict::Step::Throw { again } if done => Record::new(Kind::SettingChanged)
                .severity(Severity::Info)
                .setting(DMESG_RESTRICT, "0", "1")
                .outcome(if again {
                    "somebody else had set it back: set once more"
                } else {
                    "as the policy asks"
                }),
            restrict::Step::Restore if done => Record::new(Kind::SettingRestored)
                .severity(Severity::Info)
                .setting(DMESG_RESTRICT, "1", "0")
                .outcome("the policy asks for it no more"),
            restrict::Step::Contested => Record::new(Kind::SettingContested)
                .severity(Severity::Medium)
                .setting(DMESG_RESTRICT, "", "0")
                .reason("somebody else sets it back: it is left alone"),
            restrict::Step::Throw { .. } | restrict::Step::Restore | restrict::Step::Leave => {
                return;
            }
        };
        self.say(record);
    }

    pub(super) fn say_stopped(&mut self, signal: &str, kept: bool) {
        // There is no later.
        self.say_untold(Duration::MAX);
        let outcome = if kept {
            "enforcement stays, and the next daemon takes it over"
        } else {
            "everything is released"
        };
        self.say(
            Record::new(Kind::DaemonStop)
                .severity(Severity::Info)
                .reason(signal)
                .outcome(outcome),
        );
    }

    pub(super) fn say_cap(&mut self, id: u64, present: Max, next: Next, applied: Applied) {
        if !Self::cap_is_news(next, applied) {
            return;
        }
        let record = match next {
            Next::Leave => return,
            Next::Write { value, old, again } => self
                .of(Kind::SettingChanged, id)
                .severity(Severity::Info)
                .setting("pids.max", old.to_string(), value.to_string())
                .outcome(if again {
                    "somebody else had rewritten it: applied once more"
                } else {
                    "the cap of the policy"
                }),
            Next::Restore { old } => self
                .of(Kind::SettingRestored, id)
                .severity(Severity::Info)
                .setting("pids.max", present.to_string(), old.to_string())
                .outcome("no rule wants the cap any more"),
            Next::Contested { present } => self
                .of(Kind::SettingContested, id)
                .severity(Severity::Medium)
                .setting("pids.max", "", present.to_string())
                .reason("somebody else rewrites pids.max: it is left alone; the kernel side still refuses at the cap"),
        };
        self.say_about(self.is_user_made(id), record);
    }

    pub(super) fn say_killed(&mut self, id: u64, killed: Result<&Killed, &str>) {
        let record = self
            .of(Kind::Step, id)
            .severity(Severity::High)
            .step("kill");
        let record = match killed {
            Ok(killed) => {
                let how = match killed.how {
                    How::CgroupKill => "killed by cgroup.kill",
                    How::Frozen => "frozen, killed one by one, thawed",
                    How::Running => "killed one by one while it ran: it could not be frozen",
                };
                let counted = match killed.how {
                    How::CgroupKill => None,
                    How::Frozen | How::Running => Some(killed.signalled),
                };
                let left = if killed.left { "; some are left" } else { "" };
                let record = record.outcome(format!("{how}{left}"));
                match counted {
                    Some(count) => record.measured(Measure::Killed, count),
                    None => record,
                }
            }
            Err(error) => record.outcome(format!("failed: {error}")),
        };
        self.say(record);
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
