pub mod bpf;
pub mod fork_storm;
pub mod kernel_log;
pub mod net_link;
pub mod netlink;
pub mod setting;
pub mod socket;
pub mod user_namespace;
