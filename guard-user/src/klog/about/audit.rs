//! Whom an audit record is about, where no audit daemon takes it and the kernel prints it (kernel/audit.c, `kauditd_printk_skb`).
//!
//! `audit: type=1326 audit(1764064803.140:7): auid=… pid=4242 comm="nginx" …`. A name that is not the kernel's own stands there
//! in quotes, without blanks or quotes, or else as hexadecimal digits (`audit_log_untrustedstring`). Some are not: labels of
//! security modules, tables of netfilter, what a program sends. So of kinds that say one pid, one must stand there, not two.

use std::borrow::Cow;

use super::text::{Named, number};

/// Kinds whose fields are the kernel's, and one of them `pid` (include/uapi/linux/audit.h): LOGIN, SYSCALL, TTY, NETFILTER_CFG,
/// SECCOMP, AVC, ANOM_ABEND, ANOM_LINK.
const OF_THE_KERNEL: [u32; 8] = [1006, 1300, 1319, 1325, 1326, 1400, 1701, 1702];

/// Kinds that programs send (include/uapi/linux/audit.h): USER, the user's messages, and those of the second range.
const fn is_sent(kind: u32) -> bool {
    matches!(kind, 1005 | 1100..=1199 | 2100..=2999)
}

/// Whether it is an audit record that a program sent, which needs CAP_AUDIT_WRITE and has whatever text it likes.
#[must_use]
pub fn is_a_programs(text: &[u8]) -> bool {
    kind_of(text).is_some_and(|(kind, _)| is_sent(kind))
}

fn kind_of(text: &[u8]) -> Option<(u32, &[u8])> {
    let rest = text.strip_prefix(b"audit: type=")?;
    let (kind, rest) = split(rest, b" audit(")?;
    Some((number(kind)?, rest))
}

/// Whom the record is about; `None`: it does not say, or not for certain.
pub(super) fn named(text: &[u8]) -> Option<Named<'_>> {
    let (kind, rest) = kind_of(text)?;
    let (stamp, fields) = split(rest, b"): ")?;
    let (second, stamp) = split(stamp, b".")?;
    let (millisecond, serial) = split(stamp, b":")?;
    number(serial)?;
    let stamp_ms = i64::from(number(second)?) * 1000 + i64::from(number(millisecond)?);
    let (pid, comm) = match kind {
        // What a program says of itself stands behind what the kernel says of it (`audit_log_common_recv_msg`).
        kind if is_sent(kind) => {
            let (pid, _) = split(fields.strip_prefix(b"pid=")?, b" uid=")?;
            (number(pid)?, None)
        }
        1800..=1806 => (one(fields, b"pid=").and_then(number)?, comm(fields)),
        kind if OF_THE_KERNEL.contains(&kind) => {
            (one(fields, b"pid=").and_then(number)?, comm(fields))
        }
        _ => return None,
    };
    Some(Named {
        pid: Some(pid).filter(|pid| *pid != 0),
        comm: comm.map(Cow::Owned),
        place: None,
        stamp_ms: Some(stamp_ms),
        ran: false,
    })
}

fn split<'t>(text: &'t [u8], at: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let place = text.windows(at.len()).position(|piece| piece == at)?;
    Some((&text[..place], &text[place + at.len()..]))
}

/// What stands behind a key, up to the next blank; `None`: the key is not there, or twice.
fn one<'t>(fields: &'t [u8], key: &[u8]) -> Option<&'t [u8]> {
    let mut found = None;
    for at in 0..fields.len() {
        let begins = at == 0 || fields[at - 1] == b' ';
        if begins && fields[at..].starts_with(key) && found.replace(at + key.len()).is_some() {
            return None;
        }
    }
    let value = &fields[found?..];
    let end = value.iter().position(|byte| *byte == b' ');
    Some(&value[..end.unwrap_or(value.len())])
}

/// A process's name: in quotes, or in hexadecimal digits.
fn comm(fields: &[u8]) -> Option<Vec<u8>> {
    let value = one(fields, b"comm=")?;
    if let Some(quoted) = value.strip_prefix(b"\"") {
        return quoted.strip_suffix(b"\"").map(<[u8]>::to_vec);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    (value.chunks(2))
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}
