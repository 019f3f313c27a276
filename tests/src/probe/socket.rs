//! Makes a socket of any family, type and protocol, in each way there is.

use std::io;

use clap::{Args, ValueEnum};
use io_uring::{IoUring, opcode};

/// Makes a socket.
#[derive(Args, Clone, Debug)]
pub struct Socket {
    /// How it is asked for.
    #[arg(long, value_enum, default_value = "call")]
    pub way: Way,
    /// `AF_*`.
    #[arg(long)]
    pub family: i32,
    /// `SOCK_*`.
    #[arg(long, default_value_t = libc::SOCK_STREAM)]
    pub kind: i32,
    /// `IPPROTO_*` or whatever the family has.
    #[arg(long, default_value_t = 0)]
    pub protocol: i32,
}

/// How it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// socket(2).
    Call,
    /// socketpair(2).
    Pair,
    /// io_uring's own socket(2), from 5.19 on.
    IoUring,
}

impl Socket {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> io::Result<()> {
        let (family, kind, protocol) = (self.family, self.kind, self.protocol);
        let made = match self.way {
            // SAFETY: no preconditions.
            Way::Call => unsafe { libc::socket(family, kind, protocol) },
            Way::Pair => {
                let mut both = [0; 2];
                // SAFETY: room for two descriptors.
                unsafe { libc::socketpair(family, kind, protocol, both.as_mut_ptr()) }
            }
            Way::IoUring => {
                let mut ring = IoUring::new(1)?;
                let entry = opcode::Socket::new(family, kind, protocol).build();
                // SAFETY: the entry points nowhere.
                unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
                ring.submit_and_wait(1)?;
                let result = (ring.completion().next()).map_or(-libc::EIO, |done| done.result());
                if result < 0 {
                    return Err(io::Error::from_raw_os_error(-result));
                }
                result
            }
        };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // What was made goes with the process.
        Ok(())
    }
}
