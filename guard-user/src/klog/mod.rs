//! The kernel log: what the kernel says of itself belongs to the host, whole, in order, and each line with the name of who
//! printed it.

pub mod about;
pub mod forward;
pub mod keep;
pub mod line;
pub mod names;
pub mod naming;
pub mod reader;
pub mod record;
pub mod watch;
