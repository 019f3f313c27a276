//! Mounts that come, change and go, as the kernel tells of them at that moment (`mounts_poll`, fs/proc_namespace.c).

use std::{fs::File, io, os::fd::AsFd, sync::OnceLock, time::Duration};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// Whoever mounts without a pause holds nothing else up: between two looks at all mounts there is at least so long,
const SPACING: Duration = Duration::from_millis(20);
/// and so many times what the last look took, since there may be thousands.
const SHARE: u32 = 20;

/// Where the kernel tells of the mounts of our mount namespace, once for each time that it was opened.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Whether they have changed.
pub struct Mounts {
    /// By this we are woken. Not between two looks: whoever mounts then would wake us each time for nothing.
    waker: OnceLock<AsyncFd<File>>,
    /// By this we see what has changed meanwhile: what the other is told when it is registered, it is told alone, and wakes nobody.
    seen: File,
    next: Instant,
}

impl Mounts {
    /// From now on.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            waker: OnceLock::new(),
            seen: File::open(MOUNTS)?,
            next: Instant::now(),
        })
    }

    /// Waits until something is mounted, mounted anew or unmounted.
    ///
    /// # Errors
    /// The kernel does not say so any more, or there is no runtime to wait with.
    pub async fn changed(&self) -> io::Result<()> {
        sleep_until(self.next).await;
        let waker = self.waker()?;
        if !self.have_changed()? {
            let _woken = waker.ready(Interest::PRIORITY).await?;
            // What comes while it is looked at comes after this.
            self.have_changed()?;
        }
        Ok(())
    }

    /// They were looked at, which took so long.
    pub fn looked(&mut self, took: Duration) {
        self.next = Instant::now() + SPACING.max(took * SHARE);
        self.waker.take();
    }

    fn waker(&self) -> io::Result<&AsyncFd<File>> {
        if let Some(waker) = self.waker.get() {
            return Ok(waker);
        }
        let file = File::open(MOUNTS)?;
        // SAFETY: it owns the descriptor, and closes it when it goes.
        let waker = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?;
        Ok(self.waker.get_or_init(|| waker))
    }

    /// Whether they have since this was last asked.
    fn have_changed(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(self.seen.as_fd(), PollFlags::POLLPRI)];
        Ok(poll(&mut asked, PollTimeout::ZERO)? > 0)
    }
}
