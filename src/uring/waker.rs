//! Wakes a ring's thread from a thread that has no ring: an eventfd that the ring polls.
//!
//! Between two rings [`Entry::doorbell`](super::Entry::doorbell) is cheaper.

use super::entry::Entry;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// One eventfd. Clones wake the same ring.
#[derive(Clone, Debug)]
pub struct Waker(Arc<File>);

impl Waker {
    /// Makes the eventfd.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor left.
    pub fn new() -> io::Result<Waker> {
        // SAFETY: takes two integers.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened just now and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Waker(Arc::new(File::from(descriptor))))
    }
    /// The operation with which a ring waits for it; it goes on by itself.
    pub fn entry(&self) -> Entry {
        Entry::wake(self.0.as_fd())
    }
    /// Wakes the ring.
    pub fn wake(&self) {
        // Fails only with EAGAIN, when the counter is at 2^64 - 2 because nobody reads it: 100 years at 5 GHz. The poll needs the
        // write and not the count.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}
