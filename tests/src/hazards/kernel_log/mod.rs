//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

mod keeping;
mod naming;
mod refusing;
mod ways;

use super::Scenario;

/// All scenarios of this hazard, by theme.
pub const SCENARIOS: &[&[Scenario]] = &[refusing::SCENARIOS, keeping::SCENARIOS, naming::SCENARIOS];
