//! What rooms keep of their publications, at their home: so that who was away, or is slow, can be told what it missed.
//!
//! A publication is kept as the frame that was fanned out, by reference. It stands on two lists: of its shard, in the order of
//! arrival, which is that of age; and of its room. The oldest of the shard is thus also the oldest of its room, and every bound
//! (count, bytes and age of a room; memory of the shard) is kept by taking the head of a list, in O(1).
//!
//! A publication with a key takes the place of the earlier one with that key, which is no loss. What a bound took is one: a room
//! knows the highest offset that it `lost`, and whoever stands at it or behind it (by offset) can be told everything that
//! followed. It is read a little later, piece by piece; so that a busy room does not overtake it meanwhile, the room keeps twice as
//! much for a moment.
//!
//! It does not know who reads, nor how fast: that is `recovery`'s.

use super::Shard;
use super::arena::{FrameIndex, HomeIndex, PublicationIndex};
use super::home::HomeRoom;
use super::mesh::SessionId;
use super::stats::MemoryUse;
use crate::limits::{HISTORY_EXPIRIES_PER_TURN, HISTORY_KEYS_MAX, HISTORY_PROMISE_FACTOR, HISTORY_PROMISE_MS, HISTORY_SWEEP_MS};
use crate::planted::{Bug, is_planted};
use crate::time::{Millis, Now};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use std::hash::BuildHasher;
use std::ops::Range;

/// A publication that a room keeps.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) room: HomeIndex,
    pub(crate) frame: FrameIndex,
    pub(crate) offset: u64,
    /// The session that published it.
    pub(crate) author: SessionId,
    /// The command's number there; 0 if it had none.
    pub(crate) seq: u64,
    /// When it was taken.
    pub(crate) at: Millis,
    /// Where its key stands in the frame, as JSON; empty if nothing supersedes it.
    pub(crate) key: Range<u32>,
    /// Bytes of the frame before its JSON.
    pub(crate) head: u8,
    /// Its author gets it too.
    pub(crate) echo: bool,
    pub(crate) older: PublicationIndex,
    pub(crate) newer: PublicationIndex,
    pub(crate) older_in_room: PublicationIndex,
    pub(crate) newer_in_room: PublicationIndex,
}

/// Bytes that a publication is charged beside its frame.
pub(crate) const PUBLICATION_BYTES: usize = size_of::<Publication>() + 8;
/// Entries up to which the table stays as it is between two bursts.
const PUBLICATIONS_KEPT: usize = 256;

/// What all rooms of a shard keep.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) publications: Slab<Publication>,
    pub(crate) oldest: PublicationIndex,
    pub(crate) newest: PublicationIndex,
    /// The publications with a key, found by room and key.
    pub(crate) keys: HashTable<PublicationIndex>,
    /// Bytes that may be charged to [`MemoryUse::History`].
    pub(crate) bytes_max: u64,
}

/// What one room keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoomHistory {
    pub(crate) oldest: PublicationIndex,
    pub(crate) newest: PublicationIndex,
    pub(crate) count: u32,
    /// Invariant: those of its publications that are found by their key; at most [`HISTORY_KEYS_MAX`].
    pub(crate) keys: u32,
    /// Invariant: the sum of the lengths of its frames.
    pub(crate) bytes: usize,
    /// Every publication above this offset that nothing superseded is kept.
    pub(crate) lost: u64,
    /// Until when more is kept than the bounds say, because a member was promised what it missed. 0: nobody was, and no more is.
    pub(crate) promised: Millis,
}

impl RoomHistory {
    /// How many times its bounds a room may keep.
    pub(crate) fn factor(&self) -> usize {
        if self.promised > Millis(0) { HISTORY_PROMISE_FACTOR } else { 1 }
    }
}

impl History {
    pub(crate) fn new(bytes_max: usize) -> Self {
        History { bytes_max: bytes_max as u64, ..History::default() }
    }

    /// Gives the tail of the table back after a burst.
    pub(crate) fn trim(&mut self) {
        if self.publications.capacity() > 4 * self.publications.len().max(PUBLICATIONS_KEPT) {
            self.publications.shrink_to_fit();
        }
    }
}

impl Publication {
    /// Whether a session gets it: its own it knows, unless it asked for them.
    pub(crate) fn is_for(&self, reader: SessionId) -> bool {
        self.author != reader || self.echo
    }
}

/// A publication as a room has just taken it.
pub(crate) struct Taken {
    pub(crate) room: HomeIndex,
    pub(crate) frame: FrameIndex,
    pub(crate) offset: u64,
    pub(crate) author: SessionId,
    pub(crate) seq: u64,
    pub(crate) echo: bool,
    pub(crate) head: usize,
    /// Where its key stands in the frame; empty if it has none.
    pub(crate) key: Range<usize>,
}

fn key_hash(hasher: &FixedState, room: HomeIndex, key: &[u8]) -> u64 {
    hasher.hash_one((room.0, key))
}

fn place(index: PublicationIndex) -> usize {
    index.0 as usize
}

impl Shard {
    fn room_history(&mut self, room: HomeIndex) -> &mut RoomHistory {
        &mut self.homes[room.0 as usize].history
    }

    /// The bytes of a publication's key, as JSON.
    pub(crate) fn key_of(&self, index: PublicationIndex) -> &[u8] {
        let publication = &self.history.publications[place(index)];
        &self.out.frames.bytes(publication.frame)[publication.key.start as usize..publication.key.end as usize]
    }

    /// Keeps a publication, and gives up what the bounds have no place for any more.
    pub(crate) fn keep(&mut self, now: Now, taken: Taken) {
        let Taken { room, frame, offset, author, seq, echo, head, key } = taken;
        let length = self.out.frames.length(frame);
        if self.limits.history_publications_max == 0 || length > self.limits.history_bytes_max {
            // A history with a hole is none: it begins anew behind this one.
            self.forget_history(room);
            self.room_history(room).lost = offset;
            return;
        }
        let mut key = key.start as u32..key.end as u32;
        if !key.is_empty() {
            match self.find_keyed(room, frame, &key) {
                Some(superseded) => self.drop_publication(superseded),
                None if self.room_history(room).keys >= HISTORY_KEYS_MAX => key = 0..0,
                None => {}
            }
        }
        self.out.frames.keep(&mut self.stats, frame);
        self.stats.charge(MemoryUse::History, PUBLICATION_BYTES);
        self.stats.history_publications += 1;
        let (older, older_in_room) = (self.history.newest, self.room_history(room).newest);
        let publication = Publication {
            room,
            frame,
            offset,
            author,
            seq,
            at: now.mono,
            key,
            head: head as u8,
            echo,
            older,
            newer: PublicationIndex::NONE,
            older_in_room,
            newer_in_room: PublicationIndex::NONE,
        };
        let index = PublicationIndex(self.history.publications.insert(publication) as u32);
        self.append(index, room, older, older_in_room, length);
        self.note_key(index, room);
        self.keep_bounds(now, room);
    }

    fn append(
        &mut self,
        index: PublicationIndex,
        room: HomeIndex,
        older: PublicationIndex,
        older_in_room: PublicationIndex,
        length: usize,
    ) {
        let history = &mut self.history;
        match older.is_some() {
            true => history.publications[place(older)].newer = index,
            false => history.oldest = index,
        }
        history.newest = index;
        if older_in_room.is_some() {
            history.publications[place(older_in_room)].newer_in_room = index;
        }
        let record = &mut self.homes[room.0 as usize].history;
        if older_in_room.is_none() {
            record.oldest = index;
        }
        record.newest = index;
        record.count += 1;
        record.bytes += length;
    }

    fn note_key(&mut self, index: PublicationIndex, room: HomeIndex) {
        if self.history.publications[place(index)].key.is_empty() {
            return;
        }
        self.room_history(room).keys += 1;
        let hash = key_hash(&self.hasher, room, self.key_of(index));
        let History { publications, keys, .. } = &mut self.history;
        let (hasher, frames) = (&self.hasher, &self.out.frames);
        keys.insert_unique(hash, index, |&other| {
            let publication = &publications[place(other)];
            let key = publication.key.start as usize..publication.key.end as usize;
            key_hash(hasher, publication.room, &frames.bytes(publication.frame)[key])
        });
    }

    /// The publication of a room with the same key as that of a frame.
    fn find_keyed(&self, room: HomeIndex, frame: FrameIndex, key: &Range<u32>) -> Option<PublicationIndex> {
        let key = &self.out.frames.bytes(frame)[key.start as usize..key.end as usize];
        let is_same =
            |other: &PublicationIndex| self.history.publications[place(*other)].room == room && self.key_of(*other) == key;
        self.history.keys.find(key_hash(&self.hasher, room, key), is_same).copied()
    }

    /// Gives up the oldest publications of a room that is over its bounds, and of the shard if it is over its own.
    fn keep_bounds(&mut self, now: Now, room: HomeIndex) {
        let record = self.room_history(room);
        if record.promised <= now.mono {
            record.promised = Millis(0);
        }
        let factor = record.factor();
        let (count_max, bytes_max) = (self.limits.history_publications_max * factor, self.limits.history_bytes_max * factor);
        loop {
            let RoomHistory { oldest, count, bytes, .. } = self.homes[room.0 as usize].history;
            if count as usize <= count_max && bytes <= bytes_max {
                break;
            }
            self.lose(oldest);
            self.stats.history_evicted += 1;
        }
        while self.history.oldest.is_some() && self.stats.memory_bytes[MemoryUse::History as usize] > self.history.bytes_max {
            self.lose(self.history.oldest);
            self.stats.history_evicted += 1;
        }
    }

    /// A member was promised everything that it missed in a room. What is published before it has read that must not overtake it.
    pub(crate) fn promise_history(&mut self, now: Now, room: HomeIndex) {
        self.room_history(room).promised = now.mono.after(HISTORY_PROMISE_MS);
    }

    /// Gives up the oldest publication of a room: who has not had it has lost it.
    fn lose(&mut self, index: PublicationIndex) {
        let publication = &self.history.publications[place(index)];
        debug_assert!(publication.older_in_room.is_none());
        let (room, offset) = (publication.room, publication.offset);
        if !is_planted(Bug::LossForgotten) {
            self.room_history(room).lost = offset;
        }
        self.drop_publication(index);
    }

    /// Takes a publication out of everything.
    fn drop_publication(&mut self, index: PublicationIndex) {
        if !self.history.publications[place(index)].key.is_empty() {
            let (room, hasher) = (self.history.publications[place(index)].room, &self.hasher);
            let hash = key_hash(hasher, room, self.key_of(index));
            if let Ok(entry) = self.history.keys.find_entry(hash, |&other| other == index) {
                entry.remove();
            }
            self.room_history(room).keys -= 1;
        }
        let gone = self.history.publications.remove(place(index));
        let History { publications, oldest, newest, .. } = &mut self.history;
        match gone.older.is_some() {
            true => publications[place(gone.older)].newer = gone.newer,
            false => *oldest = gone.newer,
        }
        match gone.newer.is_some() {
            true => publications[place(gone.newer)].older = gone.older,
            false => *newest = gone.older,
        }
        let record: &mut RoomHistory = &mut self.homes[gone.room.0 as usize].history;
        match gone.older_in_room.is_some() {
            true => publications[place(gone.older_in_room)].newer_in_room = gone.newer_in_room,
            false => record.oldest = gone.newer_in_room,
        }
        match gone.newer_in_room.is_some() {
            true => publications[place(gone.newer_in_room)].older_in_room = gone.older_in_room,
            false => record.newest = gone.older_in_room,
        }
        record.count -= 1;
        record.bytes -= self.out.frames.length(gone.frame);
        self.stats.history_publications -= 1;
        if !is_planted(Bug::HistoryNotReleased) {
            self.stats.release(MemoryUse::History, PUBLICATION_BYTES);
        }
        self.out.frames.give_up(&mut self.stats, gone.frame);
    }

    /// Gives up everything that a room keeps.
    pub(crate) fn forget_history(&mut self, room: HomeIndex) {
        while self.room_history(room).oldest.is_some() {
            let oldest = self.room_history(room).oldest;
            self.lose(oldest);
        }
    }

    /// When publications are next too old; rounded up, so that many go at once.
    pub(crate) fn history_due(&self) -> Option<Millis> {
        let oldest = self.history.publications.get(place(self.history.oldest))?;
        let due = oldest.at.after(self.limits.history_age_ms);
        Some(Millis(due.0.next_multiple_of(HISTORY_SWEEP_MS)))
    }

    /// Gives up what is too old.
    pub(crate) fn expire_history(&mut self, now: Now) {
        if self.history_due().is_none_or(|due| due > now.mono) {
            return;
        }
        for _ in 0..HISTORY_EXPIRIES_PER_TURN {
            let Some(oldest) = self.history.publications.get(place(self.history.oldest)) else { return };
            if oldest.at.after(self.limits.history_age_ms) > now.mono {
                return;
            }
            self.lose(self.history.oldest);
        }
    }

    /// Gives up the oldest publications while memory is short: before anybody is closed for it.
    pub(crate) fn shrink_history(&mut self) {
        if !self.is_short_of_memory() {
            return;
        }
        while self.history.oldest.is_some() && self.stats.memory_bytes_held() >= self.flex_bytes_max / 10 * 9 {
            self.lose(self.history.oldest);
            self.stats.history_evicted += 1;
            self.stats.history_pressed += 1;
        }
    }

    /// The oldest publication of a room above an offset. `hint` may name the one at that offset: then this is one step.
    pub(crate) fn first_after(&self, index: HomeIndex, offset: u64, hint: PublicationIndex) -> PublicationIndex {
        let hinted = self.history.publications.get(place(hint)).filter(|at| at.room == index && at.offset == offset);
        if let Some(publication) = hinted {
            return publication.newer_in_room;
        }
        let HomeRoom { history, .. } = &self.homes[index.0 as usize];
        // Who misses little stands near the end, who misses much near the beginning.
        let (mut low, mut high) = (history.oldest, history.newest);
        while low.is_some() && self.history.publications[place(low)].offset <= offset {
            if self.history.publications[place(high)].offset <= offset {
                return self.history.publications[place(high)].newer_in_room;
            }
            low = self.history.publications[place(low)].newer_in_room;
            high = self.history.publications[place(high)].older_in_room;
        }
        low
    }
}
