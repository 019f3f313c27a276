//! What the rules of one kind of container deny, together: by which rule, and as the kernel side has it.

use guard_common::{
    action::{Action, Argument, Fate, Fates},
    socket::Socket,
};

use super::{
    compile::{Applied, applied},
    model::{Denial, Kind, Mode, Rule},
};

/// One thing that is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Which action.
    pub action: Action,
    /// Only where it is done to this; `None`: whatever it is done to.
    pub kind: Option<Kind>,
    /// Only in a network namespace that is not the host's first.
    pub nested: bool,
}

impl Denied {
    /// Whether who denies this denies `other` too.
    fn covers(&self, other: &Self) -> bool {
        self.action == other.action
            && (self.kind.is_none() || self.kind == other.kind)
            && (!self.nested || other.nested)
    }
}

/// What becomes of an action where it is done to one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByArgument {
    /// Which.
    pub action: Action,
    /// To what.
    pub argument: Argument,
    /// [`Fate::bit`]s.
    pub fates: u32,
}

/// What the rules in `mode` deny, each thing by the first rule that says so.
pub(super) fn denied(rules: &[(&Rule, Mode)], mode: Mode) -> Vec<Applied<Denied>> {
    let mut all: Vec<Applied<Denied>> = Vec::new();
    for (rule, _) in rules.iter().filter(|(_, of)| *of == mode) {
        for one in rule.in_force().flat_map(each) {
            if !all.iter().any(|known| known.limit.covers(&one)) {
                all.extend(applied(rule, one));
            }
        }
    }
    all.sort_by_key(|applied| applied.limit.action);
    all
}

/// Whoever is refused anything is refused to switch that off. `reserve`: the mode of the host's reserve, which is of no rule.
pub(super) fn with_the_guard_itself(
    mut all: Vec<Applied<Denied>>,
    rules: &[(&Rule, Mode)],
    reserve: Option<Mode>,
) -> Vec<Applied<Denied>> {
    let guard = Denied {
        action: Action::GuardDisable,
        kind: None,
        nested: false,
    };
    let refuses = |rule: &Rule, mode| mode == Mode::Enforce && rule.limits_anything();
    let enforced = rules.iter().find(|(rule, mode)| refuses(rule, *mode));
    let by = enforced.or_else(|| rules.first().filter(|_| reserve == Some(Mode::Enforce)));
    if let Some((rule, _)) = by
        && !all.iter().any(|known| known.limit.action == guard.action)
    {
        all.extend(applied(rule, guard));
    }
    all
}

/// The same without what enforcing refuses anyway.
pub(super) fn would_be_denied(
    mut audited: Vec<Applied<Denied>>,
    refused: &[Applied<Denied>],
) -> Vec<Applied<Denied>> {
    audited.retain(|audited| !(refused.iter()).any(|refused| refused.limit.covers(&audited.limit)));
    audited
}

fn each(denial: &Denial) -> impl Iterator<Item = Denied> {
    let actions = (Action::ALL.into_iter()).filter(|action| denial.action.includes(*action));
    actions.flat_map(move |action| {
        let one = move |kind| Denied {
            action,
            kind,
            nested: denial.nested,
        };
        let whatever = denial.kinds.is_empty().then(|| one(None));
        let of_kinds = denial
            .kinds
            .iter()
            .cloned()
            .map(move |kind| one(Some(kind)));
        whatever.into_iter().chain(of_kinds)
    })
}

/// As the kernel side has it: what becomes of actions, and where that depends on what they are done to, what.
pub(super) fn fates(
    refused: &[Applied<Denied>],
    audited: &[Applied<Denied>],
) -> (Fates, Vec<ByArgument>) {
    let mut fates = Fates::default();
    let mut table: Vec<ByArgument> = Vec::new();
    let refused = refused.iter().map(|applied| (&applied.limit, true));
    let audited = audited.iter().map(|applied| (&applied.limit, false));
    for (denied, refuses) in refused.chain(audited) {
        let fate = match (refuses, denied.nested) {
            (true, false) => Fate::Refused,
            (true, true) => Fate::RefusedNested,
            (false, false) => Fate::Audited,
            (false, true) => Fate::AuditedNested,
        };
        let Some(kind) = &denied.kind else {
            fates.add(denied.action, fate);
            continue;
        };
        fates.add_by_argument(denied.action, fate);
        let of_it =
            |one: &&mut ByArgument| (one.action, one.argument) == (denied.action, kind.argument);
        match table.iter_mut().find(of_it) {
            Some(known) => known.fates |= fate.bit(),
            None => table.push(ByArgument {
                action: denied.action,
                argument: kind.argument,
                fates: fate.bit(),
            }),
        }
    }
    let sockets = table.iter().filter(|one| one.action == Action::Socket);
    let general = sockets.fold(0, |all, one| all | 1 << Socket::generality(one.argument));
    if general != 0 {
        table.push(ByArgument {
            action: Action::Socket,
            argument: Socket::GENERAL,
            fates: general,
        });
    }
    (fates, table)
}
