//! The kernel side's messages, read out of the ring buffer. No decision and no count depends on them.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use guard_common::{
    action::Action,
    event::{Event, Gone, Kind, Made},
    fork_storm::Reason,
};
use tokio::io::unix::AsyncFd;

/// A message.
#[derive(Clone, Debug)]
pub enum Message {
    /// A fork was refused, or would have been; at most one a second for a container.
    Fork {
        /// What all messages have.
        event: Event,
        /// Refused, not audited.
        refused: bool,
        /// Why.
        reason: Reason,
    },
    /// An action was refused, or would have been; at most one of each a second for a container.
    Action {
        /// What all messages have.
        event: Event,
        /// Refused, not audited.
        refused: bool,
        /// Which.
        action: Action,
    },
    /// A container was made.
    Made {
        /// What all messages have.
        event: Event,
        /// Its path from the root of its hierarchy.
        path: PathBuf,
    },
    /// A container is gone.
    Gone(Box<Gone>),
    /// A task of a container moved a task out of it, into the cgroup with the id `event.other`.
    MovedOut(Event),
}

/// Reads one message; `None` for one that is not of this version.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Message> {
    let event: Event = take(bytes)?;
    Some(match Kind::from_number(event.kind)? {
        kind @ (Kind::Refused | Kind::Audited) => Message::Fork {
            event,
            refused: kind == Kind::Refused,
            reason: Reason::ALL.into_iter().nth(event.reason as usize)?,
        },
        kind @ (Kind::ActionRefused | Kind::ActionAudited) => Message::Action {
            event,
            refused: kind == Kind::ActionRefused,
            action: Action::from_number(event.reason)?,
        },
        Kind::Made => {
            let made: Made = take(bytes)?;
            let path = made.path.get(..usize::try_from(made.length).ok()?)?;
            Message::Made {
                event,
                path: PathBuf::from(OsStr::from_bytes(path)),
            }
        }
        Kind::Gone => Message::Gone(Box::new(take(bytes)?)),
        Kind::MovedOut => Message::MovedOut(event),
    })
}

/// Becomes readable when the ring holds something. Within the runtime that is to tell.
///
/// # Errors
/// What the system said.
pub fn readiness(ring: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = ring.try_clone_to_owned()?;
    // SAFETY: the descriptor is our own and closed by nobody but the value that is made here, with which it goes.
    Ok(unsafe { AsyncFd::register(own) }?)
}

/// `repr(C)` structures of integers, without padding.
trait PlainData: Copy {}
impl PlainData for Event {}
impl PlainData for Made {}
impl PlainData for Gone {}

fn take<T: PlainData>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, and the three types are `repr(C)` structures of integers: every pattern is a value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T>(value: &T) -> Vec<u8> {
        // SAFETY: plain data of integers without padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
            .to_vec()
    }

    #[test]
    fn a_container_that_was_made_comes_with_its_path() {
        let mut made = Made {
            event: Event {
                kind: Kind::Made as u32,
                container: 7,
                ..Event::default()
            },
            length: 9,
            path: [0; guard_common::identity::PATH_MAX],
        };
        made.path[..9].copy_from_slice(b"/docker/a");
        let Some(Message::Made { event, path }) = read(&bytes(&made)) else {
            panic!("not read")
        };
        assert_eq!((event.container, path), (7, PathBuf::from("/docker/a")));
        made.length = u64::MAX;
        assert!(read(&bytes(&made)).is_none());
    }

    #[test]
    fn cut_and_unknown_messages_are_passed_over() {
        let whole = bytes(&Event {
            kind: Kind::Refused as u32,
            reason: 2,
            ..Event::default()
        });
        assert!(matches!(
            read(&whole),
            Some(Message::Fork {
                refused: true,
                reason: Reason::HostReserve,
                ..
            })
        ));
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_none());
        }
        assert!(
            read(&bytes(&Event {
                kind: 99,
                ..Event::default()
            }))
            .is_none()
        );
        assert!(
            read(&bytes(&Event {
                kind: 1,
                reason: 3,
                ..Event::default()
            }))
            .is_none()
        );
    }
}
