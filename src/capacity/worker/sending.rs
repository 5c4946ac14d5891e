//! From the outbox to the kernel: one send per connection and turn, and what becomes of those that were not taken whole.

use super::{BACKLOG_BYTES_MAX, BACKLOG_SEND_BYTES, Backlog, Event, Flight, State, Worker};
use crate::uring::{Entry, Send, Wait};
use std::io;

impl Worker {
    /// Collects what each connection sends in this turn.
    pub(super) fn fill_flights(&mut self) {
        let Worker { outbox, sockets, backlogs, sending, flights, writable, .. } = self;
        sending.clear();
        flights.clear();
        let mut start = 0;
        outbox.drain(|connection, bytes, is_last| {
            let socket = &sockets[connection as usize];
            if matches!(socket.state, State::Free | State::Connecting) {
                return;
            }
            if let Some(backlog) = backlogs.get_mut(&connection) {
                backlog.bytes.extend(bytes);
                return;
            }
            sending.extend_from_slice(bytes);
            if is_last {
                let range = start..sending.len();
                start = sending.len();
                let accepted = range.len();
                flights.push(Flight { connection, generation: socket.generation, range, accepted, from_backlog: false });
            }
        });
        for connection in writable.drain(..) {
            let Some(backlog) = backlogs.get(&connection) else { continue };
            let generation = sockets[connection as usize].generation;
            sending.extend(backlog.bytes.range(..backlog.bytes.len().min(BACKLOG_SEND_BYTES)));
            let range = start..sending.len();
            start = sending.len();
            let accepted = range.len();
            flights.push(Flight { connection, generation, range, accepted, from_backlog: true });
        }
    }

    /// Hands all sends to the kernel, in as many submissions as they take, and waits in the last.
    pub(super) fn submit(&mut self, wait: Wait) -> io::Result<()> {
        let mut at = 0;
        loop {
            let end = (at + self.ring.room()).min(self.flights.len());
            let is_last = end == self.flights.len();
            let sends = self.flights[at..end].iter().enumerate().map(|(index, flight)| Send {
                slot: flight.connection,
                ticket: (at + index) as u32,
                bytes: &self.sending[flight.range.clone()],
            });
            self.ring.enter(sends, if is_last { wait } else { Wait::Poll })?;
            if is_last {
                return Ok(());
            }
            at = end;
        }
    }

    /// Notes what the kernel said about a send: it speaks only of those that it didn't take whole.
    pub(super) fn note_send(&mut self, ticket: u32, result: i32) {
        let Some(flight) = self.flights.get_mut(ticket as usize) else { return };
        self.counts.sends_short += 1;
        if result >= 0 {
            flight.accepted = result as usize;
        } else if result == -libc::EAGAIN {
            flight.accepted = 0;
        }
        // Anything else (EPIPE, ECONNRESET) means that the rest is of no use: the receive tells the end.
    }

    /// All completions of the turn are seen: keeps what was not sent, and waits for room.
    pub(super) fn settle(&mut self, handle: &mut impl FnMut(&mut super::Outbox, u32, Event<'_>)) -> io::Result<()> {
        for index in 0..self.flights.len() {
            let Flight { connection, generation, range, accepted, from_backlog } = self.flights[index].clone();
            let is_short = accepted < range.len();
            if (!is_short && !from_backlog) || self.sockets[connection as usize].generation != generation {
                continue;
            }
            if matches!(self.sockets[connection as usize].state, State::Free | State::Connecting) {
                continue;
            }
            let backlog = if from_backlog {
                let Some(backlog) = self.backlogs.get_mut(&connection) else { continue };
                backlog.bytes.drain(..accepted);
                backlog
            } else {
                let backlog = self.backlogs.entry(connection).or_default();
                backlog.bytes.extend(&self.sending[range.start + accepted..range.end]);
                backlog
            };
            let Backlog { bytes } = backlog;
            if bytes.is_empty() {
                self.backlogs.remove(&connection);
            } else if bytes.len() > BACKLOG_BYTES_MAX {
                self.fail(connection, super::End::Violation("the server reads nothing"), handle)?;
            } else if is_short {
                self.push(Entry::writable(connection, generation))?;
            } else {
                self.writable.push(connection);
            }
        }
        Ok(())
    }
}
