//! The hooks that judge actions: attached while the policy has a rule for them, since each costs every task of the host.

use super::{Daemon, Plan};
use crate::kernel::{
    attach::FUNCTIONS,
    btf::Btf,
    hooks::{self, Hook, Proved},
};

/// The hooks that a policy has rules for.
pub(super) fn needed(plan: &Plan) -> impl Iterator<Item = &'static Hook> {
    hooks::all().filter(|hook| plan.judges(hook.actions))
}

impl Daemon {
    /// After a change of the policy: attaches what it needs, and lets go of what it needs no more.
    pub(super) fn renew_hooks(&mut self) {
        let needed: Vec<&'static Hook> = needed(&self.plan).collect();
        let is_in = |hooks: &[&Hook], name: &str| hooks.iter().any(|hook| hook.program == name);
        for gone in self
            .hooks
            .extract_if(.., |proved| !is_in(&needed, proved.hook.program))
        {
            if let Some(link) = &gone.link {
                self.kernel.unpin(std::slice::from_ref(link));
            }
        }
        let missing: Vec<&'static Hook> = needed
            .into_iter()
            .filter(|hook| {
                self.hooks
                    .iter()
                    .all(|proved| proved.hook.program != hook.program)
            })
            .collect();
        if !missing.is_empty() {
            let btf = Btf::of_this_kernel(&FUNCTIONS).unwrap_or_else(|_| Btf::none());
            let mut new = hooks::attach(&self.kernel, &btf, missing, self.options.rung);
            if let Err(error) = hooks::prove(&mut self.kernel, &self.hierarchy, &mut new) {
                self.trouble("self-test", error.to_string());
            }
            self.hooks.extend(new);
        }
        self.note_hooks();
    }

    /// A rule whose hook refuses nothing here is not held, and that is said.
    pub(super) fn note_hooks(&mut self) {
        for hook in hooks::all() {
            let open = self
                .hooks
                .iter()
                .find(|proved| proved.hook.program == hook.program && proved.link.is_none());
            match open.map(words) {
                Some(words) => {
                    self.notes.stand(hook.program, words);
                }
                None => {
                    self.notes.settle(hook.program);
                }
            }
        }
    }

    /// Whether every hook that the policy has a rule for refuses.
    pub(super) fn hooks_refuse(&self) -> bool {
        self.hooks.iter().all(|proved| proved.link.is_some())
    }
}

fn words(proved: &Proved) -> String {
    format!(
        "{} is not refused ({}): {}",
        proved.hook.what, proved.hook.name, proved.reason
    )
}
