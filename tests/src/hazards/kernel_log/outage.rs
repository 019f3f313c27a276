//! The outage: rsyslogd in a container takes from the host's what the kernel says.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{
    bed::{AT_ONCE, Copy, LINES, Numbered},
    rsyslog::{Input, Rsyslog},
};
use crate::{
    cgroup::Cgroup,
    daemon::Daemon,
    hazards::{Needs, Scenario},
    host::wait_for,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "kernel_log::a_containers_rsyslog_takes_no_line_from_the_hosts",
    needs: Needs::Ordinary,
    run: a_containers_rsyslog_takes_no_line_from_the_hosts,
}];

/// How long lines may take until they have a reader.
const SOON: Duration = Duration::from_secs(120);

/// Writes [`LINES`] lines, not faster than they are read, and tells how many the host's reader and the others have.
fn share(word: &'static str, host: &Rsyslog, others: &[&Rsyslog]) -> Result<(u64, u64)> {
    let mut numbered = Numbered::new(word)?;
    while numbered.written < LINES {
        numbered.write(AT_ONCE)?;
        let read = || -> usize {
            let all = others.iter().map(|one| one.numbers(word).len());
            all.sum::<usize>() + host.numbers(word).len()
        };
        wait_for("the lines at their readers", SOON, || {
            Ok(read() as u64 >= numbered.written)
        })?;
    }
    let seen: BTreeSet<u64> = host.numbers(word).into_iter().collect();
    let taken: usize = others.iter().map(|one| one.numbers(word).len()).sum();
    Ok((seen.len() as u64, taken as u64))
}

fn a_containers_rsyslog_takes_no_line_from_the_hosts() -> Result<()> {
    let container = Cgroup::container()?;
    // No writer is held to ten lines in five seconds.
    let copy = Copy::new()?;
    let host = Rsyslog::start(None, Input::Imklog)?;
    let before = Rsyslog::start(Some(&container), Input::Imklog)?;
    let (kept, taken) = share("shared", &host, &[&before])?;
    println!(
        "    without Bulkhead: of {LINES} lines the host's rsyslogd has {kept}, the container's {taken}"
    );
    ensure!(
        kept < LINES && taken > 0,
        "no line was taken: {kept}, {taken}"
    );

    copy.policy
        .rewrite("enforce", "deny: [kernel_log.read]", "reserve: {pids: 300}")?;
    let daemon = Daemon::start(&copy.policy, &[])?;
    // It waits in a read that was allowed when it began, which ends with the next line: only then it is refused. Which of the two
    // waiting readers wakes up first is chance.
    let mut last = Numbered::new("last")?;
    wait_for("the end of a read that began before", SOON, || {
        last.write(1)?;
        thread::sleep(Duration::from_millis(200));
        Ok(before.own().contains("not permitted"))
    })?;
    let after = Rsyslog::start(Some(&container), Input::Imklog)?;
    let (kept, taken) = share("guarded", &host, &[&before, &after])?;
    println!("    with it: the host's {kept}, the container's {taken}");
    for (which, one) in [("before", &before), ("after", &after)] {
        let own = one.own();
        println!(
            "    the container's that began {which} says: {}",
            own.lines()
                .find(|line| line.contains("not permitted"))
                .unwrap_or("nothing")
        );
        ensure!(own.contains("not permitted"), "{which}: {own}");
    }
    ensure!(kept == LINES && taken == 0, "{kept} kept, {taken} taken");
    ensure!(!host.own().contains("not permitted"), "{}", host.own());
    drop(daemon);
    Ok(())
}
