//! What the daemon watches: the kernel side's ring, and the host's own numbers.

pub mod host;
pub mod ring;
