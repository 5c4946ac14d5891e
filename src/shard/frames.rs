//! Encoded frames, shared by reference among the queues of a shard, and the pool that their buffers come from.
//!
//! A frame is written once and then never changed. It is charged to [`MemoryUse::Frames`] once, by the capacity of its buffer,
//! for as long as this shard holds a reference; a frame that came over the mesh is charged by each shard that holds it, so the
//! account never understates. While a history keeps it, it is charged to [`MemoryUse::History`] instead. A buffer whose last reference falls here goes back to the pool. One that other shards still hold is
//! *lent*: its maker keeps a reference and takes it back when they are done, or buffers would wander to where messages end and be
//! missing where they begin. Once warm, a message costs no allocation.

use super::arena::FrameIndex;
use super::mesh::LocalRef;
use super::stats::{MemoryUse, Stats};
use crate::limits::FRAME_POOL_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::collections::VecDeque;

/// log2 of the smallest and the largest pooled buffer, in bytes.
const CLASS_MIN: u32 = 6;
const CLASS_MAX: u32 = 17;
const CLASSES: usize = (CLASS_MAX - CLASS_MIN + 1) as usize;
/// Entries up to which a table of buffers or frames stays as it is between two bursts.
const ENTRIES_KEPT: usize = 64;
/// Lent buffers that are looked at when one is needed: so that one that is held for long does not stand before the others.
const LENT_LOOKS: usize = 4;

/// Recycled buffers, by powers of two.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    classes: [Vec<BytesMut>; CLASSES],
    /// The fewest buffers that lay unused in each class since the last trim.
    idle: [usize; CLASSES],
    /// Buffers of ours that others may still hold, oldest first.
    lent: VecDeque<Bytes>,
    /// Invariant: the sum of the capacities kept and of the lengths lent, at most [`FRAME_POOL_BYTES_MAX`].
    bytes: usize,
}

impl BufferPool {
    /// An empty buffer with room for `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> BytesMut {
        let class = length.next_power_of_two().trailing_zeros().max(CLASS_MIN);
        if class > CLASS_MAX {
            return BytesMut::with_capacity(length);
        }
        let place = (class - CLASS_MIN) as usize;
        if self.classes[place].is_empty() {
            self.reclaim();
        }
        if let Some(buffer) = self.classes[place].pop() {
            self.bytes -= buffer.capacity();
            self.idle[place] = self.idle[place].min(self.classes[place].len());
            return buffer;
        }
        self.idle[place] = 0;
        let mut buffer = BytesMut::with_capacity(1 << class);
        // Splitting makes the buffer reference-counted now, so that freezing it and taking it back never allocates again.
        drop(buffer.split_off(1 << class));
        buffer
    }

    /// Gives the buffers back to the allocator that were not needed since the last trim: what a burst took, a burst gives back.
    pub(crate) fn trim(&mut self) {
        for (class, idle) in self.classes.iter_mut().zip(&mut self.idle) {
            let spare = (*idle).min(class.len());
            self.bytes -= class.drain(..spare).map(|buffer| buffer.capacity()).sum::<usize>();
            if class.capacity() > 4 * class.len().max(ENTRIES_KEPT) {
                class.shrink_to(2 * class.len().max(ENTRIES_KEPT));
            }
            *idle = class.len();
        }
        if self.lent.capacity() > 4 * self.lent.len().max(ENTRIES_KEPT) {
            self.lent.shrink_to(2 * self.lent.len().max(ENTRIES_KEPT));
        }
    }

    /// Whether it keeps anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether the account of the pool is what it keeps, and within its bound; says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), &'static str> {
        let kept: usize = self.classes.iter().flatten().map(BytesMut::capacity).sum();
        let lent: usize = self.lent.iter().map(Bytes::len).sum();
        if self.bytes != kept + lent {
            return Err("the pool of buffers counts other bytes than it keeps");
        }
        if self.bytes > FRAME_POOL_BYTES_MAX {
            return Err("the pool of buffers keeps more than its bound");
        }
        match self.classes.iter().zip(self.idle).all(|(class, idle)| idle <= class.len()) {
            true => Ok(()),
            false => Err("more buffers lay unused than there are"),
        }
    }

    /// Takes a buffer back if nobody else holds it.
    pub(crate) fn give(&mut self, bytes: Bytes) {
        let Ok(mut buffer) = bytes.try_into_mut() else { return };
        buffer.clear();
        let capacity = buffer.capacity();
        if !capacity.is_power_of_two() || self.bytes + capacity > FRAME_POOL_BYTES_MAX {
            return;
        }
        let class = capacity.trailing_zeros();
        if (CLASS_MIN..=CLASS_MAX).contains(&class) {
            self.bytes += capacity;
            self.classes[(class - CLASS_MIN) as usize].push(buffer);
        }
    }

    /// Keeps a buffer of ours that others hold, to take it back later.
    fn keep_lent(&mut self, bytes: Bytes) {
        if bytes.len() > 1 << CLASS_MAX {
            return;
        }
        self.bytes += bytes.len();
        self.lent.push_back(bytes);
        while self.bytes > FRAME_POOL_BYTES_MAX {
            let Some(oldest) = self.lent.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// Takes back a few of the lent buffers that nobody else holds any more.
    fn reclaim(&mut self) {
        for _ in 0..self.lent.len().min(LENT_LOOKS) {
            let Some(bytes) = self.lent.pop_front() else { return };
            self.bytes -= bytes.len();
            self.give_own(bytes);
        }
    }

    /// Takes a buffer of ours back, or keeps it as lent if somebody else holds it.
    pub(crate) fn give_own(&mut self, bytes: Bytes) {
        if bytes.is_unique() { self.give(bytes) } else { self.keep_lent(bytes) }
    }

    /// As [`copy`](Self::copy), for another shard to hold.
    pub(crate) fn lend(&mut self, parts: &[&[u8]]) -> Bytes {
        let bytes = self.copy(parts);
        self.keep_lent(bytes.clone());
        bytes
    }

    /// A frozen copy of `parts`, one after the other.
    pub(crate) fn copy(&mut self, parts: &[&[u8]]) -> Bytes {
        let mut buffer = self.take(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            buffer.extend_from_slice(part);
        }
        buffer.freeze()
    }
}

/// What a frame is, where it is queued for a socket that takes too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matter {
    /// A publication with an offset, to members of a room here: its history may have it.
    Publication {
        local: LocalRef,
        offset: u64,
    },
    /// The answer to a first join: what stands before it is not of that membership.
    Joined,
    Other,
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    /// Invariant: one for each queue entry and pass that names the frame, and one for the turn if it is pending in it.
    pub(crate) references: u32,
    pub(crate) charged: u32,
    /// Its buffer is of this shard's pool.
    own: bool,
    /// What it is to those who would shed it from a queue.
    pub(crate) matter: Matter,
    /// A history keeps it. Invariant: one of the references is the history's.
    pub(crate) kept: bool,
}

/// What a frame of this length is charged: the buffer that it has if it comes from a pool.
#[inline]
pub(crate) fn charge_of(length: usize) -> usize {
    if length <= 1 << CLASS_MAX { length.next_power_of_two().max(1 << CLASS_MIN) } else { length }
}

/// The frames that this shard holds.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) frames: Slab<Frame>,
    pub(crate) pool: BufferPool,
}

impl Frames {
    /// Gives back what was not needed for a while: pooled buffers, and the tail of the table.
    pub(crate) fn trim(&mut self) {
        self.pool.trim();
        if self.frames.capacity() > 4 * self.frames.len().max(ENTRIES_KEPT) {
            self.frames.shrink_to_fit();
        }
    }

    /// Makes a frame of `parts`, with one reference, the caller's.
    pub(crate) fn make(&mut self, stats: &mut Stats, parts: &[&[u8]]) -> FrameIndex {
        let bytes = self.pool.copy(parts);
        self.insert(stats, bytes, true)
    }

    /// Takes in bytes of another shard that are a whole frame already, with one reference, the caller's.
    pub(crate) fn adopt(&mut self, stats: &mut Stats, bytes: Bytes) -> FrameIndex {
        self.insert(stats, bytes, false)
    }

    fn insert(&mut self, stats: &mut Stats, bytes: Bytes, own: bool) -> FrameIndex {
        let charged = charge_of(bytes.len());
        stats.charge(MemoryUse::Frames, charged);
        FrameIndex(self.frames.insert(Frame {
            bytes,
            references: 1,
            charged: charged as u32,
            own,
            matter: Matter::Other,
            kept: false,
        }) as u32)
    }

    pub(crate) fn hold(&mut self, frame: FrameIndex) {
        self.frames[frame.0 as usize].references += 1;
    }

    pub(crate) fn release(&mut self, stats: &mut Stats, frame: FrameIndex) {
        let held = &mut self.frames[frame.0 as usize];
        held.references -= 1;
        if held.references == 0 {
            let gone = self.frames.remove(frame.0 as usize);
            stats.release(MemoryUse::Frames, gone.charged as usize);
            match gone.own {
                true => self.pool.give_own(gone.bytes),
                false => self.pool.give(gone.bytes),
            }
        }
    }

    /// Says what a frame is.
    pub(crate) fn mark(&mut self, frame: FrameIndex, matter: Matter) {
        self.frames[frame.0 as usize].matter = matter;
    }

    pub(crate) fn matter(&self, frame: FrameIndex) -> Matter {
        self.frames[frame.0 as usize].matter
    }

    /// A history keeps a frame: it holds a reference, and the frame is charged to it.
    pub(crate) fn keep(&mut self, stats: &mut Stats, frame: FrameIndex) {
        let held = &mut self.frames[frame.0 as usize];
        debug_assert!(!held.kept);
        held.kept = true;
        held.references += 1;
        stats.release(MemoryUse::Frames, held.charged as usize);
        stats.charge(MemoryUse::History, held.charged as usize);
    }

    /// A history gives a frame up.
    pub(crate) fn give_up(&mut self, stats: &mut Stats, frame: FrameIndex) {
        let held = &mut self.frames[frame.0 as usize];
        debug_assert!(held.kept);
        held.kept = false;
        stats.release(MemoryUse::History, held.charged as usize);
        stats.charge(MemoryUse::Frames, held.charged as usize);
        self.release(stats, frame);
    }

    /// The bytes of several frames, one after the other; `lent` if another shard will hold them.
    pub(crate) fn gather(&mut self, frames: &[FrameIndex], bytes: usize, lent: bool) -> Bytes {
        if let [frame] = frames {
            return self.share(*frame);
        }
        let mut buffer = self.pool.take(bytes);
        for frame in frames {
            buffer.extend_from_slice(&self.frames[frame.0 as usize].bytes);
        }
        let gathered = buffer.freeze();
        if lent {
            self.pool.keep_lent(gathered.clone());
        }
        gathered
    }

    pub(crate) fn bytes(&self, frame: FrameIndex) -> &[u8] {
        &self.frames[frame.0 as usize].bytes
    }

    /// Another reference to the same bytes, for the mesh.
    pub(crate) fn share(&self, frame: FrameIndex) -> Bytes {
        self.frames[frame.0 as usize].bytes.clone()
    }

    pub(crate) fn length(&self, frame: FrameIndex) -> usize {
        self.frames[frame.0 as usize].bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_buffer_is_used_again() {
        let (mut frames, mut stats) = (Frames::default(), Stats::default());
        let frame = frames.make(&mut stats, &[b"he", b"llo"]);
        let address = frames.bytes(frame).as_ptr();
        assert_eq!(frames.bytes(frame), b"hello");
        frames.release(&mut stats, frame);
        assert_eq!(stats.memory_bytes_held(), 0);
        let again = frames.make(&mut stats, &[b"again"]);
        assert_eq!(frames.bytes(again).as_ptr(), address);
    }

    #[test]
    fn a_lent_buffer_is_used_again_when_it_is_free_and_not_before() {
        let (mut frames, mut stats) = (Frames::default(), Stats::default());
        let frame = frames.make(&mut stats, &[b"shared"]);
        let address = frames.bytes(frame).as_ptr();
        let other = frames.share(frame);
        frames.release(&mut stats, frame);
        let again = frames.make(&mut stats, &[b"another"]);
        assert_eq!(&other[..], b"shared");
        assert_ne!(frames.bytes(again).as_ptr(), address);
        // The other shard's pool does not get it.
        let mut theirs = Frames::default();
        let adopted = theirs.adopt(&mut stats, other);
        theirs.release(&mut stats, adopted);
        assert_eq!(theirs.pool.bytes, 0);
        let third = frames.make(&mut stats, &[b"third"]);
        assert_eq!(frames.bytes(third).as_ptr(), address);
        assert_eq!((frames.pool.bytes, frames.pool.lent.len()), (0, 0));
    }

    #[test]
    fn lent_buffers_are_kept_only_up_to_the_bound_of_the_pool() {
        let mut pool = BufferPool::default();
        let text = [0; 1_000];
        let lent: Vec<Bytes> = (0..2 * FRAME_POOL_BYTES_MAX / text.len()).map(|_| pool.lend(&[&text])).collect();
        assert!(pool.bytes <= FRAME_POOL_BYTES_MAX && pool.bytes > FRAME_POOL_BYTES_MAX / 2);
        drop(lent);
        while !pool.lent.is_empty() {
            pool.reclaim();
        }
        assert!(pool.bytes <= FRAME_POOL_BYTES_MAX);
    }
}
