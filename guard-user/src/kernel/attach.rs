//! Programs into the kernel: each loaded for the way on which it is attached, from the one object.

use std::{
    borrow::Cow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use guard_common::{
    bpf::Object,
    config::{Field, MISSING},
    host::TOTAL_FORKS,
};

use super::{
    btf::Btf,
    fold,
    functions::Functions,
    hooks::{self, Hook, Place},
    kind::{How, Kind},
    load::{Kernel, LoadError},
    rungs::{self, Rung},
    self_test, sys,
    under_way::{self, Counting, Total},
    variables,
};
use crate::identity::tree::{Hierarchy, Version};

/// The program that refuses forks.
pub(super) const GOVERNOR: &str = "fork_storm_task_alloc";

/// Where the kernel asks its security modules before a fork.
pub const SECURITY_TASK_ALLOC: &str = "security_task_alloc";

/// What the kernel asks last before a task is made in another cgroup than its parent's, or moved there; static, and not on every kernel
/// a function of its own.
pub const ATTACH_PERMISSIONS: &str = "cgroup_attach_permissions";

/// Functions of the kernel that programs attach to which are no hooks.
const FUNCTIONS: [&str; 9] = [
    "bpf_lsm_task_alloc",
    SECURITY_TASK_ALLOC,
    "cgroup_attach_task",
    ATTACH_PERMISSIONS,
    "btf_trace_task_newtask",
    "btf_trace_signal_deliver",
    "perf_event_free_task",
    "security_task_free",
    "vprintk_store",
];

/// Functions of the kernel that programs attach to.
#[must_use]
pub fn functions() -> Vec<&'static str> {
    FUNCTIONS.into_iter().chain(hooks::functions()).collect()
}

/// What setting up cannot be told without.
const SETUP_NEEDS: [Field; 12] = [
    Field::TaskProcess,
    Field::TaskLeader,
    Field::TaskStart,
    Field::TaskMemory,
    Field::TaskNamespaces,
    Field::NamespacesMounts,
    Field::ExecutedFile,
    Field::FileInode,
    Field::InodeLinks,
    Field::FileMount,
    Field::MountSeen,
    Field::MountNamespace,
];

/// Asks before a user namespace is made, since 6.1.
pub const CREATE_USER_NS: &str = "security_create_user_ns";

/// A program that is attached; dropped, it is so no longer, unless it is pinned.
pub struct Link {
    pub(super) name: &'static str,
    fd: OwnedFd,
    pub(super) program: OwnedFd,
}

impl Link {
    /// Runs that the kernel left out; see [`sys::misses`].
    #[must_use]
    pub fn misses(&self) -> u64 {
        sys::misses(self.program.as_fd()).unwrap_or_default()
    }
}

impl Kernel {
    /// Loads and attaches the programs of the fork governor on one rung; none for [`Rung::Setting`].
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_governor(&self, btf: &Btf, rung: Rung) -> Result<Vec<Link>, LoadError> {
        let (program, how) = match rung {
            Rung::Lsm => (GOVERNOR, How::Lsm("bpf_lsm_task_alloc")),
            Rung::FmodRet => (GOVERNOR, How::ModifyReturn(SECURITY_TASK_ALLOC)),
            Rung::Observe => (
                "fork_storm_process_fork",
                How::RawTracepoint(c"sched_process_fork"),
            ),
            Rung::Cgroup | Rung::Setting => return Ok(Vec::new()),
        };
        Ok(vec![self.attach(btf, program, how)?])
    }

    /// Loads and attaches the programs that see forks end, done or failed, and how forks under way are counted with them.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_ends(&self, btf: &Btf, rung: Rung) -> Result<(Vec<Link>, Counting), LoadError> {
        let before = self.counting();
        if self.total.is_none() && before.counts && before.total_forks_at != 0 {
            // By a program they would be counted from now on, while the load that still acts begins to count them.
            return Err(LoadError::NoVariable(TOTAL_FORKS));
        }
        let total_forks_at = self.total.as_ref().map_or(0, |total| total.at);
        let landed = match &self.total {
            Some(_) => None,
            None => {
                let how = How::Tracepoint("btf_trace_task_newtask");
                Some(self.attach(btf, under_way::LANDED, how)?)
            }
        };
        let failed = How::Entry("perf_event_free_task");
        let (failed, refusal_ends) = match self.attach(btf, under_way::FAILED, failed) {
            Err(LoadError::NoFunction(_)) => {
                let freed = How::Entry("security_task_free");
                // Its caller is the function that fmod_ret passes over.
                let passed_over = rung == Rung::FmodRet;
                (self.attach(btf, under_way::FREED, freed)?, passed_over)
            }
            failed => (failed?, false),
        };
        let counting = Counting {
            counts: true,
            refusal_ends,
            total_forks_at,
        };
        Ok((landed.into_iter().chain([failed]).collect(), counting))
    }

    /// Asks the kernel for its own count of forks that are done. It is gone by, unless it says nothing, or with that nobody would see who
    /// makes a task outside of his container, or an earlier load's program counts them, which ours goes on with.
    pub fn ask_for_total_forks(&mut self, btf: &Btf) {
        let before = self.counting();
        let sees_made_outside = matches!(btf.arguments(ATTACH_PERMISSIONS), Some(4 | 5));
        if before.counts && before.total_forks_at == 0 || !sees_made_outside {
            return;
        }
        match self.load(btf, under_way::TOTAL, &Kind::RUN) {
            Ok(program) => self.total = Total::asked(program, before.total_forks_at),
            Err(error) => tracing::debug!("{}", error.in_short()),
        }
    }

    /// Loads and attaches the program of a hook; where a rung makes no difference to it, whatever the rung.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_hook(
        &self,
        btf: &Btf,
        hierarchy: &Hierarchy,
        hook: &Hook,
        rung: Rung,
    ) -> Result<Link, LoadError> {
        let how = match (hook.place, rung) {
            (Place::Asked { lsm, .. }, Rung::Lsm) => How::Lsm(lsm),
            (
                Place::Asked { security, .. },
                Rung::FmodRet | Rung::Cgroup | Rung::Observe | Rung::Setting,
            ) => How::ModifyReturn(security),
            (Place::Devices { plain }, _) => {
                return self.attach_to_devices(btf, hierarchy, hook.program, plain);
            }
            (Place::Settings, _) => {
                let root = unified_root(hierarchy)?;
                return self.attach(btf, hook.program, How::Settings(root.as_fd()));
            }
        };
        self.attach(btf, hook.program, how)
    }

    /// Loads and attaches the programs by which a hook knows what it is asked about.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_entries(&self, btf: &Btf, hook: &Hook) -> Result<Vec<Link>, LoadError> {
        let entries = (hook.entries.iter()).map(|(program, at)| (program, How::Entry(at)));
        let exits = (hook.exits.iter()).map(|(program, at)| (program, How::Exit(at)));
        (entries.chain(exits))
            .map(|(program, how)| self.attach(btf, program, how))
            .collect()
    }

    /// To the root of the v2 hierarchy, where every task of the host stands. `plain` is for a host where no kernel memory can be
    /// read, which some do without on v2.
    fn attach_to_devices(
        &self,
        btf: &Btf,
        hierarchy: &Hierarchy,
        program: &'static str,
        plain: Option<&'static str>,
    ) -> Result<Link, LoadError> {
        let root = unified_root(hierarchy)?;
        let how = How::Devices(root.as_fd());
        let reading = if btf.is_some() && !rungs::locked_down() {
            self.attach(btf, program, how)
        } else {
            Err(LoadError::Unread)
        };
        match (reading, hierarchy.version, plain) {
            (Err(_), Version::V2, Some(plain)) => self.attach(btf, plain, how),
            (result, ..) => result,
        }
    }

    /// Loads and attaches the programs that recognise containers.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_identity(&self, btf: &Btf) -> Result<Vec<Link>, LoadError> {
        Ok(vec![
            self.attach(
                btf,
                "identity_cgroup_mkdir",
                How::RawTracepoint(c"cgroup_mkdir"),
            )?,
            self.attach(
                btf,
                "identity_cgroup_rmdir",
                How::RawTracepoint(c"cgroup_rmdir"),
            )?,
        ])
    }

    /// Loads and attaches the program that records moves out of a container; needs a trampoline.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_moves(&self, btf: &Btf) -> Result<Link, LoadError> {
        self.attach(
            btf,
            "identity_attach_task",
            How::Entry("cgroup_attach_task"),
        )
    }

    /// Loads and attaches the program that records who makes a task outside of its container; `None`: one that sees each fork that is
    /// done records it. Proved by a task that is made in the root, unless that cannot be: systemd's `RestrictNamespaces=` takes clone3(2)
    /// away.
    pub fn attach_made_outside(
        &self,
        btf: &Btf,
        hierarchy: &Hierarchy,
    ) -> Option<Result<Link, LoadError>> {
        self.total.as_ref()?;
        let how = How::Exit(ATTACH_PERMISSIONS);
        let link = match self.attach(btf, "identity_made_outside", how) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        let seen = || self.host.get(0).made_into;
        let before = seen();
        let root = hierarchy.unified().ok().flatten();
        let made = root.is_some_and(|root| self_test::make_into(root.as_fd()));
        Some(match made && seen() == before {
            true => Err(LoadError::NotCalled(ATTACH_PERMISSIONS)),
            false => Ok(link),
        })
    }

    /// Loads and attaches the programs that tell what a runtime does in a container from what the container does. First what ends it:
    /// what nothing would end is not begun.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_setup(&mut self, btf: &Btf) -> Result<Vec<Link>, LoadError> {
        const EXECUTED: &str = "setup_executed";
        let words = btf.config();
        let missing = (SETUP_NEEDS.iter()).find(|field| words[**field as usize] == MISSING);
        if let Some(field) = missing {
            return Err(LoadError::NoField(field.btf()));
        }
        let how = How::RawTracepoint(c"sched_process_exec");
        let executed = self.attach(btf, EXECUTED, how)?;
        // What is left there without a program that would have ended it.
        if !self.is_pinned_by_another(EXECUTED) {
            let stale: Vec<u32> = self.setting_up.keys().filter_map(Result::ok).collect();
            for process in stale {
                let _ = self.setting_up.remove(&process);
            }
        }
        let how = How::Tracepoint("btf_trace_task_newtask");
        let forked = self.attach(btf, "setup_forked", how)?;
        let how = How::Entry("cgroup_attach_task");
        let joined = self.attach(btf, "setup_joined", how)?;
        Ok(vec![executed, forked, joined])
    }

    /// Loads and attaches the program that tells who prints into the kernel log: by the tracepoint `console` where that is
    /// passed in the context of the task that prints (6.1). On 5.10 whoever holds the console passes it, later and for others:
    /// there by the function that stores a record, under a lock until 5.11. In between there is neither.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_printed(&self, btf: &Btf) -> Result<Link, LoadError> {
        match release() {
            (6, 1..) | (7.., _) => {
                self.attach(btf, "kernel_log_printed", How::RawTracepoint(c"console"))
            }
            (..=5, ..=10) => self.attach(btf, "kernel_log_stored", How::Exit("vprintk_store")),
            _ => Err(LoadError::NoFunction("that is passed by who prints")),
        }
    }

    /// Loads and attaches the program that counts discards which reach a device on dm-thin.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_arrivals(&self, btf: &Btf) -> Result<Link, LoadError> {
        let how = How::RawTracepoint(c"block_bio_queue");
        let program = match release() < (5, 11) {
            true => "thin_discard_arrived_second",
            false => "thin_discard_arrived",
        };
        self.attach(btf, program, how)
    }

    /// Loads and attaches the program that remembers which task of a container a signal has ended: lines of the kernel log name
    /// it still.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn attach_ended(&self, btf: &Btf) -> Result<Link, LoadError> {
        self.attach(
            btf,
            "kernel_log_ended",
            How::Tracepoint("btf_trace_signal_deliver"),
        )
    }

    fn attach(&self, btf: &Btf, program: &'static str, how: How<'_>) -> Result<Link, LoadError> {
        let kind = how.kind(btf)?;
        let loaded = self.load(btf, program, &kind)?;
        let fd = match how {
            How::RawTracepoint(name) => sys::attach(loaded.as_fd(), Some(name)),
            How::Lsm(_)
            | How::ModifyReturn(_)
            | How::Entry(_)
            | How::Exit(_)
            | How::Tracepoint(_) => sys::attach(loaded.as_fd(), None),
            How::Devices(root) | How::Settings(root) => {
                sys::attach_to_cgroup(loaded.as_fd(), root, kind.attach)
            }
        }
        .map_err(|source| LoadError::Program {
            program,
            how: kind.name,
            source,
            log: String::new(),
        })?;
        self.note_own(Object::Link, fd.as_fd());
        Ok(Link {
            name: program,
            fd,
            program: loaded,
        })
    }

    fn load(&self, btf: &Btf, program: &'static str, kind: &Kind) -> Result<OwnedFd, LoadError> {
        let refused = |source, log| LoadError::Program {
            program,
            how: kind.name,
            source,
            log,
        };
        let linked = self.image.linked(program)?;
        let code = variables::resolved(btf, &linked.code)?;
        let mut functions = Functions::of(&self.image, program, &code)
            .map_err(|source| refused(source, "of the types of its functions".to_owned()))?;
        let folded = fold::folded(&code, &self.constants);
        tracing::debug!(
            "{program}: {} instructions of {}",
            folded
                .as_ref()
                .map_or(code.len(), |folded| folded.code.len()),
            code.len()
        );
        if let (Some(functions), Some(folded)) = (&mut functions, &folded) {
            functions.follow(folded);
        }
        let code = folded.map_or(code, |folded| Cow::Owned(folded.code));
        let loaded = sys::load(&sys::Load {
            kind: kind.program as u32,
            attach: kind.attach,
            function: kind.function,
            code: &code,
            functions: functions.as_ref(),
            license: &linked.license,
            name: program,
        })
        .map_err(|(source, log)| refused(source, log))?;
        self.note_own(Object::Program, loaded.as_fd());
        Ok(loaded)
    }
}

impl Kernel {
    /// A program refuses also where this cannot be noted.
    fn note_own(&self, kind: Object, object: BorrowedFd<'_>) {
        if let Err(error) = self.own.note(kind, object) {
            tracing::warn!("{error}");
        }
    }
}

/// The root of the v2 hierarchy, where every task of the host stands.
fn unified_root(hierarchy: &Hierarchy) -> Result<OwnedFd, LoadError> {
    (hierarchy.unified())
        .and_then(|mounted| mounted.map_or_else(sys::detached_unified_root, Ok))
        .map_err(LoadError::Unified)
}

/// Version and patch level of the running kernel; (0, 0) if it says neither.
#[must_use]
pub fn release() -> (u32, u32) {
    let Ok(names) = nix::sys::utsname::uname() else {
        return (0, 0);
    };
    let text = names.release().to_string_lossy();
    let mut numbers = text
        .split(|byte: char| !byte.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    )
}

/// The raw descriptor of a link, for those who ask the kernel about it.
impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
