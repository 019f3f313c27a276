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
mod window;

use super::Scenario;

/// All scenarios of this hazard, by theme.
pub const SCENARIOS: &[&[Scenario]] = &[
    outage::SCENARIOS,
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

/// Forks that a limit allows in a time: burst and rate, and one for each processor.
fn bound(rate: u64, burst: u64, seconds: f64) -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    burst + (rate as f64 * seconds).ceil() as u64 + processors
}
