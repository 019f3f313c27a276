//! Outages as they were, each without Bulkhead and with it, told line by line for people.

pub mod boot_loop;
pub mod fork_storm;
mod play;
pub mod thin_discard;

pub use boot_loop::boot_loop;
pub use fork_storm::fork_storm;
pub use thin_discard::thin_discard;
