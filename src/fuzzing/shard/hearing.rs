//! What a client hears: an HTTP answer, and after a 101 frames that a client can rely on.

use crate::ws::Opcode;
use crate::ws::frame::read_header;
use crate::ws::handshake::{ResponseHead, read_response};
use serde_json::value::RawValue;

/// The stream from the server, as far as it was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Hearing {
    bytes: Vec<u8>,
    is_upgraded: bool,
    is_refused: bool,
    is_closed: bool,
    acked: u64,
}

impl Hearing {
    /// Takes further bytes.
    ///
    /// # Panics
    /// If they are not what a server may say.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if self.is_refused {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        let mut at = 0;
        if !self.is_upgraded {
            match read_response(&self.bytes) {
                ResponseHead::Incomplete => return,
                ResponseHead::Malformed => panic!("the answer is not HTTP: {:?}", String::from_utf8_lossy(&self.bytes)),
                ResponseHead::Complete { response, head_bytes } => {
                    self.is_upgraded = response.status == 101;
                    self.is_refused = !self.is_upgraded;
                    at = head_bytes;
                }
            }
        }
        while self.is_upgraded
            && let Some((header, header_bytes)) = read_header(&self.bytes[at..]).expect("the header of a frame is sound")
        {
            let start = at + header_bytes;
            let end = start + header.payload_length as usize;
            if end > self.bytes.len() {
                break;
            }
            assert!(header.fin && header.mask.is_none() && !self.is_closed, "{header:?} comes, closed: {}", self.is_closed);
            let payload = self.bytes[start..end].to_vec();
            self.hear_frame(header.opcode, &payload);
            at = end;
        }
        self.bytes.drain(..at);
    }

    fn hear_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Close => {
                self.is_closed = true;
                assert!(payload.len() != 1);
                assert!(std::str::from_utf8(payload.get(2..).unwrap_or(&[])).is_ok());
            }
            Opcode::Text => {
                let text = std::str::from_utf8(payload).expect("a text message is UTF-8");
                // An echo says what its client did.
                if let Some(rest) = text.strip_prefix("{\"type\":\"ack\",\"seq\":") {
                    let acked: Option<u64> = rest.strip_suffix('}').and_then(|number| number.parse().ok());
                    let acked = acked.expect("an ack is a number");
                    assert!(acked >= self.acked, "ack {acked} comes after {}", self.acked);
                    self.acked = acked;
                } else if text.starts_with("{\"type\":\"error\"") || text.starts_with("{\"type\":\"room_joined\"") {
                    serde_json::from_str::<&RawValue>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                }
            }
            Opcode::Binary | Opcode::Ping | Opcode::Pong => {}
            Opcode::Continuation => panic!("a server sends no fragments"),
        }
    }
}
