//! dm-thin: a discard that crashes the host, and volumes that nobody can reach any more.

pub mod activate;
pub mod recover;
