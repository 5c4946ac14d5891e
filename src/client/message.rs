//! What the server says, from text to a [`Frame`] (PROTOCOL §5).
//!
//! Types, fields, codes and reasons that this client does not know are passed over, as the protocol asks. Text that is not JSON, or
//! a known frame without what it must have, is `None`: the server broke its promise, and the caller closes. Nothing is copied but
//! strings with escapes.

use crate::limits::{INTEGER_MAX, ROOM_ID_BYTES_MAX};
use crate::protocol::scan::{JsonString, ObjectScanner, Value};
use std::borrow::Cow;

/// One frame of the server. Room ids are unescaped; `data` and `state` are raw JSON.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    Welcome(Box<Welcome<'a>>),
    RoomJoined {
        room: Cow<'a, str>,
        seq: Option<u64>,
        epoch: Cow<'a, str>,
        offset: u64,
        recovered: bool,
        gap: Option<Cow<'a, str>>,
        presence: Option<Roster<'a>>,
    },
    RoomLeft {
        room: Cow<'a, str>,
        reason: Cow<'a, str>,
        seq: Option<u64>,
    },
    Broadcast(Broadcast<'a>),
    PresenceState {
        room: Cow<'a, str>,
        id: Option<u64>,
        roster: Roster<'a>,
    },
    PresenceDiff {
        room: Cow<'a, str>,
        epoch: Cow<'a, str>,
        version: u64,
        change: Change<'a>,
    },
    Ack {
        seq: u64,
    },
    Nack {
        expected: u64,
    },
    Gap {
        room: Cow<'a, str>,
        from: u64,
        to: u64,
        reason: Cow<'a, str>,
    },
    Error(Refusal<'a>),
    Reconnect {
        after_ms: u64,
    },
    Refreshed {
        token_ttl_ms: Option<u64>,
    },
    /// `pong`, and whatever this client does not know.
    Other,
}

/// `welcome`.
#[derive(Debug)]
pub(crate) struct Welcome<'a> {
    pub(crate) session: Cow<'a, str>,
    pub(crate) resume_token: Option<Cow<'a, str>>,
    pub(crate) resumed: bool,
    pub(crate) next_seq: u64,
    pub(crate) heartbeat_ms: Option<u64>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) spread_ms: Option<u64>,
    pub(crate) token_ttl_ms: Option<u64>,
    pub(crate) message_bytes_max: Option<u64>,
    pub(crate) window: Option<u64>,
    /// By room, what the server can send again; raw.
    rooms: Option<&'a str>,
    failed: Option<&'a str>,
}

/// What a resumed session says of a room.
#[derive(Debug)]
pub(crate) enum Standing<'a> {
    /// All that was missed follows.
    Complete,
    /// It does not: the client's position is this one now.
    Gap { reason: Cow<'a, str>, epoch: Cow<'a, str>, offset: u64 },
}

/// A publication.
#[derive(Debug)]
pub(crate) struct Broadcast<'a> {
    pub(crate) room: Cow<'a, str>,
    pub(crate) data: &'a str,
    pub(crate) offset: Option<u64>,
    pub(crate) user: Cow<'a, str>,
    pub(crate) connection: Cow<'a, str>,
    pub(crate) key: Option<Cow<'a, str>>,
    pub(crate) ts: u64,
    pub(crate) seq: Option<u64>,
}

/// A snapshot of a room's presence or a page of it.
#[derive(Debug)]
pub(crate) struct Roster<'a> {
    pub(crate) epoch: Cow<'a, str>,
    pub(crate) version: u64,
    /// Raw array; none where only counts are told.
    pub(crate) members: Option<&'a str>,
    pub(crate) counts: Option<(u64, u64)>,
    pub(crate) cursor: Option<Cow<'a, str>>,
}

/// What a diff says; the arrays are raw.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Lists { joins: Option<&'a str>, leaves: Option<&'a str>, updates: Option<&'a str> },
    Counts { users: u64, connections: u64 },
}

/// `error`.
#[derive(Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) code: Cow<'a, str>,
    pub(crate) message: Cow<'a, str>,
    pub(crate) retryable: bool,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) seq: Option<u64>,
    pub(crate) id: Option<u64>,
}

/// An entry of a diff, or a connection of a member.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) user: Cow<'a, str>,
    pub(crate) info: Option<&'a str>,
    pub(crate) id: Cow<'a, str>,
    pub(crate) state: Option<&'a str>,
}

macro_rules! fields {
    ($($name:ident = $wire:literal,)*) => {
        #[derive(Clone, Copy)]
        #[repr(u8)]
        enum Field { $($name,)* }
        const FIELDS: usize = [$($wire,)*].len();
        fn field(key: &str) -> Option<Field> { match key { $($wire => Some(Field::$name),)* _ => None } }
    };
}

fields! {
    Type = "type", RoomId = "roomId", Seq = "seq", Data = "data", Offset = "offset", From = "from", User = "user",
    Connection = "connection", Key = "key", Ts = "ts", Epoch = "epoch", Recovered = "recovered", Gap = "gap", Reason = "reason",
    Members = "members", Version = "version", Counts = "counts", Cursor = "cursor", Id = "id", Joins = "joins", Leaves = "leaves",
    Updates = "updates", Users = "users", Connections = "connections", State = "state", Info = "info", ExpectedSeq = "expectedSeq",
    To = "to", Code = "code", Message = "message", Retryable = "retryable", RetryAfterMs = "retryAfterMs",
    AfterMs = "afterMs", TokenTtlMs = "tokenTtlMs", SessionId = "sessionId", ResumeToken = "resumeToken", Resumed = "resumed",
    NextSeq = "nextSeq", HeartbeatMs = "heartbeatMs", TimeoutMs = "timeoutMs", SpreadMs = "spreadMs", Limits = "limits",
    MaxMessageBytes = "maxMessageBytes", Window = "window", Rooms = "rooms", Failed = "failed", Complete = "complete", Ra = "ra",
}

/// The known fields of one object.
struct Object<'a>([Option<Value<'a>>; FIELDS]);

impl<'a> Object<'a> {
    fn read(text: &'a str) -> Option<Object<'a>> {
        let mut values = [None; FIELDS];
        let mut object = ObjectScanner::new(text).ok()?;
        while let Some(key) = object.next_key().ok()? {
            let value = object.value().ok()?;
            if let Some(field) = key.read_into(&mut [0; 32]).ok().and_then(field) {
                values[field as usize] = Some(value);
            }
        }
        Some(Object(values))
    }

    fn raw(&self, field: Field) -> Option<&'a str> {
        self.0[field as usize].map(|value| value.raw)
    }

    fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        JsonString::of(self.0[field as usize]?)?.read(usize::MAX).ok()
    }

    fn integer(&self, field: Field) -> Option<u64> {
        integer(self.raw(field)?)
    }

    fn flag(&self, field: Field) -> bool {
        self.raw(field) == Some("true")
    }

    fn room(&self) -> Option<Cow<'a, str>> {
        JsonString::of(self.0[Field::RoomId as usize]?)?.read(ROOM_ID_BYTES_MAX).ok()
    }

    fn object(&self, field: Field) -> Option<Object<'a>> {
        Object::read(self.raw(field)?)
    }

    fn counts(&self) -> Option<(u64, u64)> {
        let counts = self.object(Field::Counts)?;
        Some((counts.integer(Field::Users)?, counts.integer(Field::Connections)?))
    }

    fn roster(&self) -> Option<Roster<'a>> {
        Some(Roster {
            epoch: self.text(Field::Epoch)?,
            version: self.integer(Field::Version)?,
            members: self.raw(Field::Members),
            counts: self.counts(),
            cursor: self.text(Field::Cursor),
        })
    }

    fn entry(&self) -> Option<Entry<'a>> {
        Some(Entry {
            user: self.text(Field::User).unwrap_or_default(),
            info: self.raw(Field::Info),
            id: self.text(Field::Id)?,
            state: self.raw(Field::State),
        })
    }
}

/// Reads a frame; `None` if it breaks the protocol.
pub(crate) fn decode(text: &str) -> Option<Frame<'_>> {
    let object = Object::read(text)?;
    let kind = object.text(Field::Type)?;
    Some(match &*kind {
        "broadcast" => Frame::Broadcast(broadcast(&object)?),
        "ack" => Frame::Ack { seq: object.integer(Field::Seq)? },
        "nack" => Frame::Nack { expected: object.integer(Field::ExpectedSeq)? },
        "welcome" => Frame::Welcome(Box::new(welcome(&object)?)),
        "room_joined" => Frame::RoomJoined {
            room: object.room()?,
            seq: object.integer(Field::Seq),
            epoch: object.text(Field::Epoch)?,
            offset: object.integer(Field::Offset)?,
            recovered: object.flag(Field::Recovered),
            gap: object.object(Field::Gap).map(|gap| gap.text(Field::Reason).unwrap_or_default()),
            presence: object.roster(),
        },
        "room_left" => Frame::RoomLeft {
            room: object.room()?,
            reason: object.text(Field::Reason).unwrap_or_default(),
            seq: object.integer(Field::Seq),
        },
        "presence_state" => Frame::PresenceState { room: object.room()?, id: object.integer(Field::Id), roster: object.roster()? },
        "presence_diff" => Frame::PresenceDiff {
            room: object.room()?,
            epoch: object.text(Field::Epoch)?,
            version: object.integer(Field::Version)?,
            change: change(&object),
        },
        "gap" => Frame::Gap {
            room: object.room()?,
            from: object.integer(Field::From)?,
            to: object.integer(Field::To)?,
            reason: object.text(Field::Reason).unwrap_or_default(),
        },
        "error" => Frame::Error(refusal(&object)?),
        "reconnect" => Frame::Reconnect { after_ms: object.integer(Field::AfterMs).unwrap_or(0) },
        "refreshed" => Frame::Refreshed { token_ttl_ms: object.integer(Field::TokenTtlMs) },
        _ => Frame::Other,
    })
}

fn broadcast<'a>(object: &Object<'a>) -> Option<Broadcast<'a>> {
    let from = object.object(Field::From)?;
    Some(Broadcast {
        room: object.room()?,
        data: object.raw(Field::Data)?,
        offset: object.integer(Field::Offset),
        user: from.text(Field::User).unwrap_or_default(),
        connection: from.text(Field::Connection)?,
        key: object.text(Field::Key),
        ts: object.integer(Field::Ts).unwrap_or(0),
        seq: object.integer(Field::Seq),
    })
}

fn change<'a>(object: &Object<'a>) -> Change<'a> {
    match object.counts() {
        Some((users, connections)) => Change::Counts { users, connections },
        None => Change::Lists {
            joins: object.raw(Field::Joins),
            leaves: object.raw(Field::Leaves),
            updates: object.raw(Field::Updates),
        },
    }
}

fn refusal<'a>(object: &Object<'a>) -> Option<Refusal<'a>> {
    Some(Refusal {
        code: object.text(Field::Code)?,
        message: object.text(Field::Message).unwrap_or_default(),
        retryable: object.flag(Field::Retryable),
        retry_after_ms: object.integer(Field::RetryAfterMs),
        seq: object.integer(Field::Seq),
        id: object.integer(Field::Id),
    })
}

fn welcome<'a>(object: &Object<'a>) -> Option<Welcome<'a>> {
    let limits = object.object(Field::Limits);
    let limit = |field| limits.as_ref().and_then(|limits| limits.integer(field));
    Some(Welcome {
        session: object.text(Field::SessionId)?,
        resume_token: object.text(Field::ResumeToken),
        resumed: object.flag(Field::Resumed),
        next_seq: object.integer(Field::NextSeq)?,
        heartbeat_ms: object.integer(Field::HeartbeatMs),
        timeout_ms: object.integer(Field::TimeoutMs),
        spread_ms: object.integer(Field::SpreadMs),
        token_ttl_ms: object.integer(Field::TokenTtlMs),
        message_bytes_max: limit(Field::MaxMessageBytes),
        window: limit(Field::Window),
        rooms: object.raw(Field::Rooms),
        failed: object.raw(Field::Failed),
    })
}

impl<'a> Welcome<'a> {
    /// What is said of each room.
    pub(crate) fn rooms(&self) -> Vec<(Cow<'a, str>, Standing<'a>)> {
        let mut rooms = Vec::new();
        let Some(mut object) = self.rooms.and_then(|raw| ObjectScanner::new(raw).ok()) else { return rooms };
        while let Ok(Some(key)) = object.next_key() {
            let Ok(value) = object.value() else { break };
            let room = key.read(ROOM_ID_BYTES_MAX).ok();
            if let Some(entry) = room.and_then(|room| Some((room, standing(value.raw)?))) {
                rooms.push(entry);
            }
        }
        rooms
    }

    /// The refusals that the client may not have seen.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (u64, Cow<'a, str>)> {
        elements(self.failed).filter_map(|raw| {
            let object = Object::read(raw)?;
            Some((object.integer(Field::Seq)?, object.text(Field::Code)?))
        })
    }
}

fn standing(raw: &str) -> Option<Standing<'_>> {
    let object = Object::read(raw)?;
    if object.flag(Field::Complete) {
        return Some(Standing::Complete);
    }
    let reason = object.object(Field::Gap)?.text(Field::Reason).unwrap_or_default();
    Some(Standing::Gap { reason, epoch: object.text(Field::Epoch)?, offset: object.integer(Field::Offset)? })
}

/// The entries of a diff's list.
pub(crate) fn entries(raw: Option<&str>) -> impl Iterator<Item = Entry<'_>> {
    elements(raw).filter_map(|raw| Object::read(raw)?.entry())
}

/// The connections of a page of members, each with its user.
pub(crate) fn members(raw: &str) -> impl Iterator<Item = Entry<'_>> {
    elements(Some(raw)).filter_map(Object::read).flat_map(|member| {
        let user = member.text(Field::User).unwrap_or_default();
        let info = member.raw(Field::Info);
        let connections = elements(member.raw(Field::Connections));
        connections.filter_map(move |raw| Some(Entry { user: user.clone(), info, ..Object::read(raw)?.entry()? }))
    })
}

/// The advice in the text of a close frame: when to come again, in ms (PROTOCOL §7).
pub(crate) fn close_advice(reason: &str) -> Option<u64> {
    Object::read(reason)?.integer(Field::Ra)
}

/// The elements of an array that was checked to be JSON; none if it is another kind of value.
fn elements(raw: Option<&str>) -> impl Iterator<Item = &str> {
    let inside = raw.and_then(|raw| raw.strip_prefix('[')?.strip_suffix(']'));
    let mut rest = inside.unwrap_or("").trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = element_end(rest.as_bytes());
        let element = rest[..end].trim_ascii();
        rest = rest.get(end + 1..).unwrap_or("").trim_ascii();
        Some(element)
    })
}

/// Where the first element ends: at a comma outside strings and brackets, or at the end.
fn element_end(bytes: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return at,
            _ => {}
        }
    }
    bytes.len()
}

fn integer(raw: &str) -> Option<u64> {
    let digits = !raw.is_empty() && raw.len() <= 16 && raw.bytes().all(|byte| byte.is_ascii_digit());
    raw.parse().ok().filter(|number| digits && *number <= INTEGER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_cut_at_their_own_commas_only() {
        let raw = r#"[ {"a":[1,2],"b":"],\","} , "x,y" ,[],3 ]"#;
        assert_eq!(elements(Some(raw)).collect::<Vec<_>>(), [r#"{"a":[1,2],"b":"],\","}"#, r#""x,y""#, "[]", "3"]);
        assert_eq!(elements(Some("[]")).count() + elements(Some("{}")).count() + elements(None).count(), 0);
    }

    #[test]
    fn what_the_server_encodes_is_read() {
        use crate::protocol::encode::{Broadcast as Out, write_broadcast};
        use crate::time::WallMillis;
        let mut bytes = Vec::new();
        let room = "r\"1".as_bytes();
        let out = Out {
            room,
            data: b"{\"a\":1}",
            offset: Some(7),
            user: b"ada",
            connection: 9,
            key: Some(b"k"),
            ts: WallMillis(5),
            seq: None,
        };
        write_broadcast(&mut bytes, &out);
        let text = String::from_utf8(bytes).expect("the server writes UTF-8");
        let Some(Frame::Broadcast(read)) = decode(&text) else { panic!("{text}") };
        assert_eq!((&*read.room, read.data, read.offset, &*read.user, read.ts), ("r\"1", "{\"a\":1}", Some(7), "ada", 5));
        assert_eq!((&*read.connection, read.key.as_deref(), read.seq), ("AAAAAAAAAAJ", Some("k"), None));
    }

    #[test]
    fn unknown_types_and_fields_are_passed_over_and_broken_frames_are_not() {
        assert!(matches!(decode(r#"{"type":"novel","x":[1]}"#), Some(Frame::Other)));
        assert!(matches!(decode(r#"{"type":"ack","seq":3,"novel":{}}"#), Some(Frame::Ack { seq: 3 })));
        for broken in ["", "[]", "{", r#"{"type":"ack"}"#, r#"{"type":"ack","seq":1.5}"#, r#"{"type":7}"#, r#"{"seq":1}"#] {
            assert!(decode(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn a_resumed_welcome_is_read_room_by_room() {
        let text = r#"{"type":"welcome","sessionId":"s","resumeToken":"t","resumed":true,"nextSeq":4,"limits":{"window":64},
            "rooms":{"a":{"complete":true,"count":2},"b":{"gap":{"reason":"expired"},"epoch":"e","offset":9}},"failed":[{"seq":2,"code":"room_full"}]}"#;
        let Some(Frame::Welcome(welcome)) = decode(text) else { panic!("a welcome") };
        assert!(welcome.resumed && welcome.window == Some(64) && welcome.next_seq == 4);
        let rooms = welcome.rooms();
        assert!(matches!(&rooms[0], (room, Standing::Complete) if room == "a"));
        assert!(matches!(&rooms[1], (room, Standing::Gap { offset: 9, .. }) if room == "b"));
        assert_eq!(welcome.failed().collect::<Vec<_>>(), [(2, "room_full".into())]);
    }
}
