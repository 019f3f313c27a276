//! The hook that stands before changing where the host swaps to.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Tool, came_of, net_namespace::CAPABLE};

/// The hook of swap.
pub static SWAP: [Hook; 1] = [Hook {
    hazard: "swap",
    name: "capable",
    program: "swap_capable",
    place: CAPABLE,
    what: "swapon(2) and swapoff(2)",
    open: &["swapon(2) and swapoff(2), to who has CAP_SYS_ADMIN"],
    actions: &[Action::Swap],
    trial: swap_to_nothing,
    ..BY_ITSELF
}];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn swap_to_nothing() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: a static text, of no file.
            came_of(i64::from(unsafe { libc::swapoff(c"".as_ptr()) }))
        },
    })
}
