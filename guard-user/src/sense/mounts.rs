//! Mounts that come, change and go, as the kernel tells of them at that moment (`mounts_poll`, fs/proc_namespace.c).

use std::{fs::File, io, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

/// Whoever mounts without a pause holds nothing else up: between two looks at all mounts there is at least so long,
const SPACING: Duration = Duration::from_millis(20);
/// and so many times what the last look took, since there may be thousands.
const SHARE: u32 = 20;

/// Where the kernel tells of the mounts of our mount namespace.
pub struct Mounts {
    file: AsyncFd<File>,
    next: Instant,
}

impl Mounts {
    /// From now on.
    ///
    /// # Errors
    /// There is no `/proc`, or no runtime to wait with.
    pub fn watch() -> io::Result<Self> {
        let file = File::open("/proc/self/mountinfo")?;
        Ok(Self {
            // SAFETY: it owns the descriptor, and closes it when it goes.
            file: unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?,
            next: Instant::now(),
        })
    }

    /// Waits until something is mounted, mounted anew or unmounted.
    ///
    /// # Errors
    /// The kernel does not say so any more.
    pub async fn changed(&self) -> io::Result<()> {
        sleep_until(self.next).await;
        let mut ready = self.file.ready(Interest::PRIORITY).await?;
        ready.clear_ready();
        Ok(())
    }

    /// They were looked at, which took so long.
    pub fn looked(&mut self, took: Duration) {
        self.next = Instant::now() + SPACING.max(took * SHARE);
    }
}
