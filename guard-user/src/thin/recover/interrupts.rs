//! Lost volumes: whoever stops a recovery finds nothing mapped or mounted afterwards.

use std::{
    io::{self, Read},
    os::fd::AsFd,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::RecoverError;

/// Signals that would end the process are held, and asked for between steps. Programs that it starts inherit that they
/// are held, and are killed by us.
pub struct Interrupts(SignalFd);

impl Interrupts {
    /// Holds SIGINT, SIGTERM, SIGHUP and SIGQUIT from now on.
    ///
    /// # Errors
    /// The kernel refuses the descriptor.
    pub fn hold() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// Nothing, unless one of them came.
    ///
    /// # Errors
    /// [`RecoverError::Interrupted`].
    pub fn check(&self) -> Result<(), RecoverError> {
        match self.0.read_signal() {
            Ok(Some(info)) => Err(RecoverError::Interrupted {
                signal: i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|number| Signal::try_from(number).ok())
                    .map_or("a signal", Signal::as_str)
                    .to_owned(),
            }),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// The same after at most so many milliseconds, or as soon as one comes.
    ///
    /// # Errors
    /// [`RecoverError::Interrupted`].
    pub fn wait(&self, milliseconds: u8) -> Result<(), RecoverError> {
        let mut of = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut of, PollTimeout::from(milliseconds));
        self.check()
    }

    /// A line from the terminal, of 64 bytes at most.
    ///
    /// # Errors
    /// [`RecoverError::Interrupted`].
    pub fn answer(&self) -> Result<String, RecoverError> {
        let stdin = io::stdin();
        let mut of = [
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut of, PollTimeout::NONE);
        self.check()?;
        let mut line = [0; 64];
        let length = stdin.lock().read(&mut line).unwrap_or(0);
        Ok(String::from_utf8_lossy(&line[..length]).trim().to_owned())
    }
}
