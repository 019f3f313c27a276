//! Thin discard: which devices stand on dm-thin, and how its pools are.
//!
//! What stands on what is read from sysfs, where the kernel keeps it, and never guessed from names.

pub mod mounts;
pub mod pool;
pub mod stack;
