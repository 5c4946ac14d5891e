//! The commands of a client from the moment they are asked for until it is known what became of them (PROTOCOL §3).
//!
//! They stand in the order of their numbers, without a hole: the entry at index `i` has the `seq` `acked + 1 + i`, so a new session
//! renumbers them by setting `acked` to 0. What was never sent is safe to send in any session. What was sent in a session that is lost
//! may or may not have taken effect: it moves to the *unresolved*, whose fate a recovery may still tell.
//!
//! Invariants: at most [`COMMANDS_MAX`] entries and unresolved together, of at most [`COMMAND_BYTES_MAX`] bytes, beside the client's own;
//! every entry below `unsent` is on its way.

use super::event::CommandId;
use super::limits::{COMMAND_BYTES_MAX, COMMANDS_MAX};
use super::room::Membership;
use crate::planted::{Bug, is_planted};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a command asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    Leave,
    SetState,
    /// With `echo`, the client is owed a copy.
    Publish {
        echo: bool,
    },
}

/// A command that is kept.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: CommandId,
    pub(crate) kind: Kind,
    pub(crate) room: Arc<str>,
    /// The one that it was asked in, or that it begins or ends; [`Membership::NONE`] if the application's is none of these.
    pub(crate) membership: Membership,
    /// The message without its `seq`.
    pub(crate) body: Vec<u8>,
    /// It may have reached the server in this session.
    pub(crate) was_sent: bool,
    /// It is on its way on this connection.
    is_on_its_way: bool,
    /// The application knows already that it was refused.
    pub(crate) is_refused: bool,
    /// Its copy came back: it took effect.
    pub(crate) was_seen: bool,
}

/// A publication of a lost session.
#[derive(Debug)]
pub(crate) struct Unresolved {
    pub(crate) id: CommandId,
    pub(crate) room: Arc<str>,
    pub(crate) session: Arc<str>,
    pub(crate) seq: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    acked: u64,
    entries: VecDeque<Entry>,
    /// No entry before this index is to be sent (again).
    unsent: usize,
    bytes: usize,
    unresolved: Vec<Unresolved>,
}

impl Outbox {
    /// All commands up to this number are decided.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether a command of this size finds a place.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.entries.len() + self.unresolved.len() < COMMANDS_MAX && self.bytes + bytes <= COMMAND_BYTES_MAX
    }

    /// Adds a command, and returns its number. One of the client's own (a join after a reconnect) is taken beyond the bounds: there
    /// is at most one a room.
    pub(crate) fn push(&mut self, id: CommandId, kind: Kind, room: Arc<str>, membership: Membership, body: Vec<u8>) -> u64 {
        self.bytes += body.len();
        self.entries.push_back(Entry {
            id,
            kind,
            room,
            membership,
            body,
            was_sent: false,
            is_on_its_way: false,
            is_refused: false,
            was_seen: false,
        });
        self.acked + self.entries.len() as u64
    }

    /// The next command to send, if the window of `window` unacknowledged ones has room for it; it is on its way from now on. Says
    /// also whether it is sent for the first time.
    pub(crate) fn next_to_send(&mut self, window: u64) -> Option<(u64, bool, &Entry)> {
        while self.entries.get(self.unsent)?.is_on_its_way {
            self.unsent += 1;
        }
        if self.unsent as u64 >= window {
            return None;
        }
        let entry = self.entries.get_mut(self.unsent)?;
        let is_first = !entry.was_sent;
        (entry.was_sent, entry.is_on_its_way) = (true, true);
        self.unsent += 1;
        Some((self.acked + self.unsent as u64, is_first, entry))
    }

    pub(crate) fn get_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        let index = seq.checked_sub(self.acked + 1)?;
        self.entries.get_mut(usize::try_from(index).ok()?)
    }

    /// This one is to be sent again; those behind it wait at the server.
    pub(crate) fn retry(&mut self, seq: u64) {
        if let Some(entry) = self.get_mut(seq) {
            entry.is_on_its_way = false;
            self.unsent = self.unsent.min((seq - self.acked - 1) as usize);
        }
    }

    /// Everything from this number on is to be sent again, in order.
    pub(crate) fn rewind(&mut self, seq: u64) {
        let index = usize::try_from(seq.saturating_sub(self.acked + 1)).unwrap_or(usize::MAX);
        self.entries.iter_mut().skip(index).for_each(|entry| entry.is_on_its_way = false);
        self.unsent = self.unsent.min(index);
    }

    /// The server has decided all up to `seq`; yields what that covers, in order. `None` if it was never sent.
    pub(crate) fn acknowledge(&mut self, seq: u64) -> Option<Vec<(u64, Entry)>> {
        let count = usize::try_from(seq.saturating_sub(self.acked)).ok()?;
        if self.entries.iter().take(count).filter(|entry| entry.was_sent).count() < count {
            return None;
        }
        let first = self.acked + 1;
        self.acked += count as u64;
        self.unsent = self.unsent.saturating_sub(count);
        let decided: Vec<(u64, Entry)> = (first..).zip(self.entries.drain(..count)).collect();
        self.bytes -= decided.iter().map(|(_, entry)| entry.body.len()).sum::<usize>();
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        Some(decided)
    }

    /// The session goes on, and the server awaits `next_seq`. False if that cannot be: the two sides no longer agree.
    ///
    /// The last command below it is sent once more: the server answers a number that it has had with the acknowledgement that may
    /// have been lost.
    pub(crate) fn resume(&mut self, next_seq: u64) -> bool {
        let sent = self.entries.iter().take_while(|entry| entry.was_sent).count() as u64;
        if next_seq <= self.acked || next_seq > self.acked + sent + 1 {
            return false;
        }
        if !is_planted(Bug::ClientResumesWithoutResending) {
            self.rewind(next_seq.saturating_sub(1).max(self.acked + 1));
        }
        true
    }

    /// What waits from this number on.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let index = usize::try_from(seq.saturating_sub(self.acked + 1)).unwrap_or(usize::MAX);
        self.entries.iter().skip(index)
    }

    /// Puts one of the client's own commands at a number from which on the server has decided nothing and keeps nothing: what stands
    /// there moves up by one.
    pub(crate) fn insert(&mut self, seq: u64, id: CommandId, kind: Kind, room: Arc<str>, body: Vec<u8>) {
        let index = (seq - self.acked - 1) as usize;
        debug_assert!(self.unsent <= index, "what is on its way keeps its number");
        self.push(id, kind, room, Membership::NONE, body);
        let entry = self.entries.pop_back().expect("it was just put there");
        self.entries.insert(index, entry);
    }

    /// The session is lost. Yields what was kept, in order, with the number that it had; a new session counts from 1.
    pub(crate) fn restart(&mut self) -> Vec<(u64, Entry)> {
        let first = self.acked + 1;
        self.acked = 0;
        self.unsent = 0;
        self.bytes = 0;
        (first..).zip(std::mem::take(&mut self.entries)).collect()
    }

    /// Keeps a publication whose fate a recovery may tell.
    pub(crate) fn leave_open(&mut self, unresolved: Unresolved) {
        self.unresolved.push(unresolved);
    }

    /// The publication that came back with this number from this session.
    pub(crate) fn recognise(&mut self, session: &str, seq: u64) -> Option<Unresolved> {
        let place = self.unresolved.iter().position(|open| open.seq == seq && *open.session == *session)?;
        Some(self.unresolved.remove(place))
    }

    /// Gives up on the publications of a room, or of all.
    pub(crate) fn give_up(&mut self, room: Option<&str>) -> Vec<Unresolved> {
        let given_up = |open: &mut Unresolved| room.is_none_or(|room| *open.room == *room);
        self.unresolved.extract_if(.., given_up).collect()
    }

    pub(crate) fn has_unresolved(&self) -> bool {
        !self.unresolved.is_empty()
    }

    /// The largest command that is on its way: what a server that found one too large has probably met.
    pub(crate) fn largest_sent(&self) -> Option<u64> {
        let sent = self.entries.iter().enumerate().filter(|(_, entry)| entry.was_sent && !entry.is_refused);
        sent.max_by_key(|(_, entry)| entry.body.len()).map(|(index, _)| self.acked + 1 + index as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> Outbox {
        let mut outbox = Outbox::default();
        for id in 1..=count {
            assert_eq!(outbox.push(CommandId(id), Kind::Publish { echo: false }, "r".into(), Membership(1), vec![b'x'; 10]), id);
        }
        outbox
    }

    fn sent(outbox: &mut Outbox, window: u64) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next_to_send(window).map(|(seq, _, _)| seq)).collect()
    }

    #[test]
    fn commands_leave_in_order_within_the_window() {
        let mut outbox = filled(5);
        assert_eq!(sent(&mut outbox, 3), [1, 2, 3]);
        assert_eq!(outbox.acknowledge(2).expect("they were sent").len(), 2);
        assert_eq!(sent(&mut outbox, 3), [4, 5]);
        assert_eq!(outbox.acknowledge(2).expect("nothing new").len(), 0);
        outbox.rewind(4);
        assert_eq!(sent(&mut outbox, 3), [4, 5]);
        outbox.retry(3);
        assert_eq!(sent(&mut outbox, 3), [3]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_not_believed() {
        let mut outbox = filled(3);
        assert_eq!(sent(&mut outbox, 2), [1, 2]);
        assert!(outbox.acknowledge(3).is_none() && outbox.acknowledge(u64::MAX).is_none());
    }

    #[test]
    fn a_resume_sends_again_what_the_server_awaits_and_asks_for_the_lost_acknowledgement() {
        let mut outbox = filled(5);
        assert_eq!(sent(&mut outbox, 4), [1, 2, 3, 4]);
        assert!(outbox.resume(3));
        assert_eq!(sent(&mut outbox, 4), [2, 3, 4]);
        assert!(outbox.resume(5) && !outbox.resume(6) && !outbox.resume(0));
        assert_eq!(sent(&mut outbox, 9), [4, 5]);
        assert_eq!(outbox.acknowledge(5).expect("they were sent").len(), 5);
        assert!(outbox.resume(6) && !outbox.resume(5));
    }

    #[test]
    fn a_command_of_the_clients_own_goes_before_what_the_server_has_not_decided() {
        let mut outbox = filled(3);
        assert_eq!(sent(&mut outbox, 2), [1, 2]);
        assert!(outbox.resume(2));
        outbox.insert(2, CommandId(0), Kind::Join, "r".into(), vec![b'y'; 10]);
        let ids: Vec<u64> = outbox.from(1).map(|entry| entry.id.0).collect();
        assert_eq!((ids, sent(&mut outbox, 9)), (vec![1, 0, 2, 3], vec![1, 2, 3, 4]));
        assert_eq!(outbox.acknowledge(4).expect("they were sent").len(), 4);
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn the_bounds_count_what_waits_for_a_recovery_too() {
        let mut outbox = filled(COMMANDS_MAX as u64 - 1);
        assert!(outbox.has_room_for(10) && !outbox.has_room_for(COMMAND_BYTES_MAX));
        let session: Arc<str> = "s".into();
        let open = Unresolved { id: CommandId(0), room: "r".into(), session, seq: 7 };
        outbox.leave_open(open);
        assert!(!outbox.has_room_for(10));
        assert!(outbox.recognise("t", 7).is_none() && outbox.recognise("s", 7).is_some());
        assert!(outbox.has_room_for(10));
    }
}
