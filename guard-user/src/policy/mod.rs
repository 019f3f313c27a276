//! Policy: what the operator wants, read so strictly that a slip of the pen is an error and never a hole.

pub mod armed;
pub mod compile;
pub mod denial;
pub mod denied;
mod deny;
pub mod describe;
pub mod fields;
pub mod glob;
pub mod load;
pub mod meaning;
mod merge;
pub mod model;
pub mod outlet;
mod parse;
pub mod pattern;
pub mod problem;
mod rule;
pub(crate) mod section;
mod thin;
pub mod units;
mod when;
pub(crate) mod yaml;

#[cfg(test)]
mod tests;
