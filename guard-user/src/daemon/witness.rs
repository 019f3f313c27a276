//! Programs that refuse nothing and only tell: they are loaded when what is enforced is, and cost its start nothing.

use super::{Daemon, Plan, notes::Notes};
use crate::{
    identity::tree::Hierarchy,
    kernel::{attach::Link, btf::Btf, load::Kernel},
};

/// Loads and attaches those that the plan wants. What one that cannot be had would have told, is said.
pub(super) fn attach(
    kernel: &Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    plan: &Plan,
    notes: &mut Notes,
) -> Vec<Link> {
    let keeps = plan.kernel_log.is_some();
    let mut all = vec![(
        "moves",
        "tasks that leave their container are not recorded",
        kernel.attach_moves(btf),
    )];
    if let Some(link) = kernel.attach_made_outside(btf, hierarchy) {
        all.push((
            "made outside",
            "tasks that a container makes outside of itself are not recorded",
            link,
        ));
    }
    if keeps {
        all.push((
            "printed",
            "nobody tells who prints into the kernel log",
            kernel.attach_printed(btf),
        ));
        all.push((
            "ended",
            "whom the kernel log is about is not told of those that have ended",
            kernel.attach_ended(btf),
        ));
    }
    let mut links = Vec::new();
    for (what, lacks, link) in all {
        match link {
            Ok(link) => links.push(link),
            Err(error) => {
                notes.stand(what, format!("{lacks}: {}", error.in_short()));
            }
        }
    }
    links
}

impl Daemon {
    /// What only tells, and hooks that only audit. Once, unless they took an earlier daemon's place at the start.
    pub(super) fn attach_rest(&mut self) {
        let Some(btf) = self.btf.take() else {
            return;
        };
        self.attach_missing(&btf);
        let before = self.notes.words();
        self.settle_hooks();
        self.attach_witnesses(&btf);
        let words = self.notes.words();
        for words in words.iter().filter(|words| !before.contains(words)) {
            self.say_degraded(words);
        }
        self.write_summary();
    }

    fn attach_witnesses(&mut self, btf: &Btf) {
        let links = attach(
            &self.kernel,
            btf,
            &self.hierarchy,
            &self.plan,
            &mut self.notes,
        );
        if let Err(error) = self.kernel.pin(&links) {
            self.notes.stand(
                "witnesses",
                format!(
                    "what only tells goes with this daemon: {}",
                    error.in_short()
                ),
            );
        }
        self.links.extend(links);
    }
}
