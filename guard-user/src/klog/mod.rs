//! The kernel log: what the kernel says of itself belongs to the host, whole, in order, and each line with the name of who
//! printed it.

pub mod naming;
pub mod watch;
