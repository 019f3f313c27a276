//! `bulkhead status`: what is in force, from the daemon, or from what it left in the kernel.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use guard_user::{
    control::{
        SOCKET,
        client::{self, ClientError},
        status::{ContainerStatus, HostPids, RuleStatus, Status},
    },
    kernel::rungs::Rung,
    policy::model::RESERVE,
    thin::watch::roughly,
};

use super::{host, pins};

/// Show what is in force: rules, rung, containers, counters, losses.
///
/// Exit code 0: the daemon runs, its hooks were seen to work and the existing containers are found. 1: not so; when no
/// daemon answers, what is pinned in the kernel is shown, which goes on being enforced without one. 3: not root.
///
/// It is 0 as well where the first word is DEGRADED or OFF: a check that wants all of it asks for that word, as
/// `bulkhead status --json | jq -e '.state == "ENFORCING"'` does.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show every container, not only those that were refused something.
    #[arg(long)]
    all: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    let (status, daemon) = match client::status(Path::new(SOCKET)) {
        Ok(status) => (status, true),
        Err(error @ ClientError::NotAllowed) => return Err(error.into()),
        Err(error) => {
            if let ClientError::Broken(_) | ClientError::Refused(_) = error {
                eprintln!("bulkhead: {error}");
            }
            match pins::status()? {
                Some(status) => (status, false),
                None => {
                    eprintln!(
                        "bulkhead: not running, and nothing of it is in the kernel: start it with `bulkhead run`"
                    );
                    return Ok(ExitCode::from(1));
                }
            }
        }
    };
    if arguments.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    } else {
        let mut text = Vec::new();
        print(&mut text, &status, daemon, arguments.all)?;
        super::print(&String::from_utf8_lossy(&text))?;
    }
    Ok(if daemon && status.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn print(out: &mut impl Write, status: &Status, daemon: bool, all: bool) -> io::Result<()> {
    match status.pid {
        Some(pid) if daemon => writeln!(
            out,
            "{}  rung {}, cgroup {}, daemon {} (process {pid})",
            status.state, status.rung, status.cgroups, status.version
        )?,
        _ => writeln!(
            out,
            "{}  by what the last daemon pinned in the kernel: no daemon answers. New containers are still recognised; \
             nothing is frozen, killed or recorded until one runs",
            status.state
        )?,
    }
    match status.off_for {
        Some(-1) => writeln!(out, "switched off until `bulkhead on`")?,
        Some(seconds) => writeln!(
            out,
            "switched off for another {seconds} s; `bulkhead on` ends it"
        )?,
        None => {}
    }
    let host = status.host;
    if host.limit != 0 {
        writeln!(
            out,
            "host            {} of {} pids in use; {}",
            host.tasks,
            host.limit,
            reserve(status)
        )?;
    }
    if !status.policy.is_empty() {
        writeln!(out, "policy          {}", status.policy.join(", "))?;
    }
    if let Some(mistakes) = &status.policy_refused {
        writeln!(
            out,
            "the last change of the policy was refused, the old one is in force:\n{mistakes}"
        )?;
    }
    if !status.rules.is_empty() && !status.rules.iter().any(RuleStatus::refuses) {
        let or_idle = if status.rules.iter().any(|rule| rule.idle) {
            ", or is not armed on this kernel"
        } else {
            ""
        };
        writeln!(
            out,
            "every rule only audits{or_idle}: what would be refused is counted, and nothing is refused"
        )?;
    }
    for rule in &status.rules {
        writeln!(out, "  {:<8} {:<24} {}", rule.mode, rule.name, rule.limits)?;
        for denial in &rule.armed {
            writeln!(out, "  {:<8} {:<24} {}", "", "", denial.says)?;
        }
    }
    writeln!(
        out,
        "forks           {} refused, {} audited, in all containers that ever were",
        status.refused, status.audited
    )?;
    if let Some(log) = &status.kernel_log {
        writeln!(
            out,
            "kernel log      {} lines kept, {} lost, in {}",
            log.kept, log.lost, log.file
        )?;
        for outlet in &log.forward {
            writeln!(
                out,
                "  to {}: {} lines sent, {} wait, {} not forwarded",
                outlet.to, outlet.sent, outlet.waiting, outlet.dropped
            )?;
        }
    }
    for pool in &status.pools {
        let full = (pool.full_in).map_or_else(String::new, |seconds| {
            format!("; FULL in about {}", roughly(seconds))
        });
        writeln!(
            out,
            "thin pool       {}: {}; data {} %, metadata {} %{full}",
            pool.name, pool.state, pool.data_percent, pool.metadata_percent
        )?;
    }
    for hook in &status.hooks {
        writeln!(
            out,
            "{:<15} {:<10} {}: {}",
            hook.hazard, hook.state, hook.hook, hook.what
        )?;
    }
    let shown: Vec<&ContainerStatus> = status
        .containers
        .iter()
        .filter(|container| all || is_news(container))
        .collect();
    writeln!(
        out,
        "containers      {}{}",
        status.containers.len(),
        if shown.len() < status.containers.len() {
            format!(
                ", {} of them with something to tell (--all shows all)",
                shown.len()
            )
        } else {
            String::new()
        }
    )?;
    for container in shown {
        print_container(out, container)?;
    }
    for words in &status.degraded {
        writeln!(out, "DEGRADED        {words}")?;
    }
    let losses = status.losses;
    for (count, what) in [
        (
            losses.events,
            "messages of the kernel side lost (all is counted still)",
        ),
        (
            losses.printers,
            "lines of the kernel log of which nobody told who printed them",
        ),
        (losses.records, "audit records lost"),
        (
            losses.unrecognised,
            "containers not governed, for want of room",
        ),
        (
            losses.unlisted,
            "nested cgroups found through their ancestors, for want of room",
        ),
        (losses.walks, "forks and cgroups found so until now"),
    ] {
        if count != 0 {
            writeln!(out, "lost            {count} {what}")?;
        }
    }
    Ok(())
}

/// What is kept for the host, and whether that holds.
fn reserve(status: &Status) -> String {
    let HostPids {
        reserve, ceiling, ..
    } = status.host;
    if ceiling == 0 {
        return "no reserve".to_owned();
    }
    let holds = match status.rung.parse() {
        Ok(Rung::Cgroup | Rung::Observe | Rung::Setting) => "not held on this rung".to_owned(),
        // As a rule says it, the reserve among them.
        _ if (status.rules.iter()).any(|rule| rule.name == RESERVE && rule.mode == "audit") => {
            format!("containers would be refused at {ceiling} (audit)")
        }
        Ok(Rung::Lsm | Rung::FmodRet) | Err(_) => format!("containers are refused at {ceiling}"),
    };
    format!("{reserve} reserved, {holds}")
}

fn is_news(container: &ContainerStatus) -> bool {
    let sum = |by: guard_user::control::status::ByReason| by.rate + by.pids_cap + by.host_reserve;
    container.breach
        || container.frozen != "no"
        || !container.actions.is_empty()
        || sum(container.refused)
            + sum(container.audited)
            + container.refused_by_controller
            + container.unread
            > 0
}

fn print_container(out: &mut impl Write, container: &ContainerStatus) -> io::Result<()> {
    let short: String = container.id.as_str().chars().take(12).collect();
    let pids = container
        .pids
        .map_or("?".to_owned(), |pids| pids.to_string());
    let max = match (container.pids_max, container.pids) {
        (Some(max), _) => max.to_string(),
        (None, Some(_)) => "max".to_owned(),
        (None, None) => "?".to_owned(),
    };
    writeln!(
        out,
        "  {short:<12} {:<8} pids {pids}/{max}  allowed {}{}{}{}",
        container.runtime,
        container.allowed,
        if container.exempt { "  EXEMPT" } else { "" },
        if container.breach { "  BREACH" } else { "" },
        match container.frozen.as_str() {
            "ours" => "  FROZEN by bulkhead",
            "others" => "  frozen by somebody else",
            _ => "",
        }
    )?;
    for (word, by) in [
        ("refused", container.refused),
        ("audited", container.audited),
    ] {
        if by.rate + by.pids_cap + by.host_reserve > 0 {
            writeln!(
                out,
                "               {word}: rate {}, pids cap {}, host reserve {}",
                by.rate, by.pids_cap, by.host_reserve
            )?;
        }
    }
    for of in &container.actions {
        writeln!(
            out,
            "               {}: refused {}, audited {}",
            of.action, of.refused, of.audited
        )?;
    }
    if container.unread > 0 {
        writeln!(
            out,
            "               pids cap not judged at {} forks: the number of pids could not be read",
            container.unread
        )?;
    }
    if container.refused_by_controller > 0 {
        writeln!(
            out,
            "               refused by the pids controller: {}",
            container.refused_by_controller
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use guard_user::control::status::DenialStatus;

    use super::*;

    fn shown(status: &Status) -> String {
        let mut text = Vec::new();
        print(&mut text, status, true, true).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_reserve_is_said_to_be_held_only_where_it_is() {
        let status = |rung: &str, mode: &str, ceiling| Status {
            rung: rung.to_owned(),
            rules: vec![RuleStatus {
                name: RESERVE.to_owned(),
                mode: mode.to_owned(),
                ..RuleStatus::default()
            }],
            host: HostPids {
                limit: 100,
                tasks: 5,
                reserve: 10,
                ceiling,
            },
            ..Status::default()
        };
        for (status, says) in [
            (status("lsm", "enforce", 90), "are refused at 90\n"),
            (status("lsm", "audit", 90), "would be refused at 90 (audit)"),
            (status("observe", "enforce", 90), "not held on this rung"),
            (status("setting", "audit", 90), "not held on this rung"),
            (status("lsm", "enforce", 0), "no reserve"),
        ] {
            let text = shown(&status);
            assert!(text.contains(says), "{says}: {text}");
        }
    }

    #[test]
    fn what_a_rule_arms_on_this_kernel_stands_below_it() {
        let status = Status {
            rules: vec![RuleStatus {
                name: "patch".to_owned(),
                mode: "enforce".to_owned(),
                idle: true,
                armed: vec![DenialStatus {
                    says: "bpf: not armed: why".to_owned(),
                    ..DenialStatus::default()
                }],
                ..RuleStatus::default()
            }],
            ..Status::default()
        };
        let text = shown(&status);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let at = lines.iter().position(|line| line.ends_with("patch"));
        assert_eq!(lines[at.unwrap() + 1], "bpf: not armed: why", "{text}");
        assert!(
            text.contains("every rule only audits, or is not armed on this kernel"),
            "{text}"
        );
        // A daemon of another version does not send it.
        let mut json = serde_json::to_value(&status).unwrap();
        json["rules"][0].as_object_mut().unwrap().remove("armed");
        let status: Status = serde_json::from_value(json).unwrap();
        assert!(status.rules[0].armed.is_empty());
    }

    #[test]
    fn what_is_not_known_of_a_container_is_not_said_to_be_unlimited() {
        let container = |pids, pids_max| Status {
            containers: vec![ContainerStatus {
                pids,
                pids_max,
                exempt: pids_max.is_some(),
                ..ContainerStatus::default()
            }],
            ..Status::default()
        };
        assert!(shown(&container(None, None)).contains("pids ?/?  allowed 0\n"));
        assert!(shown(&container(Some(3), None)).contains("pids 3/max "));
        assert!(shown(&container(Some(3), Some(40))).contains("pids 3/40  allowed 0  EXEMPT"));
    }

    #[test]
    fn no_container_writes_to_the_terminal() {
        let name = "/docker-\x1b]0;mine\x07\u{9b}2J\u{202e}.scope";
        let container = ContainerStatus {
            cgroup: name.into(),
            id: name.into(),
            ..ContainerStatus::default()
        };
        let status = Status {
            degraded: vec![format!("the pids cap is not held in {name}").into()],
            containers: vec![container],
            ..Status::default()
        };
        let harmless =
            |text: &str| !text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}'));
        let mut text = Vec::new();
        print(&mut text, &status, true, true).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(r"/docker-\x1b"), "{text}");
        assert!(harmless(&text), "{text:?}");
        let json = serde_json::to_string(&status).unwrap();
        assert!(harmless(&json), "{json:?}");
        // A daemon of another version may send it as it is.
        let raw = json.replace(r"\\x1b", r"\u001b");
        let status: Status = serde_json::from_str(&raw).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), json);
    }
}
