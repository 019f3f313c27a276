pub mod bpf;
pub mod fork_storm;
pub mod kernel_log;
pub mod net_link;
pub mod setting;
pub mod socket;
