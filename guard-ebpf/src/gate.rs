//! The only way to a verdict: counts it, tells it once a second, and applies the panic switch and audit mode.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use guard_common::{
    Container, Subject,
    action::{Action, Argument, ArgumentKey, Fate, Sets, Told},
    event::Kind,
    fork_storm::{Profile, Reason},
    host::Host,
};

use crate::{
    event::{self, Who},
    kernel::{add, is_kernel_thread},
    maps::{ARGUMENTS, PROFILES},
    setup, subject,
};

/// One refusal in a second is told; the others are counted.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
}

/// A container before the gate.
pub struct Attempt {
    pub host: *mut Host,
    pub slot: u32,
    pub container: *mut Container,
    pub now_ns: u64,
    /// The program can only watch: a refusal is counted as audited.
    pub watching: bool,
}

impl Attempt {
    /// `None` while the panic switch is thrown, unless it is the daemon's own `self_test`, which must know all the same.
    #[inline(always)]
    pub fn new(
        host: *mut Host,
        slot: u32,
        container: *mut Container,
        watching: bool,
        self_test: bool,
    ) -> Option<Self> {
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        // SAFETY: a live map value; the daemon stores the word whole.
        let off_until = unsafe { (&raw const (*host).off_until_ns).read_volatile() };
        (self_test || off_until <= now_ns).then_some(Self {
            host,
            slot,
            container,
            now_ns,
            watching,
        })
    }

    /// Refuses, unless the task may not be refused anything or the program only watches.
    #[inline(always)]
    pub fn refuse(&self, reason: Reason) -> Verdict {
        if may_all() {
            return Verdict::Allow;
        }
        if self.watching {
            self.audit(reason);
            return Verdict::Allow;
        }
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).refused[reason as usize], 1);
            add(&raw mut (*self.host).refused, 1);
        }
        self.tell(Kind::Refused, reason, 0);
        Verdict::Deny
    }

    /// Counts what enforcing would have refused.
    #[inline(always)]
    pub fn audit(&self, reason: Reason) {
        // SAFETY: live map values; counters are only added to.
        unsafe {
            add(&raw mut (*self.container).audited[reason as usize], 1);
            add(&raw mut (*self.host).audited, 1);
        }
        self.tell(Kind::Audited, reason, 1);
    }

    #[inline(always)]
    fn tell(&self, kind: Kind, reason: Reason, which: usize) {
        if !is_told(self.container, which, self.now_ns) {
            return;
        }
        event::tell(self.host, kind, reason as u32, self.slot, self.container, 0);
    }
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

    /// Whether any rule is about one of these actions, an [`Action::bit`] each, in one of these sets.
    #[inline(always)]
    pub fn is_about(&self, actions: u64, fates: &[Fate]) -> bool {
        // SAFETY: a live map value.
        let (all, by_argument) =
            unsafe { (&(*self.profile).actions, &(*self.profile).by_argument) };
        let mut sets = 0;
        for fate in fates {
            sets |= all[*fate as usize] | by_argument[*fate as usize];
        }
        sets & actions != 0
    }

    /// What becomes of an action, whatever it is done to: [`Fate::bit`]s.
    #[inline(always)]
    pub fn fates(&self, action: Action) -> u32 {
        // SAFETY: a live map value.
        fates_of(unsafe { &(*self.profile).actions }, action)
    }

    /// What becomes of an action where it is done to something, whatever that is: [`Fate::bit`]s.
    #[inline(always)]
    pub fn any_by_argument(&self, action: Action) -> u32 {
        // SAFETY: a live map value.
        fates_of(unsafe { &(*self.profile).by_argument }, action)
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
    pub fn close(&self, action: Action, argument: Argument, sentence: Sentence) -> Verdict {
        self.close_of((action, told(argument)), sentence, may_all, Who::current)
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
        let refused = sentence.refuses();
        let (host, container) = (self.host, self.container);
        let Some(attempt) = Attempt::new(host, self.slot, container, false, self.is_self_test())
        else {
            return Verdict::Allow;
        };
        if may_all() {
            return Verdict::Allow;
        }
        // SAFETY: live map values; counters are only added to.
        let asked = unsafe {
            let asked = &raw mut (*container).actions[action as usize];
            if refused {
                add(&raw mut (*asked).refused, 1);
            } else {
                add(&raw mut (*asked).audited, 1);
            }
            asked
        };
        // SAFETY: as above.
        if is_first(unsafe { &raw mut (*asked).told_ns }, attempt.now_ns) {
            let kind = if refused {
                Kind::ActionRefused
            } else {
                Kind::ActionAudited
            };
            event::tell_action(host, kind, (action, told), self.slot, container, who);
        }
        if refused {
            Verdict::Deny
        } else {
            Verdict::Allow
        }
    }
}

#[inline(always)]
fn fates_of(sets: &Sets, action: Action) -> u32 {
    let has = |fate: Fate| (sets[fate as usize] >> action as u32 & 1) as u32 * fate.bit();
    has(Fate::Refused) | has(Fate::RefusedNested) | has(Fate::Audited) | has(Fate::AuditedNested)
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

/// An argument as it is told.
#[inline(always)]
fn told([one, two]: Argument) -> Told {
    [one, two, 0, 0, 0, 0, 0]
}

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

/// The same where a rule may be about what it is done to.
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
    case.is_about(action.bit(), &[Fate::Refused, Fate::Audited])
        && !(action.is_setup() && case.is_setting_up())
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

/// Whether the running task may not be refused anything: a kernel thread, or the host's first process, which somebody may
/// have moved here.
#[inline(always)]
fn may_all() -> bool {
    is_kernel_thread() || bpf_get_current_pid_tgid() >> 32 == 1
}

/// Which of `Container::told_ns` is whose.
pub const TOLD_MOVED: usize = 2;
/// See [`TOLD_MOVED`].
pub const TOLD_MADE_OUTSIDE: usize = 3;

/// Whether this is the first of its kind in a window. Two CPUs may both find so; nothing is counted here.
#[inline(always)]
pub fn is_told(container: *mut Container, which: usize, now_ns: u64) -> bool {
    // SAFETY: a live map value.
    is_first(unsafe { &raw mut (*container).told_ns[which] }, now_ns)
}

#[inline(always)]
fn is_first(told: *mut u64, now_ns: u64) -> bool {
    // SAFETY: it points into a live map value; words are stored whole.
    unsafe {
        if now_ns.wrapping_sub(told.read_volatile()) < WINDOW_NS {
            return false;
        }
        told.write_volatile(now_ns);
    }
    true
}
