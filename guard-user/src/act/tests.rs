//! On this machine's own cgroups, as root. Where that is not possible a test says why it was skipped.

mod freeze;
mod journal;
mod kill;
mod pids;
mod restrict;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    cgroup::Cgroup,
    journal::Journal,
    kill::{Kill, Killed, Progress},
    restore,
};
use crate::identity::tree::{Hierarchy, Version, id_of};

const BOOT: &str = "f3b0c442-98fc-1c14-9afb-f4c8996fb924";
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup for one test, in every hierarchy it needs, and a journal.
struct Fixture {
    hierarchy: Hierarchy,
    path: PathBuf,
    freezer: Option<PathBuf>,
    directory: PathBuf,
    journal: Journal,
    children: Vec<Child>,
}

impl Fixture {
    fn new() -> Option<Self> {
        Self::named("")
    }

    /// One whose cgroup has a name that ends so.
    fn named(end: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipping: not root");
            return None;
        }
        let hierarchy = match Hierarchy::of_this_host() {
            Ok(hierarchy) => hierarchy,
            Err(error) => {
                eprintln!("skipping: {error}");
                return None;
            }
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-act-test-{}-{number}{end}", std::process::id());
        let path = hierarchy.mount.join(&name);
        if hierarchy.version == Version::V2 {
            let _ = fs::write(hierarchy.mount.join("cgroup.subtree_control"), "+pids");
        }
        if let Err(error) = fs::create_dir(&path) {
            eprintln!("skipping: cannot make {}: {error}", path.display());
            return None;
        }
        let freezer = hierarchy.freezer.as_ref().map(|mount| mount.join(&name));
        if let Some(freezer) = &freezer {
            fs::create_dir(freezer).unwrap();
        }
        let directory = std::env::temp_dir().join(&name);
        let (journal, troubles) = Journal::open(&directory, BOOT).unwrap();
        assert_eq!(troubles, []);
        Some(Self {
            hierarchy,
            path,
            freezer,
            directory,
            journal,
            children: Vec::new(),
        })
    }

    fn cgroup(&self) -> Cgroup {
        let id = id_of(&self.path).unwrap();
        Cgroup::open(&self.hierarchy, id).unwrap().unwrap()
    }

    /// A shell that runs `script` in the cgroup.
    fn run(&mut self, script: &str) -> u32 {
        let mut enter = String::new();
        for directory in [Some(&self.path), self.freezer.as_ref()]
            .into_iter()
            .flatten()
        {
            enter += &format!("echo $$ > '{}/cgroup.procs' && ", directory.display());
        }
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{enter} {script}"))
            .spawn()
            .unwrap();
        let pid = child.id();
        self.children.push(child);
        wait_for("the child is in the cgroup", || {
            procs(&self.path).contains(&pid)
                && self
                    .freezer
                    .as_ref()
                    .is_none_or(|at| procs(at).contains(&pid))
        });
        pid
    }

    /// A process that is in no container; gives its index.
    fn beside(&mut self) -> usize {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.children.push(child);
        self.children.len() - 1
    }

    fn again(&mut self) {
        let (journal, troubles) = Journal::open(&self.directory, BOOT).unwrap();
        assert_eq!(troubles, []);
        self.journal = journal;
    }

    /// Kills to the end; gives how long the longest go took.
    fn kill(&mut self, mut kill: Kill) -> (Killed, Duration) {
        let mut longest = Duration::ZERO;
        loop {
            let start = Instant::now();
            let progress = kill
                .go(&self.hierarchy, &mut self.journal, Duration::from_millis(5))
                .unwrap();
            longest = longest.max(start.elapsed());
            for child in &mut self.children {
                let _ = child.try_wait();
            }
            match progress {
                Progress::Done(killed) => return (killed, longest),
                Progress::Again => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        restore::restore_all(&self.hierarchy, &mut self.journal);
        if let Some(freezer) = &self.freezer {
            let _ = fs::write(freezer.join("freezer.state"), "THAWED");
        } else {
            let _ = fs::write(self.path.join("cgroup.freeze"), "0");
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for directory in [Some(&self.path), self.freezer.as_ref()]
            .into_iter()
            .flatten()
        {
            for _ in 0..100 {
                remove(directory);
                if !directory.exists() {
                    break;
                }
                sleep(Duration::from_millis(10));
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn remove(directory: &Path) {
    for pid in procs(directory) {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
    }
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn procs(directory: &Path) -> Vec<u32> {
    fs::read_to_string(directory.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not seen: {what}"
        );
        sleep(Duration::from_millis(5));
    }
}
