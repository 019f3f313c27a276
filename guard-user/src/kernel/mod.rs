//! What this kernel offers, and the way into it: BTF, rungs, tables, programs, pins.

pub mod attach;
pub mod btf;
mod bytes;
mod fold;
mod functions;
pub mod hooks;
mod image;
pub mod install;
mod kind;
pub mod load;
pub mod loops;
pub mod mapper;
mod object;
pub mod open;
mod own;
pub mod pinned;
pub mod pins;
pub mod prove;
pub mod rungs;
pub mod self_test;
pub mod setup;
mod sys;
pub mod tables;
mod under_way;
mod variables;
