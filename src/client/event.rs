//! What a client says to its application, and the words of its answers.
//!
//! Everything here owns what it holds and may be kept. Room ids, epochs and users are shared, not copied, where that is easy.

use super::room::Position;
use crate::time::Millis;
use std::fmt;
use std::sync::Arc;

/// A command, as the machine names it: constant over reconnects, unlike its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Where the client stands with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no session to go on with. `next_attempt` is when the next attempt begins; `None` while one is under way.
    Connecting {
        /// Attempts since the last stable connection, from 0.
        attempt: u32,
        /// When the next begins.
        next_attempt: Option<Millis>,
        /// Why the last one ended.
        cause: Option<Cause>,
    },
    /// Frames flow.
    Connected {
        /// Whether the session went on: nothing was lost.
        resumed: bool,
    },
    /// The connection is lost, and the session waits to go on.
    Resuming {
        /// Attempts since the last stable connection, from 0.
        attempt: u32,
        /// When the next begins; `None` while one is under way.
        next_attempt: Option<Millis>,
        /// Why the last one ended.
        cause: Option<Cause>,
    },
    /// It is over; nothing follows.
    Closed(Cause),
}

/// Why a connection, an attempt or the client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The application asked for it.
    Asked,
    /// A close frame with this code came; 1005 if it had none.
    Closed(u16),
    /// The stream ended or broke without a close frame, or could not be opened.
    Lost,
    /// The upgrade was answered with this HTTP status.
    Refused(u16),
    /// The server was silent for too long.
    Silent,
    /// The server broke the protocol; the code that it was closed with.
    Violation(u16),
}

/// Why a request to the client was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many commands wait as may wait, or as many bytes.
    QueueFull,
    /// The command is larger than the server takes.
    TooLarge,
    /// `data` or `state` is not JSON, or is nested too deeply.
    NotJson,
    /// The id of a room, or a key, is empty, too long, or has control characters.
    BadName,
    /// The room was not joined, or was left.
    NotJoined,
    /// The room was joined before.
    AlreadyJoined,
    /// The client is in as many rooms as it may be.
    TooManyRooms,
    /// Volatile publications are for an open connection whose socket keeps up.
    NotConnected,
    /// The client is closed.
    Closed,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::QueueFull => "too many commands wait for their acknowledgement",
            Refused::TooLarge => "the message is larger than the server takes",
            Refused::NotJson => "data and state must be JSON, nested at most 128 deep",
            Refused::BadName => "a room id or key is empty, too long, or has control characters",
            Refused::NotJoined => "the room is not joined",
            Refused::AlreadyJoined => "the room is joined already",
            Refused::TooManyRooms => "the client is in as many rooms as it may be",
            Refused::NotConnected => "there is no open connection that takes a volatile message now",
            Refused::Closed => "the client is closed",
        })
    }
}

impl std::error::Error for Refused {}

/// A message in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The room.
    pub room: Arc<str>,
    /// What was published: raw JSON, as its author sent it.
    pub data: Box<str>,
    /// Its number in the room; `None` if it is volatile.
    pub offset: Option<u64>,
    /// Who published it; empty if anonymous.
    pub user: Box<str>,
    /// The session that published it.
    pub connection: Box<str>,
    /// What it supersedes.
    pub key: Option<Box<str>>,
    /// When the room took it: ms since the Unix epoch, by the server's clock.
    pub ts: u64,
}

/// What became of what was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No position was given: nothing was missed.
    NotNeeded,
    /// All of it follows.
    Complete,
    /// Some of it is lost, for this reason (`expired`, `epoch_changed`, `window_exceeded`, or a word of a newer server).
    Gap(Box<str>),
}

/// Who came, went or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceEntry {
    /// The user.
    pub user: Box<str>,
    /// The session: constant over its reconnects.
    pub id: Box<str>,
    /// Its state, raw JSON.
    pub state: Option<Box<str>>,
}

/// How a room's presence changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceChange {
    /// The list was replaced: read all of it.
    Replaced,
    /// The list was changed by these entries.
    Changed {
        /// Who came.
        joins: Vec<PresenceEntry>,
        /// Who went.
        leaves: Vec<PresenceEntry>,
        /// Whose state changed.
        updates: Vec<PresenceEntry>,
    },
    /// The room is too large for a list.
    Counts {
        /// Different users.
        users: u64,
        /// Their connections.
        connections: u64,
    },
}

/// Something that the application may want to know. In the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client's state. A state that nobody has taken yet is replaced by the next.
    State(State),
    /// The room is joined: for the first time, or again in a new session.
    Joined {
        /// The room.
        room: Arc<str>,
        /// The epoch of its numbering.
        epoch: Arc<str>,
        /// The room's newest offset at that moment.
        offset: u64,
        /// What became of what was missed.
        recovery: Recovery,
    },
    /// The room could not be joined; it is no longer kept.
    JoinRefused {
        /// The room.
        room: Arc<str>,
        /// The error's code.
        code: Box<str>,
    },
    /// The server put this client out of the room (`kicked`, `forbidden`, `closed`); it is no longer kept.
    Left {
        /// The room.
        room: Arc<str>,
        /// Why.
        reason: Box<str>,
    },
    /// A message.
    Message(Message),
    /// The room's presence changed.
    Presence {
        /// The room.
        room: Arc<str>,
        /// How.
        change: PresenceChange,
    },
    /// Messages of the room are lost.
    Gap {
        /// The room.
        room: Arc<str>,
        /// The first offset and the last that may be lost; `None` where the numbering began anew.
        range: Option<(u64, u64)>,
        /// Where the client stands behind the gap.
        position: Position,
        /// Why: `slow_consumer`, or a reason of [`Recovery::Gap`].
        reason: Box<str>,
    },
    /// The command took effect.
    Acked(CommandId),
    /// The command was refused and had no effect.
    Refused {
        /// The command.
        command: CommandId,
        /// The error's code; `too_large`, `closed` or `left` where it is this client that gave up.
        code: Box<str>,
    },
    /// The session in which the command was sent is lost: it may have taken effect, or not.
    Unknown(CommandId),
    /// An error that belongs to no command.
    Error {
        /// Its code.
        code: Box<str>,
        /// Its sentence.
        message: Box<str>,
    },
}

impl Event {
    /// The room that the event is about, if it is about one and is told to its members only.
    pub(crate) fn room(&self) -> Option<&str> {
        match self {
            Event::Joined { room, .. }
            | Event::JoinRefused { room, .. }
            | Event::Left { room, .. }
            | Event::Presence { room, .. }
            | Event::Gap { room, .. } => Some(room),
            Event::Message(message) => Some(&message.room),
            Event::State(_) | Event::Acked(_) | Event::Refused { .. } | Event::Unknown(_) | Event::Error { .. } => None,
        }
    }

    /// Bytes that the event holds beyond its own size.
    pub(crate) fn bytes(&self) -> usize {
        let entries = |entries: &[PresenceEntry]| -> usize {
            entries
                .iter()
                .map(|entry| 64 + entry.user.len() + entry.id.len() + entry.state.as_ref().map_or(0, |state| state.len()))
                .sum()
        };
        match self {
            Event::Message(message) => message.data.len() + message.user.len() + message.connection.len() + 64,
            Event::Presence { change: PresenceChange::Changed { joins, leaves, updates }, .. } => {
                entries(joins) + entries(leaves) + entries(updates)
            }
            Event::Error { message, .. } => message.len(),
            Event::State(_) | Event::Joined { .. } | Event::JoinRefused { .. } | Event::Left { .. } | Event::Presence { .. } => 64,
            Event::Gap { .. } | Event::Acked(_) | Event::Refused { .. } | Event::Unknown(_) => 32,
        }
    }
}
