//! Netlink: a container that would ask something of a family that a policy denies is refused.

use anyhow::{Result, ensure};

use super::{Needs, Scenario, kernel_log::refusing::count};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, enforcing, status},
    host::wait_for,
};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[&[
    Scenario {
        name: "netlink::what_a_rule_denies_is_refused_where_it_says_and_nothing_beside_it",
        needs: Needs::RefusingOnV2,
        run: refused,
    },
    Scenario {
        name: "netlink::in_audit_mode_everything_is_done_and_counted",
        needs: Needs::Ends,
        run: audited,
    },
]];

const NESTED: &str = "deny: [netlink: {families: [nf_tables, xfrm]}]\nwhen: {netns: nested}";
const EVERYWHERE: &str = "deny: [netlink: {families: [netfilter]}]";

/// In a network namespace of its own; each leaves nothing behind.
fn nested(script: &str) -> String {
    format!("unshare --net sh -ec '{script}'")
}

/// What the rule denies, with the tools that people use.
const DENIED: [&str; 4] = [
    "nft add table ip probe",
    "nft list ruleset",
    "printf \"add table ip a\\nadd chain ip a b\\nadd rule ip a b accept\\n\" | nft -f -",
    "ip xfrm state",
];
/// What it does not.
const OTHERS: [&str; 3] = [
    "ip link add probe0 type dummy; ip route show",
    "conntrack -L",
    "ss --all > /dev/null",
];

fn refused() -> Result<()> {
    let container = Cgroup::container()?;
    let service = Cgroup::service()?;
    let us = Some(&container);
    for script in DENIED.into_iter().chain(OTHERS) {
        ensure!(may(us, &nested(script))?, "without Bulkhead: {script}");
    }
    let policy = Policy::enforce(NESTED)?;
    let daemon = Daemon::start(&policy, &[])?;
    for script in DENIED {
        let nested = nested(script);
        ensure!(!may(us, &nested)?, "the container may: {script}");
        ensure!(may(None, &nested)?, "the host may not: {script}");
        ensure!(may(Some(&service), &nested)?, "a service may not: {script}");
    }
    // In the host's own namespace the rule says nothing.
    ensure!(may(us, "nft list ruleset")?, "in the host's namespace");
    for script in OTHERS {
        ensure!(may(us, &nested(script))?, "the container may not: {script}");
    }
    let seen = status()?;
    ensure!(count(&seen, &container, "netlink", "refused")? >= DENIED.len() as u64);
    enforcing(&seen, "netlink", "netlink_send")?;
    wait_for("the record", std::time::Duration::from_secs(10), || {
        Ok(policy.records()?.iter().any(|record| {
            record["kind"] == "action"
                && record["action"] == "netlink"
                && record["verdict"] == "deny"
                && record["argument"] == "nf_tables"
                && record["cgroup"].as_str() == Some(&container.path)
        }))
    })?;
    // All that is behind a family, wherever.
    policy.rewrite("enforce", EVERYWHERE, "reserve: {pids: 300}")?;
    daemon.reload()?;
    wait_for("the reload", std::time::Duration::from_secs(20), || {
        Ok(!may(us, "nft list ruleset")?)
    })?;
    ensure!(!may(us, &nested(OTHERS[1]))?, "conntrack is behind it");
    ensure!(may(us, &nested(DENIED[3]))?, "xfrm is not");
    drop(daemon);
    ensure!(may(us, &nested(DENIED[0]))?, "nobody is there");
    Ok(())
}

fn audited() -> Result<()> {
    let container = Cgroup::container()?;
    let us = Some(&container);
    let policy = Policy::write("audit", NESTED, "reserve: {pids: 300}")?;
    let _daemon = Daemon::start(&policy, &[])?;
    let counted = |which| count(&status()?, &container, "netlink", which);
    for (script, counts) in (DENIED.map(|script| (script, true)).into_iter())
        .chain(OTHERS.map(|script| (script, false)))
    {
        let before = counted("audited")?;
        ensure!(may(us, &nested(script))?, "refused in audit mode: {script}");
        let is_counted = counted("audited")? > before;
        ensure!(is_counted == counts, "{script}: counted: {is_counted}");
    }
    ensure!(counted("refused")? == 0);
    Ok(())
}
