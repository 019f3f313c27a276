//! The hooks that stand before taking hold of another process.

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// The hooks of ptrace.
pub static PTRACE: [Hook; 2] = [
    Hook {
        hazard: "ptrace",
        name: "ptrace_access_check",
        program: "ptrace_access_check",
        place: Place::Asked {
            lsm: "bpf_lsm_ptrace_access_check",
            security: "security_ptrace_access_check",
        },
        what: "tracing a process, and reading or writing its memory or its descriptors; what is traced already is traced as ever",
        open: &["tracing processes, and their memory"],
        actions: &[Action::Ptrace],
        trial: read_the_daemons_memory,
        ..BY_ITSELF
    },
    Hook {
        hazard: "ptrace",
        name: "ptrace_traceme",
        program: "ptrace_traceme",
        place: Place::Asked {
            lsm: "bpf_lsm_ptrace_traceme",
            security: "security_ptrace_traceme",
        },
        what: "having the parent trace oneself (PTRACE_TRACEME)",
        open: &["having the parent trace oneself"],
        actions: &[Action::Ptrace],
        trial: be_traced,
        ..BY_ITSELF
    },
];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn read_the_daemons_memory() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            let mut byte = 0_u8;
            let own = libc::iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            // The parent is a copy of this process, so that what is here is there as well.
            let other = libc::iovec {
                iov_base: (&raw const PARENTS).cast_mut().cast(),
                iov_len: 1,
            };
            // SAFETY: the byte is written; of the other process only the kernel reads.
            came_of(unsafe {
                libc::process_vm_readv(libc::getppid(), &raw const own, 1, &raw const other, 1, 0)
                    as i64
            })
        },
    })
}

static PARENTS: u8 = 0;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn be_traced() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: no preconditions. The child ends without a signal, of which the tracer would be told first.
            came_of(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
        },
    })
}
