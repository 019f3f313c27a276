//! The daemon: one loop that senses, decides, acts and records, and owns everything that does.

mod actions;
mod armed;
mod heard;
mod hooks;
mod kernel_log;
mod manager;
mod notes;
mod plan;
mod say;
mod say_decision;
mod stamps;
mod start;
mod status;
mod switch;
mod thin;
mod tick;
mod unjudged;
mod witness;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use guard_common::action::{Action, Told};
use nix::fcntl::Flock;
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

pub use plan::{Plan, PlanError};
pub use start::is_running;
pub use status::SUMMARY;
pub use switch::{ON_ALREADY, keep_off, off_until, on_again, words_of};

use crate::{
    act::{journal::Journal, kill::Kill},
    control::{self, server},
    decide::{engine::Engine, restrict::Restrict, telling::Telling},
    identity::{
        roster::{Roster, RosterError},
        tree::{Hierarchy, TreeError},
    },
    kernel::{
        attach::Link,
        btf::Btf,
        hooks::Proved,
        install::Bank,
        load::{Kernel, LoadError},
        prove::{ProveError, Tried},
        rungs::Rung,
        self_test::SelfTestError,
        setup::Setup,
    },
    klog::{
        forward::Outlets,
        keep::Keeper,
        names::{Directory, Names},
    },
    policy::compile::ModeOverride,
    record,
    sense::{host::Host, ring},
};

/// How often the counters are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How soon a kill that is under way is gone on with.
const KILLING: Duration = Duration::from_millis(10);

/// How the daemon is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The one policy file; else those below `/etc`, else the embedded one.
    pub policy: Option<PathBuf>,
    /// `--enforce` or `--audit`.
    pub mode: Option<ModeOverride>,
    /// Enforcement stays when the daemon stops.
    pub keep_on_stop: bool,
    /// The one rung to try.
    pub rung: Option<Rung>,
    /// What was mounted for us: kind and place.
    pub mounted: Vec<(&'static str, &'static str)>,
    /// Entries of the kernel's table of subjects, for tests.
    pub subjects: Option<u32>,
}

/// Why the daemon does not run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// Another is running.
    #[error(
        "a daemon is running already (process {0}): `bulkhead status` asks it, `systemctl restart bulkhead` replaces it"
    )]
    Running(String),
    /// The policy.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The host lacks what is needed.
    #[error("{0}")]
    Host(String),
    /// Files of our own.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel side.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No rung.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// A hook could not be tried.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// The containers.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The audit log.
    #[error("cannot write the audit log")]
    Record(#[from] record::AuditError),
    /// The loop.
    #[error("the daemon's loop cannot go on")]
    Loop(#[source] io::Error),
}

impl From<TreeError> for DaemonError {
    fn from(error: TreeError) -> Self {
        Self::Host(error.to_string())
    }
}

/// A running daemon.
pub struct Daemon {
    options: Options,
    /// Held as long as we live: one instance.
    _lock: Flock<File>,
    kernel: Kernel,
    /// Attached programs; pinned, they outlive us.
    links: Vec<Link>,
    /// Hooks that judge actions, as far as the policy has rules for them.
    hooks: Vec<Proved>,
    /// What tells runtimes' own work in containers apart, as far as any hook needs it.
    setup: Setup,
    hierarchy: Hierarchy,
    own: Option<PathBuf>,
    rung: Rung,
    tried: Vec<Tried>,
    plan: Plan,
    bank: Bank,
    roster: Roster,
    engine: Engine,
    /// Revision of the engine that stands in the state file.
    saved: u64,
    journal: Journal,
    /// What is known of `kernel.dmesg_restrict`.
    restrict: Restrict,
    audit: record::Writer,
    /// For what only tells or audits, until that is attached.
    btf: Option<Btf>,
    /// The copy of the kernel log, unless the policy wants none.
    kernel_log: Option<Keeper>,
    /// Who else gets its lines.
    outlets: Arc<Outlets>,
    /// Who prints into the kernel log; the keeper asks.
    names: Arc<Mutex<Names>>,
    /// Containers, as the keeper finds them.
    directory: Directory,
    telling: Telling,
    /// Which devices stand on dm-thin.
    thin: thin::Thin,
    host: Host,
    /// What the host's pids and the reserve are at the moment.
    pids: control::status::HostPids,
    /// What does not work.
    notes: notes::Notes,
    policy_refused: Option<String>,
    /// Container counters as they stood when they were last looked at.
    looked: HashMap<u64, tick::Looked>,
    /// Containers that are looked at in each tick: a breach is open, or one is frozen.
    busy: HashSet<u64>,
    /// Containers that were just recognised, and whose cap is not yet in `pids.max`.
    fresh: Vec<u64>,
    /// The kernel side does not recognise containers: they are looked for.
    looking: bool,
    /// Capped containers that have no pids controller.
    uncapped: BTreeSet<u64>,
    /// Kills under way.
    kills: HashMap<u64, Kill>,
    /// The task that was last refused, by container and action; no action: a fork.
    culprits: HashMap<u64, BTreeMap<Option<Action>, Culprit>>,
    /// The policy's files as they were when they were last read, and as they were a tick ago.
    stamps: [stamps::Stamps; 2],
    ticks: u64,
    /// Forks that the programs were not asked about.
    unjudged: u64,
    /// Runs that the hooks' programs were left out of.
    passed_by: u64,
    /// Losses of the kernel side that the roster was put right after.
    losses: tick::Losses,
    /// The panic switch was thrown, and that is on record.
    off_seen: bool,
}

/// The task that was refused something.
#[derive(Clone, Copy, Debug)]
struct Culprit {
    tgid: u32,
    comm: [u8; 16],
    told: Told,
}

/// Why the loop ended.
enum Stop {
    Signal(&'static str),
}

impl Daemon {
    /// Runs until a signal stops it.
    ///
    /// # Errors
    /// [`DaemonError`]: it could not start, or its loop broke.
    pub fn run(options: Options) -> Result<(), DaemonError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DaemonError::Loop)?;
        let entered = runtime.enter();
        let mut daemon = Self::start(options)?;
        drop(entered);
        let stop = runtime.block_on(daemon.serve());
        match stop {
            Ok(Stop::Signal(name)) => {
                daemon.stop(name);
                Ok(())
            }
            Err(error) => Err(DaemonError::Loop(error)),
        }
    }

    async fn serve(&mut self) -> io::Result<Stop> {
        let (requests, mut asked) = mpsc::channel(16);
        let listener = server::bind(Path::new(control::SOCKET))?;
        let service = zlink::Server::new(listener, server::Control::new(requests));
        let serving = service.run();
        tokio::pin!(serving);
        let ring = ring::readiness(self.kernel.events.as_fd())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut manager = manager::Manager::of_this_service();
        manager.ready(self);
        loop {
            tokio::select! {
                biased;
                _ = term.recv() => return Ok(Stop::Signal("SIGTERM")),
                _ = interrupt.recv() => return Ok(Stop::Signal("SIGINT")),
                _ = hangup.recv() => { let _ = self.reload("SIGHUP"); }
                ready = ring.readable() => {
                    self.drain();
                    ready?.clear_ready();
                }
                _ = tick.tick() => {
                    self.tick();
                    manager.alive(self);
                }
                () = tokio::time::sleep(KILLING), if !self.kills.is_empty() => self.go_on_killing(),
                Some(request) = asked.recv() => self.answer(request),
                ended = &mut serving => {
                    return Err(io::Error::other(match ended {
                        Ok(()) => "the control socket is closed".to_owned(),
                        Err(error) => error.to_string(),
                    }));
                }
                // Last: a container whose mounts propagate has the kernel tell of them without end,
                changed = self.thin.mounted() => self.heard_of_mounts(changed),
                // and one that may write to sysfs, of devices.
                told = self.thin.told() => self.heard_of_devices(told),
            }
        }
    }

    fn answer(&mut self, request: server::Request) {
        // A caller that has gone away needs no answer.
        match request {
            server::Request::Status(to) => {
                let _ = to.send(self.status());
            }
            server::Request::Off(seconds, to) => {
                let _ = to.send(self.off(seconds));
            }
            server::Request::On(to) => {
                let _ = to.send(self.on());
            }
            server::Request::Reload(to) => {
                let _ = to.send(self.reload("request"));
            }
        }
    }
}

/// Time since boot, without the time asleep: the clock of the kernel side (`CLOCK_MONOTONIC`).
fn now() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default()
}
