//! Kernel log: the host's copy of it is kept as the policy says, and what is missing there is put on record.

use super::{Daemon, switch::LAST_WORDS};
use crate::{
    control::status::KernelLogStatus,
    klog::keep::{Keeper, Losses},
    record::{Kind, Record, Severity},
};

impl Daemon {
    /// Begins, ends or moves the copy, where the policy says other than what is.
    pub(super) fn renew_kernel_log(&mut self) {
        let wanted = self.plan.kernel_log.clone();
        if self.kernel_log.as_ref().and_then(Keeper::settings) == wanted.as_ref() {
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
        match Keeper::start(settings, position) {
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
        let Some(keeper) = &self.kernel_log else {
            return;
        };
        let (losses, health) = (keeper.take_losses(), keeper.health());
        if let Some(Losses { count, why }) = losses {
            self.say(
                Record::new(Kind::Lost)
                    .severity(Severity::Medium)
                    .count(count)
                    .reason(format!("lines of the kernel log: {why}")),
            );
        }
        match health.trouble {
            Some(why) => {
                self.trouble("kernel-log", format!("the copy of the kernel log: {why}"));
            }
            None => self.settled("kernel-log"),
        }
    }

    pub(super) fn kernel_log_status(&self) -> Option<KernelLogStatus> {
        let health = self.kernel_log.as_ref()?.health();
        Some(KernelLogStatus {
            file: health.file.display().to_string(),
            kept: health.kept,
            lost: health.lost,
            last_seq: health.last_seq,
            trouble: health.trouble.map(Into::into),
        })
    }
}
