//! What the daemon's start to enforcing costs, by policies that a host may have.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::{RULE, clock, error, mean, programs, started};
use crate::daemon::{PINS, Policy};

/// The policy that is embedded in the daemon, which this one enforces.
const BUILT_IN: &str = include_str!("../../../policies/default.yaml");

/// What only tells or audits is attached by then.
const SETTLES: Duration = Duration::from_secs(3);

/// Starts a daemon so many times with each policy, and prints what that took.
///
/// # Errors
/// A measurement failed.
pub fn run(turns: u32) -> Result<()> {
    clock()?;
    let built_in = Policy::enforce("")?;
    built_in.replace(BUILT_IN)?;
    let policies = [
        ("one enforced limit of forks", Policy::enforce(RULE)?),
        ("the built-in policy, enforced", built_in),
    ];
    for (what, policy) in &policies {
        let mut starts = Vec::new();
        for turn in 0..turns {
            let (daemon, instructions) = started(policy)?;
            starts.push(instructions);
            thread::sleep(SETTLES);
            if turn + 1 == turns {
                programs::verified()?;
            }
            drop(daemon);
            ensure!(!std::path::Path::new(PINS).exists(), "off is not off");
        }
        println!(
            "{what}: {:.1} million (± {:.1})   at most 250 million",
            mean(&starts) / 1e6,
            error(&starts) / 1e6
        );
    }
    Ok(())
}
