//! Advisories: known kernel bugs that a container can reach, and whether the running kernel has them.
//!
//! `language` and `read` say what stands in a file, `set` which files count, `kernel` and `host` what runs here, `judge`
//! whether it has the bug, `cover` whether the policy refuses what triggers it, and `arm` which rules hold for that alone.

pub mod arm;
pub mod bundle;
pub mod cover;
pub mod embedded;
pub mod host;
pub mod judge;
pub mod kernel;
pub mod language;
pub mod model;
mod packages;
mod ranges;
mod read;
pub mod set;
pub mod upstream;
pub mod vendor;

#[cfg(test)]
mod tests;
