//! The hook that stands before bpf(2).

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// The hook of bpf(2).
pub static BPF: [Hook; 1] = [Hook {
    hazard: "bpf",
    name: "bpf",
    program: "bpf_command",
    place: Place::Asked {
        lsm: "bpf_lsm_bpf",
        security: "security_bpf",
    },
    what: "calling bpf(2), and what Bulkhead has in the kernel; what was loaded or attached before goes on",
    open: &["bpf(2), by which what Bulkhead has in the kernel can be changed"],
    actions: &[Action::Bpf, Action::GuardDisable],
    trial: look_at_the_first_program,
    ..BY_ITSELF
}];

/// `BPF_PROG_GET_NEXT_ID` (include/uapi/linux/bpf.h).
const NEXT_PROGRAM: libc::c_long = 11;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn look_at_the_first_program() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // The number to begin behind, what the kernel answers, and no flags.
            let mut attr = [0_u32; 3];
            // SAFETY: the argument is as long as the call is told; there is a program, our own.
            came_of(unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    NEXT_PROGRAM,
                    attr.as_mut_ptr(),
                    size_of_val(&attr),
                )
            })
        },
    })
}
