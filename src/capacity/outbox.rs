//! What a scenario may ask for while it is told what happened: frames to send, connections to open or close.
//!
//! Nothing is done at once: the [`Worker`](super::worker::Worker) carries it out in its next turn. Frames of one connection stay in
//! order and leave as one send.

use super::clock::Nanos;
use super::random::Random;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Marks the end of a list of pieces.
const NONE: u32 = u32::MAX;

/// What is to be done at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Open the connection.
    Connect,
    /// Let a slow reader read its next bytes.
    Read,
    /// Close a socket whose server didn't.
    Abandon,
}

/// What is to be done in the next turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Open the connection, after closing it if it is open.
    Connect,
    /// Send a close frame with this code and wait for the server's end.
    Close(u16),
    /// From now on read at the trickle.
    SlowDown,
}

/// Requests of a scenario.
#[derive(Debug)]
pub(super) struct Outbox {
    now: Nanos,
    random: Random,
    /// Frames of this turn, one after the other.
    bytes: Vec<u8>,
    /// The same as lists, one for each connection.
    pieces: Vec<Piece>,
    /// First and last piece of each connection.
    lists: Vec<(u32, u32)>,
    /// Connections with a list.
    dirty: Vec<u32>,
    orders: Vec<(u32, Order)>,
    timers: BinaryHeap<Reverse<(Nanos, u32, Due, u32)>>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    next: u32,
}

impl Outbox {
    /// For `connections` connections. `seed` makes masks and jitter differ between workers.
    pub(super) fn new(connections: usize, seed: u64) -> Outbox {
        Outbox {
            now: 0,
            random: Random::new(seed),
            bytes: Vec::new(),
            pieces: Vec::new(),
            lists: vec![(NONE, NONE); connections],
            dirty: Vec::new(),
            orders: Vec::new(),
            timers: BinaryHeap::new(),
        }
    }

    /// When the turn's completions were collected. One reading serves a whole turn.
    pub(super) fn now(&self) -> Nanos {
        self.now
    }

    /// Sends a text message.
    pub(super) fn send_text(&mut self, connection: u32, payload: &[u8]) {
        self.send(connection, Opcode::Text, payload);
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, connection: u32, opcode: Opcode, payload: &[u8]) {
        let mask = (self.random.next() as u32).to_ne_bytes();
        self.append(connection, |bytes| write_masked(bytes, opcode, payload, mask));
    }

    /// Sends whatever `write` appends, as it is.
    pub(super) fn append(&mut self, connection: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece { start, end: self.bytes.len(), next: NONE });
        let (first, last) = &mut self.lists[connection as usize];
        if *first == NONE {
            *first = piece;
            self.dirty.push(connection);
        } else {
            self.pieces[*last as usize].next = piece;
        }
        *last = piece;
    }

    /// Opens a connection in the next turn.
    pub(super) fn connect(&mut self, connection: u32) {
        self.orders.push((connection, Order::Connect));
    }

    /// Opens a connection at a moment.
    pub(super) fn connect_at(&mut self, connection: u32, at: Nanos) {
        self.set_timer(at, connection, Due::Connect, 0);
    }

    /// Closes a connection with a close frame.
    pub(super) fn close(&mut self, connection: u32, code: u16) {
        self.orders.push((connection, Order::Close(code)));
    }

    /// Makes a connection that was prepared for it read at the trickle from now on.
    pub(super) fn slow_down(&mut self, connection: u32) {
        self.orders.push((connection, Order::SlowDown));
    }

    /// A pseudo-random number below `bound`; 0 if that is 0.
    pub(super) fn random_below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    pub(super) fn set_now(&mut self, now: Nanos) {
        self.now = now;
    }

    pub(super) fn set_timer(&mut self, at: Nanos, connection: u32, due: Due, generation: u32) {
        self.timers.push(Reverse((at, connection, due, generation)));
    }

    /// When the next timer is due.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// A timer that is due: its connection, what is due, and the generation that it was set for.
    pub(super) fn take_due(&mut self) -> Option<(u32, Due, u32)> {
        if self.next_due()? > self.now {
            return None;
        }
        self.timers.pop().map(|Reverse((_, connection, due, generation))| (connection, due, generation))
    }

    /// The orders given since the last call, oldest first, in exchange for an empty list.
    pub(super) fn take_orders(&mut self, empty: Vec<(u32, Order)>) -> Vec<(u32, Order)> {
        std::mem::replace(&mut self.orders, empty)
    }

    /// Takes out all that is to be sent: `emit` gets each connection's bytes, in order, piece by piece, and is told of the last.
    pub(super) fn drain(&mut self, mut emit: impl FnMut(u32, &[u8], bool)) {
        for connection in self.dirty.drain(..) {
            let (mut at, _) = std::mem::replace(&mut self.lists[connection as usize], (NONE, NONE));
            while at != NONE {
                let piece = self.pieces[at as usize];
                emit(connection, &self.bytes[piece.start..piece.end], piece.next == NONE);
                at = piece.next;
            }
        }
        self.pieces.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_connection_leave_together_and_in_order() {
        let mut outbox = Outbox::new(3, 1);
        for (connection, text) in [(2, "a"), (0, "b"), (2, "c"), (2, "d")] {
            outbox.append(connection, |bytes| bytes.extend_from_slice(text.as_bytes()));
        }
        let mut out = Vec::new();
        outbox.drain(|connection, bytes, last| out.push((connection, bytes.to_vec(), last)));
        let expected: [(u32, &[u8], bool); 4] = [(2, b"a", false), (2, b"c", false), (2, b"d", true), (0, b"b", true)];
        assert_eq!(out, expected.map(|(connection, bytes, last)| (connection, bytes.to_vec(), last)));
        outbox.drain(|_, _, _| panic!("nothing is left"));
    }

    #[test]
    fn timers_come_in_the_order_of_their_moments_and_not_early() {
        let mut outbox = Outbox::new(3, 1);
        outbox.connect_at(1, 30);
        outbox.connect_at(2, 20);
        assert_eq!(outbox.take_due(), None);
        outbox.set_now(20);
        assert_eq!(outbox.take_due(), Some((2, Due::Connect, 0)));
        assert_eq!((outbox.take_due(), outbox.next_due()), (None, Some(30)));
    }
}
