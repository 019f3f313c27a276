//! Outages as they were, each without Bulkhead and with it, told line by line for people.

pub mod fork_storm;
pub mod thin_discard;

pub use fork_storm::fork_storm;
pub use thin_discard::thin_discard;
