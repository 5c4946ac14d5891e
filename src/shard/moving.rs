//! A connection whose session lives on another shard: it is handed over whole, because a session never leaves its shard.
//!
//! Its `connect` names the session by a genuine token. From there on it is *moving*: nothing of it is read or sent here. As soon as
//! what was sent has left, the driver is told to hand the socket over, and gets what goes with it once that is done; if there was
//! no place for it, the client is told to come again. Where it arrives it is as if it had just sent its `connect` there.
//!
//! Invariant: after [`Action::HandOver`] nothing ends the connection here but [`Shard::take_baggage`] or [`Shard::handle_stayed`].

use super::Shard;
use super::arena::Index;
use super::connection::{Connection, Flags, State};
use super::dispatch::Took;
use super::ending::Goodbye;
use super::seam::{Action, Flow, Key, ShardId};
use crate::close::CloseReason;
use crate::protocol::{Dialect, encode};
use crate::time::Now;

/// What goes along with a connection that another shard takes over.
#[derive(Debug)]
pub struct Baggage {
    /// Its `connect`.
    text: Box<str>,
    /// The user that its upgrade request named.
    user: Option<Box<str>>,
    /// Bytes of the peer that were received after the `connect` and not consumed. They are the driver's to fill in and to hand over
    /// after [`Shard::handle_adopted`].
    pub unread: Vec<u8>,
}

impl Baggage {
    /// Bytes that it keeps alive.
    pub fn bytes_held(&self) -> usize {
        self.text.len() + self.user.as_ref().map_or(0, |user| user.len()) + self.unread.capacity()
    }
}

/// How far a connection that moves has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    to: ShardId,
    /// The driver has been told.
    pub(crate) told: bool,
}

impl Shard {
    /// Begins to hand a connection over to the shard that has its session; `text` is its `connect`.
    pub(crate) fn begin_move(&mut self, slot: u32, to: ShardId, text: &str) {
        let stash = self.stash_of(slot);
        let stash = &mut self.stashes[stash.at()];
        stash.moving = Some(Move { to, told: false });
        stash.held.push_back(text.into());
        self.pause(slot);
        let connection = &mut self.connections[slot as usize];
        connection.state = State::Moving;
        self.movers.push(Key { slot, generation: connection.generation });
        self.recharge_input(slot);
    }

    /// Has the connections handed over that move and have nothing on its way out any more.
    pub(crate) fn send_movers(&mut self) {
        let mut movers = std::mem::take(&mut self.movers);
        movers.retain(|&key| {
            if !self.is_current(key) || self.connections[key.slot as usize].state != State::Moving {
                return false;
            }
            if !self.is_all_sent(key.slot) {
                return true;
            }
            let stash = &mut self.stashes[self.connections[key.slot as usize].stash.at()];
            let moving = stash.moving.as_mut().expect("a connection that moves has a place to go to");
            moving.told = true;
            let to = moving.to;
            // The driver says how it ends; no deadline may end it meanwhile.
            self.wheel.cancel(key.slot);
            self.actions.push_back(Action::HandOver(key, to));
            false
        });
        self.movers = movers;
    }

    /// A connection ends before it was handed over.
    pub(crate) fn drop_move(&mut self, slot: u32) {
        let stash = self.connections[slot as usize].stash;
        if stash.is_some() && self.stashes[stash.at()].moving.take().is_some() {
            self.release_stash(slot);
        }
    }

    /// Whether the driver is handing a connection over: its end is not for this shard to say.
    pub(crate) fn is_handed_over(&self, slot: u32) -> bool {
        let connection = &self.connections[slot as usize];
        connection.state == State::Moving && self.stashes[connection.stash.at()].moving.is_some_and(|moving| moving.told)
    }

    /// The socket is at the other shard: forgets the connection and gives what goes with it. Nothing more is said of the key, and no
    /// [`Action::Close`] follows: the slot is the driver's to free.
    ///
    /// `None` if the key is not of a connection that is being handed over.
    pub fn take_baggage(&mut self, key: Key) -> Option<Baggage> {
        if !self.is_current(key) || !self.is_handed_over(key.slot) {
            return None;
        }
        let connection = &mut self.connections[key.slot as usize];
        let stash = connection.stash;
        let session = std::mem::take(&mut connection.session);
        let text = self.stashes[stash.at()].held.pop_front().expect("a connection that moves holds its connect");
        self.stashes[stash.at()].moving = None;
        let user = self.users.name(self.sessions[session].user).map(Box::from);
        self.finish_session(session);
        self.drop_input(key.slot);
        let connection = &mut self.connections[key.slot as usize];
        *connection = Connection { generation: key.generation, ..Connection::FREE };
        self.stats.sockets_held -= 1;
        self.stats.connections_active -= 1;
        self.stats.handed_over += 1;
        Some(Baggage { text, user, unread: Vec::new() })
    }

    /// The other shard had no place for the socket: its client is told to come again.
    pub fn handle_stayed(&mut self, now: Now, key: Key) {
        if !self.is_current(key) || !self.is_handed_over(key.slot) {
            return;
        }
        let stash = self.connections[key.slot as usize].stash;
        self.stashes[stash.at()].moving = None;
        self.connections[key.slot as usize].state = State::Opening;
        self.stats.not_handed_over += 1;
        self.send_away(now, key.slot);
    }

    /// Ends a connection for which there is no place where its session is, or which finds a drain where it comes to stand: the drain
    /// has passed over it while it moved.
    fn send_away(&mut self, now: Now, slot: u32) {
        if self.drain.is_some() {
            self.end_with_frame(now, slot, CloseReason::Drain);
            return;
        }
        let after_ms = 1_000 + self.random.below(4_000);
        self.send_json(slot, |out| encode::write_reconnect(out, after_ms, "over_capacity", None));
        self.end(now, slot, CloseReason::OverCapacity, Goodbye::Last);
    }

    /// A socket arrived from another shard. `admitted` is false when this shard has more connections than its share.
    ///
    /// If it says [`Flow::Pause`] the unread bytes are kept until [`Action::Resume`], as those of any paused connection.
    ///
    /// # Panics
    /// If the slot is in use.
    pub fn handle_adopted(&mut self, now: Now, key: Key, baggage: &Baggage, admitted: bool) -> Flow {
        let tick = self.fair(now);
        let connection = self.connection_at(key.slot);
        assert!(connection.state == State::Free, "a slot is filled only after it was closed");
        *connection = Connection { generation: key.generation, state: State::Opening, last_in: tick, ..Connection::FREE };
        connection.flags.set(Flags::UPGRADED);
        self.stats.sockets_held += 1;
        self.stats.connections_active += 1;
        self.stats.adopted += 1;
        self.arm(key.slot, now, self.limits.handshake_deadline_ms);
        let has_session = self.new_session(now, key.slot, baggage.user.as_deref(), Dialect::V1).is_some();
        if !admitted || !has_session || self.drain.is_some() {
            self.send_away(now, key.slot);
        } else if let Took::Held(wait) = self.handle_text(now, key.slot, &baggage.text) {
            self.hold(key.slot, &baggage.text, wait);
        }
        let is_paused = self.is_current(key) && self.connections[key.slot as usize].flags.has(Flags::PAUSED);
        if is_paused { Flow::Pause } else { Flow::Continue }
    }
}
