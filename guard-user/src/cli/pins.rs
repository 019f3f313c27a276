//! What the verbs can see and do without a daemon: the tables that it pinned.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use guard_user::{
    act::{journal::Journal, restore::restore_all},
    control::{
        RUN_DIRECTORY,
        server::Switched,
        status::{ContainerStatus, Status},
    },
    daemon::{SUMMARY, keep_off, off_until, words_of},
    identity::{runtime, tree::Hierarchy},
    kernel::pinned::Pinned,
    record::{Kind, Record, Severity, Writer},
};

/// The state by the pins; `None`: there are none.
pub fn status() -> Result<Option<Status>> {
    let Some(pinned) = open()? else {
        return Ok(None);
    };
    let host = pinned.host();
    let mut status: Status = fs::read(Path::new(RUN_DIRECTORY).join(SUMMARY))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    status.pid = None;
    status.ready = false;
    status.off_for = pinned.off_for();
    if status.off_for.is_some() {
        status.state = "OFF".to_owned();
    }
    status.refused = host.refused;
    status.audited = host.audited;
    status.losses.events = host.events_lost;
    status.losses.unrecognised = host.unrecognised;
    status.losses.unlisted = host.unlisted;
    let hierarchy = Hierarchy::of_this_host().ok();
    status.containers = pinned
        .containers()
        .map(|state| {
            let path = hierarchy
                .as_ref()
                .and_then(|hierarchy| {
                    use std::os::fd::AsFd;
                    let cgroup = hierarchy.open(state.id).ok()?;
                    hierarchy.path_of(cgroup.as_fd())
                })
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            let (runtime, id) = runtime::parse(&path);
            ContainerStatus {
                runtime: runtime.to_owned(),
                id: id.to_owned(),
                cgroup_id: state.id,
                allowed: state.allowed,
                refused: state.refused.into(),
                audited: state.audited.into(),
                frozen: "no".to_owned(),
                cgroup: path,
                ..ContainerStatus::default()
            }
        })
        .collect();
    Ok(Some(status))
}

/// Throws the switch in the kernel, and undoes what the journal says.
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
    let hierarchy = Hierarchy::of_this_host()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let (mut journal, _) = Journal::open(Path::new(RUN_DIRECTORY), boot.trim())?;
    for one in restore_all(&hierarchy, &mut journal) {
        done.push(words_of(&one, None));
    }
    record(Kind::SwitchOff, &done);
    Ok(Some(Switched { done }))
}

/// Switches on again.
pub fn on() -> Result<Option<Switched>> {
    let Some(pinned) = open()? else {
        return Ok(None);
    };
    pinned.switch(0);
    keep_off(0);
    let done = vec!["no daemon answers; on the switch in the kernel: enforcing again".to_owned()];
    record(Kind::SwitchOn, &done);
    Ok(Some(Switched { done }))
}

fn open() -> Result<Option<Pinned>> {
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("needs root: run it with sudo");
    }
    Pinned::open().context("cannot read the pinned kernel tables")
}

fn record(kind: Kind, done: &[String]) {
    match Writer::start(guard_user::daemon::Plan::audit_settings(), None) {
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
