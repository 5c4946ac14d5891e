//! What the client says: one writer for each message of PROTOCOL §4.
//!
//! A command is kept without its `seq`, which a new session changes: [`number`] completes it. `data` and `state` are raw JSON that was
//! checked before.

use super::room::Position;
use crate::protocol::encode::{write_integer, write_string};

/// What `connect` takes up again.
pub(crate) struct Resume<'a> {
    pub(crate) token: &'a str,
    pub(crate) acked: u64,
    /// Rooms with their positions and, where the list is current, the version of their presence.
    pub(crate) rooms: &'a [(&'a str, &'a Position, Option<u64>)],
}

/// What opens a connection.
pub(crate) struct Connect<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
    pub(crate) resume: Option<Resume<'a>>,
    pub(crate) attempt: u64,
    pub(crate) last_code: Option<u16>,
}

pub(crate) fn connect(connect: &Connect<'_>) -> Vec<u8> {
    let mut out = b"{\"type\":\"connect\"".to_vec();
    text(&mut out, "user", connect.user);
    text(&mut out, "token", connect.token);
    if let Some(resume) = &connect.resume {
        out.extend_from_slice(b",\"resume\":{\"token\":");
        write_string(&mut out, resume.token.as_bytes());
        integer(&mut out, "acked", resume.acked);
        out.extend_from_slice(b",\"rooms\":{");
        for (index, (room, position, version)) in resume.rooms.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(&mut out, room.as_bytes());
            out.extend_from_slice(b":{\"epoch\":");
            write_string(&mut out, position.epoch.as_bytes());
            integer(&mut out, "offset", position.offset);
            if let Some(version) = version {
                integer(&mut out, "version", *version);
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"}}");
    }
    integer(&mut out, "attempt", connect.attempt);
    if let Some(code) = connect.last_code {
        integer(&mut out, "lastCode", u64::from(code));
    }
    out.extend_from_slice(b",\"client\":{\"name\":\"throng-rust\"}}");
    out
}

/// `join_room` without `seq`.
pub(crate) fn join(room: &str, since: Option<&Position>, presence: bool, state: Option<&str>, latest: bool) -> Vec<u8> {
    let mut out = of_room("join_room", room);
    if let Some(since) = since {
        out.extend_from_slice(b",\"since\":{\"epoch\":");
        write_string(&mut out, since.epoch.as_bytes());
        integer(&mut out, "offset", since.offset);
        out.push(b'}');
    }
    if presence {
        out.extend_from_slice(b",\"presence\":true");
    }
    raw(&mut out, "state", state);
    if latest {
        out.extend_from_slice(b",\"mode\":\"latest\"");
    }
    out
}

/// `leave_room` without `seq`.
pub(crate) fn leave(room: &str) -> Vec<u8> {
    of_room("leave_room", room)
}

/// `broadcast` without `seq`.
pub(crate) fn broadcast(room: &str, data: &str, key: Option<&str>, echo: bool) -> Vec<u8> {
    let mut out = of_room("broadcast", room);
    raw(&mut out, "data", Some(data));
    text(&mut out, "key", key);
    if echo {
        out.extend_from_slice(b",\"echo\":true");
    }
    out
}

/// `set_state` without `seq`.
pub(crate) fn set_state(room: &str, state: &str) -> Vec<u8> {
    let mut out = of_room("set_state", room);
    raw(&mut out, "state", Some(state));
    out
}

/// `presence`, whole.
pub(crate) fn presence(room: &str, id: u64, cursor: Option<&str>) -> Vec<u8> {
    let mut out = of_room("presence", room);
    integer(&mut out, "id", id);
    text(&mut out, "cursor", cursor);
    out.push(b'}');
    out
}

/// `refresh`, whole.
pub(crate) fn refresh(token: &str) -> Vec<u8> {
    let mut out = b"{\"type\":\"refresh\"".to_vec();
    text(&mut out, "token", Some(token));
    out.push(b'}');
    out
}

/// `ping`, whole.
pub(crate) fn ping() -> &'static [u8] {
    b"{\"type\":\"ping\"}"
}

/// A command with its number.
pub(crate) fn number(command: &[u8], seq: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(command.len() + SEQ_BYTES_MAX);
    out.extend_from_slice(command);
    integer(&mut out, "seq", seq);
    out.push(b'}');
    out
}

/// Bytes that [`number`] adds at most.
pub(crate) const SEQ_BYTES_MAX: usize = 8 + 16;

/// A volatile command: without a number.
pub(crate) fn end(mut command: Vec<u8>) -> Vec<u8> {
    command.push(b'}');
    command
}

fn of_room(kind: &str, room: &str) -> Vec<u8> {
    let mut out = b"{\"type\":\"".to_vec();
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"roomId\":");
    write_string(&mut out, room.as_bytes());
    out
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn integer(out: &mut Vec<u8>, key: &str, value: u64) {
    name(out, key);
    write_integer(out, value);
}

fn text(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        name(out, key);
        write_string(out, value.as_bytes());
    }
}

fn raw(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        name(out, key);
        out.extend_from_slice(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Command, decode};

    fn read(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("UTF-8 is written")
    }

    #[test]
    fn what_is_written_is_what_the_server_reads() {
        let since = Position { epoch: "e1".into(), offset: 41 };
        let bytes = number(&join("a\"b", Some(&since), true, Some("{\"x\":1}"), true), 3);
        let envelope = decode(read(&bytes)).expect("a join");
        let Command::JoinRoom { room, since: Some(read_since), presence: true, state: Some("{\"x\":1}"), latest: true } =
            envelope.command
        else {
            panic!("{envelope:?}")
        };
        assert_eq!((&*room, &*read_since.epoch, read_since.offset, envelope.seq), ("a\"b", "e1", 41, Some(3)));
        let bytes = number(&broadcast("r", "[1]", Some("k"), true), 9);
        let envelope = decode(read(&bytes)).expect("a broadcast");
        assert!(matches!(envelope.command, Command::Broadcast { data: "[1]", echo: true, key: Some(_), .. }));
        assert!(decode(read(&number(&set_state("r", "7"), 1))).is_ok() && decode(read(&number(&leave("r"), 1))).is_ok());
        assert!(decode(read(&presence("r", 5, Some("c")))).is_ok() && decode(read(&refresh("t"))).is_ok());
        assert!(decode(read(ping())).is_ok() && decode(read(&end(broadcast("r", "1", None, false)))).is_ok());
    }

    #[test]
    fn a_connect_is_read_with_everything_in_it() {
        let position = Position { epoch: "e".into(), offset: 4 };
        let rooms = [("r1", &position, Some(2)), ("r2", &position, None)];
        let resume = Some(Resume { token: "secret", acked: 7, rooms: &rooms });
        let bytes = connect(&Connect { user: Some("ada"), token: Some("t"), resume, attempt: 3, last_code: Some(1006) });
        let envelope = decode(read(&bytes)).expect("a connect");
        assert!(matches!(envelope.command, Command::Connect { resume: Some(_), attempt: Some(3), last_code: Some(1006), .. }));
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
        assert_eq!(json["resume"]["rooms"]["r1"], serde_json::json!({"epoch": "e", "offset": 4, "version": 2}));
        assert_eq!((&json["resume"]["acked"], &json["resume"]["token"]), (&7.into(), &"secret".into()));
    }
}
