//! The kernel's side of the provided buffers: it reads the shared ring of entries, fills buffers, and watches how they come back.
//!
//! Invariants that it holds the other side to: a buffer is offered only while the kernel does not have it; its place and size
//! never change. What it takes over is overwritten at once, so that bytes which are read after their buffer went back are wrong.

use crate::uring::buffers::INCREMENTAL;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

/// What a buffer is filled with when it comes back.
const POISON: u8 = 0xdb;

/// `IORING_CQE_F_BUFFER`, with the buffer's number above [`BUFFER_SHIFT`].
pub(super) const F_BUFFER: u32 = 1;
/// `IORING_CQE_F_BUF_MORE`.
pub(super) const F_BUF_MORE: u32 = 1 << 4;
/// `IORING_CQE_BUFFER_SHIFT`.
pub(super) const BUFFER_SHIFT: u32 = 16;

/// One registered group.
#[derive(Debug)]
pub(super) struct Provided {
    entries: *mut BufRingEntry,
    count: u16,
    incremental: bool,
    /// The next entry that is used.
    head: u16,
    /// The tail as last seen.
    tail: u16,
    /// By buffer: address and size, once it was offered.
    places: Vec<Option<(u64, u32)>>,
    /// By buffer: whether the kernel has it.
    held: Vec<bool>,
}

impl Provided {
    /// # Safety
    /// As [`Io::register_buffers`](crate::uring::Io::register_buffers).
    pub(super) unsafe fn new(address: u64, count: u16, flags: u16) -> Provided {
        let entries = std::ptr::with_exposed_provenance_mut(address as usize);
        let (places, held) = (vec![None; usize::from(count)], vec![false; usize::from(count)]);
        Provided { entries, count, incremental: flags & INCREMENTAL != 0, head: 0, tail: 0, places, held }
    }

    /// An entry of the shared ring, by position.
    fn entry(&mut self, position: u16) -> &mut BufRingEntry {
        // SAFETY: the position is within the ring; the memory is registered, and nobody else touches it within `enter`.
        unsafe { &mut *self.entries.add(usize::from(position & (self.count - 1))) }
    }

    /// Takes over what was offered since the last call.
    ///
    /// # Panics
    /// If a buffer is offered that the kernel has, that there is not, or that has moved.
    pub(super) fn look(&mut self) {
        // SAFETY: the tail lies in the first entry of the registered ring and is shared as an atomic.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() }.load(Ordering::Acquire);
        assert!(tail.wrapping_sub(self.head) <= self.count, "more buffers are offered than there are");
        while self.tail != tail {
            let position = self.tail;
            let entry = self.entry(position);
            let (bid, place) = (usize::from(entry.bid()), (entry.addr(), entry.len()));
            assert!(bid < self.held.len(), "buffer {bid} of {} is offered", self.held.len());
            assert!(!self.held[bid], "buffer {bid} is offered although the kernel has it");
            assert_eq!(*self.places[bid].get_or_insert(place), place, "buffer {bid} has moved");
            self.held[bid] = true;
            // SAFETY: what is offered is writable memory of that length, as the registration promised.
            unsafe {
                std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(place.0 as usize), POISON, place.1 as usize)
            };
            self.tail = self.tail.wrapping_add(1);
        }
    }

    /// Room in the buffer that is filled next; `None` if there is none.
    pub(super) fn room(&mut self) -> Option<usize> {
        (self.head != self.tail).then(|| self.entry(self.head).len() as usize)
    }

    /// Puts bytes, at most [`Provided::room`] of them, into the next buffer, and returns the flags of the completion.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> u32 {
        assert!(bytes.len() <= self.room().expect("there is a buffer"));
        let (position, incremental) = (self.head, self.incremental);
        let entry = self.entry(position);
        let target = std::ptr::with_exposed_provenance_mut::<u8>(entry.addr() as usize);
        // SAFETY: the entry names that much of writable memory, which the kernel has.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        let bid = entry.bid();
        let left = entry.len() - bytes.len() as u32;
        let flags = F_BUFFER | u32::from(bid) << BUFFER_SHIFT;
        if incremental && left > 0 {
            // As the kernel does, in the shared entry itself.
            entry.set_addr(entry.addr() + bytes.len() as u64);
            entry.set_len(left);
            return flags | F_BUF_MORE;
        }
        self.head = self.head.wrapping_add(1);
        self.held[usize::from(bid)] = false;
        flags
    }

    /// The flags of a completion without bytes, at the end of a stream. A buffer that is given whole is used up by it; of one that is
    /// filled piece by piece nothing is, although `F_BUF_MORE` is missing on kernels from 6.14 to 6.16.
    pub(super) fn fill_nothing(&mut self, says_more: bool) -> u32 {
        if self.room().is_none() {
            return 0;
        }
        if !self.incremental {
            return self.fill(&[]);
        }
        let bid = u32::from(self.entry(self.head).bid());
        F_BUFFER | bid << BUFFER_SHIFT | if says_more { F_BUF_MORE } else { 0 }
    }

    /// Buffers that the kernel does not have.
    pub(super) fn missing(&self) -> usize {
        self.held.iter().filter(|&&held| !held).count()
    }
}
