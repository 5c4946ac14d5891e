//! What the threads of a server count and publish together, beside the lanes.
//!
//! `tests/models.rs` compiles this file against the atomics of a model checker.

use crate::driver::sync::{AtomicUsize, Mutex, Ordering, PoisonError, TryLockError};

/// Connections that count towards a bound: all of the process, or those on their way to one shard.
#[derive(Debug)]
pub(crate) struct Admission {
    count: AtomicUsize,
    max: usize,
}

impl Admission {
    /// Nobody is in, and `max` may be.
    pub(crate) fn new(max: usize) -> Admission {
        Admission { count: AtomicUsize::new(0), max }
    }

    /// Counts a connection, unless the process has as many as it may.
    pub(crate) fn admit(&self) -> bool {
        let below = |count| (count < self.max).then_some(count + 1);
        // Relaxed: it is a count, and no other memory is read by what it says.
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }

    /// Takes a counted connection off.
    pub(crate) fn dismiss(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets nobody in any more, if nobody is in; false if somebody is.
    pub(crate) fn shut_if_empty(&self) -> bool {
        self.count.compare_exchange(0, self.max, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Connections that are counted.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Shards that have drained. The last one is told so, to wake the others: they wait for each other, so that none is rung at in
/// vain.
#[derive(Debug)]
pub(crate) struct Finish {
    count: AtomicUsize,
    shards: usize,
}

impl Finish {
    /// None of `shards` has.
    pub(crate) fn new(shards: usize) -> Finish {
        Finish { count: AtomicUsize::new(0), shards }
    }

    /// Notes that a shard has drained, once for each; true for the last, which has the others to wake *afterwards*.
    pub(crate) fn note(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.shards
    }

    /// Whether all have.
    pub(crate) fn is_reached(&self) -> bool {
        self.count.load(Ordering::SeqCst) == self.shards
    }
}

/// What one thread publishes for others to read: the writer never waits, and nobody sees a half.
#[derive(Debug, Default)]
pub(crate) struct Published<T>(Mutex<T>);

impl<T: Clone> Published<T> {
    /// Lets `write` change what is published. False if somebody is reading just now: nothing was done, and it is to be tried again.
    pub(crate) fn try_publish(&self, write: impl FnOnce(&mut T)) -> bool {
        let mut slot = match self.0.try_lock() {
            Ok(slot) => slot,
            // A reader that panicked has changed nothing.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        write(&mut slot);
        true
    }

    /// A copy of what was last published.
    pub(crate) fn read(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
