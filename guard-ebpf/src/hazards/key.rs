//! Keys: a container that would make a key, or one of a type that a policy denies, is refused.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Argument},
    config::Field,
};

use crate::{
    gate::{self, Verdict},
    kernel::{apart, read, text_at},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

// int security_key_alloc(struct key *key, const struct cred *cred, unsigned long flags)   5.10 to 7.3
// At add_key(2), request_key(2) and keyctl(2), and for what the kernel asks for on the way: keyrings are keys too.
#[lsm(hook = "key_alloc")]
pub fn key_alloc(ctx: LsmContext) -> i32 {
    let kind = kind_of(ctx.arg(0)).unwrap_or_default();
    if gate::ask_about(Action::KeyCreate, kind) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn kind_of(key: u64) -> Option<Argument> {
    let name: u64 = read(read(key, Field::KeyType)?, Field::KeyTypeName)?;
    Some(text_at(name))
}
