//! What the daemon watches: the kernel side's ring, the host's own numbers, its thin pools, its mounts, and who reads the kernel log.

pub mod asked;
pub mod host;
pub mod mounts;
pub mod readers;
pub mod ring;
pub mod uevents;
