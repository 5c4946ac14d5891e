//! What the application asks of the client.
//!
//! Everything is judged here before it is kept, by the server's own rules where they are known, so that a request fails where it was
//! made. What is taken is sent as soon as the connection and its window allow.

use super::super::encode;
use super::super::event::{CommandId, Refused};
use super::super::limits::{ROOMS_MAX, TRANSMIT_BYTES_MAX};
use super::super::outbox::Kind;
use super::super::presence::Presence;
use super::super::room::{JoinOptions, Membership, Position, Room};
use super::{Link, Machine};
use crate::limits::{KEY_BYTES_MAX, ROOM_ID_BYTES_MAX};
use crate::planted::{Bug, is_planted};
use crate::protocol::command::has_control;
use crate::protocol::scan::check;
use crate::time::Millis;
use std::sync::Arc;

impl Machine {
    /// Becomes a member of a room, and stays one over reconnects until [`leave`](Machine::leave).
    ///
    /// # Errors
    /// [`Refused`]: `BadName`, `NotJson` (the state), `AlreadyJoined`, `TooManyRooms`, `QueueFull`, `TooLarge`, `Closed`.
    pub fn join(&mut self, now: Millis, room: &str, options: JoinOptions) -> Result<Membership, Refused> {
        self.check_open()?;
        check_name(room, ROOM_ID_BYTES_MAX)?;
        options.state.as_deref().map_or(Ok(()), check_json)?;
        if self.rooms.contains_key(room) {
            return Err(Refused::AlreadyJoined);
        }
        if self.rooms.len() >= ROOMS_MAX {
            return Err(Refused::TooManyRooms);
        }
        let body = encode::join(room, options.since.as_ref(), options.presence, options.state.as_deref(), options.latest);
        let name: Arc<str> = room.into();
        let membership = Membership(self.next_command);
        let (_, seq) = self.keep(Kind::Join, Arc::clone(&name), membership, body)?;
        let kept = Room::new(Arc::clone(&name), membership, seq, options);
        self.rooms.insert(name, kept);
        self.pump(now);
        Ok(membership)
    }

    /// Is no longer a member of a room. No event of it follows but what became of publications that are open.
    ///
    /// # Errors
    /// [`Refused::NotJoined`].
    pub fn leave(&mut self, now: Millis, room: &str) -> Result<(), Refused> {
        let (name, left) = self.rooms.remove_entry(room).ok_or(Refused::NotJoined)?;
        self.give_up_recovery(Some(&name));
        // Taken beyond the bounds: each join, which is bounded, has at most one.
        let id = self.next_id();
        self.outbox.push(id, Kind::Leave, name, left.membership, encode::leave(room));
        if !is_planted(Bug::ClientTellsOfLeftRoom) {
            self.take_back(room);
        }
        // There may be room for input again.
        self.handle_received(now, self.socket, &[]);
        self.pump(now);
        Ok(())
    }

    /// What nobody has taken yet of a room is not told any more: its next membership would be told of it.
    fn take_back(&mut self, room: &str) {
        let mut bytes = 0;
        self.events.retain(|event| {
            let is_of_it = event.room() == Some(room);
            bytes += if is_of_it { event.bytes() } else { 0 };
            !is_of_it
        });
        self.event_bytes -= bytes;
    }

    /// Publishes `data`, which is raw JSON, so that it takes effect exactly once: [`Event::Acked`](super::super::Event), `Refused` or
    /// `Unknown` tells. With `key` it supersedes the room's earlier publication of that key. With `echo` this client gets a copy.
    ///
    /// # Errors
    /// [`Refused`]: `NotJoined`, `NotJson`, `BadName` (the key), `TooLarge`, `QueueFull`, `Closed`. It was not sent then.
    pub fn publish(&mut self, now: Millis, room: &str, data: &str, key: Option<&str>, echo: bool) -> Result<CommandId, Refused> {
        let (name, membership) = self.check_room(room)?;
        check_json(data)?;
        key.map_or(Ok(()), |key| check_name(key, KEY_BYTES_MAX))?;
        let (id, _) = self.keep(Kind::Publish { echo }, name, membership, encode::broadcast(room, data, key, echo))?;
        self.pump(now);
        Ok(id)
    }

    /// Publishes `data` at most once: it is sent now or not at all, is in no history, and nothing tells what became of it. For cursors
    /// and the like.
    ///
    /// # Errors
    /// [`Refused`]: as for `publish`, and `NotConnected` where the connection or its socket does not take it at once.
    pub fn cast(&mut self, room: &str, data: &str, key: Option<&str>) -> Result<(), Refused> {
        self.check_room(room)?;
        check_json(data)?;
        key.map_or(Ok(()), |key| check_name(key, KEY_BYTES_MAX))?;
        let body = encode::end(encode::broadcast(room, data, key, false));
        if body.len() > self.told.command_bytes_max {
            return Err(Refused::TooLarge);
        }
        let is_joined = self.rooms.get(room).is_some_and(Room::is_joined);
        if self.link != Link::Open || !is_joined || self.out.len() - self.out_at >= TRANSMIT_BYTES_MAX {
            return Err(Refused::NotConnected);
        }
        self.say(&body);
        Ok(())
    }

    /// Sets this client's presence state in a room, raw JSON; a new session begins with it, too.
    ///
    /// # Errors
    /// [`Refused`]: `NotJoined`, `NotJson`, `TooLarge`, `QueueFull`, `Closed`.
    pub fn set_state(&mut self, now: Millis, room: &str, state: &str) -> Result<CommandId, Refused> {
        let (name, membership) = self.check_room(room)?;
        check_json(state)?;
        let (id, _) = self.keep(Kind::SetState, Arc::clone(&name), membership, encode::set_state(room, state))?;
        if let Some(room) = self.rooms.get_mut(&name) {
            room.options.state = Some(state.to_owned());
        }
        self.pump(now);
        Ok(id)
    }

    /// Which membership of a room is kept; `None` if there is none.
    pub fn membership(&self, room: &str) -> Option<Membership> {
        self.rooms.get(room).map(|room| room.membership)
    }

    /// Who is in a room; `None` unless it was joined with `presence`.
    pub fn presence(&self, room: &str) -> Option<&Presence> {
        self.rooms.get(room).filter(|room| room.options.presence).map(|room| &room.presence)
    }

    /// Where the client stands in a room: what a later run may give as `since`. `None` before the room is joined.
    pub fn position(&self, room: &str) -> Option<&Position> {
        self.rooms.get(room)?.position.as_ref()
    }

    fn keep(&mut self, kind: Kind, room: Arc<str>, membership: Membership, body: Vec<u8>) -> Result<(CommandId, u64), Refused> {
        if body.len() + encode::SEQ_BYTES_MAX > self.told.command_bytes_max {
            return Err(Refused::TooLarge);
        }
        if !self.outbox.has_room_for(body.len()) {
            return Err(Refused::QueueFull);
        }
        let id = self.next_id();
        Ok((id, self.outbox.push(id, kind, room, membership, body)))
    }

    fn next_id(&mut self) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        id
    }

    fn check_open(&self) -> Result<(), Refused> {
        if matches!(self.link, Link::Closing | Link::Closed) { Err(Refused::Closed) } else { Ok(()) }
    }

    fn check_room(&self, room: &str) -> Result<(Arc<str>, Membership), Refused> {
        self.check_open()?;
        self.rooms.get(room).map(|room| (Arc::clone(&room.name), room.membership)).ok_or(Refused::NotJoined)
    }
}

fn check_json(raw: &str) -> Result<(), Refused> {
    check(raw).map(drop).map_err(|_| Refused::NotJson)
}

fn check_name(name: &str, bytes_max: usize) -> Result<(), Refused> {
    let is_good = !name.is_empty() && name.len() <= bytes_max && !has_control(name);
    if is_good { Ok(()) } else { Err(Refused::BadName) }
}
