//! Ways to make a network link for which there is no tool: messages of rtnetlink as no tool writes them, on every way to send one.

use std::{
    fs::File,
    io,
    mem::zeroed,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process,
};

use clap::{Args, ValueEnum};
use io_uring::{IoUring, opcode, types};

use super::compat;

/// Makes links by hand-written messages of rtnetlink, or by ioctl(2).
#[derive(Args, Clone, Debug)]
pub struct Link {
    /// How the request is written, or sent.
    #[arg(long, value_enum)]
    pub way: Way,
    /// The link's name.
    #[arg(long, default_value = "probe0")]
    pub name: String,
    /// The link's kind, where the way leaves it open.
    #[arg(long, default_value = "bridge")]
    pub kind: String,
    /// How many, where the way makes many.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
}

/// How a request is written, or sent.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Way {
    /// As `ip` does.
    Plain,
    /// The kind comes before the name, and behind its own data.
    Backwards,
    /// Another kind first, which the kernel forgets over the second.
    Twice,
    /// Two nests of `IFLA_LINKINFO`, of which the kernel takes the last.
    TwoNests,
    /// The kind without a NUL at its end.
    Unterminated,
    /// The types with the flag of a nest (`NLA_F_NESTED`).
    Flagged,
    /// Behind a message that does nothing, in one send.
    Second,
    /// Behind so many attributes that mean nothing as `count` says.
    Long,
    /// With two messages in one sendmmsg(2).
    Sendmmsg,
    /// By write(2).
    Write,
    /// By io_uring.
    IoUring,
    /// By io_uring, done by a worker of its own.
    IoUringAsync,
    /// By io_uring's own sendmsg(2).
    IoUringMessage,
    /// Into the namespace of a process, which is this one.
    ByPid,
    /// Into the namespace of a descriptor, which is this process's.
    ByFd,
    /// A veth whose peer goes into the namespace of a descriptor.
    VethPeer,
    /// By `SIOCBRADDBR`.
    Ioctl,
    /// By `SIOCBRADDBR` of a 32-bit program.
    Ioctl32,
    /// By `SIOCBRADDBR` of a program that is of 32 bits altogether.
    Program32,
    /// By the older `SIOCSIFBR`.
    OldIoctl,
    /// A request that asks for nothing to be made: `RTM_NEWLINK` of a kind without `NLM_F_CREATE`.
    Harmless,
}

const NEW_LINK: u16 = 16;
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;

const IFNAME: u16 = 3;
const IFALIAS: u16 = 20;
const LINK_INFO: u16 = 18;
const NET_NS_PID: u16 = 19;
const NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
pub(super) const NESTED: u16 = 0x8000;

/// An attribute.
pub(super) fn attribute(kind: u16, held: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((4 + held.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(held);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// What kind of link.
fn of_kind(kind: &str) -> Vec<u8> {
    attribute(LINK_INFO, &attribute(INFO_KIND, &text(kind)))
}

/// A message about a link.
fn message(flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    message_of(NEW_LINK, flags, &[0; 16], attributes)
}

/// A message that begins with this, as those of its type do.
pub(super) fn message_of(kind: u16, flags: u16, begins: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    let held = [begins, &attributes.concat()].concat();
    let mut bytes = Vec::new();
    bytes.extend((16 + held.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend([0_u8; 4]);
    bytes.extend(held);
    bytes
}

const MAKE: u16 = REQUEST | ACK | CREATE | EXCL;

impl Link {
    /// Makes it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn run(&self) -> io::Result<()> {
        let name = || attribute(IFNAME, &text(&self.name));
        let kind = || attribute(INFO_KIND, &text(&self.kind));
        let plain = || message(MAKE, &[name(), of_kind(&self.kind)]);
        let socket = rtnetlink()?;
        let namespace = || File::open("/proc/self/ns/net");
        let answers = match self.way {
            Way::Plain => send(&socket, &plain())?,
            Way::Backwards => {
                // Of the bridge's own data: how long it listens (IFLA_BR_FORWARD_DELAY), in hundredths of a second.
                let data = attribute(INFO_DATA, &attribute(1, &1500_u32.to_ne_bytes()));
                let info = attribute(LINK_INFO, &[data, kind()].concat());
                send(&socket, &message(MAKE, &[info, name()]))?
            }
            Way::Twice => {
                let other = attribute(INFO_KIND, &text("dummy"));
                let info = attribute(LINK_INFO, &[other, kind()].concat());
                send(&socket, &message(MAKE, &[name(), info]))?
            }
            Way::TwoNests => {
                let both = [name(), of_kind("dummy"), of_kind(&self.kind)];
                send(&socket, &message(MAKE, &both))?
            }
            Way::Unterminated => {
                let kind = attribute(INFO_KIND, self.kind.as_bytes());
                let info = attribute(LINK_INFO, &kind);
                send(&socket, &message(MAKE, &[name(), info]))?
            }
            Way::Flagged => {
                let info = attribute(LINK_INFO | NESTED, &kind());
                send(&socket, &message(MAKE, &[name(), info]))?
            }
            Way::Second => {
                let nothing = message(REQUEST | ACK, &[attribute(IFNAME, &text("lo"))]);
                send(&socket, &[nothing, plain()].concat())? + 1
            }
            Way::Long => {
                let mut all = vec![attribute(IFALIAS, b"x"); self.count as usize];
                all.extend([name(), of_kind(&self.kind)]);
                send(&socket, &message(MAKE, &all))?
            }
            Way::Sendmmsg => send_two(&socket, &plain())?,
            Way::Write => {
                let bytes = plain();
                // SAFETY: the buffer is as long as it says.
                let written =
                    unsafe { libc::write(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
                came_of(written)?;
                1
            }
            Way::IoUring => by_io_uring(&socket, &plain(), false)?,
            Way::IoUringAsync => by_io_uring(&socket, &plain(), true)?,
            Way::IoUringMessage => message_by_io_uring(&socket, &plain())?,
            Way::ByPid => {
                let target = attribute(NET_NS_PID, &process::id().to_ne_bytes());
                send(
                    &socket,
                    &message(MAKE, &[name(), of_kind(&self.kind), target]),
                )?
            }
            Way::ByFd => {
                let namespace = namespace()?;
                let target = attribute(NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                send(
                    &socket,
                    &message(MAKE, &[name(), target, of_kind(&self.kind)]),
                )?
            }
            Way::VethPeer => {
                let namespace = namespace()?;
                let target = attribute(NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                let peer_name = attribute(IFNAME, &text("probe-peer"));
                let peer = attribute(1, &[vec![0; 16], peer_name, target].concat());
                let veth = attribute(INFO_KIND, &text("veth"));
                let info = attribute(LINK_INFO, &[attribute(INFO_DATA, &peer), veth].concat());
                send(&socket, &message(MAKE, &[name(), info]))?
            }
            Way::Ioctl => return self.by_ioctl(),
            Way::Ioctl32 => return self.by_ioctl_of_32_bits(),
            Way::Program32 => return super::elf32::make_bridge(&text(&self.name)),
            Way::OldIoctl => return self.by_old_ioctl(),
            Way::Harmless => {
                let about = [attribute(IFNAME, &text("lo")), of_kind(&self.kind)];
                send(&socket, &message(REQUEST | ACK, &about))?;
                return Ok(());
            }
        };
        for _ in 0..answers {
            answer(&socket)?;
        }
        Ok(())
    }

    fn by_ioctl(&self) -> io::Result<()> {
        let name = text(&self.name);
        let socket = any_socket()?;
        // SAFETY: SIOCBRADDBR reads a name of at most 16 bytes, which ends with a NUL.
        came_of(unsafe { libc::ioctl(socket.as_raw_fd(), 0x89a0, name.as_ptr()) } as isize)
    }

    fn by_old_ioctl(&self) -> io::Result<()> {
        let name = text(&self.name);
        // BRCTL_ADD_BRIDGE, and the name.
        let arguments = [2_u64, name.as_ptr() as u64, 0, 0];
        let socket = any_socket()?;
        // SAFETY: SIOCSIFBR reads three words, of which the second points to a name that ends with a NUL.
        came_of(unsafe { libc::ioctl(socket.as_raw_fd(), 0x8941, arguments.as_ptr()) } as isize)
    }

    fn by_ioctl_of_32_bits(&self) -> io::Result<()> {
        let socket = any_socket()?;
        // SIOCBRADDBR.
        compat::ioctl(socket.as_fd(), 0x89a0, &text(&self.name))
    }
}

pub(super) fn came_of(result: isize) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(super) fn rtnetlink() -> io::Result<OwnedFd> {
    // SAFETY: a socket of our own.
    let socket = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    };
    came_of(socket as isize)?;
    // SAFETY: it was just made, and is nobody else's. A kernel that says nothing is not waited for.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let patience = libc::timeval {
        tv_sec: 5,
        tv_usec: 0,
    };
    // SAFETY: the value is of the size that is said.
    came_of(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of_val(&patience) as u32,
        )
    } as isize)?;
    Ok(socket)
}

fn any_socket() -> io::Result<OwnedFd> {
    // SAFETY: a socket of our own.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    came_of(socket as isize)?;
    // SAFETY: it was just made, and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Sends; how many answers are to be waited for.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<u32> {
    // SAFETY: the buffer is as long as it says.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    came_of(sent)?;
    Ok(1)
}

/// A message that does nothing, and this one, in two messages of one system call.
pub(super) fn send_two(socket: &OwnedFd, bytes: &[u8]) -> io::Result<u32> {
    let nothing = message(REQUEST | ACK, &[attribute(IFNAME, &text("lo"))]);
    let mut parts = [&nothing[..], bytes].map(|bytes| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    });
    // SAFETY: plain data, of which zeros are a value.
    let mut messages: [libc::mmsghdr; 2] = unsafe { zeroed() };
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: two messages, whose buffers outlive the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), 2, 0) };
    came_of(sent as isize)?;
    if sent < 2 {
        // What became of the second is told by the next call (sendmmsg(2)).
        // SAFETY: as above.
        let again = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut messages[1], 1, 0) };
        came_of(again as isize)?;
    }
    Ok(2)
}

pub(super) fn by_io_uring(socket: &OwnedFd, bytes: &[u8], by_a_worker: bool) -> io::Result<u32> {
    let length = bytes.len() as u32;
    let mut entry =
        opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length).build();
    if by_a_worker {
        entry = entry.flags(io_uring::squeue::Flags::ASYNC);
    }
    submit(&entry)
}

fn message_by_io_uring(socket: &OwnedFd, bytes: &[u8]) -> io::Result<u32> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: plain data, of which zeros are a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    submit(&opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const message).build())
}

fn submit(entry: &io_uring::squeue::Entry) -> io::Result<u32> {
    let mut ring = IoUring::new(2)?;
    // SAFETY: what the request names is its caller's, which waits for it here.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(0, |entry| entry.result());
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(1)
}

/// What the kernel answers to one message (`struct nlmsgerr`).
pub(super) fn answer(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0_u8; 8192];
    // SAFETY: the buffer is as long as it says.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
        )
    };
    came_of(got)?;
    let error = i32::from_ne_bytes([buffer[16], buffer[17], buffer[18], buffer[19]]);
    if error < 0 {
        return Err(io::Error::from_raw_os_error(-error));
    }
    Ok(())
}
