//! What a server sends, from bytes to messages: the answer to the upgrade, then frames (RFC 6455, the client's side).
//!
//! The server is not trusted: whatever it may not send is a [`Violation`], and nothing grows by what a header merely claims. What a
//! message means is not known here.
//!
//! Invariant: at most one message of [`MESSAGE_BYTES_MAX`], its frame header, and what came behind it in the same read are held.

use super::limits::{INPUT_BYTES_KEPT, MESSAGE_BYTES_MAX};
use crate::ws::Opcode;
use crate::ws::frame::read_header;
use crate::ws::handshake::{Response, ResponseHead, read_response};

/// What the server did against RFC 6455 or beyond our bounds: the code that we close with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) u16);

const PROTOCOL: Violation = Violation(1002);
const INVALID_UTF8: Violation = Violation(1007);
const TOO_LARGE: Violation = Violation(1009);

/// Something that the server said, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A message that no client of ours asks for.
    Binary,
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or unasked.
    Pong,
    /// The server's last frame.
    Close { code: Option<u16>, reason: &'a str },
}

/// The receiving half of a connection.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    bytes: Vec<u8>,
    /// How far `bytes` has been read.
    at: usize,
    /// The fragments of an unfinished message, and whether it is text.
    fragments: Option<(bool, Vec<u8>)>,
    /// The last message, where it came in fragments.
    message: Vec<u8>,
}

impl Inbound {
    /// Takes what has come.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
            if self.bytes.capacity() > INPUT_BYTES_KEPT && bytes.len() <= INPUT_BYTES_KEPT {
                self.bytes = Vec::new();
            }
        } else if self.at >= self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads the answer to the upgrade and passes it to `judge`; `None` while it is incomplete.
    ///
    /// # Errors
    /// If it is no HTTP answer, or too large for one.
    pub(crate) fn read_head<T>(&mut self, judge: impl FnOnce(&Response<'_>) -> T) -> Result<Option<T>, Violation> {
        match read_response(&self.bytes[self.at..]) {
            ResponseHead::Incomplete => Ok(None),
            ResponseHead::Malformed => Err(PROTOCOL),
            ResponseHead::Complete { response, head_bytes } => {
                let verdict = judge(&response);
                self.at += head_bytes;
                Ok(Some(verdict))
            }
        }
    }

    /// Reads on to the next message or control frame; `None` when more has to come first.
    ///
    /// # Errors
    /// [`Violation`]; nothing more may be read then.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming<'_>>, Violation> {
        self.message = Vec::new();
        loop {
            let Some((header, header_bytes)) = read_header(&self.bytes[self.at..]).map_err(|_| PROTOCOL)? else { return Ok(None) };
            // A server never masks (RFC 6455 §5.1).
            if header.mask.is_some() {
                return Err(PROTOCOL);
            }
            let held = self.fragments.as_ref().map_or(0, |(_, bytes)| bytes.len());
            if header.payload_length > (MESSAGE_BYTES_MAX - held) as u64 {
                return Err(TOO_LARGE);
            }
            let start = self.at + header_bytes;
            let end = start + header.payload_length as usize;
            if end > self.bytes.len() {
                return Ok(None);
            }
            self.at = end;
            let payload = start..end;
            match header.opcode {
                Opcode::Ping => return Ok(Some(Incoming::Ping(&self.bytes[payload]))),
                Opcode::Pong => return Ok(Some(Incoming::Pong)),
                Opcode::Close => return close(&self.bytes[payload]).map(Some),
                Opcode::Text | Opcode::Binary => {
                    if self.fragments.is_some() {
                        return Err(PROTOCOL);
                    }
                    let is_text = header.opcode == Opcode::Text;
                    if header.fin {
                        return message(is_text, &self.bytes[payload]).map(Some);
                    }
                    self.fragments = Some((is_text, self.bytes[payload].to_vec()));
                }
                Opcode::Continuation => {
                    let (_, held) = self.fragments.as_mut().ok_or(PROTOCOL)?;
                    held.extend_from_slice(&self.bytes[payload]);
                    if header.fin {
                        let (is_text, whole) = self.fragments.take().ok_or(PROTOCOL)?;
                        self.message = whole;
                        return message(is_text, &self.message).map(Some);
                    }
                }
            }
        }
    }
}

fn message(is_text: bool, bytes: &[u8]) -> Result<Incoming<'_>, Violation> {
    if !is_text {
        return Ok(Incoming::Binary);
    }
    std::str::from_utf8(bytes).map(Incoming::Text).map_err(|_| INVALID_UTF8)
}

fn close(payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Incoming::Close { code: None, reason: "" }) } else { Err(PROTOCOL) };
    };
    let reason = std::str::from_utf8(reason).map_err(|_| INVALID_UTF8)?;
    Ok(Incoming::Close { code: Some(u16::from_be_bytes(*code)), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame::header;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(Opcode::Text, payload.len()).as_bytes().to_vec();
        bytes[0] = first;
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Everything that `bytes` say, handed over in pieces of `size`.
    fn heard(bytes: &[u8], size: usize) -> Result<Vec<String>, Violation> {
        let mut inbound = Inbound::default();
        let mut heard = Vec::new();
        for piece in bytes.chunks(size) {
            inbound.push(piece);
            while let Some(incoming) = inbound.next()? {
                heard.push(format!("{incoming:?}"));
            }
        }
        Ok(heard)
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let parts = [
            frame(0x81, "ünï".as_bytes()),
            frame(0x01, b"a"),
            frame(0x89, b"p"),
            frame(0x00, b"b"),
            frame(0x80, b"c"),
            frame(0x82, b"x"),
        ];
        let bytes: Vec<u8> = parts.concat().into_iter().chain(frame(0x81, &[b'z'; 70_000])).chain(frame(0x88, &[3, 232])).collect();
        let whole = heard(&bytes, bytes.len()).expect("all is allowed");
        assert_eq!(whole[..4], [r#"Text("ünï")"#, "Ping([112])", r#"Text("abc")"#, "Binary"]);
        assert_eq!(whole[5], r#"Close { code: Some(1000), reason: "" }"#);
        for size in [1, 2, 3, 7, 4_096] {
            assert_eq!(heard(&bytes, size).expect("all is allowed"), whole, "pieces of {size}");
        }
    }

    #[test]
    fn what_a_server_may_not_send_is_refused() {
        assert_eq!(heard(&[0x81, 0x81, 1, 2, 3, 4, 5], 9), Err(PROTOCOL), "masked");
        assert_eq!(heard(&[frame(0x01, b"a"), frame(0x81, b"b")].concat(), 9), Err(PROTOCOL), "a message within a message");
        assert_eq!(heard(&frame(0x80, b"a"), 9), Err(PROTOCOL), "a continuation of nothing");
        assert_eq!(heard(&frame(0x81, &[0xff]), 9), Err(INVALID_UTF8));
        assert_eq!(heard(&frame(0x88, &[3]), 9), Err(PROTOCOL), "half a close code");
        let claim = header(Opcode::Text, MESSAGE_BYTES_MAX + 1);
        assert_eq!(heard(claim.as_bytes(), 99), Err(TOO_LARGE), "as soon as it is claimed");
    }

    #[test]
    fn a_large_message_does_not_keep_its_buffer() {
        let mut inbound = Inbound::default();
        inbound.push(&frame(0x81, &[b'z'; 200_000]));
        assert!(matches!(inbound.next(), Ok(Some(Incoming::Text(_)))));
        inbound.push(b"\x81");
        assert!(inbound.bytes.capacity() <= INPUT_BYTES_KEPT);
    }
}
