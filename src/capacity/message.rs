//! The few messages of the protocol that a load needs: written as a client writes them, and recognised by their beginning.
//!
//! Recognising is no parsing: a server's frame begins with its type and room, and the numbers that are looked for follow. What a
//! message carries was made here, so it is compared with what is expected.

use std::io::Write;

/// What kind of message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Welcome,
    RoomJoined,
    Broadcast,
    Ack,
    Error,
    Pong,
    /// Publications were lost to this connection.
    Gap,
    /// Presence and whatever a later server may say.
    Other,
}

/// The kind of a server's message.
pub(super) fn kind_of(message: &[u8]) -> Kind {
    let Some(rest) = message.strip_prefix(b"{\"type\":\"") else { return Kind::Other };
    let word = rest.split(|byte| *byte == b'"').next().unwrap_or(rest);
    match word {
        b"welcome" => Kind::Welcome,
        b"room_joined" => Kind::RoomJoined,
        b"broadcast" => Kind::Broadcast,
        b"ack" => Kind::Ack,
        b"error" => Kind::Error,
        b"pong" => Kind::Pong,
        b"gap" => Kind::Gap,
        _ => Kind::Other,
    }
}

/// The number behind the first `marker`, such as `"seq":`.
pub(super) fn number_after(message: &[u8], marker: &[u8]) -> Option<u64> {
    let at = message.windows(marker.len()).position(|window| window == marker)? + marker.len();
    leading_number(&message[at..])
}

/// The number at the beginning.
pub(super) fn leading_number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}

/// The rooms of one run: names that no other run on the same server uses.
#[derive(Clone, Debug)]
pub(super) struct Rooms(String);

impl Rooms {
    pub(super) fn new() -> Rooms {
        Rooms(format!("bench-{}-", std::process::id()))
    }
    pub(super) fn name(&self, number: u32) -> String {
        format!("{}{number}", self.0)
    }
}

/// Writes messages into a buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// The opening of the subprotocol.
    pub(super) fn connect(&mut self) -> &[u8] {
        self.write(format_args!("{{\"type\":\"connect\"}}"))
    }

    pub(super) fn join(&mut self, room: &str, seq: u64, presence: bool) -> &[u8] {
        let presence = if presence { ",\"presence\":true" } else { "" };
        self.write(format_args!("{{\"type\":\"join_room\",\"roomId\":\"{room}\",\"seq\":{seq}{presence}}}"))
    }

    pub(super) fn ping(&mut self, t: u64) -> &[u8] {
        self.write(format_args!("{{\"type\":\"ping\",\"t\":{t}}}"))
    }

    /// A publication with `data` in its place; without `seq` it is volatile under `throng.v1`, unacknowledged in plain.
    pub(super) fn broadcast(&mut self, room: &str, seq: Option<u64>, data: &[u8]) -> &[u8] {
        self.write(format_args!("{{\"type\":\"broadcast\",\"roomId\":\"{room}\",\"data\":"));
        self.0.extend_from_slice(data);
        if let Some(seq) = seq {
            let _ = write!(self.0, ",\"seq\":{seq}");
        }
        self.0.push(b'}');
        &self.0
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) -> &[u8] {
        self.0.clear();
        // Writing to a Vec does not fail.
        let _ = self.0.write_fmt(text);
        &self.0
    }
}

/// The data of publication `number`: an object of `bytes` bytes, or of the least that holds its numbers.
pub(super) fn write_data(out: &mut Vec<u8>, publisher: u32, number: u64, bytes: usize) {
    out.clear();
    let _ = write!(out, "{{\"n\":{number},\"p\":{publisher},\"x\":\"");
    while out.len() + 2 < bytes {
        out.push(b'x');
    }
    out.extend_from_slice(b"\"}");
}

/// Number and publisher in a message that carries such data, wherever it stands.
pub(super) fn read_data(message: &[u8]) -> Option<(u64, u32)> {
    const MARKER: &[u8] = b"{\"n\":";
    let at = if message.starts_with(MARKER) { 0 } else { message.windows(MARKER.len()).position(|window| window == MARKER)? };
    let rest = &message[at + MARKER.len()..];
    let number = leading_number(rest)?;
    let at = rest.iter().position(|byte| *byte == b',')?;
    let publisher = leading_number(rest[at..].strip_prefix(b",\"p\":")?)?;
    Some((number, u32::try_from(publisher).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::decode;

    #[test]
    fn the_server_understands_what_is_written() {
        let mut writer = Writer::default();
        let room = Rooms::new().name(3);
        let mut data = Vec::new();
        write_data(&mut data, 9, 12, 128);
        assert_eq!(data.len(), 128);
        let messages = [
            writer.connect().to_vec(),
            writer.join(&room, 1, true).to_vec(),
            writer.join(&room, 1, false).to_vec(),
            writer.ping(5).to_vec(),
            writer.broadcast(&room, Some(2), &data).to_vec(),
            writer.broadcast(&room, None, &data).to_vec(),
        ];
        for message in messages {
            let text = std::str::from_utf8(&message).unwrap();
            assert!(decode(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn data_is_found_alone_and_within_a_broadcast() {
        let mut data = Vec::new();
        write_data(&mut data, 9, 12, 0);
        assert_eq!(read_data(&data), Some((12, 9)));
        let broadcast = [b"{\"type\":\"broadcast\",\"roomId\":\"r\",\"data\":", data.as_slice(), b",\"offset\":1}"].concat();
        assert_eq!((kind_of(&broadcast), read_data(&broadcast)), (Kind::Broadcast, Some((12, 9))));
        for bad in ["", "{}", "{\"n\":}", "{\"n\":1}", "{\"n\":1,\"p\":}", "{\"n\":1,\"p\":99999999999}"] {
            assert_eq!(read_data(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn kinds_and_numbers_are_recognised() {
        assert_eq!(kind_of(b"{\"type\":\"ack\",\"seq\":17}"), Kind::Ack);
        assert_eq!(number_after(b"{\"type\":\"ack\",\"seq\":17}", b"\"seq\":"), Some(17));
        assert_eq!(kind_of(b"{\"type\":\"acknowledged\"}"), Kind::Other);
        assert_eq!(kind_of(b"{\"type\":\"ack"), Kind::Ack);
        assert_eq!((kind_of(b""), number_after(b"", b"x"), number_after(b"x", b"x")), (Kind::Other, None, None));
    }
}
