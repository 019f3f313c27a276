//! Network links: a container that would make a bridge, or a link of another kind that a policy names, is refused.

mod docker;
mod refusing;
mod ways;

use super::Scenario;

/// All scenarios of this hazard, by theme.
pub const SCENARIOS: &[&[Scenario]] = &[refusing::SCENARIOS, docker::SCENARIOS];
