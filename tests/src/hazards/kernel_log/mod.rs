//! Kernel log: a container that reads, clears or forges the host's one kernel log is refused.

mod about;
pub(crate) mod bed;
mod following;
mod forwarding;
mod interrupts;
mod keeping;
mod killed;
mod loggers;
mod lower;
mod naming;
mod outage;
mod receivers;
pub(crate) mod refusing;
mod restrict;
pub(crate) mod rsyslog;
mod trouble;
mod ways;

use super::Scenario;

/// All scenarios of this hazard, by theme.
pub const SCENARIOS: &[&[Scenario]] = &[
    refusing::SCENARIOS,
    outage::SCENARIOS,
    lower::SCENARIOS,
    restrict::SCENARIOS,
    loggers::SCENARIOS,
    keeping::SCENARIOS,
    killed::SCENARIOS,
    following::SCENARIOS,
    naming::SCENARIOS,
    interrupts::SCENARIOS,
    about::SCENARIOS,
    forwarding::SCENARIOS,
    trouble::SCENARIOS,
];
