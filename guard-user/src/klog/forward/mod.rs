//! The outlets: whoever else gets the lines of the kernel log, the journal or a syslog receiver. None of them, slow or
//! dead, ever holds up the copy.

mod echo;
mod journald;
mod link;
mod outlet;
mod outlets;
mod queue;
mod said;
mod syslog;

pub use outlet::Health;
pub use outlets::{Losses, Outlets};
