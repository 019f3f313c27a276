//! Forks under way: judged, and neither done nor failed. What counts those that are done is the kernel itself, where it says how many.

use std::{mem::offset_of, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use guard_common::host::Host;

use crate::{
    bed,
    cgroup::{Cgroup, is_v2},
    daemon::{Daemon, Policy},
    hazards::{Needs, Scenario},
    host::{self, Setting},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork_storm::forks_that_are_refused_for_their_namespace_hide_none_that_is_under_way",
        needs: Needs::Ends,
        run: refused_ahead,
    },
    Scenario {
        name: "fork_storm::forks_that_are_done_are_counted_by_the_kernel_or_where_it_hides_that_by_a_program",
        needs: Needs::Refusing,
        run: who_counts,
    },
];

/// What the table `HOST` says.
struct UnderWay {
    /// Forks that have begun and not ended.
    forking: i64,
    /// What the daemon has put right of that.
    mended: u64,
    /// The kernel's own count is gone by.
    by_kernel: bool,
}

impl UnderWay {
    fn now() -> Result<Self> {
        // First: what is done meanwhile counts as under way, and not as done before it began.
        let total = host::forks()?;
        let said = Command::new("sh")
            .args([
                "-c",
                "bpftool --json map dump pinned /sys/fs/bpf/bulkhead/v*/HOST",
            ])
            .output()?;
        let said: serde_json::Value = serde_json::from_slice(&said.stdout)?;
        let bytes = said[0]["value"].as_array().context("no table HOST")?;
        let word = |at: usize| -> Result<u64> {
            let mut word = [0; 8];
            for (byte, said) in word.iter_mut().zip(&bytes[at..]) {
                let said = said.as_str().unwrap_or_default();
                *byte = u8::from_str_radix(said.trim_start_matches("0x"), 16)?;
            }
            Ok(u64::from_le_bytes(word))
        };
        let host = Host {
            forks_begun: word(offset_of!(Host, forks_begun))?,
            forks_landed: word(offset_of!(Host, forks_landed))?,
            forks_failed: word(offset_of!(Host, forks_failed))?,
            ..Host::default()
        };
        let by_kernel = word(offset_of!(Host, total_forks_at))? != 0;
        Ok(Self {
            forking: host.forking(if by_kernel { total } else { 0 }),
            mended: word(offset_of!(Host, misses_mended))?,
            by_kernel,
        })
    }

    /// Only this one's own, and the few that the machine has.
    fn is_quiet(&self) -> bool {
        (0..10).contains(&self.forking)
    }
}

/// What is refused ahead of the governor is seen to fail as any fork is: it must have been seen to begin as well.
fn refused_ahead() -> Result<()> {
    const TRIED: u32 = 100;
    let policy = Policy::write(
        "enforce",
        "deny: [net_namespace.create]\npids: {max: 1000000}",
        "reserve: {pids: 300}",
    )?;
    let _daemon = Daemon::start(&policy, &[])?;
    let container = Cgroup::container()?;
    let before = UnderWay::now()?;
    let script = format!(
        "for i in $(seq {TRIED}); do bulkhead-probe user-namespace --net --way clone && exit 1; done; exit 0"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let refused = bed::output(Some(&container), command)?;
    let now = UnderWay::now()?;
    let mended = now.mended.wrapping_sub(before.mended);
    println!(
        "    {TRIED} refused: {} under way, {mended} put right",
        now.forking
    );
    ensure!(refused.status.success(), "one was not refused");
    ensure!(
        now.is_quiet() && mended == 0,
        "{} under way, {mended} put right",
        now.forking
    );
    Ok(())
}

/// Either way none is lost of hundreds that are done, refused or failed, and who makes a task outside of his container is on record. What one
/// daemon begins to count by the next goes on with, whatever the kernel hides by then.
fn who_counts() -> Result<()> {
    let policy = Policy::write(
        "enforce",
        "forks: {rate: 100/s, burst: 100}\npids: {max: 1000000}",
        "reserve: {pids: 300}",
    )?;
    // The helper that says where the kernel counts is there since 5.16.
    let says = host::release() >= (5, 16);
    let mut outside = 0;
    for hides in [false, true] {
        let (shown, hidden) = match hides {
            true => ("2", "0"),
            false => ("0", "2"),
        };
        let _shown = Setting::new("kernel/kptr_restrict", shown)?;
        let mut daemon = Daemon::start(&policy, &[])?;
        let expected = says && !hides;
        for again in [false, true] {
            if again {
                daemon.kill()?;
                let _other = Setting::new("kernel/kptr_restrict", hidden)?;
                daemon = Daemon::start(&policy, &[])?;
            }
            let container = Cgroup::container()?;
            let bomb = bed::run(&container, "bomb --seconds 30 --refused 200")?;
            ensure!(bomb.made > 0 && bomb.refused > 0, "{bomb:?}");
            ensure!(host::spawn(20).0 == 20, "the host cannot fork");
            // What the kernel left out of a program is put right once a second.
            let mut now = UnderWay::now()?;
            let _ = host::wait_for("quiet", Duration::from_secs(3), || {
                now = UnderWay::now()?;
                Ok(now.is_quiet())
            });
            println!(
                "    hidden: {hides}, a second daemon: {again}: {} made, {} refused, {} under way, counted by the kernel: {}",
                bomb.made, bomb.refused, now.forking, now.by_kernel
            );
            ensure!(
                now.by_kernel == expected,
                "counted by the kernel: {}",
                now.by_kernel
            );
            ensure!(now.is_quiet(), "{} under way", now.forking);
            if is_v2() {
                outside += 3;
                made_outside(&policy, outside)?;
            }
        }
        daemon.stop()?;
    }
    Ok(())
}

/// A container makes three tasks outside of itself; so many are on record by then, the last of them too.
fn made_outside(policy: &Policy, expected: u64) -> Result<()> {
    let (container, service) = (Cgroup::container()?, Cgroup::service()?);
    let folder = service.folder().display().to_string();
    let into = bed::run(
        &container,
        &format!("bomb --how into --attempts 3 --cgroup {folder}"),
    )?;
    ensure!(into.made == 3, "{into:?}");
    let wait = Duration::from_secs(10);
    host::wait_for("a record of each", wait, || {
        let records = policy.records()?;
        let of = (records.iter()).filter(|record| record["kind"] == "moved_out");
        let counts = of.clone().filter_map(|record| record["count"].as_u64());
        let told = of
            .filter(|record| record["cgroup"] == container.path.as_str())
            .filter_map(|record| record["reason"].as_str())
            .any(|reason| reason.contains("made a task in"));
        Ok(told && counts.sum::<u64>() == expected)
    })
}
