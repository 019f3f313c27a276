//! The kernel log: what the kernel says of itself belongs to the host, whole and in order.

pub mod watch;
