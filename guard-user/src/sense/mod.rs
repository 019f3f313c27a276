//! What the daemon watches: the kernel side's ring, the host's own numbers, and who reads the kernel log.

pub mod host;
pub mod readers;
pub mod ring;
pub mod uevents;
