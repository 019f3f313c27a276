//! What the verbs can see and do without a daemon: the tables that it pinned.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use guard_user::{
    act::{
        cgroup::Cgroup,
        journal::{self, Journal},
        pids,
        restore::restore_all,
    },
    control::{
        RUN_DIRECTORY, SOCKET, client,
        server::Switched,
        status::{ContainerStatus, Status, actions},
    },
    daemon::{ON_ALREADY, Plan, SUMMARY, is_running, keep_off, off_until, on_again, words_of},
    decide::settings::Max,
    identity::{runtime, tree::Hierarchy},
    kernel::pinned::Pinned,
    klog::keep::DEFAULT_FILE,
    record::{Kind, Record, Settings, Severity, Text, Writer},
};

/// What the last daemon left behind, if it did not release.
pub fn summary() -> Option<Status> {
    let bytes = fs::read(Path::new(RUN_DIRECTORY).join(SUMMARY)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The audit log: the running daemon's, the last one's, or the one of the policy that a daemon would load.
pub fn audit_log() -> PathBuf {
    client::status(Path::new(SOCKET))
        .ok()
        .or_else(summary)
        .map(|status| status.audit)
        .filter(|file| !file.is_empty())
        .map_or_else(|| Plan::audit_settings().file, PathBuf::from)
}

/// The copy of the kernel log, as [`audit_log`].
pub fn kernel_log() -> PathBuf {
    client::status(Path::new(SOCKET))
        .ok()
        .or_else(summary)
        .and_then(|status| status.kernel_log)
        .map(|log| log.file)
        .map(PathBuf::from)
        .or_else(|| Plan::kernel_log_settings().map(|settings| settings.file))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))
}

/// The state by the pins; `None`: there are none.
pub fn status() -> Result<Option<Status>> {
    let Some(pinned) = open()? else {
        return Ok(None);
    };
    let host = pinned.host();
    let mut status = summary().unwrap_or_default();
    status.pid = None;
    status.ready = false;
    // Nobody keeps it any more.
    status.kernel_log = None;
    status.off_for = pinned.off_for();
    if status.off_for.is_some() {
        status.state = "OFF".to_owned();
    }
    status.refused = host.refused;
    status.audited = host.audited;
    status.losses.events = host.events_lost;
    status.losses.printers = host.printed_lost;
    status.losses.unrecognised = host.unrecognised;
    status.losses.unlisted = host.unlisted;
    status.losses.walks = host.walks;
    let hierarchy = Hierarchy::of_this_host().ok();
    status.containers = pinned
        .containers()
        .map(|state| {
            let cgroup = hierarchy.as_ref().and_then(|hierarchy| {
                let cgroup = Cgroup::open(hierarchy, state.id).ok()??;
                Some((cgroup.path(hierarchy)?, pids::read(&cgroup).ok()?))
            });
            let (path, pids) = cgroup.unwrap_or_default();
            let text = path.to_string_lossy();
            let (runtime, id) = runtime::parse(&text);
            ContainerStatus {
                runtime: runtime.to_owned(),
                id: id.into(),
                cgroup_id: state.id,
                allowed: state.allowed,
                refused: state.refused.into(),
                audited: state.audited.into(),
                actions: actions(&state.actions),
                unread: state.unread,
                refused_by_controller: pids.map_or(0, |pids| pids.refused),
                pids: pids.map(|pids| pids.current),
                pids_max: pids.and_then(|pids| match pids.max {
                    Max::Number(number) => Some(number),
                    Max::Unlimited => None,
                }),
                frozen: "no".to_owned(),
                cgroup: path.as_path().into(),
                ..ContainerStatus::default()
            }
        })
        .collect();
    Ok(Some(status))
}

/// Throws the switch in the kernel, and undoes what the journal says. It is for the caller to [`record`] it.
pub fn off(seconds: Option<u64>) -> Result<Option<Switched>> {
    let Some(pinned) = open()? else {
        return Ok(None);
    };
    let until = off_until(seconds);
    pinned.switch(until);
    keep_off(until);
    let mut done = vec![match seconds {
        Some(seconds) => {
            format!("no daemon answers; on the switch in the kernel: everything is allowed for {seconds} s")
        }
        None => "no daemon answers; on the switch in the kernel: everything is allowed until `bulkhead on`"
            .to_owned(),
    }];
    let directory = Path::new(RUN_DIRECTORY);
    if is_running() {
        // It has its journal open, and finds out by itself what is its own no more: we undo by a copy.
        let copy = directory.join(format!("off-{}", std::process::id()));
        fs::create_dir(&copy).with_context(|| format!("cannot make {}", copy.display()))?;
        let undone = fs::copy(directory.join(journal::FILE), copy.join(journal::FILE))
            .context("cannot copy the journal")
            .and_then(|_| undo(&copy));
        let _ = fs::remove_dir_all(&copy);
        done.push(
            "a daemon runs and does not answer: `kill -9` it if it does not come to".to_owned(),
        );
        done.extend(undone?);
    } else {
        done.extend(undo(directory)?);
    }
    Ok(Some(Switched::from(done)))
}

/// Undoes what the journal in a directory says; a line for each change.
fn undo(directory: &Path) -> Result<Vec<String>> {
    let hierarchy = Hierarchy::of_this_host()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let (mut journal, _) = Journal::open(directory, boot.trim())?;
    Ok(restore_all(&hierarchy, &mut journal)
        .iter()
        .map(|one| words_of(one, None))
        .collect())
}

/// Switches on again, and whether it was off. It is for the caller to [`record`] it then.
pub fn on() -> Result<Option<(Switched, bool)>> {
    let Some(pinned) = open()? else {
        return Ok(None);
    };
    let was_off = pinned.off_for().is_some();
    pinned.switch(0);
    keep_off(0);
    let rules = summary().unwrap_or_default().rules;
    let words = if was_off {
        let rules = rules.iter().filter(|rule| !rule.idle);
        on_again(rules.map(|rule| rule.mode.as_str()))
    } else {
        ON_ALREADY
    };
    let done = vec![format!(
        "no daemon answers; on the switch in the kernel: {words}"
    )];
    Ok(Some((Switched::from(done), was_off)))
}

fn open() -> Result<Option<Pinned>> {
    Pinned::open().context("cannot read the pinned kernel tables")
}

/// Puts on record what was switched here. It may wait for a disk, so it comes last.
pub fn record(kind: Kind, switched: &Switched) {
    // The policy is read only where nobody left word of the log: it need not be one that can be read. How the log is
    // rotated is then not known: one more record rotates nothing.
    let settings = match summary().filter(|last| !last.audit.is_empty()) {
        Some(last) => Settings {
            file: last.audit.into(),
            rotate_bytes: u64::MAX,
            rotate_age: Duration::MAX,
            ..Settings::default()
        },
        None => Plan::audit_settings(),
    };
    let done: Vec<&str> = switched.done.iter().map(Text::as_str).collect();
    match Writer::start(settings, None) {
        Ok(writer) => {
            writer.write(
                Record::new(kind)
                    .severity(Severity::High)
                    .outcome(done.join("; ")),
            );
            if !writer.stop(Duration::from_secs(2)) {
                eprintln!("bulkhead: done, and not recorded: the audit log takes too long");
            }
        }
        Err(error) => eprintln!("bulkhead: done, and not recorded: {error}"),
    }
}
