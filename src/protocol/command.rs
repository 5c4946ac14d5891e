//! A client's message: from its text to a [`Command`], or to a [`Fault`] that says what is wrong with it (PROTOCOL §4).
//!
//! It decides what a message says, and nothing else: whether the dialect has that type, whether a `seq` is needed or due, whether
//! a room was joined, and whether a state is too large are questions for whoever holds the session.
//!
//! All fields are collected before any is judged, so a fault carries the message's `seq` and `id` wherever in the object they stand,
//! as long as the object as such can be read. What the protocol leaves open is decided so: `null` is a value like any other, not
//! an absence; a key that comes twice makes the whole message unreadable, however the two are spelled and whether or not we know it;
//! a known field is judged only where its type has it.

use super::error_code::ErrorCode;
use super::scan::{JsonString, Malformed, ObjectScanner, Unreadable, Value};
use crate::limits::{
    DATA_DEPTH_MAX, ENVELOPE_DEPTH_MAX, INTEGER_MAX, KEY_BYTES_MAX, REQUEST_ID_BYTES_MAX, ROOM_ID_BYTES_MAX, USER_ID_BYTES_MAX,
};
use std::borrow::Cow;

/// Bytes of a key of the envelope, unescaped. Above: `bad_json`.
pub const FIELD_NAME_BYTES_MAX: usize = 64;
/// Different unknown keys of one object. Above: `too_many_fields`. They are compared pairwise, so this bounds that work too.
pub const UNKNOWN_FIELDS_MAX: usize = 32;
/// Bytes of an `epoch`.
pub const EPOCH_BYTES_MAX: usize = 16;
/// Bytes of a resume token. No token of this server is longer.
pub const RESUME_TOKEN_BYTES_MAX: usize = 64;
/// Bytes of a `cursor` of the members' pages, as the client repeats it.
pub const CURSOR_BYTES_MAX: usize = 64;

/// One message of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<'a> {
    /// The command's number in its session, from 1 to [`INTEGER_MAX`].
    pub seq: Option<u64>,
    /// What an answer repeats: the raw JSON of a string or number, at most [`REQUEST_ID_BYTES_MAX`] bytes, as it came.
    pub id: Option<&'a str>,
    /// What is asked.
    pub command: Command<'a>,
}

/// What a client asks.
///
/// Room ids are 1 to [`ROOM_ID_BYTES_MAX`] bytes and user ids 1 to [`USER_ID_BYTES_MAX`], unescaped, without control characters.
/// Raw JSON (`data`, `state`, `t`, `client`) is whole, valid, and as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Opens a `throng.v1` connection.
    Connect {
        /// Who this is, where no token says it.
        user: Option<Cow<'a, str>>,
        /// The credentials. Bounded by the message.
        token: Option<Cow<'a, str>>,
        /// The session that is to go on, a raw JSON object: see [`Resume::read`].
        resume: Option<&'a str>,
        /// What the client says about itself, raw JSON.
        client: Option<&'a str>,
        /// Which attempt to connect this is.
        attempt: Option<u64>,
        /// The close code that ended the client's last connection.
        last_code: Option<u64>,
    },
    /// Become a member of a room.
    JoinRoom {
        /// The room.
        room: Cow<'a, str>,
        /// Where the client stands, to be told what it missed.
        since: Option<Since<'a>>,
        /// Whether the client wants the room's presence.
        presence: bool,
        /// The connection's presence state, raw JSON.
        state: Option<&'a str>,
        /// `mode` is `latest`: of the publications of one key only the newest.
        latest: bool,
    },
    /// Stop being a member of a room.
    LeaveRoom {
        /// The room.
        room: Cow<'a, str>,
    },
    /// Publish to a room.
    Broadcast {
        /// The room.
        room: Cow<'a, str>,
        /// The publication, raw JSON.
        data: &'a str,
        /// What the publication supersedes: 1 to [`KEY_BYTES_MAX`] bytes, no control characters.
        key: Option<Cow<'a, str>>,
        /// Whether the sender gets a copy.
        echo: bool,
    },
    /// Change the connection's presence state in a room.
    SetState {
        /// The room.
        room: Cow<'a, str>,
        /// The new state, raw JSON.
        state: &'a str,
    },
    /// Ask who is in a room. The envelope has an `id`.
    Presence {
        /// The room.
        room: Cow<'a, str>,
        /// Where the last page ended.
        cursor: Option<Cow<'a, str>>,
        /// Members wanted at most.
        limit: Option<u64>,
    },
    /// Ask for a room's past publications. The envelope has an `id`.
    History {
        /// The room.
        room: Cow<'a, str>,
        /// Where to begin.
        since: Option<Since<'a>>,
        /// Publications wanted at most.
        limit: Option<u64>,
    },
    /// Replace the credentials.
    Refresh {
        /// The new credentials. Bounded by the message.
        token: Cow<'a, str>,
    },
    /// Ask for a sign of life.
    Ping {
        /// What the `pong` repeats, raw JSON. Bounded by the message.
        t: Option<&'a str>,
    },
}

/// A position in a room: the publications after it are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since<'a> {
    /// The epoch as the client was told it, at most [`EPOCH_BYTES_MAX`] bytes.
    pub epoch: Cow<'a, str>,
    /// The last offset that the client has.
    pub offset: u64,
}

/// What a client says of the session that it wants to go on with.
///
/// Nothing in it is a fault: what can't be read is of no session, and the client is told no more than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The token of the session, at most [`RESUME_TOKEN_BYTES_MAX`] bytes.
    pub token: Cow<'a, str>,
    /// The last `ack` that the client has seen; 0 if none.
    pub acked: u64,
    /// Its rooms, raw JSON.
    rooms: Option<&'a str>,
}

/// Where a client stands in one room of a session that is to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumedRoom<'a> {
    /// The room.
    pub room: Cow<'a, str>,
    /// The last publication that the client has.
    pub since: Since<'a>,
    /// The version of the presence list that it has.
    pub version: Option<u64>,
}

impl<'a> Resume<'a> {
    /// Reads the object; `None` if it is not of the shape that a client of this protocol sends.
    pub fn read(raw: &'a str) -> Option<Resume<'a>> {
        let mut object = ObjectScanner::new(raw).ok()?;
        let (mut token, mut acked, mut rooms) = (None, None, None);
        while let Some(key) = object.next_key().ok()? {
            let value = object.value().ok()?;
            let twice = match key.read_into(&mut [0; FIELD_NAME_BYTES_MAX]).ok()? {
                "token" => token.replace(JsonString::of(value)?.read(RESUME_TOKEN_BYTES_MAX).ok()?).is_some(),
                "acked" => acked.replace(integer(value.raw)?).is_some(),
                "rooms" => rooms.replace(value.raw).is_some(),
                _ => false,
            };
            if twice {
                return None;
            }
        }
        Some(Resume { token: token?, acked: acked.unwrap_or(0), rooms })
    }

    /// The rooms that can be read, in the order in which they stand. What can't be read is left out.
    pub fn rooms(&self) -> impl Iterator<Item = ResumedRoom<'a>> {
        let mut object = self.rooms.and_then(|raw| ObjectScanner::new(raw).ok());
        std::iter::from_fn(move || {
            let scanner = object.as_mut()?;
            loop {
                let key = scanner.next_key().ok()??;
                let value = scanner.value().ok()?;
                if let Some(room) = resumed_room(key, value.raw) {
                    return Some(room);
                }
            }
        })
    }
}

fn resumed_room<'a>(key: JsonString<'a>, raw: &'a str) -> Option<ResumedRoom<'a>> {
    let mut object = ObjectScanner::new(raw).ok()?;
    let (mut epoch, mut offset, mut version) = (None, None, None);
    while let Some(key) = object.next_key().ok()? {
        let value = object.value().ok()?;
        match key.read_into(&mut [0; FIELD_NAME_BYTES_MAX]).ok()? {
            "epoch" => epoch = Some(JsonString::of(value)?.read(EPOCH_BYTES_MAX).ok()?),
            "offset" => offset = Some(integer(value.raw)?),
            "version" => version = integer(value.raw),
            _ => {}
        }
    }
    let since = Since { epoch: epoch?, offset: offset? };
    Some(ResumedRoom { room: identifier(key, ROOM_ID_BYTES_MAX)?, since, version })
}

/// What is wrong with a message, and what its `error` can say to which command it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// The code of the `error`.
    pub code: ErrorCode,
    /// What exactly is wrong, for the client's developer.
    pub message: &'static str,
    /// The message's `seq`, if it could be read beyond doubt: once, and as a valid number.
    pub seq: Option<u64>,
    /// The message's `id`, likewise.
    pub id: Option<&'a str>,
}

/// Reads a client's message.
///
/// # Errors
/// A [`Fault`]. Faults of the object come before those of a field.
pub fn decode(text: &str) -> Result<Envelope<'_>, Fault<'_>> {
    let mut fields = Fields::default();
    let collected = fields.collect(text);
    let (seq, id) = (fields.seq(), fields.id());
    let fault = |problem: Problem| Fault { code: problem.0, message: problem.1, seq: seq.unwrap_or(None), id: id.unwrap_or(None) };
    collected.map_err(fault)?;
    let command = fields.command().map_err(fault)?;
    Ok(Envelope { seq: seq.map_err(fault)?, id: id.map_err(fault)?, command })
}

/// What is wrong: the code, and the sentence.
type Problem = (ErrorCode, &'static str);

macro_rules! fields {
    ($($name:ident = $wire:literal,)*) => {
        /// The fields that some type has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        enum Field { $($name,)* }
        impl Field {
            const COUNT: usize = [$($wire,)*].len();
            #[inline]
            fn of(key: &str) -> Option<Field> { match key { $($wire => Some(Field::$name),)* _ => None } }
            #[cold]
            fn missing(self) -> Problem {
                (ErrorCode::MissingField, match self { $(Field::$name => concat!($wire, " is missing"),)* })
            }
            #[cold]
            fn bad(self) -> Problem {
                (ErrorCode::BadField, match self { $(Field::$name => concat!($wire, " has the wrong type or is out of range"),)* })
            }
        }
    };
}

fields! {
    Type = "type",
    RoomId = "roomId",
    Seq = "seq",
    Data = "data",
    State = "state",
    Key = "key",
    Echo = "echo",
    Id = "id",
    Presence = "presence",
    Since = "since",
    Mode = "mode",
    Cursor = "cursor",
    Limit = "limit",
    T = "t",
    Token = "token",
    User = "user",
    Resume = "resume",
    Client = "client",
    Attempt = "attempt",
    LastCode = "lastCode",
}

impl Field {
    /// Nesting that the field's value may have by itself.
    fn depth_max(self) -> usize {
        if matches!(self, Field::Data | Field::State) { DATA_DEPTH_MAX } else { ENVELOPE_DEPTH_MAX - 1 }
    }
}

/// The values of the known fields.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<Value<'a>>; Field::COUNT],
    seq_twice: bool,
    id_twice: bool,
}

impl<'a> Fields<'a> {
    /// Walks the whole object. What is wrong with the object but leaves it readable is reported only at its end.
    fn collect(&mut self, text: &'a str) -> Result<(), Problem> {
        let mut object = ObjectScanner::new(text).map_err(malformed)?;
        // Made only for the first unknown key: most messages have none.
        let mut unknown: Option<UnknownKeys<'a>> = None;
        let mut problem = None;
        while let Some(key) = object.next_key().map_err(malformed)? {
            let value = object.value().map_err(malformed)?;
            let noted = match field(key) {
                Ok(Some(field)) => self.note(field, value),
                Ok(None) => unknown.get_or_insert_default().note(key, value),
                Err(unreadable) => Err(unreadable),
            };
            if let Err(found) = noted {
                problem = problem.or(Some(found));
            }
        }
        problem.map_or(Ok(()), Err)
    }

    #[inline]
    fn note(&mut self, field: Field, value: Value<'a>) -> Result<(), Problem> {
        if self.values[field as usize].is_some() {
            self.seq_twice |= field == Field::Seq;
            self.id_twice |= field == Field::Id;
            return Err(DUPLICATE_KEY);
        }
        self.values[field as usize] = Some(value);
        if value.depth > field.depth_max() { Err(TOO_DEEP) } else { Ok(()) }
    }

    fn command(&self) -> Result<Command<'a>, Problem> {
        let kind = self.string(Field::Type)?.ok_or(Field::Type.missing())?;
        // One byte more than the longest type.
        let mut buffer = [0; 16];
        let kind = kind.read_into(&mut buffer).unwrap_or("");
        Ok(match kind {
            "broadcast" => Command::Broadcast {
                room: self.room()?,
                data: self.raw(Field::Data).ok_or(Field::Data.missing())?,
                key: self.key()?,
                echo: self.flag(Field::Echo)?,
            },
            "ping" => Command::Ping { t: self.raw(Field::T) },
            "join_room" => Command::JoinRoom {
                room: self.room()?,
                since: self.since()?,
                presence: self.flag(Field::Presence)?,
                state: self.raw(Field::State),
                latest: self.latest()?,
            },
            "leave_room" => Command::LeaveRoom { room: self.room()? },
            "set_state" => Command::SetState { room: self.room()?, state: self.raw(Field::State).ok_or(Field::State.missing())? },
            "presence" => {
                self.question()?;
                let cursor = self.text(Field::Cursor, CURSOR_BYTES_MAX)?;
                Command::Presence { room: self.room()?, cursor, limit: self.integer(Field::Limit)? }
            }
            "history" => {
                self.question()?;
                Command::History { room: self.room()?, since: self.since()?, limit: self.integer(Field::Limit)? }
            }
            "refresh" => Command::Refresh { token: self.text(Field::Token, usize::MAX)?.ok_or(Field::Token.missing())? },
            "connect" => self.connect()?,
            _ => return Err((ErrorCode::UnknownType, ErrorCode::UnknownType.message())),
        })
    }

    fn connect(&self) -> Result<Command<'a>, Problem> {
        let user = match self.string(Field::User)? {
            Some(user) => Some(identifier(user, USER_ID_BYTES_MAX).ok_or(of_code(ErrorCode::BadUserId))?),
            None => None,
        };
        let resume = self.raw(Field::Resume);
        if resume.is_some_and(|raw| !raw.starts_with('{')) {
            return Err(Field::Resume.bad());
        }
        Ok(Command::Connect {
            user,
            token: self.text(Field::Token, usize::MAX)?,
            resume,
            client: self.raw(Field::Client),
            attempt: self.integer(Field::Attempt)?,
            last_code: self.integer(Field::LastCode)?,
        })
    }

    /// The number of the command, or what is wrong with it.
    fn seq(&self) -> Result<Option<u64>, Problem> {
        match self.raw(Field::Seq) {
            None => Ok(None),
            Some(_) if self.seq_twice => Err(DUPLICATE_KEY),
            Some(raw) => match integer(raw) {
                Some(seq) if seq > 0 => Ok(Some(seq)),
                _ => Err(of_code(ErrorCode::BadSeq)),
            },
        }
    }

    /// The raw `id`, or what is wrong with it.
    fn id(&self) -> Result<Option<&'a str>, Problem> {
        match self.raw(Field::Id) {
            None => Ok(None),
            Some(_) if self.id_twice => Err(DUPLICATE_KEY),
            Some(raw) if raw.len() <= REQUEST_ID_BYTES_MAX && is_string_or_number(raw) => Ok(Some(raw)),
            Some(_) => Err(Field::Id.bad()),
        }
    }

    /// A question that names no `id` could not be answered so that the client knows which.
    fn question(&self) -> Result<(), Problem> {
        if self.raw(Field::Id).is_some() { Ok(()) } else { Err(Field::Id.missing()) }
    }

    fn room(&self) -> Result<Cow<'a, str>, Problem> {
        let room = self.string(Field::RoomId)?.ok_or(Field::RoomId.missing())?;
        identifier(room, ROOM_ID_BYTES_MAX).ok_or(of_code(ErrorCode::BadRoomId))
    }

    fn key(&self) -> Result<Option<Cow<'a, str>>, Problem> {
        match self.string(Field::Key)? {
            Some(key) => identifier(key, KEY_BYTES_MAX).map(Some).ok_or(Field::Key.bad()),
            None => Ok(None),
        }
    }

    fn latest(&self) -> Result<bool, Problem> {
        match self.string(Field::Mode)? {
            None => Ok(false),
            Some(mode) => match mode.read_into(&mut [0; 8]) {
                Ok("all") => Ok(false),
                Ok("latest") => Ok(true),
                _ => Err(Field::Mode.bad()),
            },
        }
    }

    fn since(&self) -> Result<Option<Since<'a>>, Problem> {
        let Some(raw) = self.raw(Field::Since) else { return Ok(None) };
        since(raw).map(Some).ok_or(Field::Since.bad())
    }

    #[inline]
    fn raw(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize].map(|value| value.raw)
    }

    #[inline]
    fn string(&self, field: Field) -> Result<Option<JsonString<'a>>, Problem> {
        match self.values[field as usize] {
            None => Ok(None),
            Some(value) => JsonString::of(value).map(Some).ok_or(field.bad()),
        }
    }

    fn text(&self, field: Field, bytes_max: usize) -> Result<Option<Cow<'a, str>>, Problem> {
        match self.string(field)? {
            None => Ok(None),
            Some(string) => string.read(bytes_max).map(Some).map_err(|_| field.bad()),
        }
    }

    #[inline]
    fn flag(&self, field: Field) -> Result<bool, Problem> {
        match self.raw(field) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(field.bad()),
        }
    }

    fn integer(&self, field: Field) -> Result<Option<u64>, Problem> {
        match self.raw(field) {
            None => Ok(None),
            Some(raw) => integer(raw).map(Some).ok_or(field.bad()),
        }
    }
}

/// The field that a key names, if we know it.
#[inline]
fn field(key: JsonString<'_>) -> Result<Option<Field>, Problem> {
    match Field::of(key.raw()) {
        Some(field) => Ok(Some(field)),
        None => field_spelled_otherwise(key),
    }
}

/// The same for a key that is not spelled as we spell ours: escaped, unknown, or not to be read.
#[cold]
fn field_spelled_otherwise(key: JsonString<'_>) -> Result<Option<Field>, Problem> {
    match key.read_into(&mut [0; FIELD_NAME_BYTES_MAX]) {
        Ok(key) => Ok(Field::of(key)),
        Err(Unreadable::LoneSurrogate) => Err((ErrorCode::BadJson, "a key has a lone surrogate")),
        Err(Unreadable::TooLong) => Err((ErrorCode::BadJson, "a key is longer than 64 bytes")),
    }
}

/// The unknown keys that an object has had so far.
#[derive(Default)]
struct UnknownKeys<'a> {
    keys: [Option<JsonString<'a>>; UNKNOWN_FIELDS_MAX],
    count: usize,
}

impl<'a> UnknownKeys<'a> {
    #[cold]
    fn note(&mut self, key: JsonString<'a>, value: Value<'a>) -> Result<(), Problem> {
        if self.keys[..self.count].iter().flatten().any(|other| other.same(key)) {
            return Err(DUPLICATE_KEY);
        }
        let place = self.keys.get_mut(self.count).ok_or(of_code(ErrorCode::TooManyFields))?;
        *place = Some(key);
        self.count += 1;
        if value.depth >= ENVELOPE_DEPTH_MAX { Err(TOO_DEEP) } else { Ok(()) }
    }
}

const DUPLICATE_KEY: Problem = (ErrorCode::BadJson, "a key comes twice");
const TOO_DEEP: Problem = (ErrorCode::BadJson, "nested too deeply");

fn of_code(code: ErrorCode) -> Problem {
    (code, code.message())
}

#[cold]
fn malformed(malformed: Malformed) -> Problem {
    match malformed {
        Malformed::Syntax => of_code(ErrorCode::BadJson),
        Malformed::TooDeep => TOO_DEEP,
    }
}

fn is_string_or_number(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// An integer as the protocol has it: 0 to [`INTEGER_MAX`], digits only, no leading zero.
#[inline]
fn integer(raw: &str) -> Option<u64> {
    let digits = raw.as_bytes();
    // 2^53 has 16 digits; JSON already refused leading zeros.
    if digits.len() > 16 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    (number <= INTEGER_MAX).then_some(number)
}

/// A name that compares by its bytes: 1 to `bytes_max` of them, readable, without control characters (C0, DEL, C1).
#[inline]
fn identifier(string: JsonString<'_>, bytes_max: usize) -> Option<Cow<'_, str>> {
    let name = string.read(bytes_max).ok()?;
    (!name.is_empty() && !has_control(&name)).then_some(name)
}

/// Whether there is a control character: below U+0020, U+007F, or U+0080 to U+009F.
///
/// A user id that does not come in a message (a query, a header) is to be judged by this too.
#[inline]
pub fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|byte| byte.is_ascii_control());
    }
    text.chars().any(char::is_control)
}

/// Reads `{"epoch":…,"offset":…}`, by the rules of the envelope.
fn since(raw: &str) -> Option<Since<'_>> {
    let mut object = ObjectScanner::new(raw).ok()?;
    let mut unknown = UnknownKeys::default();
    let (mut epoch, mut offset) = (None, None);
    while let Some(key) = object.next_key().ok()? {
        let value = object.value().ok()?;
        let twice = match key.read_into(&mut [0; FIELD_NAME_BYTES_MAX]).ok()? {
            "epoch" => epoch.replace(JsonString::of(value)?.read(EPOCH_BYTES_MAX).ok()?).is_some(),
            "offset" => offset.replace(integer(value.raw)?).is_some(),
            _ => unknown.note(key, value).is_err(),
        };
        if twice {
            return None;
        }
    }
    Some(Since { epoch: epoch?, offset: offset? })
}

#[cfg(test)]
mod tests;
