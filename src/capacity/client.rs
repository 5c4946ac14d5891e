//! One connection as its client sees it: the upgrade, then messages. Bytes in, events out; no socket and no clock.
//!
//! Invariant: an open connection that is between two frames owns no heap memory: tens of thousands of them live in one process.

use super::stream::{Incoming, Stream, Violation};
use super::target::Target;
use crate::ws::handshake::{ResponseHead, read_response, write_request};
use std::mem;

/// What a connection heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// The upgrade was accepted.
    Open,
    /// The upgrade was answered with another status.
    Refused {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, in seconds, if it is there and a number.
        retry_after_s: Option<u32>,
    },
    /// What came after the upgrade.
    Message(Incoming<'a>),
}

/// The client's side of one connection.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// What the handshake's key is made from.
    nonce: u64,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing is expected.
    #[default]
    Idle,
    /// The request was sent; the beginning of the answer's head, if it was cut.
    Upgrading(Vec<u8>),
    Open(Stream),
}

impl Client {
    /// Begins anew: appends the request that opens the connection. Different nonces give different keys.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, target: &Target, nonce: u64, user: Option<&str>) {
        self.nonce = nonce;
        self.phase = Phase::Upgrading(Vec::new());
        let path = match user {
            Some(user) => {
                let separator = if target.path.contains('?') { '&' } else { '?' };
                &format!("{}{separator}user={user}", target.path)
            }
            None => &target.path,
        };
        write_request(out, &target.host, path, &key(nonce), target.protocol, &[]);
    }

    /// Whether the upgrade was accepted and nothing has ended the connection since.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Forgets everything; what comes is not expected any more.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Idle;
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Violation`]; the connection is of no use any more.
    pub(super) fn read(&mut self, target: &Target, input: &[u8], handle: &mut impl FnMut(Heard<'_>)) -> Result<(), Violation> {
        match &mut self.phase {
            Phase::Idle => Ok(()),
            Phase::Open(stream) => stream.read(input, &mut |incoming| handle(Heard::Message(incoming))),
            Phase::Upgrading(cut) => {
                let mut bytes = mem::take(cut);
                bytes.extend_from_slice(input);
                self.read_answer(target, bytes, handle)
            }
        }
    }

    fn read_answer(&mut self, target: &Target, bytes: Vec<u8>, handle: &mut impl FnMut(Heard<'_>)) -> Result<(), Violation> {
        let (response, head_bytes) = match read_response(&bytes) {
            ResponseHead::Incomplete => {
                self.phase = Phase::Upgrading(bytes);
                return Ok(());
            }
            ResponseHead::Malformed => return Err(Violation("an answer to the upgrade that is not HTTP")),
            ResponseHead::Complete { response, head_bytes } => (response, head_bytes),
        };
        if response.status != 101 {
            self.phase = Phase::Idle;
            let retry_after_s = response.header("retry-after").and_then(|value| value.parse().ok());
            handle(Heard::Refused { status: response.status, retry_after_s });
            return Ok(());
        }
        if !response.accepts(&key(self.nonce), target.protocol) {
            return Err(Violation("a 101 that does not accept what was asked for"));
        }
        if target.protocol.is_some() && response.header("sec-websocket-protocol").is_none() {
            return Err(Violation("the server does not speak the subprotocol throng.v1"));
        }
        let mut stream = Stream::default();
        handle(Heard::Open);
        let result = stream.read(&bytes[head_bytes..], &mut |incoming| handle(Heard::Message(incoming)));
        self.phase = Phase::Open(stream);
        result
    }
}

/// A handshake key: 16 bytes in base64, drawn from the nonce. RFC 6455 wants it random so that caches don't mistake one answer for
/// another; there is none between two sockets of one machine.
fn key(nonce: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = nonce;
    let mut key = String::with_capacity(24);
    for place in 0..22 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let digit = (state >> 58) as usize;
        // The last digit carries only two bits of the 16th byte.
        key.push(char::from(DIGITS[if place == 21 { digit & 0x30 } else { digit }]));
    }
    key.push_str("==");
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Opcode;
    use crate::ws::frame::header;
    use crate::ws::handshake::{Head, read_head, write_upgrade};

    fn target(protocol: Option<&'static str>) -> Target {
        Target { protocol, ..Target::parse("ws://127.0.0.1:9000/ws?x=1").unwrap() }
    }

    /// A server's answer to the request that `client` makes.
    fn answer(client: &mut Client, target: &Target, chosen: Option<&str>) -> Vec<u8> {
        let mut request = Vec::new();
        client.begin(&mut request, target, 7, Some("u7"));
        let Head::Complete { request, .. } = read_head(&request) else { panic!("no request") };
        assert_eq!(request.query_value("user").as_deref(), Some("u7"));
        let mut answer = Vec::new();
        write_upgrade(&mut answer, request.upgrade().unwrap().key, chosen);
        answer
    }

    fn read_in_pieces(client: &mut Client, target: &Target, bytes: &[u8], piece: usize) -> Result<Vec<String>, Violation> {
        let mut heard = Vec::new();
        for piece in bytes.chunks(piece) {
            client.read(target, piece, &mut |event| heard.push(format!("{event:?}")))?;
        }
        Ok(heard)
    }

    #[test]
    fn the_upgrade_and_the_first_message_are_read_at_any_cut() {
        for piece in 1..250 {
            let mut client = Client::default();
            let target = target(Some("throng.v1"));
            let mut bytes = answer(&mut client, &target, Some("throng.v1"));
            bytes.extend(header(Opcode::Text, 2).as_bytes());
            bytes.extend(b"hi");
            let heard = read_in_pieces(&mut client, &target, &bytes, piece).unwrap();
            assert_eq!(heard, ["Open", "Message(Text([104, 105]))"], "in pieces of {piece}");
            assert!(client.is_open());
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_advice() {
        let target = target(None);
        let mut client = Client::default();
        answer(&mut client, &target, None);
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
        let heard = read_in_pieces(&mut client, &target, bytes, 9).unwrap();
        assert_eq!(heard, ["Refused { status: 503, retry_after_s: Some(7) }"]);
        assert!(!client.is_open());
    }

    #[test]
    fn an_acceptance_of_another_key_or_protocol_is_a_violation() {
        let mut client = Client::default();
        let with = target(Some("throng.v1"));
        let bytes = answer(&mut client, &with, None);
        assert!(read_in_pieces(&mut client, &with, &bytes, 1_000).is_err());
        let without = target(None);
        let bytes = answer(&mut client, &without, Some("throng.v1"));
        assert!(read_in_pieces(&mut client, &without, &bytes, 1_000).is_err());
        let bytes = answer(&mut client, &without, None);
        client.begin(&mut Vec::new(), &without, 8, None);
        assert!(read_in_pieces(&mut client, &without, &bytes, 1_000).is_err());
    }

    #[test]
    fn an_answer_that_is_not_http_is_a_violation() {
        let target = target(None);
        let mut client = Client::default();
        answer(&mut client, &target, None);
        assert!(read_in_pieces(&mut client, &target, b"SSH-2.0-OpenSSH\r\n\r\n", 1_000).is_err());
    }
}
