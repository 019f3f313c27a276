//! Programs that run in a container and do what Bulkhead is there against, counting exactly what became of it.

pub mod bomb;
pub mod call;
mod compat;
pub mod cost;
pub mod crash;
pub mod crowd;
pub mod discard;
mod elf32;
pub mod forks;
pub mod klog;
pub mod link;
pub mod module;
pub mod mount;
pub mod socket;
pub mod tally;
pub mod traffic;
pub mod user_namespace;
