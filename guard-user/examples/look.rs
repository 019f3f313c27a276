//! What looking at one line of the kernel log costs: `look COUNT LINE` holds the line against the shipped patterns so many
//! times. Under `valgrind --tool=callgrind`, two counts give the instructions of one line (docs/hazards.md, Watching).

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use guard_user::{klog::watch::Watch, policy::pattern::shipped};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, line] = arguments.as_slice() else {
        bail!("usage: look COUNT LINE");
    };
    let count: u32 = count.parse().context("COUNT is no number")?;
    let watch = Watch::new(shipped()?)?;
    let mut alarms = 0;
    for _ in 0..count {
        alarms += watch.look(black_box(line), true).count();
    }
    println!("{alarms} alarms in {count} lines");
    Ok(())
}
