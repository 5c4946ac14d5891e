//! The slots of a ring's file table: which connection each one holds, and what the kernel still has of it.
//!
//! The life of a slot:
//! - An accept on it starts a new generation. It proves that the close of the generation before has run, in whatever order the
//!   completions come: (cancel, close, *accept on the same slot*, then the old receive's ECANCELED) is normal. A completion that
//!   carries another generation is stale: it is counted, its buffer is recycled, and nothing else happens.
//! - The end of the stream or an error of the socket is told to the core once (`handle_closed`), and nothing is received any more.
//!   The slot is not closed by that: the core emits [`Action::Close`](crate::shard::Action::Close) for **every** connection that it was
//!   given, also after `handle_closed`, and only then the slot is closed. So one owner decides when a slot is free.
//! - The close cancels what is armed, by user data, and closes the slot in the same submission. From there on the slot belongs to
//!   nobody until the next accept.
//!
//! Invariant: at most one operation of each armed kind is in the kernel for a generation, because its bit is cleared only by its
//! last completion; a cancelled receive is armed again only after that.

use crate::shard::Key;
use crate::uring::op::GENERATION_MAX;

/// Bytes of one slot's record.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();
const _: () = assert!(SLOT_BYTES == 8);

/// What is true of a connection; bits of a slot's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
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
    /// The core takes no bytes until it resumes the connection.
    Paused = 1 << 29,
    /// The core was told that it ended.
    Ended = 1 << 30,
    /// Something was received since the last probe began.
    Heard = 1 << 31,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Generation in the low 24 bits, [`Flag`]s above.
    state: u32,
    /// Where the unread bytes are, plus one; 0 if there are none.
    stash: u32,
}

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
        if record.state & Flag::Open as u32 != 0 {
            return None;
        }
        let generation = (record.state + 1) & GENERATION_MAX;
        record.state = generation | Flag::Open as u32 | if counted { Flag::Counted as u32 } else { 0 };
        record.stash = 0;
        self.open += 1;
        self.counted += usize::from(counted);
        Some(Key { slot, generation })
    }

    /// Ends a connection: every flag is cleared, and later completions of its generation are stale.
    pub(super) fn close(&mut self, key: Key) {
        if self.is_current(key) {
            let record = &mut self.slots[key.slot as usize];
            self.counted -= usize::from(record.state & Flag::Counted as u32 != 0);
            record.state &= GENERATION_MAX;
            record.stash = 0;
            self.open -= 1;
        }
    }

    /// Whether the slot holds this very connection.
    pub(super) fn is_current(&self, key: Key) -> bool {
        let current = key.generation | Flag::Open as u32;
        self.slots.get(key.slot as usize).is_some_and(|slot| slot.state & (GENERATION_MAX | Flag::Open as u32) == current)
    }

    /// Whether `flag` is set on a current connection; false for any other.
    pub(super) fn has(&self, key: Key, flag: Flag) -> bool {
        self.is_current(key) && self.slots[key.slot as usize].state & flag as u32 != 0
    }

    /// Sets or clears a flag of a current connection, and says whether it was set before.
    pub(super) fn put(&mut self, key: Key, flag: Flag, value: bool) -> bool {
        if !self.is_current(key) {
            return false;
        }
        let state = &mut self.slots[key.slot as usize].state;
        let was = *state & flag as u32 != 0;
        if value {
            *state |= flag as u32
        } else {
            *state &= !(flag as u32)
        }
        was
    }

    /// Where the unread bytes of a current connection are.
    pub(super) fn stash(&self, key: Key) -> Option<u32> {
        if !self.is_current(key) {
            return None;
        }
        self.slots[key.slot as usize].stash.checked_sub(1)
    }

    /// Notes where the unread bytes of a current connection are.
    pub(super) fn put_stash(&mut self, key: Key, stash: Option<u32>) {
        if self.is_current(key) {
            self.slots[key.slot as usize].stash = stash.map_or(0, |index| index + 1);
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
        table.slots[0].state = GENERATION_MAX;
        let key = table.open(0, true).unwrap();
        assert_eq!(key.generation, 0);
        assert!(table.has(key, Flag::Counted) && !table.has(key, Flag::Paused));
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
