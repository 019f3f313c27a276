//! The kernel's tables as the daemon sees them: two are mapped into its memory, the others are asked.

use std::{
    ffi::c_void,
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::{BorrowedFd, OwnedFd},
    process::abort,
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64},
    },
};

use aya::Pod;
use nix::{
    libc,
    sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

/// A value of a kernel table, which is plain data of one size on both sides.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T: Copy>(pub T);

// SAFETY: `Plain` wraps guard-common's `repr(C)` structures of integers only, without padding.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// Values that are mapped at once: whole pages, whatever the size of one, which is a multiple of eight.
const CHUNK: usize = 512;

/// An array table (`BPF_F_MMAPABLE`) in our memory. The kernel side writes it at any time.
///
/// It is mapped as far as it is looked at: all pages of such a mapping count as resident at once (`remap_vmalloc_range`), and few
/// hosts have as many containers as there are slots.
pub struct Mapped<T> {
    base: NonNull<u8>,
    length: usize,
    count: usize,
    table: OwnedFd,
    mapped: Box<[OnceLock<()>]>,
    of: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway; every access is an atomic or a volatile one.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    const SIZE: usize = size_of::<T>().next_multiple_of(8);

    /// Makes room for the whole table of `count` values, and maps the first and the last of them: where both can be, all can.
    ///
    /// # Errors
    /// What mmap(2) said.
    pub fn new(table: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        let count = count as usize;
        let bytes = NonZeroUsize::new(count * Self::SIZE).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: fresh memory at an address of the kernel's choice, which nobody can use.
        let base = unsafe {
            mmap_anonymous(
                None,
                bytes,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let all = Self {
            base: base.cast(),
            length: bytes.get(),
            count,
            table: table.try_clone_to_owned()?,
            mapped: (0..count.div_ceil(CHUNK))
                .map(|_| OnceLock::new())
                .collect(),
            of: PhantomData,
        };
        for chunk in [0, (count - 1) / CHUNK] {
            if all.mapped[chunk].set(()).is_ok() {
                all.map(chunk)?;
            }
        }
        Ok(all)
    }

    /// Maps one chunk.
    fn map(&self, chunk: usize) -> io::Result<()> {
        let first = chunk * CHUNK * Self::SIZE;
        let bytes = (CHUNK * Self::SIZE).min(self.length - first);
        // SAFETY: within our own room, of which this part was not used yet.
        unsafe {
            mmap(
                NonZeroUsize::new(self.base.as_ptr().addr() + first),
                NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                &self.table,
                first as libc::off_t,
            )
        }?;
        Ok(())
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.count, "table index out of range");
        let chunk = index / CHUNK;
        self.mapped[chunk].get_or_init(|| {
            if let Err(error) = self.map(chunk) {
                // Whoever starts us again finds what is enforced as it is.
                tracing::error!("cannot map a kernel table: {error}");
                abort();
            }
        });
        // SAFETY: below the mapping's length, by the assertion and the size in `new`.
        unsafe { self.base.as_ptr().add(index * Self::SIZE).cast() }
    }

    /// A copy of a value. Words are whole; two words may stem from different moments.
    #[must_use]
    pub fn get(&self, index: usize) -> T
    where
        T: Copy,
    {
        // SAFETY: `at` is in the mapping and aligned, and every bit pattern is a value of T.
        unsafe { self.at(index).read_volatile() }
    }

    /// Replaces a value that the kernel side does not use.
    pub fn fill(&self, index: usize, value: &T) {
        // SAFETY: `at` is in the mapping and aligned; the caller knows that nobody reads it meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(value, self.at(index), 1) }
    }

    /// One 32-bit word of a value, by `offset_of!`.
    #[must_use]
    pub fn word(&self, index: usize, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        // SAFETY: inside the value and aligned, by the assertion; lives as long as the mapping.
        unsafe { AtomicU32::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }

    /// One 64-bit word of a value, by `offset_of!`.
    #[must_use]
    pub fn long(&self, index: usize, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        // SAFETY: inside the value and aligned, by the assertion; lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(self.at(index).cast::<u8>().add(offset).cast()) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of this length; no reference outlives `self`.
        let _ = unsafe { munmap(self.base.cast::<c_void>(), self.length) };
    }
}
