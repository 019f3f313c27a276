//! Whose a cgroup is: names in the policy, the tree on this host, and what a runtime's path says of a container.

mod automaton;
pub mod names;
pub mod roster;
pub mod runtime;
pub mod tree;
