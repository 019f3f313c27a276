//! The only writers to the host. Every change is in the journal before it is made, and goes through a cgroup's id.

pub mod cgroup;
pub mod discards;
pub mod freeze;
pub mod journal;
pub mod kill;
pub mod membership;
pub mod pids;
pub mod remount;
pub mod restore;
pub mod restrict;
pub mod setting;
mod subtree;

#[cfg(test)]
mod tests;
