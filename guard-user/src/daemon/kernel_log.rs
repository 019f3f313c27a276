//! Kernel log: the host's copy of it is kept as the policy says, and what is missing there is put on record.

use std::sync::Arc;

use super::{Daemon, plan::grave, switch::LAST_WORDS};
use crate::{
    control::status::{ForwardStatus, KernelLogStatus},
    klog::{
        forward,
        keep::{Keeper, Losses, Raised, Said},
    },
    record::{Kind, Record, Severity, Text},
};

impl Daemon {
    /// Begins, ends or moves the copy, where the policy says other than what is.
    pub(super) fn renew_kernel_log(&mut self) {
        self.renew_outlets();
        let wanted = self.plan.kernel_log.clone();
        let chosen = self.plan.patterns.clone();
        let now = self.kernel_log.as_ref().and_then(Keeper::settings);
        if now == wanted.as_ref().map(|settings| (settings, &chosen)) {
            return;
        }
        if !self.end_kernel_log() {
            return;
        }
        // In another file it goes on where it ended in this.
        let position = self.kernel_log.take().and_then(|keeper| keeper.position());
        let Some(settings) = wanted else {
            self.settled("kernel-log");
            return;
        };
        let (names, outlets) = (Arc::clone(&self.names), Arc::clone(&self.outlets));
        match Keeper::start(settings, chosen, names, outlets, position) {
            Ok(keeper) => {
                self.kernel_log = Some(keeper);
                self.settled("kernel-log");
            }
            Err(error) => self.trouble(
                "kernel-log",
                format!("the copy of the kernel log is not kept: {error}"),
            ),
        }
    }

    /// The outlets become those of the policy. What they are sent is what the copy gets from now on.
    fn renew_outlets(&mut self) {
        let gone: Vec<String> = (self.outlets.health().into_iter())
            .map(|outlet| outlet.to)
            .filter(|to| {
                self.plan
                    .forward
                    .iter()
                    .all(|outlet| outlet.to_string() != *to)
            })
            .collect();
        let failed = self.outlets.set(&self.plan.forward);
        for to in gone {
            self.settled(&about(&to));
        }
        if failed.is_empty() {
            self.settled("kernel-log-outlets");
        } else {
            let words = format!("the kernel log is not forwarded to {}", failed.join(", "));
            self.trouble("kernel-log-outlets", words);
        }
    }

    /// The last lines go out, as far as the receivers take them at once; what is left is put on record.
    pub(super) fn end_outlets(&mut self) {
        self.outlets.stop(LAST_WORDS);
        self.note_outlets();
    }

    /// What the receivers did not get goes on record; their trouble is in the status as long as it lasts.
    fn note_outlets(&mut self) {
        for forward::Losses { to, count } in self.outlets.take_losses() {
            let reason = match to {
                Some(to) => format!("lines of the kernel log that {to} did not take in time; the copy has them"),
                None => "lines that programs wrote into the kernel log, not forwarded: too many, or the same again and again; \
                         the copy has them"
                    .to_owned(),
            };
            self.say(
                Record::new(Kind::Lost)
                    .severity(Severity::Medium)
                    .count(count)
                    .reason(reason),
            );
        }
        for forward::Health { to, trouble, .. } in self.outlets.health() {
            match trouble {
                Some(why) => self.trouble(
                    &about(&to),
                    format!("the kernel log is not forwarded to {to}: {why}"),
                ),
                None => self.settled(&about(&to)),
            }
        }
    }

    /// Lets it write what can be read still. False, and said: it hangs, and no other may write beside it.
    pub(super) fn end_kernel_log(&mut self) -> bool {
        let Some(keeper) = &mut self.kernel_log else {
            return true;
        };
        let ended = keeper.stop(LAST_WORDS);
        self.note_kernel_log();
        if ended {
            self.settled("kernel-log-end");
        } else {
            self.trouble(
                "kernel-log-end",
                "the copy of the kernel log cannot be ended, since its disk does not answer: it stays where it was"
                    .to_owned(),
            );
        }
        ended
    }

    /// Its losses go on record; its trouble is in the status as long as it lasts.
    pub(super) fn note_kernel_log(&mut self) {
        self.note_outlets();
        let Some(keeper) = &self.kernel_log else {
            return;
        };
        let (losses, health) = (keeper.take_losses(), keeper.health());
        let raised = keeper.take_alarms(super::now());
        if let Some(Losses { count, why }) = losses {
            self.say(
                Record::new(Kind::Lost)
                    .severity(Severity::Medium)
                    .count(count)
                    .reason(format!("lines of the kernel log: {why}")),
            );
        }
        for alarm in raised {
            self.say_alarm(alarm);
        }
        match health.trouble {
            Some(why) => {
                self.trouble("kernel-log", format!("the copy of the kernel log: {why}"));
            }
            None => self.settled("kernel-log"),
        }
    }

    /// The keeper finds every container of the roster.
    pub(super) fn list_containers(&self) {
        for known in self.roster.iter() {
            self.directory.add(known.id, &known.path);
        }
    }

    /// What the kernel said of trouble.
    fn say_alarm(&mut self, alarm: Raised) {
        let Raised {
            pattern,
            told,
            line,
            injected,
        } = alarm;
        // Bytes: what the line has that is no text is escaped once, in the record.
        let mut words = format!("{} {}", pattern.means, pattern.advice).into_bytes();
        if injected {
            words.extend_from_slice(
                b" (A program wrote this line into the log: anyone may have made it up.)",
            );
        }
        let mut record = Record::new(Kind::Alarm)
            .severity(grave(pattern.severity))
            .rule(&pattern.name)
            .count(told.lines);
        if let Some(device) = &told.about.device {
            words.extend_from_slice(b" Device: ");
            words.extend(device.to_bytes());
            words.push(b'.');
        }
        if let Some(Said { text, by, at }) = line {
            record = record.said_at(at);
            words.extend_from_slice(b" Line: ");
            words.extend(text.to_bytes());
            // Not its printer, where it names another: who needs memory next is not who is killed for it.
            let whom = by
                .about
                .map_or((by.container, by.runtime, by.pid, by.comm), |whom| {
                    (whom.container, whom.runtime, whom.pid, whom.comm)
                });
            (record.container_id, record.container_runtime) = (whom.0, whom.1);
            (record.process_pid, record.process_executable_name) = (whom.2, whom.3);
        }
        if let Some(pid) = told.about.pid
            && record.process_pid != Some(pid)
        {
            // Of another than that container's, for all that is known.
            (record.container_id, record.container_runtime) = (None, None);
            record.process_pid = Some(pid);
            record.process_executable_name = told.about.comm;
        }
        self.say(record.reason(Text::from_bytes(&words)));
    }

    pub(super) fn kernel_log_status(&self) -> Option<KernelLogStatus> {
        let health = self.kernel_log.as_ref()?.health();
        Some(KernelLogStatus {
            file: health.file.display().to_string(),
            kept: health.kept,
            lost: health.lost,
            last_seq: health.last_seq,
            trouble: health.trouble.map(Into::into),
            forward: (self.outlets.health().into_iter())
                .map(|outlet| ForwardStatus {
                    to: outlet.to,
                    sent: outlet.sent,
                    waiting: outlet.waiting,
                    dropped: outlet.dropped,
                    trouble: outlet.trouble.map(Into::into),
                })
                .collect(),
            echoes: self.outlets.echoed(),
        })
    }
}

/// What an outlet's trouble is noted as.
fn about(to: &str) -> String {
    format!("kernel-log-to {to}")
}
