//! The hooks that judge actions: attached while the policy has a rule for them, since each costs every task of the host.

use std::path::Path;

use guard_common::action::Action;

use super::{Daemon, Plan};
use crate::{
    act::restrict,
    kernel::{
        attach::functions,
        btf::Btf,
        hooks::{self, Hook, Proved},
        open,
        rungs::Rung,
    },
};

/// The hooks that a policy has rules for.
pub(super) fn needed(plan: &Plan) -> impl Iterator<Item = &'static Hook> {
    hooks::all().filter(|hook| plan.judges(hook.actions))
}

/// Those of them that a start cannot be without: what they refuse would not be refused. One that only audits comes with what only
/// tells, and costs the start nothing; but what an earlier daemon's did goes on without a gap.
pub(super) fn needed_at_once(plan: &Plan, taken_over: bool) -> Vec<&'static Hook> {
    needed(plan)
        .filter(|hook| taken_over || plan.refuses(hook.actions))
        .collect()
}

impl Daemon {
    /// After a change of the policy: attaches what it needs, and lets go of what it needs no more.
    pub(super) fn renew_hooks(&mut self) {
        let needed: Vec<&'static Hook> = needed(&self.plan).collect();
        let is_needed = |program: &str| {
            let with_lower = |hook: &&'static Hook| [Some(*hook), hook.lower];
            let mut all = needed.iter().flat_map(with_lower).flatten();
            all.any(|hook| hook.program == program)
        };
        for mut gone in self
            .hooks
            .extract_if(.., |proved| !is_needed(proved.hook.program))
        {
            gone.let_go(&self.kernel);
        }
        if self.missing_hooks().next().is_some() {
            let btf = Btf::of_this_kernel(&functions()).unwrap_or_else(|_| Btf::none());
            self.attach_missing(&btf);
        }
        self.settle_hooks();
    }

    /// When hooks have come or gone.
    pub(super) fn settle_hooks(&mut self) {
        if !hooks::need_setup(&self.hooks) {
            self.setup.detach(&self.kernel);
        }
        self.note_hooks();
    }

    /// Attaches what the policy needs and is not there yet.
    pub(super) fn attach_missing(&mut self, btf: &Btf) {
        let (at_forks, others): (Vec<_>, Vec<_>) =
            (self.missing_hooks()).partition(|hook| hook.is_at_forks());
        let rung = self.options.rung;
        let at_forks_on = hooks::forced_at_forks(self.rung, rung);
        let setup = &mut self.setup;
        let kernel = &mut self.kernel;
        let mut new = hooks::attach(kernel, btf, &self.hierarchy, others, setup, rung);
        new.extend(hooks::attach(
            kernel,
            btf,
            &self.hierarchy,
            at_forks,
            setup,
            at_forks_on,
        ));
        let proved = hooks::prove(kernel, btf, &self.hierarchy, &mut new, setup, rung);
        self.hooks.extend(new);
        if let Err(error) = proved {
            self.trouble("self-test", error.to_string());
        }
    }

    fn missing_hooks(&self) -> impl Iterator<Item = &'static Hook> {
        needed(&self.plan).filter(|hook| {
            let in_place = hook.lower.filter(|lower| !lower.partial);
            let or_lower = [Some(*hook), in_place];
            !self.hooks.iter().any(|proved| {
                let mut either = or_lower.iter().flatten();
                either.any(|hook| hook.program == proved.hook.program)
            })
        })
    }

    /// A rule whose hook refuses nothing here is not held, and that is said.
    pub(super) fn note_hooks(&mut self) {
        // What takes another's place is told of with it, unless that one is not there at all.
        let alone = |hook: &'static Hook| hook.lower.filter(|_| self.proved(hook).is_none());
        let mut all: Vec<&'static Hook> = hooks::all().collect();
        all.extend(hooks::all().filter_map(alone));
        for hook in all {
            let open = (self.proved(hook)).filter(|proved| proved.link.is_none() || proved.unknown);
            let lower = hook.lower.and_then(|hook| self.proved(hook));
            match open.map(|proved| words(proved, lower)) {
                Some(words) => {
                    self.notes.stand(hook.program, words);
                }
                None => {
                    self.notes.settle(hook.program);
                }
            }
        }
    }

    fn proved(&self, hook: &Hook) -> Option<&Proved> {
        let mut all = self.hooks.iter();
        all.find(|proved| proved.hook.program == hook.program)
    }

    /// Whether every hook that the policy has a rule for refuses, as far as there is anything here to refuse.
    pub(super) fn hooks_refuse(&self) -> bool {
        (self.hooks.iter()).all(|proved| proved.link.is_some() && !proved.unknown)
    }

    /// The best of the mechanisms that judge an action here.
    pub(super) fn rung_of(&self, action: Action) -> Rung {
        let judges = |proved: &&Proved| proved.hook.actions.contains(&action);
        let rungs = self.hooks.iter().filter(judges);
        rungs
            .filter_map(|proved| proved.rung)
            .min()
            .unwrap_or(self.rung)
    }

    /// Ways to what rules deny that are open here.
    pub(super) fn open_ways(&self) -> Vec<String> {
        open::ways(
            &hooks::refusing(&self.hooks),
            restrict::thrown(Path::new(restrict::FILE)).ok(),
        )
    }
}

fn words(proved: &Proved, lower: Option<&Proved>) -> String {
    let (hook, reason) = (proved.hook, &proved.reason);
    match lower {
        _ if proved.link.is_some() => format!(
            "{} was not seen to be refused ({}): {reason}",
            hook.what, hook.name
        ),
        Some(lower) if lower.link.is_some() => format!(
            "of {}, only {} is refused ({}): {reason}",
            hook.what, lower.hook.what, lower.hook.name
        ),
        Some(lower) => format!(
            "{} is not refused ({}): {reason}; nor is {} ({}): {}",
            hook.what, hook.name, lower.hook.what, lower.hook.name, lower.reason
        ),
        None => format!("{} is not refused ({}): {reason}", hook.what, hook.name),
    }
}
