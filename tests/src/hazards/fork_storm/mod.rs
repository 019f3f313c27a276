//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

mod cap;
mod ladder;
mod lifecycle;
mod outage;
mod paths;
mod poor;
mod rate;
mod record;
mod trouble;
mod under_way;
mod window;

use anyhow::{Result, ensure};

pub use trouble::EVERYTHING;

use super::Scenario;
use crate::{bed, cgroup::Cgroup};

/// All scenarios of this hazard, by theme.
pub const SCENARIOS: &[&[Scenario]] = &[
    outage::SCENARIOS,
    under_way::SCENARIOS,
    rate::SCENARIOS,
    cap::SCENARIOS,
    paths::SCENARIOS,
    window::SCENARIOS,
    record::SCENARIOS,
    ladder::SCENARIOS,
    lifecycle::SCENARIOS,
    poor::SCENARIOS,
    trouble::SCENARIOS,
];

/// A rule that a bomb soon breaks, however slow the machine is.
const RATE: u64 = 20;
const BURST: u64 = 40;
const RULE: &str = "forks: {rate: 20/s, burst: 40}";

/// A bomb in a container is refused, within the bound of [`RULE`].
fn refuses(container: &Cgroup) -> Result<()> {
    let bomb = bed::run(container, "bomb --seconds 30 --refused 5")?;
    ensure!(
        bomb.refused > 0 && bomb.made <= bound(RATE, BURST, bomb.seconds),
        "not refused as it should be: {bomb:?}"
    );
    Ok(())
}

/// Forks that a limit allows in a time: burst and rate, and one for each processor.
fn bound(rate: u64, burst: u64, seconds: f64) -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    burst + (rate as f64 * seconds).ceil() as u64 + processors
}
