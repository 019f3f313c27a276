//! Thin pools, read by a thread of its own: whoever asks a pool how it is while its disk hangs hangs as well.

use std::{
    io,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel, sync_channel},
    thread,
    time::Duration,
};

use crate::{
    act::discards::SYS,
    thin::{devices::Devices, pool::Pool, stack::pools},
};

/// How often they are asked.
const SPACING: Duration = Duration::from_secs(1);
/// New pools are looked for once in so many times.
const ROUND: u32 = 10;

/// A pool, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its device's number.
    pub number: u32,
    /// As the device mapper calls it.
    pub mapped: String,
    /// `None`: that cannot be had, or not understood.
    pub status: Option<Pool>,
}

/// The thread, which ends when this is dropped, as soon as it can.
pub struct Pools {
    _until: Sender<()>,
    read: Receiver<Vec<Read>>,
}

impl Pools {
    /// Begins to read.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start() -> io::Result<Self> {
        let (until, over) = channel();
        let (send, read) = sync_channel(1);
        thread::Builder::new()
            .name("pools".to_owned())
            .spawn(move || {
                let mut known = Vec::new();
                for turn in 0_u32.. {
                    let devices = Devices::open();
                    if turn.is_multiple_of(ROUND) {
                        known = pools(Path::new(SYS), &devices);
                    }
                    let all = known.iter().map(|(number, mapped)| Read {
                        number: *number,
                        mapped: mapped.clone(),
                        status: devices.status(*number).as_deref().and_then(Pool::read),
                    });
                    if send.send(all.collect()).is_err()
                        || over.recv_timeout(SPACING) != Err(RecvTimeoutError::Timeout)
                    {
                        return;
                    }
                }
            })?;
        Ok(Self {
            _until: until,
            read,
        })
    }

    /// What was read since this was last asked; `None`: nothing yet.
    ///
    /// # Errors
    /// The thread is gone.
    pub fn next(&self) -> io::Result<Option<Vec<Read>>> {
        match self.read.try_recv() {
            Ok(read) => Ok(Some(read)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
