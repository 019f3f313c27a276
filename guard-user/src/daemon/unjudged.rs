//! What passed though it should have been judged: said, since nobody refuses it any more.

use std::fs;

use super::Daemon;
use crate::kernel::{attach::release, hooks::SWITCH};

/// From here on the kernel lets `kernel.ftrace_enabled` be 0 while trampolines are attached.
const SWITCHED_OFF: (u32, u32) = (6, 0);

impl Daemon {
    /// Puts the count of forks under way right, and says if forks were not judged at all.
    pub(super) fn note_unjudged(&mut self) {
        self.note_passed_by();
        let unjudged = self.kernel.mend_forking(&self.links);
        if unjudged > self.unjudged {
            self.unjudged = unjudged;
            self.note(
                "unjudged",
                format!(
                    "forks pass unjudged, {unjudged} so far: this kernel leaves a program out where it was preempted in it. \
                     pids.max holds the caps all the same. Boot with bpf among the security modules (lsm=…,bpf), or with \
                     preempt=voluntary"
                ),
            );
        }
    }

    /// Says if what refuses is switched off, or was passed by.
    fn note_passed_by(&mut self) {
        let off = fs::read(SWITCH).is_ok_and(|value| value.starts_with(b"0"));
        if off && release() >= SWITCHED_OFF {
            self.note(
                "switched-off",
                "kernel.ftrace_enabled is 0: no hook refuses anything until it is 1 again, and nobody counts what passes. Set it \
                 to 1"
                    .to_owned(),
            );
        }
        let mut sum = 0;
        let mut missed = Vec::new();
        for (proved, link) in
            (self.hooks.iter()).filter_map(|proved| Some((proved, proved.link.as_ref()?)))
        {
            let count = link.misses();
            sum += count;
            if count > 0 {
                missed.push(format!("{} {count}", proved.hook.name));
            }
        }
        // Over when it goes on no more. Hooks that go with their rules take their counts along.
        let before = std::mem::replace(&mut self.passed_by, sum);
        if sum > before {
            self.note(
                "passed-by",
                format!(
                    "passed unjudged, since this kernel leaves a program out where it was preempted in it: {}. Boot with bpf among \
                     the security modules (lsm=…,bpf), or with preempt=voluntary",
                    missed.join(", ")
                ),
            );
        }
    }
}
