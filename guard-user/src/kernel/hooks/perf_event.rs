//! The hook that stands before opening perf events.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// Asks before a perf event is opened.
pub const PERF_EVENT_OPEN: &str = "security_perf_event_open";

/// The hook of perf events.
pub static PERF_EVENT: [Hook; 1] = [Hook {
    hazard: "perf_event",
    name: "perf_event_open",
    program: "perf_event_open",
    place: Place::Asked {
        lsm: "bpf_lsm_perf_event_open",
        security: PERF_EVENT_OPEN,
    },
    what: "perf_event_open(2); what was opened before goes on",
    open: &["perf_event_open(2)"],
    actions: &[Action::PerfEventOpen],
    trial: open_nothing,
    ..BY_ITSELF
}];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn open_nothing() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // A `struct perf_event_attr` of the first version: the clock of the processor, of this process alone.
            let attributes = [PERF_TYPE_SOFTWARE | 64 << 32, 0, 0, 0, 0, 0, 0, 0_u64];
            // SAFETY: the attributes are as long as they say. What it opens goes with the child.
            came_of(unsafe {
                libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)
            })
        },
    })
}

/// `PERF_TYPE_SOFTWARE` (include/uapi/linux/perf_event.h).
const PERF_TYPE_SOFTWARE: u64 = 1;
