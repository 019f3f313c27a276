//! io_uring and userfaultfd: a container that would make a ring, or a descriptor by which it handles page faults itself, is refused.
//! Both are a file without a name, of whose making the kernel asks by what it is called.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{action::Action, config::Field};

use crate::{
    call::Call,
    gate::{self, Verdict},
    kernel::{apart, read, text_at},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

const IO_URING_SETUP: Call = Call(425, 425);
const USERFAULTFD: Call = Call(323, 374);

// int security_inode_init_security_anon(struct inode *inode, const struct qstr *name, const struct inode *context)   6.1 to 7.3
#[lsm(hook = "inode_init_security_anon")]
pub fn io_uring_anonymous(ctx: LsmContext) -> i32 {
    if begins(ctx.arg(1), *b"[io_urin") && is_denied(Action::IoUring) {
        return apart(-EPERM);
    }
    ALLOW
}

// The same.
#[lsm(hook = "inode_init_security_anon")]
pub fn userfaultfd_anonymous(ctx: LsmContext) -> i32 {
    if begins(ctx.arg(1), *b"[userfau") && is_denied(Action::Userfaultfd) {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_file_alloc(struct file *file)   5.10 to 7.3
// Before 5.12 nobody is asked of a file without a name; this is asked of every file that is opened.
#[lsm(hook = "file_alloc_security")]
pub fn io_uring_file(_ctx: LsmContext) -> i32 {
    if IO_URING_SETUP.running().is_some() && is_denied(Action::IoUring) {
        return apart(-EPERM);
    }
    ALLOW
}

// The same.
#[lsm(hook = "file_alloc_security")]
pub fn userfaultfd_file(_ctx: LsmContext) -> i32 {
    if USERFAULTFD.running().is_some() && is_denied(Action::Userfaultfd) {
        return apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn is_denied(action: Action) -> bool {
    gate::ask(action) == Some(Verdict::Deny)
}

/// Whether a name, a `struct qstr`, begins so.
#[inline(always)]
fn begins(name: u64, with: [u8; 8]) -> bool {
    read::<u64>(name, Field::StringName)
        .is_some_and(|text| text_at(text)[0] == u64::from_le_bytes(with))
}
