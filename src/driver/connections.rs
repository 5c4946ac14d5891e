//! The slots of a ring's file table: which connection each one holds, and what the kernel still has of it.
//!
//! The life of a slot:
//! - An accept on it, or a socket that another shard gives into it, starts a new generation. It proves that the close of the generation before has run, in whatever order the
//!   completions come: (cancel, close, *accept on the same slot*, then the old receive's ECANCELED) is normal. A completion that
//!   carries another generation is stale: it is counted, its buffer is recycled, and nothing else happens.
//! - The end of the stream or an error of the socket is told to the core once (`handle_closed`), and nothing is received any more.
//!   The slot is not closed by that: the core emits [`Action::Close`](crate::shard::Action::Close) for **every** connection that it
//!   was given, also after `handle_closed`, and only then the slot is closed. So one owner decides when a slot is free.
//! - A shutdown runs on a thread of the kernel's, which looks the slot up only then: closed and given away meanwhile, the wrong
//!   connection would be shut down. So the close of a slot waits for the completion of its shutdown.
//! - The close cancels what is armed, by user data, and closes the slot in the same submission. From there on the slot belongs to
//!   nobody until the next accept. A connection that is given to another shard ends the same way, without the core's word (`moves`).
//!
//! Invariant: at most one operation of each armed kind is in the kernel for a generation, because its bit is cleared only by its
//! last completion; a cancelled receive is armed again only after that.

use crate::shard::Key;
use crate::uring::op::GENERATION_MAX;
use crate::uring::planted::{Bug, is_planted};

/// Bytes of one slot's record.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();
const _: () = assert!(SLOT_BYTES == 8);

/// What is true of a connection; bits of a slot's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Flag {
    /// The slot holds a connection.
    Open = 1 << 24,
    /// It counts towards `connections_max`.
    Counted = 1 << 25,
    /// A receive is in the kernel.
    Receive = 1 << 26,
    /// A poll for room to send is in the kernel.
    Writable = 1 << 27,
    /// A poll for the peer's end is in the kernel.
    Hangup = 1 << 28,
    /// A shutdown of our direction is in the kernel.
    Finishing = 1 << 29,
    /// The core takes no bytes until it resumes the connection.
    Paused = 1 << 30,
    /// The core was told that it ended.
    Ended = 1 << 31,
    /// Something was received since the last probe began.
    Heard = 1 << 32,
    /// The core has closed it, and the slot is closed when the shutdown has completed.
    CloseOwed = 1 << 33,
    /// It goes to another shard: nothing of it is told to the core.
    Moving = 1 << 34,
    /// The kernel is giving its socket to that shard's ring.
    Given = 1 << 35,
}

/// The generation in the low 24 bits, [`Flag`]s in the next 12, and in the rest the place of the unread bytes plus one.
#[derive(Clone, Copy, Debug, Default)]
struct Slot(u64);

const STASH_SHIFT: u32 = 36;
const GENERATION: u64 = GENERATION_MAX as u64;
const _: () = assert!(crate::limits::SHARD_CONNECTIONS_MAX < 1 << (u64::BITS - STASH_SHIFT));

/// The table of slots.
#[derive(Debug)]
pub(super) struct Connections {
    slots: Vec<Slot>,
    open: usize,
    counted: usize,
}

impl Connections {
    /// A table of free slots.
    pub(super) fn new(slots: usize) -> Connections {
        Connections { slots: vec![Slot::default(); slots], open: 0, counted: 0 }
    }

    /// Starts the next generation of a slot. `None` if the kernel names a slot that the table has not, or that holds a connection.
    pub(super) fn open(&mut self, slot: u32, counted: bool) -> Option<Key> {
        let record = self.slots.get_mut(slot as usize)?;
        if record.0 & Flag::Open as u64 != 0 {
            return None;
        }
        let generation = (record.0 + 1) & GENERATION;
        record.0 = generation | Flag::Open as u64 | if counted { Flag::Counted as u64 } else { 0 };
        self.open += 1;
        self.counted += usize::from(counted);
        Some(Key { slot, generation: generation as u32 })
    }

    /// Ends a connection: every flag is cleared, and later completions of its generation are stale.
    pub(super) fn close(&mut self, key: Key) {
        self.put(key, Flag::Counted, false);
        if self.is_current(key) {
            self.slots[key.slot as usize].0 &= GENERATION;
            self.open -= 1;
        }
    }

    /// The connection that a slot holds.
    pub(super) fn current(&self, slot: u32) -> Option<Key> {
        let record = self.slots.get(slot as usize).filter(|record| record.0 & Flag::Open as u64 != 0)?;
        Some(Key { slot, generation: (record.0 & GENERATION) as u32 })
    }

    /// Whether the slot holds this very connection.
    pub(super) fn is_current(&self, key: Key) -> bool {
        let current = u64::from(key.generation) | Flag::Open as u64;
        if is_planted(Bug::StaleGenerationAccepted) {
            return self.slots.get(key.slot as usize).is_some_and(|slot| slot.0 & Flag::Open as u64 != 0);
        }
        self.slots.get(key.slot as usize).is_some_and(|slot| slot.0 & (GENERATION | Flag::Open as u64) == current)
    }

    /// Whether `flag` is set on a current connection; false for any other.
    pub(super) fn has(&self, key: Key, flag: Flag) -> bool {
        self.is_current(key) && self.slots[key.slot as usize].0 & flag as u64 != 0
    }

    /// Sets or clears a flag of a current connection, and says whether it was set before.
    pub(super) fn put(&mut self, key: Key, flag: Flag, value: bool) -> bool {
        if !self.is_current(key) {
            return false;
        }
        let record = &mut self.slots[key.slot as usize].0;
        let was = *record & flag as u64 != 0;
        if value {
            *record |= flag as u64
        } else {
            *record &= !(flag as u64)
        }
        if flag == Flag::Counted {
            self.counted = self.counted - usize::from(was) + usize::from(value);
        }
        was
    }

    /// Where the unread bytes of a current connection are.
    pub(super) fn stash(&self, key: Key) -> Option<u32> {
        if !self.is_current(key) {
            return None;
        }
        ((self.slots[key.slot as usize].0 >> STASH_SHIFT) as u32).checked_sub(1)
    }

    /// Notes where the unread bytes of a current connection are.
    pub(super) fn put_stash(&mut self, key: Key, stash: Option<u32>) {
        if self.is_current(key) {
            let record = &mut self.slots[key.slot as usize].0;
            let place = stash.map_or(0, |index| u64::from(index) + 1);
            *record = *record & ((1 << STASH_SHIFT) - 1) | place << STASH_SHIFT;
        }
    }

    /// Slots that hold a connection.
    pub(super) fn open_count(&self) -> usize {
        self.open
    }

    /// Of these, connections that count towards `connections_max`.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    /// Slots that hold none.
    pub(super) fn free_count(&self) -> usize {
        self.slots.len() - self.open
    }

    /// Slots.
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_on_a_slot_makes_everything_of_the_last_connection_stale() {
        let mut table = Connections::new(4);
        let old = table.open(2, true).unwrap();
        table.put(old, Flag::Receive, true);
        table.close(old);
        let new = table.open(2, false).unwrap();
        assert!(!table.is_current(old) && table.is_current(new));
        assert!(!table.has(new, Flag::Receive) && !table.has(new, Flag::Counted));
        assert!(!table.put(old, Flag::Receive, true) && !table.has(new, Flag::Receive));
    }

    #[test]
    fn a_closed_slot_is_stale_before_the_next_accept() {
        let mut table = Connections::new(1);
        let key = table.open(0, true).unwrap();
        table.close(key);
        assert!(!table.is_current(key));
        table.close(key);
        assert_eq!((table.open_count(), table.counted(), table.free_count()), (0, 0, 1));
    }

    #[test]
    fn a_slot_that_is_taken_or_not_there_is_not_opened() {
        let mut table = Connections::new(1);
        assert!(table.open(1, false).is_none());
        assert!(table.open(0, false).is_some());
        assert!(table.open(0, false).is_none());
        assert_eq!(table.open_count(), 1);
    }

    #[test]
    fn generations_wrap_after_24_bits_and_leave_the_flags_alone() {
        let mut table = Connections::new(1);
        table.slots[0].0 = GENERATION;
        let key = table.open(0, true).unwrap();
        assert_eq!(key.generation, 0);
        assert!(table.has(key, Flag::Counted) && !table.has(key, Flag::Paused));
    }

    #[test]
    fn the_place_of_unread_bytes_leaves_flags_and_generation_alone() {
        let mut table = Connections::new(1);
        let key = table.open(0, true).unwrap();
        table.put(key, Flag::Given, true);
        let last = crate::limits::SHARD_CONNECTIONS_MAX as u32 - 1;
        table.put_stash(key, Some(last));
        assert_eq!(table.stash(key), Some(last));
        assert!(table.is_current(key) && table.has(key, Flag::Given) && table.has(key, Flag::Counted));
        table.put_stash(key, None);
        assert!(table.stash(key).is_none() && table.has(key, Flag::Given) && !table.has(key, Flag::Heard));
    }

    #[test]
    fn a_stash_is_forgotten_with_its_connection() {
        let mut table = Connections::new(1);
        let key = table.open(0, true).unwrap();
        table.put_stash(key, Some(0));
        assert_eq!(table.stash(key), Some(0));
        table.close(key);
        let key = table.open(0, true).unwrap();
        assert_eq!(table.stash(key), None);
    }
}
