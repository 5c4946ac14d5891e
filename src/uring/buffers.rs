//! The provided buffers that receives are served from.
//!
//! The kernel picks a buffer when data is there, so a socket on which nothing arrives holds none. With `IOU_PBUF_RING_INC` (Linux
//! 6.12) it fills a buffer piece by piece with the receives of many sockets and says `F_BUF_MORE` while it will go on; without,
//! each receive takes a whole buffer, and the same bytes are cut into smaller ones.
//!
//! Invariants:
//! - The kernel consumes and fills buffers only within [`Ring::enter`](super::Ring::enter) of the thread that owns the ring
//!   (`DEFER_TASKRUN`), which needs the `&mut` that a lent slice holds: a slice never sees a concurrent write.
//! - Completions carry no position within a buffer: it is the sum of what came before. So the completions of a ring must be taken
//!   in the order in which they were reaped, each once, also those whose bytes nobody wants.
//! - A buffer that the kernel is done with goes back at the next `enter`, before the submissions of that call are read: a receive
//!   armed there finds it.

use super::io::Io;
use super::memory::Mapping;
use super::op::Completion;
use super::planted::{Bug, is_planted};
use io_uring::cqueue;
use io_uring::types::BufRingEntry;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC`: buffers are consumed incrementally.
pub(super) const INCREMENTAL: u16 = 2;
/// Bytes of a buffer where each receive takes a whole one: what most messages fit in.
const PLAIN_BUFFER_BYTES: u32 = 4096;
/// The kernel's limit of entries in a buffer ring.
const ENTRIES_MAX: usize = 32_768;

/// How large the buffers are.
#[derive(Clone, Copy, Debug)]
pub struct BuffersConfig {
    /// Number of buffers: a power of two of at most 32,768.
    pub count: u16,
    /// Bytes of each.
    pub bytes: u32,
}

impl BuffersConfig {
    /// Bytes of all buffers.
    pub fn bytes_total(self) -> usize {
        usize::from(self.count) * self.bytes as usize
    }
    /// The same memory for a kernel that gives each receive a whole buffer.
    fn plain(self) -> BuffersConfig {
        let count = self.bytes_total() / PLAIN_BUFFER_BYTES as usize;
        let count = count.next_power_of_two().clamp(1, ENTRIES_MAX);
        BuffersConfig { count: count as u16, bytes: PLAIN_BUFFER_BYTES }
    }
}

/// Where a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Offered to the kernel, filled up to this position.
    Offered(u32),
    /// Used up, and not yet offered again.
    Spent,
}

/// The provided buffers of one ring.
#[derive(Debug)]
pub struct Buffers {
    /// The ring of entries that the kernel reads, then nothing.
    entries: Mapping,
    /// The bytes of all buffers.
    memory: Mapping,
    config: BuffersConfig,
    incremental: bool,
    places: Vec<Place>,
    /// Buffers to be offered again at the next publication. Never more than there are buffers.
    spent: Vec<u16>,
    /// Position after the last entry that was written.
    tail: u16,
    /// Buffers that the kernel has not used up: the gauge.
    free: usize,
    free_min: usize,
    /// Completions that named a buffer which was not out, or more bytes than it had left.
    bad: u64,
}

impl Buffers {
    /// Maps the buffers and registers them, incrementally if the kernel can.
    ///
    /// # Errors
    /// What `mmap` or `io_uring_register` says, except EINVAL of the incremental form.
    ///
    /// # Panics
    /// If `count` is not a power of two or `bytes` is 0.
    pub(super) fn register(io: &impl Io, config: BuffersConfig, incremental: bool) -> io::Result<Buffers> {
        assert!(config.count.is_power_of_two() && config.bytes > 0);
        if incremental {
            match Buffers::register_as(io, config, true) {
                // EINVAL: a flag that this kernel doesn't know (before 6.12).
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        Buffers::register_as(io, config.plain(), false)
    }

    fn register_as(io: &impl Io, config: BuffersConfig, incremental: bool) -> io::Result<Buffers> {
        let count = usize::from(config.count);
        let entries = Mapping::new(count * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(config.bytes_total())?;
        let address = entries.start().as_ptr() as u64;
        let flags = if incremental { INCREMENTAL } else { 0 };
        // SAFETY: the mapping holds `count` entries, and `Ring` drops it after the ring itself.
        unsafe { io.register_buffers(address, config.count, GROUP, flags)? };
        let mut buffers = Buffers {
            entries,
            memory,
            config,
            incremental,
            places: vec![Place::Spent; count],
            spent: (0..config.count).collect(),
            tail: 0,
            free: 0,
            free_min: count,
            bad: 0,
        };
        buffers.publish();
        Ok(buffers)
    }

    /// The bytes of a completion; empty if it carries none. They are valid until the next use of the ring, and may be written to.
    pub fn take(&mut self, completion: &Completion) -> &mut [u8] {
        let Some(id) = cqueue::buffer_select(completion.flags) else { return &mut [] };
        let index = usize::from(id);
        let length = usize::try_from(completion.result).unwrap_or(0);
        let Some(&Place::Offered(position)) = self.places.get(index) else {
            self.bad += 1;
            return &mut [];
        };
        let position = position as usize;
        if self.uses_up(completion) {
            self.places[index] = Place::Spent;
            self.spent.push(id);
            if is_planted(Bug::BufferRecycledTwice) {
                self.spent.push(id);
            }
        } else {
            self.places[index] = Place::Offered((position + length).min(self.config.bytes as usize) as u32);
        }
        let size = self.config.bytes as usize;
        if position + length > size {
            self.bad += 1;
            return &mut [];
        }
        let start = index * size + position;
        debug_assert!(start + length <= self.memory.length());
        // SAFETY: `start..start + length` lies within the mapping, because `index < count` and `position + length <= size`. The
        // kernel writes to buffers only within `Ring::enter`, which takes the `&mut Ring` that this borrow keeps, and the range
        // was filled by the completed receive. The mapping lives as long as `self`, and one slice at a time exists.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().as_ptr().add(start), length) }
    }

    /// Whether the kernel is done with the completion's buffer.
    fn uses_up(&self, completion: &Completion) -> bool {
        if !self.incremental {
            return true;
        }
        // A completion without data (an end of stream) consumes nothing from an incremental buffer, whatever its flags say: kernels
        // from 6.14 to 6.16 leave `F_BUF_MORE` out there, and offering the buffer again would put it into the ring twice.
        completion.result > 0 && (!cqueue::buffer_more(completion.flags) || is_planted(Bug::BufferRecycledEarly))
    }

    /// Notes a completion that was reaped, for the gauge.
    pub(super) fn note_reaped(&mut self, completion: &Completion) {
        if completion.has_buffer() && self.uses_up(completion) {
            self.free = self.free.saturating_sub(1);
            self.free_min = self.free_min.min(self.free);
        }
    }

    /// Offers the spent buffers to the kernel again.
    pub(super) fn publish(&mut self) {
        if self.spent.is_empty() {
            return;
        }
        let mask = self.config.count - 1;
        for &id in &self.spent {
            let start = usize::from(id) * self.config.bytes as usize;
            // SAFETY: `tail & mask` is less than the number of entries that were mapped. The kernel reads an entry only after the
            // tail has passed it, and it is done with the one that is overwritten: there are as many entries as buffers, and this
            // buffer was out. Entries of all-zero bits are valid, so the reference is to initialised memory.
            let entry = unsafe { &mut *self.entries.start().cast::<BufRingEntry>().as_ptr().add(usize::from(self.tail & mask)) };
            // SAFETY: the buffer lies within the mapping.
            entry.set_addr(unsafe { self.memory.start().as_ptr().add(start) } as u64);
            entry.set_len(self.config.bytes);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.places[usize::from(id)] = Place::Offered(0);
        }
        self.free += self.spent.len();
        self.spent.clear();
        // SAFETY: the base is the first entry of a registered buffer ring, whose tail lies in that entry's reserved field, aligned
        // for 16 bits and accessed by both sides as an atomic.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.start().cast().as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Whether the next `enter` offers any buffer again.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn has_spent(&self) -> bool {
        !self.spent.is_empty()
    }
    /// Buffers that the kernel can still receive into.
    pub fn free(&self) -> usize {
        self.free
    }
    /// The fewest that were free at any time since the last call.
    pub fn take_free_min(&mut self) -> usize {
        std::mem::replace(&mut self.free_min, self.free)
    }
    /// Number of buffers.
    pub fn count(&self) -> usize {
        self.places.len()
    }
    /// Bytes of one buffer: the most that one completion can carry.
    pub fn buffer_bytes(&self) -> usize {
        self.config.bytes as usize
    }
    /// True if the kernel fills buffers piece by piece.
    pub fn is_incremental(&self) -> bool {
        self.incremental
    }
    /// Completions whose buffer made no sense: always 0 unless the kernel or our own bookkeeping is wrong.
    pub fn bad(&self) -> u64 {
        self.bad
    }
}
