//! What the server says: one writer for each frame of PROTOCOL §5.
//!
//! Each appends one JSON object to `out` and allocates nothing else. Ids of rooms and users are UTF-8 of any content and are escaped
//! no more than JSON requires, so their bytes stay; `data`, `state`, `id` and `t` are raw JSON that was checked when it came and is
//! repeated as it came. Session and connection ids and epochs are numbers here and opaque texts on the wire ([`id64`](super::id64)).
//!
//! Invariant: `broadcast`, `room_joined` and every other frame of a room begins with `type` and then `roomId`, and a `broadcast` goes
//! on with `data`: clients exist that compare the beginning of a frame.

use super::error_code::ErrorCode;
use super::id64::write_id64;
use super::scan::plain_prefix;
use crate::limits::{Limits, REORDER_BYTES_MAX, REORDER_COMMANDS_MAX, ROOM_ID_BYTES_MAX, USER_ID_BYTES_MAX, WINDOW};
use crate::time::WallMillis;
use std::ops::Range;

/// The first frame of a `throng.v1` connection.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// The session: the connection's id in presence and in `from`.
    pub session: u64,
    /// How the client may come back for it; none if it may not.
    pub resume: Option<ResumeOffer<'a>>,
    /// What the client missed, if the session goes on.
    pub resumed: Option<ResumedSession<'a>>,
    /// The first `seq` that is expected.
    pub next_seq: u64,
    /// Silence after which the server pings, in ms.
    pub heartbeat_ms: u64,
    /// Time for the answer, in ms.
    pub timeout_ms: u64,
    /// Window over which a client spreads its first attempts after a crash, in ms.
    pub spread_ms: Option<u64>,
    /// What the client must not exceed.
    pub limits: &'a Limits,
    /// Names of what this server can do beyond the base.
    pub features: &'a [&'a str],
    /// The server's clock.
    pub server_time: WallMillis,
}

/// How a session may be resumed.
#[derive(Clone, Copy, Debug)]
pub struct ResumeOffer<'a> {
    /// The token: text that needs no escape.
    pub token: &'a [u8],
    /// How long the session waits without a connection, in ms.
    pub ttl_ms: u64,
}

/// What a client that went on with its session is told.
#[derive(Clone, Copy, Debug)]
pub struct ResumedSession<'a> {
    /// The fields of `rooms`, as [`write_resumed_room`] wrote them.
    pub rooms: &'a [u8],
    /// Commands that were refused for good, of which the client may not know.
    pub failed: &'a [(u64, ErrorCode)],
}

/// What a client missed of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// All of it follows.
    Following {
        /// So many publications.
        count: u64,
    },
    /// Something is lost, and nothing follows.
    Lost {
        /// Why.
        reason: GapReason,
        /// The epoch of the room's numbering.
        epoch: u64,
        /// Where the client goes on.
        offset: u64,
    },
}

/// A room of a session that goes on.
#[derive(Clone, Copy, Debug)]
pub struct ResumedRoom<'a> {
    /// The room.
    pub room: &'a [u8],
    /// What its client missed.
    pub missed: Missed,
}

/// Writes a field of `welcome.rooms`.
pub fn write_resumed_room(out: &mut Vec<u8>, resumed: &ResumedRoom<'_>) {
    if !out.is_empty() {
        out.push(b',');
    }
    write_string(out, resumed.room);
    match resumed.missed {
        Missed::Following { count } => number(out, b":{\"complete\":true,\"count\":", count),
        Missed::Lost { reason, epoch: epoch_, offset } => {
            word(out, b":{\"gap\":{\"reason\":\"", reason.wire());
            out.push(b'}');
            epoch(out, epoch_);
            number(out, b",\"offset\":", offset);
        }
    }
    out.push(b'}');
}

/// Writes `welcome`.
pub fn write_welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) {
    out.extend_from_slice(b"{\"type\":\"welcome\",\"sessionId\":\"");
    write_id64(out, welcome.session);
    out.push(b'"');
    if let Some(resume) = &welcome.resume {
        out.extend_from_slice(b",\"resumeToken\":\"");
        out.extend_from_slice(resume.token);
        number(out, b"\",\"resumeTtlMs\":", resume.ttl_ms);
    }
    write_resumed(out, welcome.resumed.as_ref());
    number(out, b",\"nextSeq\":", welcome.next_seq);
    number(out, b",\"heartbeatMs\":", welcome.heartbeat_ms);
    number(out, b",\"timeoutMs\":", welcome.timeout_ms);
    optional_number(out, b",\"spreadMs\":", welcome.spread_ms);
    let limits = welcome.limits;
    number(out, b",\"limits\":{\"maxMessageBytes\":", limits.message_bytes_max as u64);
    number(out, b",\"window\":", u64::from(WINDOW));
    number(out, b",\"maxRooms\":", limits.rooms_per_connection_max as u64);
    number(out, b",\"maxRoomIdBytes\":", ROOM_ID_BYTES_MAX as u64);
    number(out, b",\"maxUserIdBytes\":", USER_ID_BYTES_MAX as u64);
    number(out, b",\"maxStateBytes\":", limits.presence_state_bytes_max as u64);
    number(out, b",\"maxPresenceMembers\":", limits.presence_members_max as u64);
    number(out, b",\"reorderCommands\":", REORDER_COMMANDS_MAX as u64);
    number(out, b",\"reorderBytes\":", REORDER_BYTES_MAX as u64);
    number(out, b",\"reorderMs\":", limits.reorder_age_ms);
    out.extend_from_slice(b"},\"features\":[");
    for (index, feature) in welcome.features.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, feature.as_bytes());
    }
    number(out, b"],\"serverTimeMs\":", welcome.server_time.0);
    out.push(b'}');
}

fn write_resumed(out: &mut Vec<u8>, resumed: Option<&ResumedSession<'_>>) {
    let Some(resumed) = resumed else {
        out.extend_from_slice(b",\"resumed\":false");
        return;
    };
    out.extend_from_slice(b",\"resumed\":true,\"rooms\":{");
    out.extend_from_slice(resumed.rooms);
    out.push(b'}');
    for (place, (seq, code)) in resumed.failed.iter().enumerate() {
        number(out, if place == 0 { b",\"failed\":[{\"seq\":" } else { b",{\"seq\":" }, *seq);
        word(out, b",\"code\":\"", code.wire());
        out.push(b'}');
    }
    if !resumed.failed.is_empty() {
        out.push(b']');
    }
}

/// Why a recovery could not be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// History no longer reaches back to the client's position.
    Expired,
    /// The room's numbering began anew.
    EpochChanged,
    /// More was missed than the server sends again.
    WindowExceeded,
}

impl GapReason {
    /// The word on the wire.
    pub const fn wire(self) -> &'static str {
        match self {
            GapReason::Expired => "expired",
            GapReason::EpochChanged => "epoch_changed",
            GapReason::WindowExceeded => "window_exceeded",
        }
    }
}

/// How many are in a room, where it is too large to name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Different users.
    pub users: u64,
    /// Their connections.
    pub connections: u64,
}

/// Who is in a room.
#[derive(Clone, Copy, Debug)]
pub enum Members<'a> {
    /// One page of the list.
    Page {
        /// The array, as [`MemberWriter`](super::member::MemberWriter) wrote it.
        members: &'a [u8],
        /// What the next question must repeat, if there is more: text that needs no escape.
        cursor: Option<&'a [u8]>,
    },
    /// The room is too large for a list.
    Counts(Counts),
}

/// What a client learns of a room's presence.
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a> {
    /// The version that later diffs apply to.
    pub version: u64,
    /// Who is there.
    pub members: Members<'a>,
}

/// The answer to `join_room`.
#[derive(Clone, Copy, Debug)]
pub struct RoomJoined<'a> {
    /// The room.
    pub room: &'a [u8],
    /// The command's number, if it had one.
    pub seq: Option<u64>,
    /// The epoch of the room's numbering.
    pub epoch: u64,
    /// The offset of the newest publication; 0 if there was none.
    pub offset: u64,
    /// Whether all that came after the client's position follows.
    pub recovered: bool,
    /// Why not, if a position was given.
    pub gap: Option<GapReason>,
    /// The room's presence, if it was asked for.
    pub presence: Option<Presence<'a>>,
}

/// Writes `room_joined`.
pub fn write_room_joined(out: &mut Vec<u8>, joined: &RoomJoined<'_>) {
    out.extend_from_slice(b"{\"type\":\"room_joined\",\"roomId\":");
    write_string(out, joined.room);
    optional_number(out, b",\"seq\":", joined.seq);
    epoch(out, joined.epoch);
    number(out, b",\"offset\":", joined.offset);
    out.extend_from_slice(if joined.recovered { b",\"recovered\":true" } else { b",\"recovered\":false" });
    write_gap_reason(out, joined.gap);
    if let Some(presence) = &joined.presence {
        write_presence(out, presence);
    }
    out.push(b'}');
}

/// Writes `presence_state`: the answer to the question `id`, or unasked.
pub fn write_presence_state(out: &mut Vec<u8>, room: &[u8], id: Option<&[u8]>, epoch_: u64, presence: &Presence<'_>) {
    out.extend_from_slice(b"{\"type\":\"presence_state\",\"roomId\":");
    write_string(out, room);
    optional_raw(out, b",\"id\":", id);
    epoch(out, epoch_);
    write_presence(out, presence);
    out.push(b'}');
}

fn write_presence(out: &mut Vec<u8>, presence: &Presence<'_>) {
    number(out, b",\"version\":", presence.version);
    match presence.members {
        Members::Page { members, cursor } => {
            optional_raw(out, b",\"members\":", Some(members));
            if let Some(cursor) = cursor {
                out.extend_from_slice(b",\"cursor\":");
                write_string(out, cursor);
            }
        }
        Members::Counts(counts) => write_counts(out, counts),
    }
}

fn write_counts(out: &mut Vec<u8>, counts: Counts) {
    number(out, b",\"counts\":{\"users\":", counts.users);
    number(out, b",\"connections\":", counts.connections);
    out.push(b'}');
}

/// Writes `presence_diff` with `counts` in place of lists, for a room that is too large for them.
pub fn write_presence_counts(out: &mut Vec<u8>, room: &[u8], epoch: u64, version: u64, counts: Counts) {
    begin_presence_diff(out, room, epoch);
    number(out, b",\"version\":", version);
    write_counts(out, counts);
    out.push(b'}');
}

/// The beginning that both kinds of `presence_diff` share.
pub(super) fn begin_presence_diff(out: &mut Vec<u8>, room: &[u8], epoch_: u64) {
    out.extend_from_slice(b"{\"type\":\"presence_diff\",\"roomId\":");
    write_string(out, room);
    epoch(out, epoch_);
}

/// Why a client is no longer in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftReason {
    /// It asked to leave.
    Left,
    /// It was put out.
    Kicked,
    /// It may not be there any more.
    Forbidden,
    /// The room was closed.
    Closed,
}

impl LeftReason {
    /// The word on the wire.
    pub const fn wire(self) -> &'static str {
        match self {
            LeftReason::Left => "left",
            LeftReason::Kicked => "kicked",
            LeftReason::Forbidden => "forbidden",
            LeftReason::Closed => "closed",
        }
    }
}

/// Writes `room_left`; `seq` is that of the command that asked for it.
pub fn write_room_left(out: &mut Vec<u8>, room: &[u8], reason: LeftReason, seq: Option<u64>) {
    out.extend_from_slice(b"{\"type\":\"room_left\",\"roomId\":");
    write_string(out, room);
    word(out, b",\"reason\":\"", reason.wire());
    optional_number(out, b",\"seq\":", seq);
    out.push(b'}');
}

/// A publication on its way to a member.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<'a> {
    /// The room.
    pub room: &'a [u8],
    /// What was published, raw JSON.
    pub data: &'a [u8],
    /// Its number in the room; none if it is volatile.
    pub offset: Option<u64>,
    /// Who published it.
    pub user: &'a [u8],
    /// The session that published it.
    pub connection: u64,
    /// What it supersedes.
    pub key: Option<&'a [u8]>,
    /// When the room took it.
    pub ts: WallMillis,
    /// Its author's number for it: only to the author, in a recovery.
    pub seq: Option<u64>,
}

/// Writes `broadcast`. Returns where in `out` its key stands, as the JSON string that it is there; an empty range if it has none.
pub fn write_broadcast(out: &mut Vec<u8>, broadcast: &Broadcast<'_>) -> Range<usize> {
    out.extend_from_slice(b"{\"type\":\"broadcast\",\"roomId\":");
    write_string(out, broadcast.room);
    optional_raw(out, b",\"data\":", Some(broadcast.data));
    optional_number(out, b",\"offset\":", broadcast.offset);
    out.extend_from_slice(b",\"from\":{\"user\":");
    write_string(out, broadcast.user);
    out.extend_from_slice(b",\"connection\":\"");
    write_id64(out, broadcast.connection);
    out.extend_from_slice(b"\"}");
    let mut key_place = 0..0;
    if let Some(key) = broadcast.key {
        out.extend_from_slice(b",\"key\":");
        key_place.start = out.len();
        write_string(out, key);
        key_place.end = out.len();
    }
    number(out, b",\"ts\":", broadcast.ts.0);
    optional_number(out, b",\"seq\":", broadcast.seq);
    out.push(b'}');
    key_place
}

/// The beginning of an answer to `history`; its publications follow, and [`HistoryWriter::finish`].
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The room.
    pub room: &'a [u8],
    /// Which question, raw JSON as it came.
    pub id: Option<&'a [u8]>,
    /// The epoch of the room's numbering.
    pub epoch: u64,
    /// The offset of the newest publication; 0 if there was none.
    pub offset: u64,
    /// Why the publications do not begin where was asked.
    pub gap: Option<GapReason>,
}

/// Writes `history`, publication by publication.
#[derive(Debug)]
pub struct HistoryWriter<'a> {
    out: &'a mut Vec<u8>,
    first: usize,
}

impl<'a> HistoryWriter<'a> {
    /// Begins the answer.
    pub fn new(out: &'a mut Vec<u8>, history: &History<'_>) -> Self {
        out.extend_from_slice(b"{\"type\":\"history\",\"roomId\":");
        write_string(out, history.room);
        optional_raw(out, b",\"id\":", history.id);
        epoch(out, history.epoch);
        number(out, b",\"offset\":", history.offset);
        write_gap_reason(out, history.gap);
        out.extend_from_slice(b",\"publications\":[");
        let first = out.len();
        HistoryWriter { out, first }
    }

    /// Adds a publication: the JSON of its `broadcast`.
    pub fn publication(&mut self, broadcast: &[u8]) {
        if !self.is_empty() {
            self.out.push(b',');
        }
        self.out.extend_from_slice(broadcast);
    }

    /// Whether it has no publication yet.
    pub fn is_empty(&self) -> bool {
        self.out.len() == self.first
    }

    /// Bytes of its publications.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.first
    }

    /// Ends the answer; `more` if there are publications after these.
    pub fn finish(self, more: bool) {
        self.out.extend_from_slice(if more { b"],\"more\":true}" } else { b"]}" });
    }
}

fn write_gap_reason(out: &mut Vec<u8>, gap: Option<GapReason>) {
    if let Some(reason) = gap {
        word(out, b",\"gap\":{\"reason\":\"", reason.wire());
        out.push(b'}');
    }
}

/// Writes a `broadcast` that was written before once more, with the number that it had in its author's session.
pub fn write_numbered(out: &mut Vec<u8>, broadcast: &[u8], seq: u64) {
    out.extend_from_slice(broadcast.strip_suffix(b"}").unwrap_or(broadcast));
    number(out, b",\"seq\":", seq);
    out.push(b'}');
}

/// Writes `ack`: all commands up to `seq` are decided.
pub fn write_ack(out: &mut Vec<u8>, seq: u64) {
    number(out, b"{\"type\":\"ack\",\"seq\":", seq);
    out.push(b'}');
}

/// Writes `nack`: send again from `expected_seq`; `received` is the early number that showed the gap.
pub fn write_nack(out: &mut Vec<u8>, expected_seq: u64, received: u64) {
    number(out, b"{\"type\":\"nack\",\"expectedSeq\":", expected_seq);
    number(out, b",\"received\":", received);
    out.push(b'}');
}

/// Writes `gap`: this connection lost the offsets `from` to `to` of the room, both included, because it was too slow.
pub fn write_gap(out: &mut Vec<u8>, room: &[u8], from: u64, to: u64) {
    out.extend_from_slice(b"{\"type\":\"gap\",\"roomId\":");
    write_string(out, room);
    number(out, b",\"from\":", from);
    number(out, b",\"to\":", to);
    out.extend_from_slice(b",\"reason\":\"slow_consumer\"}");
}

/// An `error`. Most are [`ErrorFrame::new`] and one or two fields more.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFrame<'a> {
    /// What went wrong; tells whether the command may be sent again.
    pub code: ErrorCode,
    /// A sentence for the client's developer.
    pub message: &'a str,
    /// When to send again at the earliest, in ms.
    pub retry_after_ms: Option<u64>,
    /// Which command, if it had a number.
    pub seq: Option<u64>,
    /// Which question, raw JSON as it came.
    pub id: Option<&'a str>,
    /// Which room, where that helps.
    pub room: Option<&'a [u8]>,
    /// The number that is expected next (`seq_duplicate`, `seq_required`).
    pub expected_seq: Option<u64>,
    /// The first and the last number that were given up (`seq_skipped`), both included.
    pub missing: Option<(u64, u64)>,
}

impl<'a> ErrorFrame<'a> {
    /// The code with its default message and nothing else.
    pub fn new(code: ErrorCode) -> Self {
        let message = code.message();
        ErrorFrame { code, message, retry_after_ms: None, seq: None, id: None, room: None, expected_seq: None, missing: None }
    }

    /// What is wrong with a message that could not be decoded.
    pub fn of(fault: super::Fault<'a>) -> Self {
        ErrorFrame { message: fault.message, seq: fault.seq, id: fault.id, ..ErrorFrame::new(fault.code) }
    }
}

/// Writes `error`.
pub fn write_error(out: &mut Vec<u8>, error: &ErrorFrame<'_>) {
    word(out, b"{\"type\":\"error\",\"code\":\"", error.code.wire());
    out.extend_from_slice(b",\"message\":");
    write_string(out, error.message.as_bytes());
    out.extend_from_slice(if error.code.retryable() { b",\"retryable\":true" } else { b",\"retryable\":false" });
    optional_number(out, b",\"retryAfterMs\":", error.retry_after_ms);
    optional_number(out, b",\"seq\":", error.seq);
    optional_raw(out, b",\"id\":", error.id.map(str::as_bytes));
    if let Some(room) = error.room {
        out.extend_from_slice(b",\"roomId\":");
        write_string(out, room);
    }
    optional_number(out, b",\"expectedSeq\":", error.expected_seq);
    if let Some((from, to)) = error.missing {
        number(out, b",\"missing\":{\"from\":", from);
        number(out, b",\"to\":", to);
        out.push(b'}');
    }
    out.push(b'}');
}

/// Writes `reconnect`: come again after `after_ms`; `reason` is a word such as `drain`.
pub fn write_reconnect(out: &mut Vec<u8>, after_ms: u64, reason: &str, url: Option<&str>) {
    number(out, b"{\"type\":\"reconnect\",\"afterMs\":", after_ms);
    out.extend_from_slice(b",\"reason\":");
    write_string(out, reason.as_bytes());
    if let Some(url) = url {
        out.extend_from_slice(b",\"url\":");
        write_string(out, url.as_bytes());
    }
    out.push(b'}');
}

/// Writes `pong` with the `t` of its `ping`.
pub fn write_pong(out: &mut Vec<u8>, t: Option<&str>) {
    out.extend_from_slice(b"{\"type\":\"pong\"");
    optional_raw(out, b",\"t\":", t.map(str::as_bytes));
    out.push(b'}');
}

/// Writes the text of a close frame that says when to come again (PROTOCOL §7). At most 28 bytes.
pub fn write_close_advice(out: &mut Vec<u8>, retry_after_ms: u64) {
    number(out, b"{\"ra\":", retry_after_ms);
    out.push(b'}');
}

/// Writes a JSON string: UTF-8 as it is, and an escape only where RFC 8259 §7 requires one.
#[inline]
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let plain = plain_prefix(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(byte) = rest.get(plain) else { break };
        write_escape(out, *byte);
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

#[cold]
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
    }
}

/// Writes a number in decimal.
#[inline]
pub fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[inline]
fn number(out: &mut Vec<u8>, before: &[u8], number: u64) {
    out.extend_from_slice(before);
    write_integer(out, number);
}

#[inline]
fn optional_number(out: &mut Vec<u8>, before: &[u8], value: Option<u64>) {
    if let Some(value) = value {
        number(out, before, value);
    }
}

#[inline]
fn optional_raw(out: &mut Vec<u8>, before: &[u8], raw: Option<&[u8]>) {
    if let Some(raw) = raw {
        out.extend_from_slice(before);
        out.extend_from_slice(raw);
    }
}

/// A string of ours that needs no escape; `before` ends with its opening quote.
fn word(out: &mut Vec<u8>, before: &[u8], word: &str) {
    out.extend_from_slice(before);
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn epoch(out: &mut Vec<u8>, epoch: u64) {
    out.extend_from_slice(b",\"epoch\":\"");
    write_id64(out, epoch);
    out.push(b'"');
}

#[cfg(test)]
mod tests;
