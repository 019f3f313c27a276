//! What is told: exact counts, a handful of records for a flood, and an alarm before a leak is a breach.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    bed,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, counters, succeed},
    hazards::{Needs, Scenario},
    host,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::a_hundred_thousand_refusals_are_a_handful_of_records",
        needs: Needs::Ends,
        run: a_hundred_thousand_refusals_are_a_handful_of_records,
    },
    Scenario {
        name: "fork_storm::a_leak_is_told_of_before_it_is_a_breach",
        needs: Needs::Patience,
        run: a_leak_is_told_of_before_it_is_a_breach,
    },
];

/// Refusals that the records of a container account for together, and in how many records they stand.
fn accounted(records: &[Value], container: &Cgroup) -> (u64, usize) {
    let told: Vec<&Value> = records
        .iter()
        .filter(|record| {
            record["cgroup"].as_str() == Some(&container.path) && record["verdict"] == "deny"
        })
        .collect();
    // The record of a breach's end counts all of it.
    let sum = told
        .iter()
        .filter(|record| record["kind"] == "breach.ended")
        .filter_map(|record| record["count"].as_u64())
        .sum();
    (sum, told.len())
}

fn a_hundred_thousand_refusals_are_a_handful_of_records() -> Result<()> {
    let policy = Policy::enforce("forks: {rate: 10/s, burst: 10}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let bomb = bed::run(&container, "bomb --refused 100000")?;
    let seen = counters(&container)?.unwrap_or_default();
    ensure!(
        (seen.allowed, seen.refused) == (bomb.made, bomb.refused),
        "status counts {seen:?}, the bomb {bomb:?}"
    );
    host::wait_for("records of all of them", Duration::from_secs(15), || {
        Ok(accounted(&policy.records()?, &container).0 >= bomb.refused)
    })
    .or_else(|error| {
        let (sum, count) = accounted(&policy.records()?, &container);
        anyhow::bail!(
            "{error}: {count} records account for {sum} of {}",
            bomb.refused
        )
    })?;
    let records = policy.records()?;
    let (sum, count) = accounted(&records, &container);
    println!(
        "    {} refused in {:.1} s: {count} records account for {sum}, {} records in all",
        bomb.refused,
        bomb.seconds,
        records.len()
    );
    ensure!(
        sum == bomb.refused,
        "{sum} accounted for of {}",
        bomb.refused
    );
    ensure!(
        count <= 5 + (bomb.seconds / 5.0) as usize,
        "{count} records for one incident"
    );
    let measured = &(records.iter())
        .find(|record| record["kind"] == "breach.began")
        .unwrap_or(&Value::Null)["measured"];
    ensure!(
        measured["rate"] == 10 && measured["burst"] == 10,
        "the first record of the breach does not tell the limit: {measured}"
    );
    for field in [
        "time",
        "boot_id",
        "seq",
        "kind",
        "action",
        "verdict",
        "mode",
        "rule",
        "severity",
        "rung",
        "container.id",
        "container.runtime",
        "cgroup",
        "reason",
    ] {
        ensure!(
            records
                .iter()
                .filter(|record| record["verdict"] == "deny")
                .all(|record| !record[field].is_null()),
            "a record has no {field}: {:?}",
            records.iter().find(|record| record["verdict"] == "deny")
        );
    }
    let shown = succeed(&[
        "audit",
        "show",
        "--json",
        "--file",
        &policy.audit.display().to_string(),
    ])?;
    ensure!(
        shown.lines().count() >= records.len(),
        "audit show --json shows {} lines of {}",
        shown.lines().count(),
        records.len()
    );
    Ok(())
}

fn a_leak_is_told_of_before_it_is_a_breach() -> Result<()> {
    let policy = Policy::enforce("pids: {max: 2000, leak: 30m}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let (leaking, steady) = (Cgroup::container()?, Cgroup::container()?);
    let neighbour = bed::start(Some(&steady), "leak --what process --most 100")?;
    // A container in which nothing is refused is looked at every other second, and sixteen looks are a trend.
    let leak = bed::start(Some(&leaking), "leak --what process --rate 6")?;
    let told = |container: &Cgroup| -> Result<Option<Value>> {
        Ok(policy.records()?.into_iter().find(|record| {
            record["kind"]
                .as_str()
                .is_some_and(|kind| kind.contains("leak"))
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    };
    host::wait_for("an alarm", Duration::from_secs(120), || {
        Ok(told(&leaking)?.is_some())
    })?;
    let pids = leaking.pids()?;
    println!(
        "    told of at {pids} pids of 2000: {}",
        told(&leaking)?.unwrap_or_default()["reason"]
    );
    ensure!(pids < 2000, "told of only at the cap");
    ensure!(
        told(&steady)?.is_none(),
        "a container that holds its pids is called a leak"
    );
    leak.finish()?;
    neighbour.finish()?;
    Ok(())
}
