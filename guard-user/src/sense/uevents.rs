//! Block devices that come, change and go, as the kernel tells of them at that moment.
//!
//! Format: lib/kobject_uevent.c. A line `ACTION@DEVPATH`, then `KEY=VALUE`, each with a NUL behind it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};
use tokio::io::unix::AsyncFd;

/// The group that the kernel itself sends to; udev has another one for what it makes of that.
const OF_THE_KERNEL: u32 = 1;
/// Room for what comes while the daemon does something else, in bytes.
const ROOM: usize = 4 << 20;
/// No message is longer (`UEVENT_BUFFER_SIZE` and its header).
const LONGEST: usize = 8 << 10;

/// So many are taken at once.
const MOST: usize = 4096;

/// What became of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uevent {
    /// It came, or changed, or is gone; as the kernel calls it.
    Block {
        /// Its name, `dm-3`.
        name: String,
        /// It changed: a table of the device mapper may have been replaced.
        changed: bool,
    },
    /// Some were lost: any may have come, changed or gone.
    Lost,
}

/// Where the kernel tells of them.
pub struct Uevents(AsyncFd<OwnedFd>);

impl Uevents {
    /// From now on.
    ///
    /// # Errors
    /// There is no such socket, or no runtime to wait on it with.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Where that much cannot be had, some are lost sooner, and that is told.
        let _ = setsockopt(&socket, RcvBufForce, &ROOM);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, OF_THE_KERNEL))?;
        // SAFETY: it owns the descriptor, and closes it when it goes.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Waits until there are some, and takes them all.
    ///
    /// # Errors
    /// The socket cannot be read any more.
    pub async fn next(&self) -> io::Result<Vec<Uevent>> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut all = Vec::new();
            if self.take(&mut all)? {
                ready.clear_ready();
            }
            if !all.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Those that have come by now.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn rest(&self) -> io::Result<Vec<Uevent>> {
        let mut all = Vec::new();
        self.take(&mut all)?;
        Ok(all)
    }

    /// Whether that was all of them. Where there are more than anybody would cause who means well, any may have changed.
    fn take(&self, all: &mut Vec<Uevent>) -> io::Result<bool> {
        let mut room = [0_u8; LONGEST];
        for _ in 0..MOST {
            match recvfrom::<NetlinkAddr>(self.0.get_ref().as_raw_fd(), &mut room) {
                // Anybody may send to a socket of this family; the kernel has no pid.
                Ok((length, Some(from))) if from.pid() == 0 => {
                    all.extend(room.get(..length).and_then(read));
                }
                Ok(_) => {}
                Err(Errno::ENOBUFS) => all.push(Uevent::Lost),
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        all.push(Uevent::Lost);
        Ok(false)
    }
}

/// One message; `None`: it is of no block device.
fn read(message: &[u8]) -> Option<Uevent> {
    let mut lines = message.split(|byte| *byte == 0);
    let (action, path) = std::str::from_utf8(lines.next()?).ok()?.split_once('@')?;
    if !lines.any(|line| line == b"SUBSYSTEM=block") {
        return None;
    }
    Some(Uevent::Block {
        name: path.rsplit('/').next()?.to_owned(),
        changed: action == "change",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_block_device_is_read_and_the_rest_is_left() {
        let of = |text: &str| read(text.as_bytes());
        let block = |name: &str, changed| {
            Some(Uevent::Block {
                name: name.to_owned(),
                changed,
            })
        };
        assert_eq!(
            of("change@/devices/virtual/block/dm-3\0ACTION=change\0SUBSYSTEM=block\0DM_COOKIE=1\0"),
            block("dm-3", true)
        );
        assert_eq!(
            of("remove@/devices/virtual/block/loop0/loop0p1\0SUBSYSTEM=block\0"),
            block("loop0p1", false)
        );
        for other in [
            "",
            "add",
            "add@/devices/virtual/net/veth0\0SUBSYSTEM=net\0",
            "libudev\0",
            "\u{fe}@",
        ] {
            assert_eq!(of(other), None);
        }
    }
}
