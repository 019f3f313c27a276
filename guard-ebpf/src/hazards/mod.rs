pub mod fork_storm;
