//! Plays an outage inside the virtual machine of `cargo xtask demo`.

use clap::{Parser, ValueEnum};
use guard_tests::demo;

/// Plays an outage.
#[derive(Parser)]
struct Arguments {
    /// Which.
    #[arg(value_enum)]
    outage: Outage,
    /// With Bulkhead.
    #[arg(long)]
    guarded: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outage {
    ForkStorm,
    ThinDiscard,
    BootLoop,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.outage {
        Outage::ForkStorm => demo::fork_storm(arguments.guarded),
        Outage::ThinDiscard => demo::thin_discard(arguments.guarded),
        Outage::BootLoop => demo::boot_loop(arguments.guarded),
    }
}
