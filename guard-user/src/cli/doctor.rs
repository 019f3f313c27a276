//! `bulkhead doctor`: what this host can do, each line proved by trying it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use guard_user::{
    identity::tree::{Hierarchy, Version},
    kernel::{
        btf::Btf,
        load::{FUNCTIONS, Kernel, Sizes},
        prove,
        rungs::Rung,
    },
};
use serde::Serialize;

use super::host;

/// Show what this host can do: which mechanism refuses forks here, proved by a live self-test.
///
/// Loads the kernel programs unpinned, lets a child in a cgroup of its own try to fork, and takes everything away again.
/// ENFORCING: a fork was seen to be refused. DEGRADED: forks are seen, and refused by pids.max alone. INERT: nothing works.
/// Exit code 0: ENFORCING; 1: less; 3: the host cannot run the programs at all.
#[derive(Args)]
pub struct Arguments {
    /// Try this rung alone: lsm, fmod_ret, observe or setting.
    #[arg(long)]
    rung: Option<Rung>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    state: &'static str,
    rung: Rung,
    cgroups: &'static str,
    hierarchy: String,
    identity: String,
    moves: String,
    missing: Vec<&'static str>,
    tried: Vec<prove::Tried>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Err(reason) = host::usable() {
        return Ok(host::cannot(&reason));
    }
    let hierarchy = match Hierarchy::of_this_host() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return Ok(host::cannot(&error)),
    };
    let btf = match Btf::of_this_kernel(&FUNCTIONS) {
        Ok(btf) => btf,
        Err(error) => return Ok(host::cannot(&error)),
    };
    let config = prove::config(&btf, &hierarchy);
    let mut kernel = Kernel::open(config, None, &Sizes::default())?;
    let said = |result: Result<(), String>| {
        result.map_or_else(|reason| reason, |()| "attached".to_owned())
    };
    let identity = kernel.attach_identity(&btf);
    let moves = kernel.attach_moves(&btf);
    let proved = prove::prove(&mut kernel, &btf, &hierarchy, arguments.rung)?;
    let state = match proved.rung {
        Rung::Lsm | Rung::FmodRet => "ENFORCING",
        Rung::Observe => "DEGRADED",
        Rung::Setting => "INERT",
    };
    let report = Report {
        state,
        rung: proved.rung,
        cgroups: match hierarchy.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        },
        hierarchy: hierarchy.mount.display().to_string(),
        identity: said(identity.map(drop).map_err(|error| error.to_string())),
        moves: said(moves.map(drop).map_err(|error| error.to_string())),
        missing: prove::missing(&config),
        tried: proved.tried,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("fork governor   {:<10} rung {}", report.state, report.rung);
        for tried in &report.tried {
            println!(
                "  {:<10} {:<8} {}",
                tried.rung.name(),
                if tried.works { "works" } else { "no" },
                tried.reason
            );
        }
        println!(
            "identity        cgroup {} at {}: {}",
            report.cgroups, report.hierarchy, report.identity
        );
        println!("moves out       {}", report.moves);
        for field in &report.missing {
            println!("missing         this kernel's type information has no {field}");
        }
    }
    Ok(if proved.rung.refuses() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
