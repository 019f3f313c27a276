//! dm-thin: a discard that crashes the host, and volumes that nobody can reach any more.
//!
//! What stands on what is read from sysfs, where the kernel keeps it, and never guessed from names; names tell only who uses what.

pub mod activate;
pub mod defaults;
pub mod devices;
pub mod discard;
pub mod head;
pub mod mounts;
pub mod origin;
pub mod pool;
pub mod recover;
pub mod report;
pub mod stack;
pub mod user;
pub mod watch;
