//! What a client says: mostly commands that make sense at the moment, some that do not, cut and wrapped in any way.

use crate::fuzzing::input::Input;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use crate::ws::handshake::write_request;
use tungstenite::protocol::frame::FrameHeader as PeerHeader;
use tungstenite::protocol::frame::coding::OpCode as PeerOpcode;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Rooms, one spelled in two ways.
const ROOMS: [&str; 6] = ["a", "b", "c", "\\u0061", "raum-ä", "long"];
const VALUES: [&str; 8] = ["1", "{}", "\"x\"", "[1,2,3]", "null", "{\"cursor\":{\"x\":1,\"y\":2}}", "\"\\ud800\"", "oops"];

/// What a client has said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Speaker {
    /// The last number that it has used.
    seq: u64,
}

impl Speaker {
    /// An upgrade request, or something like it.
    pub(super) fn request(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let choice = input.byte();
        let mut request = Vec::new();
        let protocol = [Some("throng.v1"), None, Some("throng.v1"), Some("another, throng.v1"), Some("another")];
        let protocol = protocol[usize::from(choice >> 4) % protocol.len()];
        let path = ["/ws", "/ws?user=ann", "/?user=bob", "/echo", "/ws", "/ws?user=", "/ws?user=%ff", "/healthz", "/readyz", "/x"];
        let path = path[usize::from(choice & 15) % path.len()];
        write_request(&mut request, "localhost", path, KEY, protocol, &[]);
        if choice == 255 {
            request.truncate(usize::from(input.byte()));
        } else if protocol.is_some() && choice & 15 < 3 {
            request.extend_from_slice(&text_frame(r#"{"type":"connect","user":"cleo"}"#));
        }
        request
    }

    /// A message, in one frame or several.
    pub(super) fn message(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let text = self.text(input);
        let shape = input.byte();
        let mut bytes = Vec::new();
        match shape {
            // In fragments, with a ping between them.
            224..=239 => {
                let cut = usize::from(shape & 15) * text.len() / 16;
                push_frame(&mut bytes, 1, false, &text.as_bytes()[..cut]);
                write_masked(&mut bytes, Opcode::Ping, b"between", MASK);
                push_frame(&mut bytes, 0, true, &text.as_bytes()[cut..]);
            }
            240..=244 => write_masked(&mut bytes, Opcode::Binary, text.as_bytes(), MASK),
            _ => write_masked(&mut bytes, Opcode::Text, text.as_bytes(), MASK),
        }
        bytes
    }

    /// Its first command: to join a room, with presence.
    pub(super) fn joining(&mut self) -> Vec<u8> {
        self.seq += 1;
        text_frame(r#"{"type":"join_room","roomId":"a","presence":true,"seq":1}"#)
    }

    /// A control frame.
    pub(super) fn control(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        match input.below(8) {
            0 => {
                let code = input.pick(&[1000u16, 1001, 1002, 3000, 4900, 4901, 1005, 1014]);
                write_masked(&mut bytes, Opcode::Close, &code.to_be_bytes(), MASK);
            }
            1 => write_masked(&mut bytes, Opcode::Close, b"", MASK),
            2..=4 => write_masked(&mut bytes, Opcode::Pong, b"", MASK),
            _ => {
                let count = input.below(126);
                write_masked(&mut bytes, Opcode::Ping, input.take(count), MASK);
            }
        }
        bytes
    }

    fn text(&mut self, input: &mut Input<'_>) -> String {
        let kind = input.byte();
        let room = match ROOMS[usize::from(input.byte()) % ROOMS.len()] {
            "long" => "r".repeat(256),
            room => room.to_owned(),
        };
        let seq = self.number(input);
        let value = || VALUES[usize::from(kind >> 4) % VALUES.len()];
        let body = match kind & 15 {
            0..=2 => {
                let more = [r#","presence":true"#, "", r#","state":{"a":1}"#, r#","since":{"epoch":"AAAAAAAAAAA","offset":0}"#];
                format!(r#""type":"join_room","roomId":"{room}"{}"#, more[usize::from(kind >> 4) % 4])
            }
            3 => format!(r#""type":"leave_room","roomId":"{room}""#),
            4..=7 => {
                let more = ["", r#","echo":true"#, r#","key":"k""#, ""];
                format!(r#""type":"broadcast","roomId":"{room}","data":{}{}"#, value(), more[usize::from(kind & 3)])
            }
            8 => format!(r#""type":"set_state","roomId":"{room}","state":{}"#, value()),
            9 => {
                let more = ["", r#","limit":1"#, r#","cursor":"AAAAAAAAAAA""#, r#","cursor":"?""#];
                format!(r#""type":"presence","roomId":"{room}","id":{}{}"#, kind, more[usize::from(kind >> 4) % 4])
            }
            10 => format!(r#""type":"ping","t":{}"#, value()),
            11 => {
                // Large, to fill queues.
                let padding = "x".repeat(usize::from(input.u16()) % 6_000);
                format!(r#""type":"broadcast","roomId":"{room}","data":"{padding}""#)
            }
            12 => r#""type":"connect","user":"dan""#.to_owned(),
            13 => format!(r#""type":"history","roomId":"{room}","id":"h""#),
            14 => r#""type":"refresh","token":"t""#.to_owned(),
            _ => {
                let count = input.below(40);
                return String::from_utf8_lossy(input.take(count)).into_owned();
            }
        };
        format!("{{{body}{seq}}}")
    }

    /// A number for a command: mostly the next.
    fn number(&mut self, input: &mut Input<'_>) -> String {
        let seq = match input.byte() {
            0..=159 => {
                self.seq += 1;
                self.seq
            }
            160..=199 => return String::new(),
            // Early, or again.
            choice @ 200..=229 => self.seq + u64::from(choice - 198),
            choice @ 230..=252 => self.seq.saturating_sub(u64::from(choice - 230)),
            253 => 1 << 40,
            254 => (1 << 53) - 1,
            _ => 0,
        };
        format!(r#","seq":{seq}"#)
    }
}

/// A whole text message.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_masked(&mut bytes, Opcode::Text, text.as_bytes(), MASK);
    bytes
}

fn push_frame(bytes: &mut Vec<u8>, opcode: u8, is_final: bool, payload: &[u8]) {
    let header = PeerHeader { is_final, opcode: PeerOpcode::from(opcode), mask: Some([0; 4]), ..PeerHeader::default() };
    header.format(payload.len() as u64, bytes).expect("writing to a Vec does not fail");
    bytes.extend_from_slice(payload);
}
