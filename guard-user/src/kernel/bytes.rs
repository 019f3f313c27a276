//! A file of the kernel's that never changes: mapped where the kernel lets it be, else read.

use std::{fs::File, io, io::Read, num::NonZeroUsize, ops::Deref, path::Path, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Its bytes.
pub enum Bytes {
    /// A copy of them.
    Read(Vec<u8>),
    /// The kernel's own.
    Mapped(Mapping),
}

/// Memory of the kernel's that we may look at.
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: it is only read, and nobody writes it.
unsafe impl Send for Mapping {}

impl Bytes {
    /// Those of a file.
    ///
    /// # Errors
    /// What the system said.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len() as usize;
        if let Some(mapping) = NonZeroUsize::new(length).and_then(|length| map(&file, length)) {
            return Ok(Self::Mapped(mapping));
        }
        let mut bytes = Vec::with_capacity(length + 1);
        file.read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes))
    }
}

/// `None`: a kernel that maps none of its files (before 6.16), or whatever else: then it is read.
fn map(file: &File, length: NonZeroUsize) -> Option<Mapping> {
    // SAFETY: a fresh mapping at an address of the kernel's choice, of a file that is never cut short; nothing of ours is replaced.
    let base = unsafe {
        mmap(
            None,
            length,
            ProtFlags::PROT_READ,
            MapFlags::MAP_PRIVATE,
            file,
            0,
        )
    };
    Some(Mapping {
        base: base.ok()?.cast(),
        length: length.get(),
    })
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Read(bytes)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            // SAFETY: the mapping is as long, lives as long as we do, and nobody writes it.
            Self::Mapped(mapping) => unsafe {
                std::slice::from_raw_parts(mapping.base.as_ptr(), mapping.length)
            },
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this mapping, and no reference into it outlives us.
        let _ = unsafe { munmap(self.base.cast(), self.length) };
    }
}
