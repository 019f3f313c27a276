//! Turning: a new policy, the panic switch, and the end.

use std::{
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use guard_common::{device::Device, host::Host as HostTable};

use super::{Daemon, now, stamps::Stamps, start, tick::nanoseconds};
use crate::{
    act::{
        journal,
        restore::{self, Restored, restore_all},
    },
    control::{
        RUN_DIRECTORY, SOCKET,
        server::{Reloaded, Switched},
    },
    kernel::load::{Kernel, PINS, remove_pins},
    policy::model::Mode,
};

/// Until when everything is allowed, for a daemon that starts without the pins of the last one.
const OFF: &str = "off-until";
/// How long the last records and lines may take to reach the disk, each log for itself.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

impl Daemon {
    /// Reloads when a file has changed and then stayed as it is for a tick: editors write more than once.
    pub(super) fn reload_what_changed(&mut self) {
        let stamps = Stamps::of(self.options.policy.as_deref());
        let settled = stamps == self.stamps[1];
        self.stamps[1] = stamps;
        if settled && self.stamps[0] != self.stamps[1] {
            let _ = self.reload("a file changed");
        }
    }

    /// Reads the policy anew. A policy with mistakes changes nothing, nor does one whose files are gone.
    ///
    /// # Errors
    /// The mistakes.
    pub(super) fn reload(&mut self, why: &str) -> Result<Reloaded, String> {
        let stamps = Stamps::of(self.options.policy.as_deref());
        self.stamps = [stamps.clone(), stamps];
        let result = self.replace_plan();
        match &result {
            Ok(rules) => {
                self.policy_refused = None;
                self.write_summary();
                self.say_loaded(why);
                Ok(Reloaded {
                    rules: *rules as u64,
                })
            }
            Err(mistakes) => {
                self.policy_refused = Some(mistakes.clone());
                self.write_summary();
                self.say_refused(why, mistakes);
                Err(mistakes.clone())
            }
        }
    }

    fn replace_plan(&mut self) -> Result<usize, String> {
        let plan = self
            .plan
            .read_again(self.options.policy.as_deref(), self.options.mode)
            .map_err(|error| error.to_string())?;
        let bank = self
            .kernel
            .install(&plan.names, &plan.profiles())
            .map_err(|error| error.to_string())?;
        self.bank = bank;
        let old = std::mem::replace(&mut self.plan, plan);
        if old.audit != self.plan.audit {
            match start::start_audit(&self.plan.audit) {
                Ok(writer) => {
                    std::mem::replace(&mut self.audit, writer).stop(LAST_WORDS);
                    self.settled("audit");
                }
                Err(error) => self.trouble("audit", error.to_string()),
            }
        }
        self.note_advisories();
        self.directory.recognise(Arc::clone(&self.plan.names));
        self.renew_kernel_log();
        self.pids = start::set_ceiling(&self.kernel, &self.host, &self.plan);
        self.reconcile();
        self.renew_hooks();
        self.keep_restricted();
        self.keep_thin();
        self.look_at_all();
        Ok(self.plan.rules.len())
    }

    /// Brings the kernel's tables and the roster to what the tree and the policy say.
    pub(super) fn reconcile(&mut self) {
        let entered = self.roster.reconcile(
            &mut self.kernel,
            &self.hierarchy,
            &self.plan.names,
            self.bank,
            self.own.as_deref(),
        );
        match entered {
            Ok(entered) => {
                self.settled("roster");
                self.list_containers();
                self.let_go(&entered.dropped);
            }
            Err(error) => self.trouble("roster", error.to_string()),
        }
    }

    /// Cgroups that are no containers any more: what was changed on them is undone.
    pub(super) fn let_go(&mut self, dropped: &[u64]) {
        for id in dropped {
            for kind in [journal::Kind::Freeze, journal::Kind::PidsMax] {
                if let Err(error) = restore::restore(&self.hierarchy, *id, kind, &mut self.journal)
                {
                    self.note("restore", error.to_string());
                }
            }
            for decision in self.engine.gone(now(), *id, None) {
                self.carry_out(&decision);
            }
            self.forget(*id);
            self.kills.remove(id);
        }
    }

    /// Whether the panic switch is thrown.
    pub(super) fn is_off(&self) -> bool {
        self.kernel.host.get(0).off_until_ns > nanoseconds(now())
    }

    /// Everything is allowed from now on; what was changed on the host is undone.
    pub(super) fn off(&mut self, seconds: Option<u64>) -> Switched {
        let until = off_until(seconds);
        self.set_off(until);
        keep_off(until);
        self.kills.clear();
        let mut done = vec![match seconds {
            Some(seconds) => format!("everything is allowed for {seconds} s"),
            None => "everything is allowed until `bulkhead on`".to_owned(),
        }];
        for decision in self.engine.release(now()) {
            self.carry_out(&decision);
            if let Some(known) = self.roster.get(decision.container) {
                done.push(format!("{} thawed", known.path.display()));
            }
        }
        done.extend(self.restore());
        self.say_switched(false, &done);
        self.save();
        Switched::from(done)
    }

    /// Enforces again.
    pub(super) fn on(&mut self) -> Switched {
        // Also if its time is over and that is not on record yet.
        let was_off = self.is_off() || self.off_seen;
        self.set_off(0);
        keep_off(0);
        if !was_off {
            return Switched::from(vec![ON_ALREADY.to_owned()]);
        }
        let done = vec![self.on_again().to_owned()];
        self.say_switched(true, &done);
        self.keep_restricted();
        self.keep_thin();
        self.look_at_all();
        Switched::from(done)
    }

    fn on_again(&self) -> &'static str {
        let rules = (self.plan.rules.iter()).filter(|rule| rule.limits_anything);
        on_again(rules.map(|rule| rule.mode.name()))
    }

    fn set_off(&mut self, until: u64) {
        self.kernel
            .host
            .long(0, offset_of!(HostTable, off_until_ns))
            .store(until, Ordering::Release);
        self.off_seen = until != 0;
    }

    /// A switch that was thrown for a time has come back by itself.
    pub(super) fn note_off_over(&mut self) {
        if self.off_seen && !self.is_off() {
            self.set_off(0);
            let words = format!("the time of `off` is over: {}", self.on_again());
            self.say_switched(true, &[words]);
            self.keep_restricted();
            self.keep_thin();
            self.look_at_all();
        }
        // Thrown on the pinned switch itself, by a caller that we did not answer in time.
        if !self.off_seen && self.is_off() {
            self.off_seen = true;
            for decision in self.engine.release(now()) {
                self.carry_out(&decision);
            }
            let done = self.restore();
            self.say_switched(false, &done);
        }
    }

    /// Undoes every change that stands in the journal; a line for each.
    fn restore(&mut self) -> Vec<String> {
        let restored = restore_all(&self.hierarchy, &mut self.journal);
        let lines = restored
            .iter()
            .map(|one| words_of(one, self.roster.get(one.cgroup).map(|known| &known.path)))
            .collect();
        for one in &restored {
            self.say_restored(one);
        }
        lines
    }

    /// The end: everything is released, unless enforcement is to stay.
    pub(super) fn stop(mut self, signal: &'static str) {
        self.drain();
        let _ = fs::remove_file(SOCKET);
        self.save();
        let _ = self.end_kernel_log();
        self.end_outlets();
        if self.options.keep_on_stop {
            self.say_stopped(signal, true);
        } else {
            for decision in self.engine.release(now()) {
                self.carry_out(&decision);
            }
            let _ = self.restore();
            self.save();
            // First nothing acts, then nothing is attached.
            self.kernel.act_as(0);
            if let Err(error) = remove_pins(Path::new(PINS)) {
                self.note("pins", format!("cannot remove {PINS}: {error}"));
            }
            if let Some(above) = Path::new(PINS).parent() {
                let _ = fs::remove_dir(above);
            }
            let _ = fs::remove_file(Path::new(RUN_DIRECTORY).join(super::status::SUMMARY));
            self.links.clear();
            self.say_stopped(signal, false);
        }
        self.audit.stop(LAST_WORDS);
    }
}

/// What became of one change, for a person; with the path as the container has it, so not for a terminal yet.
pub fn words_of(one: &Restored, path: Option<&PathBuf>) -> String {
    use crate::act::{journal::Change, restore::Undone};
    let place = match path {
        _ if matches!(
            one.change,
            Change::Discards { .. } | Change::MountDiscard { .. }
        ) =>
        {
            Device::of(true, one.cgroup as u32).to_string()
        }
        Some(path) => path.display().to_string(),
        None if one.cgroup == journal::HOST => "the host".to_owned(),
        None => format!("cgroup {}", one.cgroup),
    };
    let what = match one.change {
        Change::PidsMax { old, .. } => format!("pids.max of {place} set back to {old}"),
        Change::Freeze { .. } => format!("{place} thawed"),
        Change::DmesgRestrict => format!("kernel.dmesg_restrict of {place} set back to 0"),
        Change::MountDiscard { .. } => {
            format!("the file system on {place} mounted with discard again")
        }
        Change::Discards { old, .. } => {
            format!("discards of {place} switched on again, up to {old} bytes")
        }
    };
    match &one.outcome {
        Ok(Undone::Restored) => what,
        Ok(Undone::NotOurs) => {
            format!("not done, since somebody else has changed it since: {what}")
        }
        Ok(Undone::Vanished) => format!("{place} is gone"),
        Err(error) => format!("failed: {what}: {error}"),
    }
}

/// What `on` says where nothing was off.
pub const ON_ALREADY: &str = "it was on already";

/// What is in force when the switch is on again, by the modes of the rules, the reserve among them.
#[must_use]
pub fn on_again<'a>(mut modes: impl Iterator<Item = &'a str>) -> &'static str {
    if modes.any(|mode| mode == Mode::Enforce.name()) {
        "enforcing again"
    } else {
        "on again; no rule enforces: what would be refused is counted"
    }
}

/// The value of the kernel's switch.
#[must_use]
pub fn off_until(seconds: Option<u64>) -> u64 {
    seconds.map_or(u64::MAX, |seconds| {
        nanoseconds(now().saturating_add(Duration::from_secs(seconds)))
    })
}

/// Keeps the switch for a daemon that starts without pins; 0: it is on.
pub fn keep_off(until: u64) {
    let path = Path::new(RUN_DIRECTORY).join(OFF);
    if until == 0 {
        let _ = fs::remove_file(path);
    } else {
        let _ = fs::create_dir_all(RUN_DIRECTORY);
        let _ = fs::write(path, until.to_string());
    }
}

/// A switch that was thrown before our time stays thrown, also where the pins are gone.
pub(super) fn resume_kept(kernel: &Kernel) {
    let kept = fs::read_to_string(Path::new(RUN_DIRECTORY).join(OFF))
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    if kernel.host.get(0).off_until_ns == 0 && kept > nanoseconds(now()) {
        kernel
            .host
            .long(0, offset_of!(HostTable, off_until_ns))
            .store(kept, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::{journal::Change, restore::Undone};

    #[test]
    fn on_speaks_of_enforcing_only_if_a_rule_does() {
        assert_eq!(
            on_again(["audit", "enforce"].into_iter()),
            "enforcing again"
        );
        for audited in [&["audit"][..], &[]] {
            assert!(on_again(audited.iter().copied()).starts_with("on again; no rule enforces"));
        }
    }

    #[test]
    fn what_off_tells_of_a_container_is_text() {
        let path = PathBuf::from("/docker-\x1b]0;mine\x07.scope");
        let one = Restored {
            cgroup: 7,
            change: Change::Freeze { freezer: 7 },
            outcome: Ok(Undone::Restored),
        };
        let switched = Switched::from(vec![words_of(&one, Some(&path)), words_of(&one, None)]);
        let done: Vec<&str> = switched.done.iter().map(|line| line.as_str()).collect();
        let named = r"/docker-\x1b]0;mine\x07.scope thawed";
        assert_eq!(done, [named, "cgroup 7 thawed"]);
    }
}
