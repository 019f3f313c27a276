//! Start: nothing is changed until the policy is read, and nothing is let go of until what replaces it was seen to work.

use std::{
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Read, Seek, Write},
    mem::offset_of,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
};

use guard_common::host::Host as HostTable;
use nix::fcntl::{Flock, FlockArg};

use super::{
    Daemon, DaemonError, Options, Plan, armed, notes::Notes, now, say::Gap, stamps::Stamps, tick,
    witness,
};
use crate::{
    act::journal::Journal,
    control::{RUN_DIRECTORY, status::HostPids},
    decide::engine::{Engine, Rests},
    identity::{roster::Roster, tree::Hierarchy},
    kernel::{
        attach::functions,
        btf::Btf,
        hooks::{self, Hook},
        load::{Kernel, PINS, Sizes},
        prove,
        rungs::{self, Rung},
        setup::Setup,
    },
    klog::names::{Directory, KernelSide, Names},
    record,
    sense::host::Host,
};

/// Where the engine's memory is kept, below [`RUN_DIRECTORY`].
pub(super) const STATE: &str = "state.json";
/// The lock of the one instance, below [`RUN_DIRECTORY`].
const LOCK: &str = "lock";

impl Daemon {
    /// Brings everything up: attach first, then scan, so that no container is missed.
    pub(super) fn start(options: Options) -> Result<Self, DaemonError> {
        let began = now();
        let stamps = Stamps::of(options.policy.as_deref());
        let plan = Plan::read(options.policy.as_deref(), options.mode)?;
        let lock = only_instance(Path::new(RUN_DIRECTORY))?;
        let hierarchy = Hierarchy::of_this_host()?;
        let mut notes = Notes::default();
        armed::note(&plan, &mut notes);
        if rungs::locked_down() {
            notes.stand("lockdown", rungs::LOCKED_DOWN);
        }
        let btf = Btf::of_this_kernel(&functions()).unwrap_or_else(|error| {
            notes.stand("btf", format!("{error}: no program can be used without"));
            Btf::none()
        });
        let host = Host::open().map_err(|source| DaemonError::File {
            path: "/proc/sys/kernel".into(),
            source,
        })?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let audit = start_audit(&plan.audit)?;
        let (journal, troubles) =
            Journal::open(Path::new(RUN_DIRECTORY), boot_id.trim()).map_err(|error| {
                DaemonError::File {
                    path: RUN_DIRECTORY.into(),
                    source: std::io::Error::other(error),
                }
            })?;

        let config = prove::config(&btf, &hierarchy);
        let sizes = Sizes {
            subjects: options.subjects,
        };
        let mut kernel = Kernel::open(config, Some(Path::new(PINS)), &sizes)?;
        let gap = kernel.taken_over.then(|| Gap {
            since_ns: kernel.host.get(0).alive_ns,
        });
        // A table that was just made has no policy; one that was taken over keeps its own until ours is complete.
        let fresh = (!kernel.taken_over)
            .then(|| kernel.install(&plan.names, &plan.profiles()))
            .transpose()?;
        // An earlier daemon's reserve is held until we act.
        if fresh.is_some() {
            set_ceiling(&kernel, &host, &plan);
        }
        super::switch::resume_kept(&kernel);

        let mut links = match kernel.attach_identity(&btf) {
            Ok(links) => links,
            // What an earlier daemon left in force is better than what we could do: it stays, and we go.
            Err(error) if kernel.refused_before() => {
                kernel.unpin_own();
                return Err(error.into());
            }
            Err(error) => {
                notes.stand(
                    "identity",
                    format!(
                        "new containers are not recognised by the kernel: {}",
                        error.in_short()
                    ),
                );
                Vec::new()
            }
        };
        for trouble in troubles {
            notes.stand("journal", trouble.to_string());
        }
        kernel.ask_for_total_forks(&btf);
        // An earlier daemon's go on telling until ours do; where there are none, that can wait.
        if kernel.taken_over {
            links.extend(witness::attach(
                &kernel, &btf, &hierarchy, &plan, &mut notes,
            ));
        }
        let missing = prove::missing(&config);
        if !missing.is_empty() && btf.is_some() {
            notes.stand(
                "fields",
                format!(
                    "this kernel's type information lacks {}: the limits that need it are not held",
                    missing.join(", ")
                ),
            );
        }
        kernel.pin(&links)?;
        // Attached before an earlier daemon's stop acting, and tried when they act.
        let (at_forks, others): (Vec<_>, Vec<_>) =
            super::hooks::needed_at_once(&plan, kernel.taken_over)
                .into_iter()
                .partition(|hook| hook.is_at_forks());
        let mut setup = Setup::default();
        let forced = options.rung;
        let mut attach = |kernel: &mut Kernel, these: &[&'static Hook], forced| {
            let these = these.iter().copied();
            hooks::attach(kernel, &btf, &hierarchy, these, &mut setup, forced)
        };
        let mut hooks = attach(&mut kernel, &others, forced);
        let proved = prove::prove(&mut kernel, &btf, &hierarchy, forced, |kernel, rung| {
            attach(kernel, &at_forks, hooks::forced_at_forks(rung, forced))
        })
        .inspect_err(|_| kernel.unpin_own())?;
        let pids = set_ceiling(&kernel, &host, &plan);
        links.extend(proved.links);
        hooks.extend(proved.ahead);
        hooks::prove(
            &mut kernel,
            &btf,
            &hierarchy,
            &mut hooks,
            &mut setup,
            options.rung,
        )?;
        if !hooks::need_setup(&hooks) {
            setup.detach(&kernel);
        }
        if !proved.inherits {
            notes.stand(
                "looking",
                "containers are found by looking at the cgroup tree once a second: what a new one does before is not seen",
            );
        }
        if let Err(reason) = &proved.forking
            && proved.rung.refuses()
        {
            notes.stand(
                "forking",
                format!(
                    "forks under way are not counted, so many at once can take pids of the host's reserve: {reason}"
                ),
            );
        }
        let bank = match fresh {
            Some(bank) => bank,
            None => kernel.install(&plan.names, &plan.profiles())?,
        };
        let mut roster = Roster::default();
        let own = own_cgroup(&hierarchy);
        let entered =
            roster.reconcile(&mut kernel, &hierarchy, &plan.names, bank, own.as_deref())?;
        kernel.unpin_others();
        let directory = Directory::default();
        directory.recognise(Arc::clone(&plan.names));
        let told = KernelSide {
            printed: kernel.printed.take(),
            ended: kernel.ended.take(),
        };
        let names = Arc::new(Mutex::new(Names::new(told, directory.clone())));

        let rest = (!kernel.taken_over).then_some(btf);
        let mut daemon = Self {
            _lock: lock,
            rung: proved.rung,
            tried: proved.tried,
            losses: tick::Losses::told(&kernel.host.get(0)),
            saved: 0,
            policy_refused: None,
            looked: Default::default(),
            busy: Default::default(),
            kills: Default::default(),
            culprits: Default::default(),
            stamps: [stamps.clone(), stamps],
            ticks: 0,
            unjudged: 0,
            passed_by: 0,
            off_seen: false,
            options,
            kernel,
            links,
            hooks,
            setup,
            hierarchy,
            own,
            plan,
            bank,
            roster,
            engine: restore(Path::new(RUN_DIRECTORY)),
            journal,
            restrict: Default::default(),
            audit,
            kernel_log: None,
            btf: rest,
            outlets: Arc::default(),
            names,
            directory,
            telling: Default::default(),
            thin: Default::default(),
            host,
            pids,
            notes,
            fresh: Vec::new(),
            looking: !proved.inherits,
            uncapped: Default::default(),
        };
        daemon.list_containers();
        daemon.off_seen = daemon.is_off();
        daemon.let_go(&entered.dropped);
        daemon.note_rung();
        daemon.note_hooks();
        daemon.say_started(gap, &entered, now().saturating_sub(began));
        daemon.say_mounted();
        daemon.write_summary();
        if daemon.plan.audited_altogether {
            let why = if daemon.plan.embedded {
                "no policy in /etc/bulkhead, so the built-in one runs and only audits: it records what it would refuse, and \
                 refuses nothing. To enforce it: `bulkhead run --enforce`, or write /etc/bulkhead/policy.yaml \
                 (`bulkhead explain`, `bulkhead check`)"
            } else {
                "--audit: what would be refused is recorded, and nothing is refused"
            };
            eprintln!("bulkhead: {why}");
        }
        daemon.keep_restricted();
        daemon.keep_thin();
        // Their caps stand from the beginning.
        daemon.look_at_all();
        Ok(daemon)
    }

    fn note_rung(&mut self) {
        let words = match self.rung {
            Rung::Lsm | Rung::FmodRet => return,
            Rung::Observe => {
                "forks are seen only after they happened: pids.max, freezing and killing hold the limits"
            }
            Rung::Cgroup | Rung::Setting => {
                "no program can be attached: only pids.max, freezing and killing hold the limits"
            }
        };
        self.notes.stand("rung", words);
        if self.pids.reserve != 0 {
            self.notes.stand(
                "reserve",
                "the host's reserve of pids is not held: only a program that is asked before a fork can hold it",
            );
        }
    }

    /// Looks at every container.
    pub(super) fn look_at_all(&mut self) {
        let ids: Vec<u64> = self.roster.iter().map(|known| known.id).collect();
        self.look(&ids);
    }
}

/// Takes the lock of the one instance, and writes our process id into it.
fn only_instance(directory: &Path) -> Result<Flock<File>, DaemonError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| DaemonError::File { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed(directory))?;
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let write = |lock: &mut File| {
                lock.set_len(0)?;
                lock.rewind()?;
                writeln!(lock, "{}", std::process::id())
            };
            write(&mut lock).map_err(failed(&path))?;
            Ok(lock)
        }
        Err((mut file, _)) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Err(DaemonError::Running(text.trim().to_owned()))
        }
    }
}

/// Whether a daemon lives, answering or not.
#[must_use]
pub fn is_running() -> bool {
    let Ok(file) = File::open(Path::new(RUN_DIRECTORY).join(LOCK)) else {
        return false;
    };
    matches!(
        Flock::lock(file, FlockArg::LockSharedNonblock),
        Err((_, nix::errno::Errno::EWOULDBLOCK))
    )
}

/// The reserve, put where the kernel side reads it.
pub(super) fn set_ceiling(kernel: &Kernel, host: &Host, plan: &Plan) -> HostPids {
    let Ok(pids) = host.pids() else {
        return HostPids::default();
    };
    let (reserve, ceiling) = match plan.reserve_of(pids.limit) {
        Some(reserve) => (reserve, crate::sense::host::ceiling(pids.limit, reserve)),
        None => (0, 0),
    };
    kernel
        .host
        .word(0, offset_of!(HostTable, pid_ceiling))
        .store(ceiling, Ordering::Release);
    // What the kernel side knows of the room that is left, it knows of the last one.
    kernel
        .host
        .long(0, offset_of!(HostTable, room_until))
        .store(0, Ordering::Release);
    HostPids {
        limit: pids.limit,
        tasks: pids.tasks,
        reserve,
        ceiling: u64::from(ceiling),
    }
}

/// The daemon's own cgroup, from the root of the hierarchy.
fn own_cgroup(hierarchy: &Hierarchy) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?.parse::<u32>().ok()?, parts.nth(1)?))
        })
        .find(|(number, _)| *number == hierarchy.number)
        .map(|(_, path)| PathBuf::from(path))
}

/// The engine with the memory that the last daemon left, or a new one.
fn restore(directory: &Path) -> Engine {
    let rests = Rests::default();
    let saved = fs::read(directory.join(STATE))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match saved {
        Some(saved) => Engine::restore(rests, saved),
        None => Engine::new(rests),
    }
}

/// How long nobody watched, from the last sign of life.
pub(super) fn unwatched(since_ns: u64) -> std::time::Duration {
    now().saturating_sub(std::time::Duration::from_nanos(since_ns))
}

/// Keeps the engine's memory, whole or not at all.
pub(super) fn write_state(engine: &Engine) -> std::io::Result<()> {
    let path = Path::new(RUN_DIRECTORY).join(STATE);
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&engine.save())?)?;
    fs::rename(partial, path)
}

/// The writer of the record; on a terminal its incidents are shown as well, in a journal what the daemon cannot do.
pub(super) fn start_audit(
    settings: &record::Settings,
) -> Result<record::Writer, record::AuditError> {
    let stderr = std::io::stderr();
    let shown = record::Shown {
        which: if stderr.is_terminal() {
            record::Kind::shown
        } else {
            record::Kind::is_trouble
        },
        to: Box::new(stderr),
    };
    record::Writer::start(settings.clone(), Some(shown))
}
