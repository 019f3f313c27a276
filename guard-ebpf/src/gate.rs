//! The only way to a verdict: what rules say of an action, told once a second and counted, under the panic switch and audit mode.

use core::mem::{offset_of, transmute};

use guard_common::{
    Container, Subject,
    action::{ACTIONS, Action, Argument, ArgumentKey, Asked, Fate, Fates, Told},
    event::Kind,
    fork_storm::Profile,
    host::Host,
};

use crate::{
    attempt::{Attempt, is_first, may_all},
    event::{self, Who},
    kernel::{self, add},
    maps::{ARGUMENTS, CONTAINERS, PROFILES},
    setup, subject,
};

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
}

/// A container whose task is about to do something.
pub struct Case {
    host: *mut Host,
    slot: u32,
    container: *mut Container,
    profile: *const Profile,
    profile_index: u32,
    /// 1: it is the daemon's own self-test.
    self_test: u32,
}

/// What becomes of an action.
#[derive(Clone, Copy)]
pub struct Sentence(u32);

impl Sentence {
    const REFUSED: u32 = Fate::Refused.bit();
    const AUDITED: u32 = Fate::Audited.bit();

    /// What fates come to, where `nested` is all ones in a network namespace that is not the host's first, and else 0. Reckoned
    /// and not asked: the verifier follows each answer through all that comes after.
    #[inline(always)]
    pub fn of(fates: u32, nested: u32) -> Self {
        const {
            assert!(
                Fate::Refused.bit() << 1 == Fate::RefusedNested.bit()
                    && Fate::Audited.bit() << 1 == Fate::AuditedNested.bit()
            );
        }
        Self((fates | fates >> 1 & nested) & (Self::REFUSED | Self::AUDITED))
    }

    /// Of two, what either says.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same where it refuses; else nothing.
    #[inline(always)]
    pub fn if_refused(self) -> Self {
        Self(self.0 & Self::REFUSED)
    }

    #[inline(always)]
    pub fn refuses(self) -> bool {
        self.0 & Self::REFUSED != 0
    }
}

impl Case {
    /// The running task's; `None`: it is the host's, or something could not be looked up.
    #[inline(always)]
    pub fn of_current() -> Option<Self> {
        let host = subject::host()?;
        Self::of(host, subject::of_current(host)?)
    }

    /// That of a subject which the program has found out by its own ways.
    #[inline(always)]
    pub fn of(host: *mut Host, subject: Subject) -> Option<Self> {
        let container = subject::container(&subject)?;
        // SAFETY: a live map value; the daemon stores the word whole.
        let profile_index = unsafe { (&raw const (*container).profile).read_volatile() };
        let profile = PROFILES.get(profile_index)?;
        Some(Self {
            host,
            slot: subject.slot,
            container,
            profile,
            profile_index,
            self_test: profile.self_test,
        })
    }

    /// Whether a cgroup of our hierarchy is the container's own or stands below it; `None`: that cannot be told.
    #[inline(always)]
    pub fn has(&self, cgroup: u64) -> Option<bool> {
        subject::own_cgroup(self.container)?;
        subject::contains(self.container, cgroup)
    }

    /// Whether it is the daemon's own self-test.
    #[inline(always)]
    pub fn is_self_test(&self) -> bool {
        self.self_test != 0
    }

    /// Whether the container is still being set up by the running process: an action that [`Action::is_setup`] is allowed then,
    /// and not counted. Only where that is kept is such an action asked about.
    #[inline(always)]
    pub fn is_setting_up(&self) -> bool {
        !self.is_self_test() && setup::is_going_on(self.container)
    }

    /// Whether any rule is about this action in one of these ways, a [`Fate::bit`] each.
    #[inline(always)]
    pub fn is_about(&self, action: Action, fates: u32) -> bool {
        self.of_profile().any(action) & fates != 0
    }

    /// What becomes of an action, whatever it is done to: [`Fate::bit`]s.
    #[inline(always)]
    pub fn fates(&self, action: Action) -> u32 {
        self.of_profile().of(action)
    }

    /// What becomes of an action where it is done to something, whatever that is: [`Fate::bit`]s.
    #[inline(always)]
    pub fn any_by_argument(&self, action: Action) -> u32 {
        self.of_profile().by_argument(action)
    }

    #[inline(always)]
    fn of_profile(&self) -> &Fates {
        // SAFETY: a live map value, of bytes that the daemon stores whole.
        unsafe { &(*self.profile).fates }
    }

    /// What becomes of an action where it is done to this: [`Fate::bit`]s.
    #[inline(always)]
    pub fn fates_by_argument(&self, action: Action, argument: Argument) -> u32 {
        fates_by_argument(self.profile_index, action, argument)
    }

    /// Index in `PROFILES`.
    #[inline(always)]
    pub fn profile(&self) -> u32 {
        self.profile_index
    }

    /// What fates come to; see [`Sentence::of`].
    #[inline(always)]
    pub fn sentence(&self, fates: u32, nested: u32) -> Sentence {
        Sentence::of(fates, nested)
    }

    /// Counts, tells and applies a sentence on the running task.
    #[inline(always)]
    pub fn close(&self, action: Action, [one, two]: Argument, sentence: Sentence) -> Verdict {
        if sentence.0 == 0 {
            return Verdict::Allow;
        }
        let what = self.what(action, sentence).packed();
        match gate_close(what, one, two) {
            0 => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }

    /// The same where more is told than decides.
    #[inline(always)]
    pub fn close_told(&self, action: Action, told: Told, sentence: Sentence) -> Verdict {
        self.close_of((action, told), sentence, may_all, Who::current)
    }

    /// The same, for a program that may not call every helper: whether the task may not be refused anything and who it is, it
    /// finds out by its own ways.
    #[inline(always)]
    pub fn close_of(
        &self,
        (action, told): (Action, Told),
        sentence: Sentence,
        may_all: impl Fn() -> bool,
        who: impl Fn() -> Who,
    ) -> Verdict {
        if sentence.0 == 0 {
            return Verdict::Allow;
        }
        let what = self.what(action, sentence);
        settle(self.host, self.container, what, told, may_all, who)
    }

    #[inline(always)]
    fn what(&self, action: Action, sentence: Sentence) -> What {
        What {
            slot: self.slot,
            action: action as u32,
            refused: sentence.refuses(),
            self_test: self.is_self_test(),
        }
    }
}

/// What is to be counted and told of a case.
struct What {
    slot: u32,
    action: u32,
    refused: bool,
    self_test: bool,
}

impl What {
    /// In one word, for a function that takes no more.
    #[inline(always)]
    fn packed(&self) -> u64 {
        u64::from(self.slot)
            | u64::from(self.action) << 32
            | u64::from(self.refused) << 40
            | u64::from(self.self_test) << 41
    }

    #[inline(always)]
    fn of(packed: u64) -> Self {
        Self {
            slot: packed as u32,
            action: (packed >> 32) as u32 & 0xff,
            refused: packed >> 40 & 1 != 0,
            self_test: packed >> 41 & 1 != 0,
        }
    }
}

/// [`settle`] on the running task, 1: refused. The daemon loads it as a global function, as all that take and give only numbers: of
/// those the verifier looks at one once, wherever the program calls it and with what (decision 0020).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gate_close(what: u64, one: u64, two: u64) -> u32 {
    let what = What::of(what);
    let (Some(host), Some(container)) = (subject::host_of_all(), CONTAINERS.get_ptr_mut(what.slot))
    else {
        return 0;
    };
    let told = [one, two, 0, 0, 0, 0, 0];
    let verdict = settle(host, container, what, told, may_all, Who::current);
    u32::from(verdict == Verdict::Deny)
}

/// Tells once a window what becomes of an action, counts it, and says so. In this order: who sees the count finds in the ring who it was,
/// but for what another processor is about to tell.
#[inline(always)]
fn settle(
    host: *mut Host,
    container: *mut Container,
    what: What,
    told: Told,
    may_all: impl Fn() -> bool,
    who: impl Fn() -> Who,
) -> Verdict {
    const {
        assert!(
            offset_of!(Asked, audited) == offset_of!(Asked, refused) + size_of::<u64>()
                && Kind::ActionAudited as u32 == Kind::ActionRefused as u32 + 1
        );
    }
    let Some(attempt) = Attempt::new(host, what.slot, container, false, what.self_test) else {
        return Verdict::Allow;
    };
    if may_all() {
        return Verdict::Allow;
    }
    // Where it comes out of a packed word nothing else says that there is such an action.
    let action = kernel::counted(u64::from(what.action));
    if action >= ACTIONS as u64 {
        return Verdict::Allow;
    }
    let action = kernel::counted(action);
    // Reckoned, so that what is refused and what is audited goes one way.
    let audited = u32::from(!what.refused);
    // SAFETY: a live map value, and the number of one of its actions.
    let asked = unsafe {
        (&raw mut (*container).actions)
            .cast::<Asked>()
            .add(action as usize)
    };
    // SAFETY: as above.
    if is_first(unsafe { &raw mut (*asked).told_ns }, attempt.now_ns) {
        let kind = Kind::ActionRefused as u32 + audited;
        event::tell_action(host, kind, (what.action, told), what.slot, container, who);
    }
    // SAFETY: as above; two counters stand side by side, and are only added to.
    unsafe { add((&raw mut (*asked).refused).add(audited as usize), 1) };
    if what.refused {
        Verdict::Deny
    } else {
        Verdict::Allow
    }
}

/// What becomes of an action in containers of this profile, where it is done to this: [`Fate::bit`]s.
#[inline(always)]
pub fn fates_by_argument(profile: u32, action: Action, argument: Argument) -> u32 {
    let key = ArgumentKey {
        profile,
        action: action as u32,
        argument,
    };
    // SAFETY: entries are replaced whole and read once, under RCU.
    unsafe { ARGUMENTS.get(&key) }.copied().unwrap_or_default()
}

/// What becomes of an action wherever it is done.
pub const ANYWHERE: u32 = Fate::Refused.bit() | Fate::Audited.bit();

/// No argument.
pub const NONE: Argument = [0; 2];

/// Whether the running task may do this, whatever it is done to and wherever; `None`: it is the host's, its container is being set
/// up, or something could not be looked up. All of them may.
#[inline(always)]
pub fn ask(action: Action) -> Option<Verdict> {
    let case = Case::of_current()?;
    if action.is_setup() && !is_asked(&case, action) {
        return None;
    }
    Some(case.close(action, NONE, case.sentence(case.fates(action), 0)))
}

/// Whether the running task is refused this. For programs that ask about more than one action.
#[inline(always)]
pub fn denies(action: Action) -> bool {
    gate_denies(action as u64) != 0
}

/// 1: it is. Global, as [`gate_close`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gate_denies(action: u64) -> u32 {
    let ask = || ask(numbered(action)?);
    u32::from(ask() == Some(Verdict::Deny))
}

/// The action with this number.
#[inline(always)]
pub fn numbered(action: u64) -> Option<Action> {
    let number = kernel::counted(action);
    if number >= ACTIONS as u64 {
        return None;
    }
    // What was compared is what is used, or the verifier of 5.10 knows of no bound.
    let number = kernel::counted(number) as u32;
    // SAFETY: they are numbered from 0 on, as `Action::ALL` has them.
    Some(unsafe { transmute::<u32, Action>(number) })
}

/// The same as [`ask`] where a rule may be about what it is done to.
#[inline(always)]
pub fn ask_about(action: Action, argument: Argument) -> Option<Verdict> {
    let case = Case::of_current()?;
    if !is_asked(&case, action) {
        return None;
    }
    let fates = case.fates(action) | case.fates_by_argument(action, argument);
    Some(case.close(action, argument, case.sentence(fates, 0)))
}

/// Whether any rule is about this action of the container's, and it is not its runtime that does it.
#[inline(always)]
pub fn is_asked(case: &Case, action: Action) -> bool {
    case.is_about(action, ANYWHERE) && !(action.is_setup() && case.is_setting_up())
}

/// The same, for a program that may not call every helper; see [`Case::close_of`].
#[inline(always)]
pub fn ask_of(
    host: *mut Host,
    subject: Subject,
    action: Action,
    may_all: impl Fn() -> bool,
    who: impl Fn() -> Who,
) -> Option<Verdict> {
    let case = Case::of(host, subject)?;
    let sentence = case.sentence(case.fates(action), 0);
    Some(case.close_of((action, Told::default()), sentence, may_all, who))
}
