//! The sockets to the receivers: a call on one returns within a second or so, however the other side does.

use std::{
    io::{self, ErrorKind, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};

use super::journald;
use crate::policy::model::{Outlet, Syslog};

/// How long a send waits for room.
const TURN: Duration = Duration::from_secs(1);
/// How long a connection may take, to each address of a name.
const CONNECT: Duration = Duration::from_secs(3);
/// What the kernel may have of ours that the other side did not take: more waits in the queue, where it is counted.
const UNDER_WAY: usize = 64 << 10;
/// So often a receiver's own words are read past at once.
const WORDS: u32 = 256;
/// A connection is over when the other side's kernel said nothing for so long.
const SILENT_MS: u32 = 60_000;
/// How long a datagram's refusal may take to come back, from this host or a near one.
const REFUSAL: Duration = Duration::from_millis(100);

/// How a receiver is reached, and what it takes.
#[derive(Clone, Debug)]
pub enum Way {
    /// journald's native protocol, at a socket of this path.
    Journal(PathBuf),
    /// RFC 5424.
    Syslog(Syslog),
}

impl From<&Outlet> for Way {
    fn from(outlet: &Outlet) -> Self {
        match outlet {
            Outlet::Journald => Self::Journal(journald::SOCKET.into()),
            Outlet::Syslog(to) => Self::Syslog(to.clone()),
        }
    }
}

/// A socket.
#[derive(Debug)]
pub enum Link {
    /// Each send is a message.
    Unix(UnixDatagram),
    /// The same. A refusal comes back only after the send; `sure`: the last one did not bring any.
    Udp { socket: UdpSocket, sure: bool },
    /// A stream.
    Tcp(TcpStream),
}

impl Link {
    /// Opens it. A name is looked up for as long as the resolver takes.
    pub fn open(way: &Way) -> io::Result<Self> {
        match way {
            Way::Journal(path) | Way::Syslog(Syslog::Unix(path)) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(TURN))?;
                Ok(Self::Unix(socket))
            }
            Way::Syslog(Syslog::Udp(to)) => {
                let address = resolve(to)?.next().ok_or_else(no_address)?;
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(TURN))?;
                Ok(Self::Udp {
                    socket,
                    sure: false,
                })
            }
            Way::Syslog(Syslog::Tcp(to)) => {
                let mut error = no_address();
                for address in resolve(to)? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => return tuned(stream).map(Self::Tcp),
                        Err(failed) => error = failed,
                    }
                }
                Err(error)
            }
        }
    }

    /// Sends as much of it as there is room for, waiting a second at most: a message at once, of a stream's a part.
    /// `WouldBlock`: nothing could be sent.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.send(bytes),
            Self::Udp { socket, sure } => {
                let sent = socket.send(bytes)?;
                if !*sure {
                    std::thread::sleep(REFUSAL);
                    if let Some(error) = socket.take_error()? {
                        return Err(error);
                    }
                    *sure = true;
                }
                Ok(sent)
            }
            Self::Tcp(stream) => match stream.write(bytes)? {
                0 => Err(ErrorKind::WriteZero.into()),
                sent => Ok(sent),
            },
        }
    }

    /// Whether a refusal of what was sent now is a refusal of what was sent before.
    pub const fn refuses_late(&self) -> bool {
        matches!(self, Self::Udp { sure: true, .. })
    }

    /// Asks whether the other side of a stream is still there, before something is written that nobody reads.
    pub fn check(&mut self) -> io::Result<()> {
        let Self::Tcp(stream) = self else {
            return Ok(());
        };
        stream.set_nonblocking(true)?;
        // A receiver has nothing to say; what it says all the same must not fill the socket, nor stand before its end.
        let mut buffer = [0; 256];
        let mut read = Ok(0);
        for _ in 0..WORDS {
            read = io::Read::read(stream, &mut buffer);
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        stream.set_nonblocking(false)?;
        match read {
            Ok(0) => Err(ErrorKind::ConnectionReset.into()),
            Ok(_) => Ok(()),
            Err(error) if is_busy(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// There is no room now.
pub fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    ) && error.raw_os_error() != Some(nix::libc::ETIMEDOUT)
        // A unix socket's memory is full: the other side's queue is.
        || error.raw_os_error() == Some(nix::libc::ENOBUFS)
}

fn resolve(to: &str) -> io::Result<impl Iterator<Item = SocketAddr> + use<>> {
    to.to_socket_addrs()
}

fn no_address() -> io::Error {
    io::Error::new(ErrorKind::NotFound, "the name has no address")
}

fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_write_timeout(Some(TURN))?;
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::SndBuf, &UNDER_WAY)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &SILENT_MS)?;
    Ok(stream)
}
