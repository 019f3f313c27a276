//! The hooks that judge actions, each with the trial that shows that it refuses.

mod anonymous;
mod bpf;
mod cgroup_move;
mod device;
mod kernel_log;
mod key;
mod module;
mod mount;
mod net_link;
mod net_namespace;
mod netlink;
mod perf_event;
mod ptrace;
mod reboot;
mod rtnetlink;
mod seen;
mod setting;
mod socket;
mod swap;
mod thin_discard;
mod user_namespace;

use std::os::fd::{AsRawFd, OwnedFd};

use guard_common::action::Action;
use nix::{errno::Errno, libc};

use super::{
    attach::{Link, SECURITY_TASK_ALLOC},
    btf::Btf,
    load::Kernel,
    rungs::{self, Rung},
    self_test::{self, Outcome, SelfTestError, Trial},
    setup::Setup,
};
use crate::identity::tree::{Hierarchy, Version, id_of};

pub use anonymous::{IO_URING, USERFAULTFD};
pub use bpf::BPF;
pub use cgroup_move::CGROUP_MOVE;
pub use device::DEVICE;
pub use kernel_log::{KERNEL_LOG, KERNEL_LOG_DEVICES};
pub use key::KEY;
pub use module::MODULE;
pub use mount::MOUNT;
pub use net_link::NET_LINK;
pub use net_namespace::NET_NAMESPACE;
pub use netlink::NETLINK;
pub use perf_event::{PERF_EVENT, PERF_EVENT_OPEN};
pub use ptrace::PTRACE;
pub use reboot::REBOOT;
pub use rtnetlink::RTNETLINK;
pub use seen::seen;
pub use setting::{SETTING, SWITCH};
pub use socket::SOCKET;
pub use swap::SWAP;
pub use thin_discard::THIN_DISCARD;
pub use user_namespace::USER_NAMESPACE;

/// A place where the kernel asks its security modules.
pub struct Hook {
    /// The hazard that it is for.
    pub hazard: &'static str,
    /// The hook, as the kernel calls it.
    pub name: &'static str,
    /// Our program.
    pub program: &'static str,
    /// Where it is attached.
    pub place: Place,
    /// What it stands before, in words.
    pub what: &'static str,
    /// Ways to the same that are open where it refuses nothing.
    pub open: &'static [&'static str],
    /// What takes its place then.
    pub lower: Option<&'static Hook>,
    /// It stands only where the kernel has no such function to ask instead.
    pub without: Option<&'static str>,
    /// It stands only where the kernel has this function: elsewhere there is nothing to stand before.
    pub with: Option<&'static str>,
    /// It stands before nothing where containers are told apart on cgroup v1.
    pub on_v2: bool,
    /// Programs at the entries of functions, by which it knows what it is asked about.
    pub entries: &'static [(&'static str, &'static str)],
    /// The same at their ends.
    pub exits: &'static [(&'static str, &'static str)],
    /// It stands before some ways only, in place of one that stands before all.
    pub partial: bool,
    /// The actions that it judges; the first is the one that is tried.
    pub actions: &'static [Action],
    /// The way to try it.
    trial: fn() -> Result<Tool, String>,
}

/// Where a program is attached.
#[derive(Clone, Copy)]
pub enum Place {
    /// Where the kernel asks its security modules.
    Asked {
        /// The function that a BPF LSM program stands in for.
        lsm: &'static str,
        /// The function that asks all security modules.
        security: &'static str,
    },
    /// Where it asks the device programs of cgroups.
    Devices {
        /// The program that reads no kernel memory, if it can be done without.
        plain: Option<&'static str>,
    },
    /// Where it asks the programs of cgroups before a file below /proc/sys is read or written.
    Settings,
}

/// What most hooks have: nothing takes their place, and they take nobody's.
const BY_ITSELF: Hook = Hook {
    hazard: "",
    name: "",
    program: "",
    place: Place::Settings,
    what: "",
    open: &[],
    lower: None,
    without: None,
    with: None,
    on_v2: false,
    entries: &[],
    exits: &[],
    partial: false,
    actions: &[],
    trial: || Err(String::new()),
};

impl Hook {
    /// Whether it stands where the governor of forks does.
    pub fn is_at_forks(&self) -> bool {
        matches!(self.place, Place::Asked { security, .. } if security == SECURITY_TASK_ALLOC)
    }

    /// Whether runtimes do themselves what it judges, so that it must be known when they do.
    fn is_of_setup(&self) -> bool {
        self.actions.iter().any(|action| action.is_setup())
    }
}

/// What a trial needs, made beforehand, and the trial itself.
struct Tool {
    file: Option<OwnedFd>,
    run: fn(i32) -> i32,
}

/// Every hook that judges actions; not those that take the place of another.
pub fn all() -> impl Iterator<Item = &'static Hook> {
    (KERNEL_LOG.iter())
        .chain(&RTNETLINK)
        .chain(&NET_LINK)
        .chain(&SOCKET)
        .chain(&SETTING)
        .chain(&BPF)
        .chain(&NETLINK)
        .chain(&USER_NAMESPACE)
        .chain(&MODULE)
        .chain(&MOUNT)
        .chain(&NET_NAMESPACE)
        .chain(&PERF_EVENT)
        .chain(&KEY)
        .chain(&IO_URING)
        .chain(&USERFAULTFD)
        .chain(&PTRACE)
        .chain(&SWAP)
        .chain(&REBOOT)
        .chain(&DEVICE)
        .chain(&THIN_DISCARD)
        .chain(&CGROUP_MOVE)
}

/// Functions of the kernel that these, and what takes their place, attach to or go by.
pub fn functions() -> impl Iterator<Item = &'static str> {
    all()
        .flat_map(|hook| std::iter::once(hook).chain(hook.lower))
        .flat_map(|hook| {
            let (lsm, security) = match hook.place {
                Place::Asked { lsm, security } => (Some(lsm), Some(security)),
                Place::Devices { .. } | Place::Settings => (None, None),
            };
            let entries = hook.entries.iter().map(|(_, function)| Some(*function));
            [lsm, security, hook.without, hook.with]
                .into_iter()
                .chain(entries)
        })
        .flatten()
}

/// What became of a hook.
pub struct Proved {
    /// Which.
    pub hook: &'static Hook,
    /// What it runs on; `None`: nothing, and why.
    pub rung: Option<Rung>,
    /// Its program was seen to refuse.
    pub enforcing: bool,
    /// It could not be tried although the way may be open to others: nothing is known of it.
    pub unknown: bool,
    /// What was seen, or why it does not work.
    pub reason: String,
    /// The program that acts.
    pub link: Option<Link>,
    /// Those by which it knows what it is asked about.
    pub entries: Vec<Link>,
}

impl Proved {
    /// `ENFORCING`: seen to refuse. `DEGRADED`: likewise, and other ways are open. `ATTACHED`: there was nothing to try it on.
    /// `OPEN`: it refuses nothing.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (&self.link, self.enforcing) {
            (Some(_), true) if self.hook.partial => "DEGRADED",
            (Some(_), true) => "ENFORCING",
            (Some(_), false) => "ATTACHED",
            (None, _) => "OPEN",
        }
    }
}

impl Proved {
    /// Takes its programs away.
    pub fn let_go(&mut self, kernel: &Kernel) {
        if let Some(link) = self.link.take() {
            kernel.unpin(std::slice::from_ref(&link));
        }
        kernel.unpin(&std::mem::take(&mut self.entries));
    }
}

/// Each hook, and whether it refuses.
#[must_use]
pub fn refusing(hooks: &[Proved]) -> Vec<(&'static Hook, bool)> {
    let each = hooks.iter();
    each.map(|proved| (proved.hook, proved.link.is_some()))
        .collect()
}

/// Whether what any of these judges is done by runtimes too.
#[must_use]
pub fn need_setup(hooks: &[Proved]) -> bool {
    (hooks.iter()).any(|proved| proved.link.is_some() && proved.hook.is_of_setup())
}

/// What hooks at forks are forced to, where the governor runs on this rung: on the same one the last that was attached runs first.
#[must_use]
pub fn forced_at_forks(governor: Rung, forced: Option<Rung>) -> Option<Rung> {
    match governor.refuses() {
        true => Some(governor),
        false => forced,
    }
}

/// Attaches hooks, on the rung that this host's security modules offer; where one cannot be, what takes its place: beside it, or
/// alone if nothing is amiss then. Nothing is proved by that.
#[must_use]
pub fn attach(
    kernel: &mut Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hooks: impl IntoIterator<Item = &'static Hook>,
    setup: &mut Setup,
    forced: Option<Rung>,
) -> Vec<Proved> {
    let mut all = Vec::new();
    let has = |function| btf.function(function).is_some();
    let stands = |hook: &&'static Hook| {
        !btf.is_some() || hook.with.is_none_or(has) && !hook.without.is_some_and(has)
    };
    for hook in hooks.into_iter().filter(stands) {
        let proved = attach_one(kernel, btf, hierarchy, hook, setup, forced);
        let lower = hook.lower.filter(|_| proved.link.is_none());
        let lower = lower.map(|hook| attach_one(kernel, btf, hierarchy, hook, setup, forced));
        if !lower
            .as_ref()
            .is_some_and(|lower| lower.link.is_some() && !lower.hook.partial)
        {
            all.push(proved);
        }
        all.extend(lower);
    }
    all
}

fn attach_one(
    kernel: &mut Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hook: &'static Hook,
    setup: &mut Setup,
    forced: Option<Rung>,
) -> Proved {
    let mut proved = Proved {
        hook,
        rung: None,
        enforcing: false,
        unknown: false,
        reason: String::new(),
        link: None,
        entries: Vec::new(),
    };
    if let Some(function) = hook.without
        && btf.function(function).is_some()
    {
        proved.reason = format!("this kernel asks at {function}, and not here");
        return proved;
    }
    if hook.on_v2 && hierarchy.version == Version::V1 {
        "on cgroup v1 the kernel asks no program".clone_into(&mut proved.reason);
        return proved;
    }
    // Without that no container would start.
    if hook.is_of_setup()
        && let Err(error) = setup.attach(kernel, btf)
    {
        proved.reason = format!(
            "what runtimes do themselves cannot be told apart: {}",
            error.in_short()
        );
        return proved;
    }
    let rung = match forced {
        _ if !matches!(hook.place, Place::Asked { .. }) => Rung::Cgroup,
        Some(rung @ (Rung::Lsm | Rung::FmodRet)) => rung,
        Some(Rung::Cgroup | Rung::Observe | Rung::Setting) => {
            proved.reason = "--rung asks for no program that refuses".to_owned();
            return proved;
        }
        // A program that is loaded as one of a security module that is not active is never called.
        None if rungs::bpf_is_a_security_module() == Some(false) => Rung::FmodRet,
        None => Rung::Lsm,
    };
    let attached = kernel.attach_entries(btf, hook).and_then(|entries| {
        let link = kernel.attach_hook(btf, hierarchy, hook, rung)?;
        kernel.pin(&entries)?;
        kernel.pin(std::slice::from_ref(&link))?;
        Ok((link, entries))
    });
    match attached {
        Ok((link, entries)) => {
            proved.rung = Some(rung);
            proved.link = Some(link);
            proved.entries = entries;
        }
        Err(error) => proved.reason = error.in_short(),
    }
    proved
}

/// Lets each attached hook refuse something, and takes away those that do not; what takes their place then is attached and
/// tried. The programs must act already.
///
/// # Errors
/// The trial itself could not be made.
pub fn prove(
    kernel: &mut Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hooks: &mut Vec<Proved>,
    setup: &mut Setup,
    forced: Option<Rung>,
) -> Result<(), SelfTestError> {
    let mut fallen = Vec::new();
    for proved in hooks.iter_mut().filter(|proved| proved.link.is_some()) {
        prove_one(kernel, hierarchy, proved)?;
        fallen.extend(proved.hook.lower.filter(|_| proved.link.is_none()));
    }
    for hook in fallen {
        let mut proved = attach_one(kernel, btf, hierarchy, hook, setup, forced);
        if proved.link.is_some() {
            prove_one(kernel, hierarchy, &mut proved)?;
        }
        hooks.push(proved);
    }
    Ok(())
}

fn prove_one(
    kernel: &mut Kernel,
    hierarchy: &Hierarchy,
    proved: &mut Proved,
) -> Result<(), SelfTestError> {
    let tool = match (proved.hook.trial)() {
        Ok(tool) => tool,
        Err(reason) => {
            proved.reason = format!("attached, and not tried: {reason}");
            return Ok(());
        }
    };
    let descriptor = tool.file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let trial = Trial {
        run: &|| (tool.run)(descriptor),
        actions: proved.hook.actions,
    };
    let Outcome {
        came, container, ..
    } = match self_test::run(kernel, &hierarchy.mount, id_of, &trial) {
        // A filter of system calls that kills, for instance.
        Err(error @ SelfTestError::Child(_)) => {
            proved.unknown = true;
            proved.reason = format!("attached, and not tried: {error}");
            return Ok(());
        }
        outcome => outcome?,
    };
    let counted = proved
        .hook
        .actions
        .first()
        .is_some_and(|action| container.actions[*action as usize].refused > 0);
    match came {
        libc::EPERM if counted => {
            proved.enforcing = true;
            proved.reason = "refused with EPERM, and counted".to_owned();
        }
        UNSAID if counted => {
            proved.enforcing = true;
            proved.reason = "refused, which the kernel does not tell, and counted".to_owned();
        }
        // Attached is more than nothing: what refuses it to us may not be there for a container.
        libc::EPERM | libc::EACCES if self_test::outside(&trial).ok() == Some(came) => {
            proved.unknown = true;
            "attached, and not tried: something else refuses it to Bulkhead itself"
                .clone_into(&mut proved.reason);
        }
        UNTRIED => "attached, and not tried: this kernel offers nothing to try it on"
            .clone_into(&mut proved.reason),
        other => {
            proved.reason = match other {
                self_test::DONE | UNSAID => {
                    "attached, and refused nothing: the kernel never calls it".to_owned()
                }
                other => format!(
                    "attached, and its trial failed by itself: {}",
                    Errno::from_raw(other)
                ),
            };
            proved.let_go(kernel);
            proved.rung = None;
        }
    }
    Ok(())
}

/// A trial that could not be made here; no errno.
const UNTRIED: i32 = 250;

/// The same to who is refused as to who is not; no errno.
const UNSAID: i32 = 249;

/// What came of a system call: an errno, or [`self_test::DONE`].
fn came_of(result: i64) -> i32 {
    if result < 0 {
        Errno::last_raw()
    } else {
        self_test::DONE
    }
}
