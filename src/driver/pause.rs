//! Unread bytes of connections whose reading the core has paused.
//!
//! Pausing a connection cancels its receive, but what has completed by then is here already: the rest of the bytes in hand, and
//! what the receive completed before its cancellation. It is kept in order, charged to the core's account, and bounded over the
//! shard. A resume hands it over before anything else is received.
//!
//! This file knows bytes and keys; the loop decides when they move.

use crate::limits::{RECEIVE_BUFFER_BYTES, STASH_BYTES_MAX};
use crate::shard::Key;
use slab::Slab;

/// Emptied stores that are kept for the next pause.
const SPARES_MAX: usize = 16;

/// What one paused connection has not read.
#[derive(Debug)]
pub(super) struct Unread {
    key: Key,
    bytes: Vec<u8>,
    start: usize,
}

impl Unread {
    /// What is left of it.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
    /// What is left of it, to be kept elsewhere.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.bytes
    }
    /// Notes that `count` bytes from the front were read.
    ///
    /// # Panics
    /// If that is more than there are.
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.start, "consumed more than was handed over");
        self.start += count;
    }
}

/// The unread bytes of all paused connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Stashes {
    unread: Slab<Unread>,
    spares: Vec<Vec<u8>>,
    /// Invariant: the sum of what is left of all of them, but for one that is taken out.
    bytes: usize,
}

impl Stashes {
    /// Adds bytes behind what the connection has unread, and returns where that is kept.
    pub(super) fn append(&mut self, at: Option<u32>, key: Key, bytes: &[u8]) -> Option<u32> {
        if bytes.is_empty() {
            return at;
        }
        let index = match at {
            Some(index) => index as usize,
            None => self.unread.insert(Unread { key, bytes: self.spares.pop().unwrap_or_default(), start: 0 }),
        };
        self.unread[index].bytes.extend_from_slice(bytes);
        self.bytes += bytes.len();
        Some(index as u32)
    }

    /// Takes a connection's bytes out, to be read.
    pub(super) fn take(&mut self, at: u32) -> Unread {
        let unread = self.unread.remove(at as usize);
        self.bytes -= unread.bytes.len() - unread.start;
        unread
    }

    /// Puts back what was not read after all; `None` if nothing is left.
    pub(super) fn put_back(&mut self, mut unread: Unread) -> Option<u32> {
        let left = unread.bytes.len() - unread.start;
        if left == 0 {
            self.recycle(unread.bytes);
            return None;
        }
        // The front is given up once it is the larger part, so that bytes that come and go don't let the store grow for ever.
        if unread.start > left {
            unread.bytes.drain(..unread.start);
            unread.start = 0;
        }
        self.bytes += left;
        Some(self.unread.insert(unread) as u32)
    }

    /// Forgets a connection's bytes.
    pub(super) fn discard(&mut self, at: u32) {
        let unread = self.take(at);
        self.recycle(unread.bytes);
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spares.len() < SPARES_MAX && bytes.capacity() <= RECEIVE_BUFFER_BYTES as usize {
            bytes.clear();
            self.spares.push(bytes);
        }
    }

    /// The connection with the most unread bytes, of those that may be ended, if all together have more than they may.
    pub(super) fn excess(&self, may_end: impl Fn(Key) -> bool) -> Option<Key> {
        if self.bytes <= STASH_BYTES_MAX {
            return None;
        }
        let unread = self.unread.iter().map(|(_, unread)| unread).filter(|unread| may_end(unread.key));
        unread.max_by_key(|unread| unread.bytes.len() - unread.start).map(|unread| unread.key)
    }

    /// Unread bytes of all connections.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Connections with unread bytes.
    pub(super) fn count(&self) -> usize {
        self.unread.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> Key {
        Key { slot, generation: 1 }
    }

    #[test]
    fn bytes_come_back_in_order_over_partial_reads() {
        let mut stashes = Stashes::default();
        let at = stashes.append(None, key(1), b"abc");
        let at = stashes.append(at, key(1), b"defgh").unwrap();
        let mut unread = stashes.take(at);
        assert_eq!(unread.rest(), b"abcdefgh");
        unread.consume(6);
        let at = stashes.put_back(unread);
        let at = stashes.append(at, key(1), b"ij").unwrap();
        assert_eq!(stashes.take(at).rest(), b"ghij");
        assert_eq!((stashes.bytes(), stashes.count()), (0, 0));
    }

    #[test]
    fn the_account_is_the_sum_of_what_is_left() {
        let mut stashes = Stashes::default();
        let first = stashes.append(None, key(1), &[0; 100]).unwrap();
        let second = stashes.append(None, key(2), &[0; 10]).unwrap();
        let mut unread = stashes.take(first);
        unread.consume(99);
        let first = stashes.put_back(unread).unwrap();
        assert_eq!(stashes.bytes(), 11);
        stashes.discard(first);
        stashes.discard(second);
        assert_eq!((stashes.bytes(), stashes.count()), (0, 0));
    }

    #[test]
    fn nothing_unread_takes_no_place() {
        let mut stashes = Stashes::default();
        assert_eq!(stashes.append(None, key(1), &[]), None);
        let at = stashes.append(None, key(1), &[1]).unwrap();
        let mut unread = stashes.take(at);
        unread.consume(1);
        assert_eq!(stashes.put_back(unread), None);
        assert_eq!(stashes.count(), 0);
    }

    #[test]
    fn above_the_bound_the_largest_is_named_until_it_is_gone() {
        let mut stashes = Stashes::default();
        let small = stashes.append(None, key(1), &vec![0; STASH_BYTES_MAX / 4]).unwrap();
        let large = stashes.append(None, key(2), &vec![0; STASH_BYTES_MAX]).unwrap();
        assert_eq!(stashes.excess(|_| true), Some(key(2)));
        assert_eq!(stashes.excess(|of| of != key(2)), Some(key(1)));
        stashes.discard(large);
        assert_eq!(stashes.excess(|_| true), None);
        stashes.discard(small);
    }
}
