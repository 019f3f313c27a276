//! `bulkhead doctor`: what this host can do, each line proved by trying it.

use std::{fmt::Write, path::Path, process::ExitCode};

use anyhow::Result;
use clap::Args;
use guard_user::{
    act::restrict,
    advisory::arm::arm_by_this_host,
    control::{
        SOCKET, client,
        status::{DenialStatus, HookStatus, Status, Tried},
    },
    identity::tree::Hierarchy,
    kernel::{
        attach::functions,
        btf::Btf,
        hooks::{self, Hook},
        load::{Kernel, Sizes},
        open, prove,
        rungs::{self, Rung},
        setup::Setup,
    },
    policy::{armed, compile, load},
    record::Text,
    sense::readers::{self, Reader},
};
use serde::Serialize;

use super::host;

/// Show what this host can do: which mechanism refuses forks here, proved by a live self-test.
///
/// Loads the kernel programs unpinned, lets a child in a cgroup of its own try to fork, and takes everything away again.
/// ENFORCING: a fork was seen to be refused. DEGRADED: none can be refused beforehand; pids.max, freezing and killing are
/// left; of a hook of the kernel log: some ways are refused. `open`: a way that nothing refuses here. ARMED, NOT ARMED: what
/// a rule with `kernel: affected` denies, on this kernel. `log reader`: a process in
/// a container that has the kernel log open, and may not bear that reading is refused to it from now on. With a daemon running,
/// says what that one found when it started.
/// Exit code 0: ENFORCING; 1: less; 3: the host cannot run the programs at all.
#[derive(Args)]
pub struct Arguments {
    /// Try this rung alone: lsm, fmod_ret, observe or setting.
    #[arg(long, value_parser = Rung::to_force)]
    rung: Option<Rung>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found, by a trial or by the daemon.
#[derive(Serialize)]
struct Report {
    state: String,
    rung: String,
    /// cgroup version and mount point.
    cgroups: String,
    /// Whether new containers are recognised; the daemon tells only what does not work, in `degraded`.
    identity: Option<String>,
    /// Whether tasks that leave a container are seen; as `identity`.
    moves: Option<String>,
    missing: Vec<&'static str>,
    tried: Vec<Tried>,
    /// Hooks that judge actions.
    hooks: Vec<HookStatus>,
    /// Ways to what rules may deny that are open here.
    open: Vec<String>,
    /// What `kernel: affected` comes to here, by rule.
    armed: Vec<OfRule>,
    /// Processes of containers that have the kernel log open now.
    readers: Vec<Reader>,
    /// The daemon that was asked; absent after a trial of our own.
    daemon: Option<u64>,
    degraded: Vec<Text>,
}

/// A rule with `kernel: affected`.
#[derive(Serialize)]
struct OfRule {
    rule: String,
    denials: Vec<DenialStatus>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Err(reason) = host::usable() {
        return Ok(host::cannot(&reason));
    }
    if arguments.rung.is_none()
        && let Ok(status) = client::status(Path::new(SOCKET))
    {
        return of_daemon(&status, arguments.json);
    }
    let hierarchy = match Hierarchy::of_this_host() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return Ok(host::cannot(&error)),
    };
    let mut degraded = Vec::new();
    if rungs::locked_down() {
        degraded.push(rungs::LOCKED_DOWN.into());
    }
    let btf = Btf::of_this_kernel(&functions()).unwrap_or_else(|error| {
        degraded.push(format!("{error}: no program can be used without").into());
        Btf::none()
    });
    let config = prove::config(&btf, &hierarchy);
    let mut kernel = Kernel::open(config, None, &Sizes::default())?;
    let said = |result: Result<(), String>| {
        Some(result.map_or_else(|reason| reason, |()| "attached".to_owned()))
    };
    let identity = kernel.attach_identity(&btf);
    kernel.ask_for_total_forks(&btf);
    let moves = kernel.attach_moves(&btf);
    let made_outside = kernel.attach_made_outside(&btf, &hierarchy).transpose();
    let rung = arguments.rung;
    let mut setup = Setup::default();
    let (at_forks, others): (Vec<_>, Vec<_>) = hooks::all().partition(|hook| hook.is_at_forks());
    let mut attach = |kernel: &mut Kernel, these: &[&'static Hook], rung| {
        let these = these.iter().copied();
        hooks::attach(kernel, &btf, &hierarchy, these, &mut setup, rung)
    };
    let mut hooks = attach(&mut kernel, &others, rung);
    let proved = prove::prove(&mut kernel, &btf, &hierarchy, rung, |kernel, governor| {
        attach(kernel, &at_forks, hooks::forced_at_forks(governor, rung))
    })?;
    hooks.extend(proved.ahead);
    hooks::prove(&mut kernel, &btf, &hierarchy, &mut hooks, &mut setup, rung)?;
    if !proved.inherits {
        degraded.push(
            "new containers are not recognised by the kernel: the daemon looks for them once a second"
                .into(),
        );
    }
    if let Err(reason) = &proved.forking
        && proved.rung.refuses()
    {
        degraded.push(format!("forks under way are not counted: {reason}").into());
    }
    let tried: Vec<Tried> = (proved.tried.into_iter())
        .map(|tried| Tried {
            rung: tried.rung.to_string(),
            works: tried.works,
            reason: tried.reason,
        })
        .collect();
    if refuses_trampolines(&tried) {
        degraded.push(
            "this kernel refuses BPF trampolines, to root as well: no fork can be refused beforehand".into(),
        );
    }
    let report = Report {
        state: proved.rung.state().to_owned(),
        rung: proved.rung.to_string(),
        cgroups: format!(
            "{} at {}",
            hierarchy.version.name(),
            hierarchy.mount.display()
        ),
        identity: said(identity.map(drop).map_err(|error| error.in_short())),
        moves: said(
            moves
                .and(made_outside)
                .map(drop)
                .map_err(|error| error.in_short()),
        ),
        missing: if btf.is_some() {
            prove::missing(&config)
        } else {
            Vec::new()
        },
        tried,
        hooks: hooks.iter().map(HookStatus::from).collect(),
        open: open::ways(
            &hooks::refusing(&hooks),
            restrict::thrown(Path::new(restrict::FILE)).ok(),
        ),
        armed: armed(),
        readers: readers(),
        daemon: None,
        degraded,
    };
    print(&report, arguments.json)
}

/// What the running daemon found when it started.
fn of_daemon(status: &Status, json: bool) -> Result<ExitCode> {
    let report = Report {
        state: status.state.clone(),
        rung: status.rung.clone(),
        cgroups: status.cgroups.clone(),
        identity: None,
        moves: None,
        missing: Vec::new(),
        tried: status.tried.clone(),
        hooks: status.hooks.clone(),
        open: status.open.clone(),
        armed: (status.rules.iter())
            .filter(|rule| !rule.armed.is_empty())
            .map(|rule| OfRule {
                rule: rule.name.clone(),
                denials: rule.armed.clone(),
            })
            .collect(),
        readers: readers(),
        daemon: status.pid,
        degraded: status.degraded.clone(),
    };
    print(&report, json)
}

/// By the policy in force, as [`readers`].
fn armed() -> Vec<OfRule> {
    let Ok(mut policy) = load::in_force(None) else {
        return Vec::new();
    };
    // What cannot be judged says so of itself.
    let _ = arm_by_this_host(&mut policy, None);
    (policy.rules.iter())
        .map(|rule| OfRule {
            rule: rule.name.clone(),
            denials: (armed::of(rule).iter()).map(DenialStatus::from).collect(),
        })
        .filter(|rule| !rule.denials.is_empty())
        .collect()
}

/// By the policy in force. One with mistakes is what `check` is for.
fn readers() -> Vec<Reader> {
    load::in_force(None)
        .ok()
        .and_then(|policy| compile::compile(&policy, None).ok())
        .map(|compiled| readers::in_containers(&compiled.names))
        .unwrap_or_default()
}

fn words(report: &Report, json: bool) -> Result<String> {
    let mut text = String::new();
    if json {
        writeln!(text, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        if let Some(pid) = report.daemon {
            writeln!(text, "as the daemon found it (process {pid})")?;
        }
        writeln!(
            text,
            "fork governor   {:<10} rung {}",
            report.state, report.rung
        )?;
        for tried in &report.tried {
            let works = if tried.works { "works" } else { "no" };
            writeln!(text, "  {:<10} {works:<8} {}", tried.rung, tried.reason)?;
        }
        for hook in &report.hooks {
            writeln!(
                text,
                "{:<15} {:<10} {}: {}",
                hook.hazard, hook.state, hook.hook, hook.what
            )?;
            writeln!(text, "  {:<10} {:<8} {}", hook.rung, "", hook.reason)?;
        }
        for way in &report.open {
            writeln!(text, "open            {way}")?;
        }
        for rule in &report.armed {
            for denial in &rule.denials {
                let state = if denial.armed { "ARMED" } else { "NOT ARMED" };
                writeln!(text, "{:<15} {state:<10} {}", rule.rule, denial.says)?;
            }
        }
        for reader in &report.readers {
            writeln!(
                text,
                "log reader      {} (process {}) in {} has {} open: when kernel_log.read is denied to it, restart it",
                reader.comm, reader.pid, reader.cgroup, reader.file
            )?;
        }
        write!(text, "identity        cgroup {}", report.cgroups)?;
        if let Some(identity) = &report.identity {
            write!(text, ": {identity}")?;
        }
        text.push('\n');
        if let Some(moves) = &report.moves {
            writeln!(text, "moves out       {moves}")?;
        }
        for field in &report.missing {
            writeln!(
                text,
                "missing         this kernel's type information has no {field}"
            )?;
        }
        for words in &report.degraded {
            writeln!(text, "DEGRADED        {words}")?;
        }
        if report.daemon.is_some() && report.degraded.is_empty() {
            writeln!(text, "the daemon has nothing to say of what does not work")?;
        }
    }
    Ok(text)
}

/// Whether what needs a trampoline was refused to root, and not for the program's sake.
fn refuses_trampolines(tried: &[Tried]) -> bool {
    let of = |rung: Rung| tried.iter().find(|tried| tried.rung == rung.name());
    let not_permitted = |tried: &Tried| !tried.works && tried.reason.contains("(os error 1)");
    of(Rung::FmodRet).is_some_and(not_permitted)
        // Where bpf is no security module this one is not tried at all.
        && of(Rung::Lsm).is_none_or(|tried| !tried.works)
}

fn print(report: &Report, json: bool) -> Result<ExitCode> {
    super::print(&words(report, json)?)?;
    Ok(if report.state == "ENFORCING" {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_daemon_it_says_only_what_the_daemon_said() {
        let of = |degraded: Vec<Text>| {
            words(
                &Report {
                    state: "ENFORCING".to_owned(),
                    rung: "lsm".to_owned(),
                    cgroups: "v2 at /sys/fs/cgroup".to_owned(),
                    identity: None,
                    moves: None,
                    missing: Vec::new(),
                    hooks: Vec::new(),
                    open: Vec::new(),
                    armed: Vec::new(),
                    readers: Vec::new(),
                    tried: Vec::new(),
                    daemon: Some(7),
                    degraded,
                },
                false,
            )
            .unwrap()
        };
        let well = of(Vec::new());
        assert!(!well.contains("attached"), "{well}");
        assert!(
            well.ends_with("nothing to say of what does not work\n"),
            "{well}"
        );
        assert!(of(vec!["moves".into()]).ends_with("DEGRADED        moves\n"));
    }

    #[test]
    fn trampolines_are_refused_only_where_root_may_not_use_them() {
        let tried = |rung: &str, works, reason: &str| Tried {
            rung: rung.to_owned(),
            works,
            reason: reason.to_owned(),
        };
        let not_permitted = "the kernel refused it: Operation not permitted (os error 1)";
        let refused = tried("fmod_ret", false, not_permitted);
        let lsm = tried("lsm", false, "bpf is not an active security module");
        assert!(refuses_trampolines(&[lsm, refused.clone()]));
        assert!(!refuses_trampolines(&[tried("lsm", true, ""), refused]));
        let other = tried("fmod_ret", false, "Invalid argument (os error 22)");
        assert!(!refuses_trampolines(&[other]));
    }
}
