//! `bulkhead run`: the daemon, in the foreground.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use guard_user::{
    daemon::{Daemon, DaemonError, Options},
    kernel::rungs::Rung,
    policy::compile::ModeOverride,
};

use super::host;

/// Governs this host's containers, in the foreground, until SIGTERM or SIGINT.
///
/// Without a policy in /etc/bulkhead and without --policy, the policy that is built in runs and only audits: it counts and
/// records what it would refuse, and refuses nothing. SIGHUP, or a change of a policy file, reads the policy anew; one with
/// mistakes, or without a file any more, changes nothing. SIGTERM releases everything, unless --keep-on-stop is given. `bulkhead status` shows what is
/// in force, `bulkhead off` allows everything at once.
///
/// Exit code 0: stopped; 1: not started (a mistake in the policy, or a daemon is running already); 3: this host cannot.
#[derive(Args)]
pub struct Arguments {
    /// The policy, instead of /etc/bulkhead/policy.yaml and /etc/bulkhead/policy.d/*.yaml.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Enforce, whatever the policy's own `mode` says. A rule's own `mode` stays.
    #[arg(long, conflicts_with = "audit")]
    enforce: bool,
    /// Audit everything: refuse nothing, freeze and kill nothing.
    #[arg(long)]
    audit: bool,
    /// What is enforced stays so after SIGTERM, until the next daemon takes it over. Undone by `bulkhead off`.
    #[arg(long)]
    keep_on_stop: bool,
    /// Try this rung alone: lsm, fmod_ret, observe or setting.
    #[arg(long, value_parser = Rung::to_force)]
    rung: Option<Rung>,
    /// Entries of the kernel's table of cgroups, to see what happens when it is full.
    #[arg(long, hide = true, env = "BULKHEAD_TEST_SUBJECTS")]
    subjects: Option<u32>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mounted = match host::usable() {
        Ok(mounted) => mounted,
        Err(reason) => return Ok(host::cannot(&reason)),
    };
    let options = Options {
        policy: arguments.policy.clone(),
        mode: match (arguments.enforce, arguments.audit) {
            (true, _) => Some(ModeOverride::Enforce),
            (_, true) => Some(ModeOverride::Audit),
            (false, false) => None,
        },
        keep_on_stop: arguments.keep_on_stop,
        rung: arguments.rung,
        subjects: arguments.subjects,
        mounted,
    };
    match Daemon::run(options) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(DaemonError::Host(reason)) => Ok(host::cannot(&reason)),
        Err(DaemonError::Load(error)) => {
            Ok(host::cannot(&format!("{:#}", anyhow::Error::from(error))))
        }
        // The mistakes speak for themselves, each from its file's name on.
        Err(DaemonError::Plan(mistakes)) => {
            eprintln!("{mistakes}");
            Ok(ExitCode::from(1))
        }
        Err(error) => Err(error.into()),
    }
}
