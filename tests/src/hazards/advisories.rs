//! Advisories: what a rule denies with `kernel: affected` is refused where the kernel has a bug that it triggers, and costs nothing where
//! it has none.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Needs, Scenario};
use crate::{
    bed::may,
    cgroup::Cgroup,
    daemon::{Daemon, Policy, status},
    host::wait_for,
};

/// All scenarios of this.
pub const SCENARIOS: &[&[Scenario]] = &[&[Scenario {
    name: "advisories::a_rule_for_affected_kernels_follows_the_advisories",
    needs: Needs::Ordinary,
    run: a_rule_for_affected_kernels_follows_the_advisories,
}]];

/// Of this host's own. None of those that come with Bulkhead speaks of what these two do.
const OWN: &str = "/etc/bulkhead/advisories";
/// Each denied by a rule of its own, as `kernel: affected`; and a script that does it.
const DUMMY: (&str, &str) = (
    "net_link.create, kinds: [dummy]",
    "unshare --net ip link add probe0 type dummy",
);
const FAULTS: (&str, &str) = ("userfaultfd", "bulkhead-probe call faults");

/// The host's own folder of advisories, for as long as a test runs.
struct Own;

impl Own {
    fn new() -> Result<Self> {
        fs::create_dir_all(OWN)?;
        Ok(Self)
    }

    /// A bug of every kernel since 2005 that an action triggers; of those alone that came before `fixed`.
    fn write(&self, id: &str, trigger: &str, fixed: &str) -> Result<()> {
        let text = format!(
            "---\nid: {id}\ntitle: made up\nhappens: A test's.\nharm: crash\nreach: any\n\
             upstream: {{introduced: [\"2.6.12\"], fixed: [\"{fixed}\"]}}\n\
             triggers: [{{action: {trigger}}}]\n\
             checked: {{on: \"2026-11-28\", how: It is made up.}}\n"
        );
        fs::write(Path::new(OWN).join(format!("{id}.yaml")), text).context("no advisory")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all("/etc/bulkhead");
    }
}

/// A release that no kernel has reached, and one that all of these have.
const NEVER: &str = "99.1";
const LONG_AGO: &str = "4.0";

fn a_rule_for_affected_kernels_follows_the_advisories() -> Result<()> {
    let own = Own::new()?;
    let policy = Policy::enforce(
        "kernel: affected\ndeny: [{net_link.create: {kinds: [dummy]}}, userfaultfd]",
    )?;
    let container = Cgroup::container()?;
    let daemon = Daemon::start(&policy, &[])?;
    let mut loads = 0;
    let mut are = |dummy: bool, faults: bool| -> Result<()> {
        wait_for("a record for each", Duration::from_secs(20), || {
            Ok(told(&policy)?.len() >= loads + 2)
        })?;
        let said = told(&policy)?.split_off(loads);
        loads += said.len();
        for (outcome, armed) in said.iter().zip([dummy, faults]) {
            println!("    {outcome}");
            let names = outcome.contains("armed by LOCAL-");
            ensure!(names == armed, "{outcome}");
        }
        for ((_, script), armed, hazard) in
            [(DUMMY, dummy, "net_link"), (FAULTS, faults, "userfaultfd")]
        {
            ensure!(
                may(Some(&container), script)? != armed,
                "{script} of a container"
            );
            ensure!(may(None, script)?, "{script} of the host");
            let all = status()?;
            let mut hooks = all["hooks"].as_array().into_iter().flatten();
            let attached = hooks.any(|hook| hook["hazard"] == hazard);
            ensure!(attached == armed, "{hazard}: {}", all["hooks"]);
        }
        Ok(())
    };
    are(false, false).context("of which no advisory speaks")?;
    own.write("LOCAL-dummy", DUMMY.0, NEVER)?;
    own.write("LOCAL-faults", FAULTS.0, LONG_AGO)?;
    daemon.reload()?;
    are(true, false).context("of which one is fixed")?;
    own.write("LOCAL-dummy", DUMMY.0, LONG_AGO)?;
    own.write("LOCAL-faults", FAULTS.0, NEVER)?;
    daemon.reload()?;
    are(false, true).context("the other way round")?;
    // A mistake in them takes no refusal back, and arms what may be needed.
    fs::write(Path::new(OWN).join("LOCAL-broken.yaml"), "id: [\n")?;
    daemon.reload()?;
    wait_for("both to be refused", Duration::from_secs(20), || {
        Ok(!may(Some(&container), DUMMY.1)? && !may(Some(&container), FAULTS.1)?)
    })?;
    let words = status()?.to_string();
    ensure!(words.contains("LOCAL-broken.yaml"), "{words}");
    ensure!(may(None, DUMMY.1)? && may(None, FAULTS.1)?, "the host");
    Ok(())
}

/// What each load said of each denial, in the order of the rule.
fn told(policy: &Policy) -> Result<Vec<String>> {
    let records = policy.records()?;
    let armed = records
        .iter()
        .filter(|record| record["kind"] == "rule.armed");
    Ok(armed
        .map(|record| format!("{}: {}", record["action"], record["outcome"]))
        .collect())
}
