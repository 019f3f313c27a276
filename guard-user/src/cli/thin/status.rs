//! `bulkhead thin status`: the host's thin pools, what stands on them, and what becomes of their discards.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use guard_user::{
    control::{SOCKET, client},
    kernel::pinned::Pinned,
    thin::{
        origin,
        report::{DeviceReport, PoolReport, Report},
        user::User,
        watch::roughly,
    },
};

use crate::cli::host;

/// Show thin pools, what stands on them, and what becomes of their discards. It takes no daemon; one that runs adds how
/// long until a pool is full.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    let pinned = Pinned::open().context("cannot read what is pinned in the kernel")?;
    // Only a daemon that watches them knows how fast pools fill.
    let watched =
        client::status(Path::new(SOCKET)).map_or_else(|_| Vec::new(), |status| status.pools);
    let report =
        Report::of_this_host(pinned.as_ref(), &watched).context("cannot list block devices")?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let words = match report.discards {
        "refused" => {
            "off for everybody on what stands on dm-thin (host.thin, or `thin discard off`)"
        }
        "audited" => "counted and let through (the policy's mode is audit)",
        "left" => "left on for the host; a rule may refuse them to containers",
        _ => "unguarded: nothing of Bulkhead is in the kernel",
    };
    writeln!(out, "discards        {words}")?;
    for held in &report.held_back {
        writeln!(
            out,
            "held back       {}: an earlier boot began to activate it at {} ({}), and did not live to see the end; \
             `bulkhead thin activate {0} --override` lets it go",
            held.pool, held.time, held.command
        )?;
    }
    if report.devices.is_empty() && report.pools.is_empty() {
        return writeln!(out, "dm-thin         there is none on this host");
    }
    for pool in &report.pools {
        print_pool(out, pool)?;
    }
    for device in &report.devices {
        print_device(out, device, report.queues_are_heeded)?;
    }
    if report.discards == "refused" {
        for way in &report.open {
            writeln!(out, "open            {way}")?;
        }
    }
    for words in &report.advice {
        writeln!(out, "advice          {words}")?;
    }
    Ok(())
}

fn print_pool(out: &mut impl Write, pool: &PoolReport) -> io::Result<()> {
    let (name, mapped) = (&pool.name, &pool.mapped);
    let Some(status) = pool.status else {
        return writeln!(
            out,
            "pool            {mapped} ({name}): it does not say how it is; its disk may hang"
        );
    };
    write!(
        out,
        "pool            {mapped} ({name}{}): {}; data {} % of {} blocks, metadata {} % of {}",
        by(pool.user.as_ref()),
        status.state(),
        status.data.percent(),
        status.data.total,
        status.metadata.percent(),
        status.metadata.total,
    )?;
    match pool.full_in {
        Some(seconds) => writeln!(out, "; FULL in about {}", roughly(seconds)),
        None => writeln!(out),
    }
}

fn by(user: Option<&User>) -> String {
    user.map_or_else(String::new, |user| format!(", {}", user.words()))
}

fn print_device(out: &mut impl Write, device: &DeviceReport, is_heeded: bool) -> io::Result<()> {
    let name = match &device.mapped {
        Some(mapped) => format!("{mapped} ({}{})", device.name, by(device.user.as_ref())),
        None => device.name.clone(),
    };
    let below = match device.below.as_slice() {
        [] => String::new(),
        below => format!(" on {}", below.join(", ")),
    };
    write!(out, "  {:<8}      {name}{below}", device.class)?;
    match device.discard_max_bytes {
        Some(0) if is_heeded => write!(out, "; discards switched off")?,
        Some(0) => write!(
            out,
            "; its queue takes none, which this kernel does not heed"
        )?,
        Some(_) => write!(out, "; takes discards")?,
        None => {}
    }
    for at in &device.mounted {
        let discards = match device.mounted_with_discard {
            true => " WITH DISCARD",
            false => "",
        };
        write!(out, "; mounted at {at}{discards}")?;
    }
    if let Some(unasked) = device.unasked {
        write!(out, "; {}", unasked.words())?;
    }
    for (count, words) in [
        (device.refused, "refused"),
        (device.audited, "let through"),
        (device.arrived, "ARRIVED"),
    ] {
        if count > 0 {
            write!(out, "; {count} {words}")?;
        }
    }
    if device.arrived > 0
        && let Some(words) = origin::words(&device.origins)
    {
        write!(out, ": {words}")?;
    }
    writeln!(out)
}
