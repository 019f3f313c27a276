//! Whom a line is about: the process or the cgroup that its text names, and the container that is.
//!
//! The kernel prints names that containers choose, of processes and of nested cgroups. What is taken from a text stands where
//! no such name can put it; where a text can be read in two ways, nothing is taken from it.

mod audit;
mod text;
mod whose;

pub use audit::is_a_programs;
pub use text::{Named, Place, named};
pub use whose::{
    Had, Living, Moment, Tasks, Whom, had, in_proc, monotonic, real_ahead, slack, stamped,
};

#[cfg(test)]
mod forged;
#[cfg(test)]
mod tests;
