//! Anonymous memory that is shared with the kernel: page-aligned, zeroed, unmapped when dropped.
//!
//! It knows only its bounds. Who may touch which byte when is decided by its users.

use std::io;
#[cfg(not(any(miri, watched)))]
use std::ptr;
use std::ptr::NonNull;

/// Has the allocator give back to the kernel what this thread has freed. It does so by itself only while the thread goes on
/// allocating, so a thread that falls asleep after a burst would keep the burst's pages.
pub fn return_freed() {
    // An interpreter has an allocator of its own.
    #[cfg(not(any(miri, watched)))]
    // SAFETY: it may be called at any time by a thread of the process; no block that is in use is touched.
    unsafe {
        libmimalloc_sys::mi_collect(true)
    };
}

/// A private anonymous mapping. Its pages are there from the start: what it is used for touches all of them sooner or later.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes, rounded up to pages by the kernel.
    ///
    /// # Errors
    /// What `mmap` says: ENOMEM.
    #[cfg(not(any(miri, watched)))]
    pub(super) fn new(length: usize) -> io::Result<Mapping> {
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches no existing memory.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A huge page would make one touched byte cost 2 MiB; without them the resident size is what is used. Advice only: a
        // kernel without huge pages refuses it with EINVAL, which changes nothing.
        // SAFETY: the range was mapped just now and belongs to us.
        unsafe { libc::madvise(start, length, libc::MADV_NOHUGEPAGE) };
        // Populated now, so that no receive waits for a page and the process's size at rest is its size under load. Advice only
        // (Linux 5.14).
        // SAFETY: as above.
        unsafe { libc::madvise(start, length, libc::MADV_POPULATE_WRITE) };
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Mapping { start, length })
    }

    /// The same memory from the allocator, which an interpreter or a sanitizer watches byte by byte; a mapping they would not know.
    #[cfg(any(miri, watched))]
    pub(super) fn new(length: usize) -> io::Result<Mapping> {
        // SAFETY: no layout of this module is empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(Mapping::layout(length)) });
        Ok(Mapping { start: start.ok_or(io::ErrorKind::OutOfMemory)?, length })
    }

    /// Pages, as a mapping has them.
    #[cfg(any(miri, watched))]
    fn layout(length: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(length, 4096).expect("a length that was allocated")
    }

    /// First byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
    /// Length in bytes.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(not(any(miri, watched)))]
        // SAFETY: the range was mapped by `new`, is unmapped once, and borrows of it can't outlive its owner.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length)
        };
        #[cfg(any(miri, watched))]
        // SAFETY: as above; it was allocated with this layout.
        unsafe {
            std::alloc::dealloc(self.start.as_ptr(), Mapping::layout(self.length))
        };
    }
}
