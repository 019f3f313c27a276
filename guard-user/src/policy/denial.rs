//! What a rule denies, as data: actions, some of them only of certain kinds, and where.

use guard_common::{
    action::{Action, Argument, Takes},
    device::Device,
    module, mount,
    netlink::{Family, NETFILTER},
    rtnetlink,
    setting::Path,
    socket::{ANY, FAMILIES, Socket},
    thin::{DM_THIN, DM_THIN_NAME},
};

use super::armed::Armed;

/// An action that a rule denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which.
    pub action: Action,
    /// Only where it is done to one of these; empty: whatever it is done to.
    pub kinds: Vec<Kind>,
    /// Only in a network namespace that is not the host's first.
    pub nested: bool,
    /// Whether it is in force, as far as that depends on the kernel.
    pub armed: Armed,
}

/// What an action is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// As the kernel side has it.
    pub argument: Argument,
}

impl Denial {
    /// Discards on whatever stands on dm-thin.
    #[must_use]
    pub fn of_thin_discards(armed: Armed) -> Self {
        Self {
            action: Action::Discard,
            kinds: vec![Kind {
                name: DM_THIN_NAME.to_owned(),
                argument: DM_THIN,
            }],
            nested: false,
            armed,
        }
    }

    /// Whether it refuses an action whenever that is done to one of these kinds, or to whichever where there are none, and only
    /// in a nested network namespace if `nested`.
    #[must_use]
    pub fn covers(&self, action: Action, kinds: &[String], nested: bool) -> bool {
        let of_kinds = self.kinds.is_empty()
            || !kinds.is_empty() && kinds.iter().all(|name| self.has_all_of(name));
        self.action.includes(action) && of_kinds && (!self.nested || nested)
    }

    /// Whether it refuses an action, somewhere, where that is done to any of these kinds; also where there are none, since what is
    /// not told apart may be any.
    #[must_use]
    pub fn meets(&self, action: Action, kinds: &[String]) -> bool {
        let of_kinds = self.kinds.is_empty()
            || kinds.is_empty()
            || kinds.iter().any(|name| self.has_some_of(name));
        self.action.includes(action) && of_kinds
    }

    /// Whether it refuses that where it is done to some of what has this name: for a family of sockets, a type of it.
    fn has_some_of(&self, name: &str) -> bool {
        let family = |argument| Socket::from_argument(argument).map(|socket| socket.family);
        let Some(whole) = whole(self.action, name) else {
            return false;
        };
        self.has_all_of(name)
            || self.action.takes() == Takes::Sockets
                && (self.kinds.iter()).any(|kind| family(kind.argument) == family(whole))
            || (self.kinds.iter()).any(|kind| includes(self.action, whole, kind.argument))
    }

    /// Whether it refuses that wherever it is done to what has this name.
    fn has_all_of(&self, name: &str) -> bool {
        let mut all = self.kinds.iter();
        match whole(self.action, name) {
            Some(whole) => all.any(|kind| includes(self.action, kind.argument, whole)),
            None => false,
        }
    }

    /// As a policy writes it, without `when`.
    #[must_use]
    pub fn words(&self) -> String {
        if self.kinds.is_empty() {
            return self.action.name().to_owned();
        }
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name.as_str()).collect();
        format!("{} of {}", self.action.name(), kinds.join(", "))
    }
}

/// The action that policies call so; `None`: this version refuses none of that name.
#[must_use]
pub fn action(name: &str) -> Option<Action> {
    (Action::ALL.into_iter()).find(|action| action.name() == name)
}

/// All of what has this name, as the kernel side has it: not by the name, since policies may write numbers, and `-` for `_`.
fn whole(action: Action, name: &str) -> Option<Argument> {
    match action.takes() {
        Takes::Nothing => None,
        Takes::Kinds => rtnetlink::kind(name),
        Takes::Sockets => {
            let (_, family) = FAMILIES.iter().find(|(known, _)| *known == name)?;
            let all = Socket {
                family: *family,
                kind: ANY,
                protocol: ANY,
            };
            Some(all.argument())
        }
        Takes::Families => Family::named(name).map(Family::argument),
        Takes::Names => module::name(name).map(|name| module::argument(&name)),
        Takes::FileSystems => mount::file_system(name),
        Takes::KeyTypes => guard_common::action::name(name),
        Takes::Devices => name.parse().ok().map(Device::argument),
        Takes::Paths => Path::argument(name),
        Takes::StandsOn => (name == DM_THIN_NAME).then_some(DM_THIN),
    }
}

/// Whether who refuses `one` of an action refuses `other` too.
fn includes(action: Action, one: Argument, other: Argument) -> bool {
    let netfilter = Family::whole(NETFILTER).argument();
    let is_behind = || Family::from_argument(other).is_some_and(|of| of.family == NETFILTER);
    if action.takes() == Takes::Devices {
        let device = Device::from_argument(other);
        return device.is_some_and(|device| {
            (0..Device::GENERALITIES).any(|which| device.open(which).argument() == one)
        });
    }
    one == other || action.takes() == Takes::Families && one == netfilter && is_behind()
}

/// The words of all that a rule denies.
#[must_use]
pub fn words<'d>(all: impl IntoIterator<Item = &'d Denial>) -> String {
    let all: Vec<&Denial> = all.into_iter().collect();
    let each: Vec<String> = all.iter().map(|denial| denial.words()).collect();
    let place = if all.iter().any(|denial| denial.nested) {
        " in a nested network namespace"
    } else {
        ""
    };
    format!("{}{place}", each.join(", "))
}
