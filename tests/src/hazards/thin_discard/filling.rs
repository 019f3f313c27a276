//! A pool that fills up, or is no longer well, is told of, with the time that is left; one that hangs does not hang the daemon.

use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pool::{Pool, must};
use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, status, succeed},
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "thin_discard::a_pool_that_fills_up_is_told_of_with_the_time_that_is_left",
        needs: Needs::Ends,
        run: fills,
    },
    Scenario {
        name: "thin_discard::a_pool_whose_disk_hangs_or_fails_is_told_of_and_hangs_nobody_else",
        needs: Needs::Ends,
        run: fails,
    },
    Scenario {
        name: "thin_discard::metadata_that_is_held_or_fills_up_or_must_be_checked_is_told_of",
        needs: Needs::Ends,
        run: metadata,
    },
];

const RULE: &str = "pids: {max: 4000}";
const HOST: &str = "reserve: {pids: 300}, thin: {discard: leave, alarm: {data: 30%, left: 10m}}";
/// A block of the pool, in KiB.
const BLOCK: u64 = 64;

/// The first record about a pool whose outcome has these words.
fn told(policy: &Policy, words: &str) -> Result<Value> {
    let mut found = None;
    wait_for(words, Duration::from_secs(60), || {
        found = policy.records()?.into_iter().find(|record| {
            record["kind"] == "thin.pool"
                && (record["outcome"].as_str()).is_some_and(|outcome| outcome.contains(words))
        });
        Ok(found.is_some())
    })?;
    found.context("no record")
}

/// Writes so many new blocks of a volume, behind so many.
fn fill(volume: &str, behind: u64, blocks: u64) -> Result<()> {
    must(&format!(
        "dd if=/dev/zero of={volume} bs={BLOCK}K seek={behind} count={blocks} oflag=direct status=none"
    ))
    .map(drop)
}

/// What the status says of the one pool.
fn pool_of(status: &Value) -> Result<&Value> {
    let pools = status["pools"].as_array().context("no pools")?;
    ensure!(pools.len() == 1, "{pools:?}");
    Ok(&pools[0])
}

fn fills() -> Result<()> {
    let mut pool = Pool::small()?;
    let thin = pool.volume()?;
    let policy = Policy::write("audit", RULE, HOST)?;
    let _daemon = Daemon::start(&policy, &[])?;
    wait_for("the pool", Duration::from_secs(60), || {
        Ok(pool_of(&status()?).is_ok())
    })?;
    // Five blocks a second, or fewer where the clock is slow: a twentieth of the pool before anything may be told.
    let mut blocks = 0;
    let began = Instant::now();
    while policy
        .records()?
        .iter()
        .all(|one| one["kind"] != "thin.pool")
    {
        ensure!(blocks < 300, "nothing is told at {blocks} blocks");
        fill(&thin, blocks, 5)?;
        blocks += 5;
        sleep(
            Duration::from_secs(1)
                .saturating_sub(began.elapsed() - Duration::from_secs(blocks / 5 - 1)),
        );
    }
    let record = told(&policy, "blocks more each minute")?;
    let left = record["measured"]["full.ms"].as_u64().context("no time")? / 1000;
    let pace = blocks as f64 / began.elapsed().as_secs_f64();
    let expected = ((1024 - blocks) as f64 / pace) as u64;
    println!(
        "    {blocks} blocks at {pace:.1} a second: full in {left} s is told, {expected} s expected"
    );
    ensure!(left.abs_diff(expected) <= expected / 3, "{record}");
    ensure!(
        record["severity"] == "high" && record["reason"].is_string(),
        "{record}"
    );
    let seen = status()?;
    let shown = pool_of(&seen)?;
    ensure!(
        shown["full_in"]
            .as_u64()
            .is_some_and(|left| left <= expected * 2),
        "{shown}"
    );
    for verb in [&["status"][..], &["thin", "status"]] {
        let shown = succeed(verb)?;
        ensure!(shown.contains("FULL in about"), "{shown}");
    }
    // One below the threshold, and at it: 308 of 1,024 blocks are more than 30 %, 307 are not.
    fill(&thin, blocks, 307 - blocks)?;
    sleep(Duration::from_secs(4));
    let is_at = |one: &Value| {
        one["outcome"]
            .as_str()
            .is_some_and(|words| words.contains("are left"))
    };
    ensure!(
        !policy.records()?.iter().any(is_at),
        "told at 307 of 1024 blocks"
    );
    fill(&thin, 307, 1)?;
    let record = told(&policy, "716 of 1024 blocks are left")?;
    ensure!(record["severity"] == "high", "{record}");
    // All of it.
    ensure!(fill(&thin, 308, 800).is_err(), "there was room");
    let record = told(&policy, "is out of data space now")?;
    ensure!(record["severity"] == "critical", "{record}");
    ensure!(succeed(&["thin", "status"])?.contains("out of data space"));
    // And room again.
    let name = pool.name().to_owned();
    must(&format!(
        "dmsetup remove --retry {name}-1; dmsetup message {name} 0 'delete 1'"
    ))?;
    told(&policy, "has room again")?;
    told(&policy, "is read and write now")?;
    Ok(())
}

fn fails() -> Result<()> {
    let mut pool = Pool::small()?;
    let thin = pool.volume()?;
    let name = pool.name().to_owned();
    let container = Cgroup::container()?;
    let policy = Policy::write("enforce", "pids: {max: 20}", HOST)?;
    let _daemon = Daemon::start(&policy, &[])?;
    wait_for("the pool", Duration::from_secs(60), || {
        Ok(pool_of(&status()?).is_ok())
    })?;
    // What is written waits for the metadata, and whoever asks the pool how it is waits as well.
    must(&format!(
        "dmsetup suspend --noflush --nolockfs {name}-metadata"
    ))?;
    let write = format!(
        "dd if=/dev/zero of={thin} bs={BLOCK}K count=4 oflag=direct conv=fsync status=none > /dev/null 2>&1 & echo $!"
    );
    must(&write)?;
    let hangs = || {
        Ok(status()?["degraded"].as_array().is_some_and(|all| {
            (all.iter().filter_map(Value::as_str))
                .any(|words| words.contains("did not say how it is for a minute"))
        }))
    };
    wait_for("a pool that hangs", Duration::from_secs(120), hangs)?;
    // The daemon goes on meanwhile.
    let before = policy.records()?.len();
    let mut storm = Command::new("sh");
    storm.args(["-c", "for one in $(seq 40); do sleep 3 & done; wait"]);
    let storm = bed::output(Some(&container), storm)?;
    let said = String::from_utf8_lossy(&storm.stderr);
    ensure!(
        said.contains("annot fork"),
        "the cap is not in force: {said}"
    );
    wait_for("a record", Duration::from_secs(20), || {
        let all = policy.records()?;
        Ok(all[before..]
            .iter()
            .any(|one| one["kind"] == "breach.began"))
    })?;
    must(&format!("dmsetup resume {name}-metadata"))?;
    wait_for("the pool", Duration::from_secs(60), || {
        hangs().map(|hangs| !hangs)
    })?;
    // Its metadata can be written no more.
    must(&format!(
        "dmsetup suspend --noflush --nolockfs {name}-metadata; dmsetup load {name}-metadata --table '0 16384 error'; \
         dmsetup resume {name}-metadata"
    ))?;
    let _ = fill(&thin, 8, 4);
    let mut record = Value::Null;
    wait_for("a pool that fails", Duration::from_secs(60), || {
        let all = policy.records()?;
        let found = all
            .into_iter()
            .find(|one| one["kind"] == "thin.pool" && one["severity"] == "critical");
        record = found.unwrap_or_default();
        Ok(!record.is_null())
    })?;
    let outcome = record["outcome"].as_str().unwrap_or_default();
    println!("    {outcome}");
    ensure!(
        outcome.ends_with("is read-only now") || outcome.ends_with("is failed now"),
        "{record}"
    );
    ensure!(
        record["reason"]
            .as_str()
            .is_some_and(|advice| advice.contains("thin recover")),
        "{record}"
    );
    Ok(())
}

fn metadata() -> Result<()> {
    // As little as there can be: 512 blocks.
    let mut pool = Pool::with_metadata(2 << 20)?;
    let thin = pool.volume()?;
    let name = pool.name().to_owned();
    let host = "reserve: {pids: 300}, thin: {discard: leave, alarm: {metadata: 30%, left: 1m}}";
    let policy = Policy::write("audit", RULE, host)?;
    let _daemon = Daemon::start(&policy, &[])?;
    wait_for("the pool", Duration::from_secs(60), || {
        Ok(pool_of(&status()?).is_ok())
    })?;
    let says = |words: &str| {
        let shown = succeed(&["thin", "status"])?;
        ensure!(shown.contains(words), "no {words}: {shown}");
        wait_for(words, Duration::from_secs(10), || {
            let seen = status()?;
            Ok(pool_of(&seen)?["state"]
                .as_str()
                .unwrap_or_default()
                .contains(words))
        })
    };
    must(&format!("dmsetup message {name} 0 reserve_metadata_snap"))?;
    let held = Instant::now();
    says("a snapshot of its metadata is held")?;
    // Each volume takes a block of metadata and none of data.
    let mut volumes = 1;
    let mut make = |until: u64| {
        while pool.metadata()?.0 < until {
            volumes += 1;
            must(&format!("dmsetup message {name} 0 'create_thin {volumes}'"))?;
        }
        Ok::<_, anyhow::Error>(())
    };
    // One below the threshold, and at it: 154 of 512 blocks are more than 30 %, 153 are not.
    make(153)?;
    let (used, total) = pool.metadata()?;
    ensure!((used, total) == (153, 512), "{used} of {total}");
    let fills = |one: &Value| {
        (one["outcome"].as_str()).is_some_and(|words| {
            words.contains("of its metadata is used") && words.contains("are left")
        })
    };
    sleep(Duration::from_secs(4));
    ensure!(
        !policy.records()?.iter().any(fills),
        "told at 153 of 512 blocks"
    );
    make(154)?;
    let record = told(&policy, "blocks are left")?;
    println!("    {}", record["outcome"]);
    ensure!(
        fills(&record) && record["severity"] == "high" && record["reason"].is_string(),
        "{record}"
    );
    // A tool that reads a snapshot of the metadata releases it soon; this one was forgotten.
    let forgotten = "holds a snapshot of its metadata since a minute";
    let is_told = || {
        let all = policy.records()?;
        let has = |one: &Value| {
            one["outcome"]
                .as_str()
                .unwrap_or_default()
                .contains(forgotten)
        };
        Ok::<_, anyhow::Error>(all.iter().any(has))
    };
    let so_long = held.elapsed();
    println!("    {} s after it was held", so_long.as_secs());
    ensure!(
        so_long < Duration::from_secs(55) && !is_told()?,
        "told, or too late to see that it is not: {so_long:?}"
    );
    wait_for(forgotten, Duration::from_secs(90), is_told)?;
    must(&format!("dmsetup message {name} 0 release_metadata_snap"))?;
    told(&policy, "holds no snapshot of its metadata any more")?;
    // Its metadata can be read, and written no more.
    must(&format!(
        "modprobe dm_flakey; on=$(dmsetup table {name}-metadata | cut -d' ' -f4); dmsetup suspend --noflush --nolockfs {name}-metadata; \
         dmsetup load {name}-metadata --table \"0 4096 flakey $on 0 0 3600 1 error_writes\"; dmsetup resume {name}-metadata"
    ))?;
    let _ = fill(&thin, 0, 4);
    let record = told(&policy, "says needs_check")?;
    ensure!(record["severity"] == "high", "{record}");
    let record = told(&policy, "is read-only now")?;
    ensure!(record["severity"] == "critical", "{record}");
    says("needs_check: deactivate it, then thin_check and thin_repair")
}
