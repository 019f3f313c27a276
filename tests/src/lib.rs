//! What the virtual machine's tests stand on: cgroups named as runtimes name them, the daemon, probes that fork.

pub mod bed;
pub mod bench;
pub mod cgroup;
pub mod daemon;
pub mod demo;
pub mod docker;
pub mod hazards;
pub mod host;
pub mod probe;
pub mod runtimes;
