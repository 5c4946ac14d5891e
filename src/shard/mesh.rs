//! What shards say to each other. A *command* asks a room's home for a decision; a *consequence* tells a shard with members or with
//! the asking session what came of it.
//!
//! Both are plain data: a message names sessions, memberships and rooms by index and generation, never by reference, and its texts
//! are one reference-counted buffer. Whether a name still means something is checked by whoever handles the message.

use super::arena::{HomeIndex, LocalIndex, MembershipIndex, PresenceIndex, PublicationIndex};
use super::frames::BufferPool;
use super::recovery::{Chunk, Recovery};
use super::seam::ShardId;
use crate::protocol::ErrorCode;
use bytes::Bytes;

/// A session of the process: its shard, its place there and which of the place's sessions it is. Never used twice while the
/// process lives (a shard makes 2^32 sessions before it begins anew).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

impl SessionId {
    pub(crate) fn new(shard: ShardId, index: u32, generation: u32) -> Self {
        SessionId(u64::from(generation) << 32 | u64::from(shard.0) << 22 | u64::from(index))
    }
    pub(crate) fn shard(self) -> ShardId {
        ShardId((self.0 >> 22 & 0x3ff) as u16)
    }
    pub(crate) fn index(self) -> u32 {
        self.0 as u32 & 0x3f_ffff
    }
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A room as a shard with members knows it, so that fan-out finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalRef {
    pub(crate) index: LocalIndex,
    pub(crate) generation: u32,
}

/// A position that a client brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// None if the text was not one of ours.
    pub(crate) epoch: Option<u64>,
    pub(crate) offset: u64,
}

/// A command, borrowed: what a home executes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) session: SessionId,
    pub(crate) membership: MembershipIndex,
    /// The session's presence in the room; none before the join is answered.
    pub(crate) presence: PresenceIndex,
    /// The command's number; 0 if it has none.
    pub(crate) seq: u64,
    pub(crate) what: What<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What<'a> {
    Join {
        room: &'a str,
        user: Option<&'a str>,
        state: Option<&'a str>,
        watches: bool,
        since: Option<Position>,
        local: LocalRef,
    },
    Leave {
        answer: bool,
        /// The answer brings the presence state, for the session to have it again when it is resumed.
        remembers: bool,
    },
    Publish {
        data: &'a str,
        key: Option<&'a str>,
        echo: bool,
        volatile: bool,
    },
    SetState {
        state: &'a str,
    },
    Question {
        id: &'a str,
        cursor: Option<u64>,
        limit: u32,
    },
    /// The next chunk of the history after a cursor.
    Read {
        cursor: u64,
        hint: PublicationIndex,
        /// The session that the client had before: its publications are told with their numbers.
        formerly: Option<SessionId>,
    },
    History {
        id: &'a str,
        since: Option<Position>,
        limit: u32,
    },
}

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Command {
    session: SessionId,
    membership: MembershipIndex,
    presence: PresenceIndex,
    seq: u64,
    shape: Shape,
    /// The texts of the command, one after the other.
    text: Bytes,
}

/// A [`What`] with lengths in place of texts.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Join { room: u16, user: Option<u16>, state: bool, watches: bool, since: Option<Position>, local: LocalRef },
    Leave { answer: bool, remembers: bool },
    Publish { key: Option<u16>, echo: bool, volatile: bool },
    SetState,
    Question { cursor: Option<u64>, limit: u32 },
    Read { cursor: u64, hint: PublicationIndex, formerly: Option<SessionId> },
    History { since: Option<Position>, limit: u32 },
}

impl Command {
    pub(crate) fn pack(pool: &mut BufferPool, ask: &Ask<'_>) -> Command {
        let (shape, parts): (Shape, [&str; 3]) = match ask.what {
            What::Join { room, user, state, watches, since, local } => (
                Shape::Join {
                    room: room.len() as u16,
                    user: user.map(|user| user.len() as u16),
                    state: state.is_some(),
                    watches,
                    since,
                    local,
                },
                [room, user.unwrap_or(""), state.unwrap_or("")],
            ),
            What::Leave { answer, remembers } => (Shape::Leave { answer, remembers }, ["", "", ""]),
            What::Publish { data, key, echo, volatile } => {
                (Shape::Publish { key: key.map(|key| key.len() as u16), echo, volatile }, [key.unwrap_or(""), data, ""])
            }
            What::SetState { state } => (Shape::SetState, [state, "", ""]),
            What::Question { id, cursor, limit } => (Shape::Question { cursor, limit }, [id, "", ""]),
            What::Read { cursor, hint, formerly } => (Shape::Read { cursor, hint, formerly }, ["", "", ""]),
            What::History { id, since, limit } => (Shape::History { since, limit }, [id, "", ""]),
        };
        let text = if parts.iter().all(|part| part.is_empty()) {
            Bytes::new()
        } else {
            pool.lend(&[parts[0].as_bytes(), parts[1].as_bytes(), parts[2].as_bytes()])
        };
        Command { session: ask.session, membership: ask.membership, presence: ask.presence, seq: ask.seq, shape, text }
    }

    pub(crate) fn ask(&self) -> Ask<'_> {
        let text = std::str::from_utf8(&self.text).expect("a command's text was made of texts");
        let what = match self.shape {
            Shape::Join { room, user, state, watches, since, local } => {
                let (room, rest) = text.split_at(usize::from(room));
                let (name, rest) = rest.split_at(usize::from(user.unwrap_or(0)));
                What::Join { room, user: user.map(|_| name), state: state.then_some(rest), watches, since, local }
            }
            Shape::Leave { answer, remembers } => What::Leave { answer, remembers },
            Shape::Publish { key, echo, volatile } => {
                let (name, data) = text.split_at(usize::from(key.unwrap_or(0)));
                What::Publish { data, key: key.map(|_| name), echo, volatile }
            }
            Shape::SetState => What::SetState { state: text },
            Shape::Question { cursor, limit } => What::Question { id: text, cursor, limit },
            Shape::Read { cursor, hint, formerly } => What::Read { cursor, hint, formerly },
            Shape::History { since, limit } => What::History { id: text, since, limit },
        };
        Ask { session: self.session, membership: self.membership, presence: self.presence, seq: self.seq, what }
    }

    pub(crate) fn into_text(self) -> Bytes {
        self.text
    }
}

/// Who is in a room, as told with the answer to a join.
#[derive(Debug)]
pub(crate) enum Roster {
    /// It was not asked for.
    Unasked,
    /// One page of the list, and where the next begins.
    Page { members: Bytes, cursor: Option<u64> },
    /// The room is too large for a list.
    Counts { users: u32, connections: u32 },
}

/// What came of a command.
#[derive(Debug)]
pub(crate) enum Consequence {
    Joined {
        session: SessionId,
        membership: MembershipIndex,
        seq: u64,
        presence: PresenceIndex,
        room: HomeIndex,
        epoch: u64,
        offset: u64,
        recovery: Recovery,
        version: u64,
        roster: Roster,
    },
    /// A join that the home declined.
    NotJoined { session: SessionId, membership: MembershipIndex, seq: u64, code: ErrorCode },
    Left {
        session: SessionId,
        membership: MembershipIndex,
        seq: u64,
        /// The presence state that it had, if that was asked for; else empty.
        state: Bytes,
    },
    /// A command without an answer of its own took effect, or was declined with a code.
    Decided { session: SessionId, seq: u64, declined: Option<ErrorCode> },
    /// A publication for the members here, but for `except`'s membership.
    Published {
        local: LocalRef,
        frame: Bytes,
        /// Its offset; 0 if it is volatile.
        offset: u64,
        except: Option<(SessionId, MembershipIndex)>,
    },
    /// What a read found.
    Chunk { session: SessionId, membership: MembershipIndex, chunk: Chunk },
    /// Presence for the members here that watch it.
    Presence { local: LocalRef, frame: Bytes },
    /// A frame for one session.
    Answer { session: SessionId, frame: Bytes },
}

/// A message between two shards.
#[derive(Debug)]
pub struct MeshMessage(pub(crate) Body);

#[derive(Debug)]
pub(crate) enum Body {
    Command(Command),
    Consequence(Consequence),
}

impl MeshMessage {
    /// Payload bytes that the message keeps alive, for the byte bound of its lane.
    pub fn bytes_held(&self) -> usize {
        match &self.0 {
            Body::Command(command) => command.text.len(),
            Body::Consequence(consequence) => match consequence {
                Consequence::Joined { roster: Roster::Page { members, .. }, .. } => members.len(),
                Consequence::Published { frame, .. } | Consequence::Presence { frame, .. } | Consequence::Answer { frame, .. } => {
                    frame.len()
                }
                Consequence::Chunk { chunk, .. } => chunk.frames.len(),
                Consequence::Left { state, .. } => state.len(),
                Consequence::Joined { roster: Roster::Unasked | Roster::Counts { .. }, .. }
                | Consequence::NotJoined { .. }
                | Consequence::Decided { .. } => 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_names_shard_place_and_generation() {
        let id = SessionId::new(ShardId(1_023), (1 << 22) - 1, u32::MAX);
        assert_eq!((id.shard(), id.index(), id.generation()), (ShardId(1_023), (1 << 22) - 1, u32::MAX));
        let id = SessionId::new(ShardId(2), 5, 7);
        assert_eq!((id.shard(), id.index(), id.generation()), (ShardId(2), 5, 7));
    }

    #[test]
    fn a_packed_command_says_the_same() {
        let mut pool = BufferPool::default();
        let ask = Ask {
            session: SessionId(9),
            membership: MembershipIndex(1),
            presence: PresenceIndex(2),
            seq: 3,
            what: What::Join {
                room: "räum",
                user: Some("ann"),
                state: Some("{}"),
                watches: true,
                since: None,
                local: LocalRef { index: LocalIndex(4), generation: 5 },
            },
        };
        assert_eq!(format!("{:?}", Command::pack(&mut pool, &ask).ask()), format!("{ask:?}"));
        let publish = Ask { what: What::Publish { data: "[1]", key: Some("k"), echo: true, volatile: false }, ..ask };
        assert_eq!(format!("{:?}", Command::pack(&mut pool, &publish).ask()), format!("{publish:?}"));
    }

    #[test]
    fn a_message_fits_two_cache_lines() {
        assert!(size_of::<MeshMessage>() <= 128, "{}", size_of::<MeshMessage>());
    }
}
