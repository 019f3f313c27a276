//! Deciding is pure: what was seen and what time it is come in, what is to be done and told comes out.

pub mod asked;
pub mod breach;
pub mod budget;
pub mod engine;
pub mod ladder;
pub mod leak;
pub mod restrict;
pub mod seen;
pub mod settings;
mod state;
pub mod telling;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod replay;
