//! Measures what Bulkhead costs, inside the virtual machine of `cargo xtask bench`.

use clap::{Parser, Subcommand};
use guard_tests::bench::{
    self, Rounds, actions, flood, kernel_log, latency, net_link, scale, starting,
};

/// Measures what Bulkhead costs.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Guest instructions of a fork; needs `-icount shift=1,sleep=off` and one processor.
    Cost {
        /// Turns of off and on.
        #[arg(long, default_value_t = 6)]
        turns: u32,
        /// Rounds of each kind of work in a turn: more than a second of it, so that what the daemon does once a second
        /// is in every turn.
        #[arg(long, default_value_t = 3000)]
        rounds: u32,
    },
    /// The same of opening, reading and closing a file, and of each hook of the kernel log.
    KernelLog {
        /// Turns of off and on.
        #[arg(long, default_value_t = 6)]
        turns: u32,
        /// Files are read five times as often.
        #[arg(long, default_value_t = 3000)]
        rounds: u32,
    },
    /// The same of ioctl(2) and of rtnetlink, and of each hook of network links.
    NetLink {
        /// Turns of off and on.
        #[arg(long, default_value_t = 6)]
        turns: u32,
        /// Each is done five times as often.
        #[arg(long, default_value_t = 3000)]
        rounds: u32,
    },
    /// The same of socket(2), mount(2) and others with rules armed that are not about them, and of each of their hooks.
    Actions {
        /// Turns of off and on.
        #[arg(long, default_value_t = 6)]
        turns: u32,
        /// What is short is done five times as often.
        #[arg(long, default_value_t = 3000)]
        rounds: u32,
    },
    /// Guest instructions of the daemon's start, by policy.
    Start {
        /// Starts with each.
        #[arg(long, default_value_t = 6)]
        turns: u32,
    },
    /// How long the host's own programs take to start while a bomb is refused.
    Latency {
        /// Programs that are started.
        #[arg(long, default_value_t = 1000)]
        count: u32,
    },
    /// The same with 10 and with 10,000 cgroups.
    Scale,
    /// How much of a flood of the kernel log is kept, by us and by others.
    Flood,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Cost { turns, rounds } => bench::run(Rounds { turns, rounds }),
        What::KernelLog { turns, rounds } => kernel_log::run(Rounds { turns, rounds }),
        What::NetLink { turns, rounds } => net_link::run(Rounds { turns, rounds }),
        What::Actions { turns, rounds } => actions::run(Rounds { turns, rounds }),
        What::Start { turns } => starting::run(turns),
        What::Latency { count } => latency::run(count),
        What::Scale => scale::run(),
        What::Flood => flood::run(),
    }
}
