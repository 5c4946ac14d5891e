//! Encoded frames, shared by reference among the queues of a shard, and the pool that their buffers come from.
//!
//! A frame is written once and then never changed. It is charged to [`MemoryUse::Frames`] once, by the capacity of its buffer,
//! for as long as this shard holds a reference; a frame that came over the mesh is charged by each shard that holds it, so the
//! account never understates. A buffer whose last reference falls here goes back to the pool: once warm, a message costs no
//! allocation.

use super::arena::FrameIndex;
use super::stats::{MemoryUse, Stats};
use crate::limits::FRAME_POOL_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use slab::Slab;

/// log2 of the smallest and the largest pooled buffer, in bytes.
const CLASS_MIN: u32 = 6;
const CLASS_MAX: u32 = 17;

/// Recycled buffers, by powers of two.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    classes: [Vec<BytesMut>; (CLASS_MAX - CLASS_MIN + 1) as usize],
    /// Invariant: the sum of the capacities kept, at most [`FRAME_POOL_BYTES_MAX`].
    bytes: usize,
}

impl BufferPool {
    /// An empty buffer with room for `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> BytesMut {
        let class = length.next_power_of_two().trailing_zeros().max(CLASS_MIN);
        if class > CLASS_MAX {
            return BytesMut::with_capacity(length);
        }
        if let Some(buffer) = self.classes[(class - CLASS_MIN) as usize].pop() {
            self.bytes -= buffer.capacity();
            return buffer;
        }
        let mut buffer = BytesMut::with_capacity(1 << class);
        // Splitting makes the buffer reference-counted now, so that freezing it and taking it back never allocates again.
        drop(buffer.split_off(1 << class));
        buffer
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

    /// A frozen copy of `parts`, one after the other.
    pub(crate) fn copy(&mut self, parts: &[&[u8]]) -> Bytes {
        let mut buffer = self.take(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            buffer.extend_from_slice(part);
        }
        buffer.freeze()
    }
}

#[derive(Debug)]
struct Frame {
    bytes: Bytes,
    /// Invariant: one for each queue entry and pass that names the frame, and one for the turn if it is pending in it.
    references: u32,
    charged: u32,
}

/// The frames that this shard holds.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frames: Slab<Frame>,
    pub(crate) pool: BufferPool,
}

impl Frames {
    /// Makes a frame of `parts`, with one reference, the caller's.
    pub(crate) fn make(&mut self, stats: &mut Stats, parts: &[&[u8]]) -> FrameIndex {
        let bytes = self.pool.copy(parts);
        self.adopt(stats, bytes)
    }

    /// Takes in bytes that are a whole frame already, with one reference, the caller's.
    pub(crate) fn adopt(&mut self, stats: &mut Stats, bytes: Bytes) -> FrameIndex {
        let length = bytes.len();
        let charged = if length <= 1 << CLASS_MAX { length.next_power_of_two().max(1 << CLASS_MIN) } else { length };
        stats.charge(MemoryUse::Frames, charged);
        FrameIndex(self.frames.insert(Frame { bytes, references: 1, charged: charged as u32 }) as u32)
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
            self.pool.give(gone.bytes);
        }
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
    fn a_buffer_that_another_shard_holds_is_not_used_again() {
        let (mut frames, mut stats) = (Frames::default(), Stats::default());
        let frame = frames.make(&mut stats, &[b"shared"]);
        let other = frames.share(frame);
        frames.release(&mut stats, frame);
        let again = frames.make(&mut stats, &[b"another"]);
        assert_eq!(&other[..], b"shared");
        assert_ne!(frames.bytes(again).as_ptr(), other.as_ptr());
        frames.pool.give(other);
        assert_eq!(frames.pool.bytes, 64);
    }
}
