//! Frame headers and masks against tungstenite's.
//!
//! Where tungstenite's header knows less: reserved bits, fragmented or long control frames and lengths that are not in their shortest
//! form are no errors of its parser. They are judged here, on what it has read.

use super::input::Input;
use crate::close::CloseReason;
use crate::ws::frame::{self, FrameHeader, Opcode, read_header};
use crate::ws::mask::apply_mask;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader as PeerHeader;
use tungstenite::protocol::frame::coding::OpCode as PeerOpcode;

type Verdict = Result<Option<(FrameHeader, usize)>, CloseReason>;

/// Reads the bytes as a header, and writes headers and masked frames that they choose.
///
/// # Panics
/// If ours and tungstenite's verdict differ, a header is judged too late or by its cut, or what is written is not read back.
pub fn frame(data: &[u8]) {
    check_reading(data);
    let mut input = Input::new(data);
    check_writing(&mut input);
    check_masking(&mut input);
}

fn check_reading(data: &[u8]) {
    let verdict = read_header(data);
    match peer_verdict(data) {
        Some(expected) => assert_eq!(verdict, expected),
        // An incomplete header is refused exactly if nothing can mend it.
        None => {
            let mended = peer_verdict(&mended(data)).expect("it is complete");
            assert_eq!(verdict, if mended.is_ok() { Ok(None) } else { Err(CloseReason::Protocol) });
        }
    }
    let mut earlier: Verdict = Ok(None);
    for end in 0..=data.len().min(frame::HEADER_BYTES_MAX + 1) {
        let now = read_header(&data[..end]);
        assert!(earlier == Ok(None) || now == earlier, "{earlier:?} became {now:?} with more bytes");
        earlier = now;
    }
    assert_eq!(earlier, verdict);
}

/// What is to be said of a header by tungstenite's reading of it; `None` while it is incomplete for tungstenite.
fn peer_verdict(bytes: &[u8]) -> Option<Verdict> {
    let mut cursor = Cursor::new(bytes);
    let Ok(read) = PeerHeader::parse(&mut cursor) else { return Some(Err(CloseReason::Protocol)) };
    let (header, payload_length) = read?;
    let header_bytes = cursor.position() as usize;
    let code = u8::from(header.opcode);
    let is_sound = !(header.rsv1 || header.rsv2 || header.rsv3)
        && (code < 8 || (header.is_final && payload_length <= 125))
        && header.len(payload_length) == header_bytes
        && payload_length < 1 << 63;
    if !is_sound {
        return Some(Err(CloseReason::Protocol));
    }
    let opcode = Opcode::from_bits(code).expect("tungstenite refuses reserved opcodes");
    Some(Ok(Some((FrameHeader { fin: header.is_final, opcode, mask: header.mask, payload_length }, header_bytes))))
}

/// The bytes with such a rest that the header is sound if any rest makes it so.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.is_empty() {
        bytes.push(0x81);
    }
    if bytes.len() == 1 {
        bytes.push(0);
    }
    // Large enough for 16 bits and, as the high bytes, for 64; small enough not to set the highest bit.
    bytes.resize(frame::HEADER_BYTES_MAX, 0x7e);
    bytes
}

fn check_writing(input: &mut Input<'_>) {
    let opcode = input.pick(&[Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong]);
    let length = input.magnitude() >> 1;
    let written = frame::header(opcode, length as usize);
    let peer = PeerHeader { opcode: PeerOpcode::from(opcode as u8), ..PeerHeader::default() };
    let mut expected = Vec::new();
    peer.format(length, &mut expected).expect("writing to a Vec does not fail");
    assert_eq!(written.as_bytes(), expected);
    if !opcode.is_control() || length <= 125 {
        let header = FrameHeader { fin: true, opcode, mask: None, payload_length: length };
        assert_eq!(read_header(written.as_bytes()), Ok(Some((header, expected.len()))));
    }
}

fn check_masking(input: &mut Input<'_>) {
    let mask = input.u32().to_be_bytes();
    let (start, split) = (input.below(9), usize::from(input.byte()));
    let payload = input.rest();
    let plain = &payload[start.min(payload.len())..];
    let expected: Vec<u8> = plain.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
    let mut masked = payload.to_vec();
    let masked = &mut masked[start.min(payload.len())..];
    let split = split.min(masked.len());
    apply_mask(&mut masked[..split], mask, 0);
    apply_mask(&mut masked[split..], mask, split);
    assert_eq!(masked, expected);
    let mut written = Vec::new();
    frame::write_masked(&mut written, Opcode::Binary, plain, mask);
    let header = FrameHeader { fin: true, opcode: Opcode::Binary, mask: Some(mask), payload_length: plain.len() as u64 };
    let (read, header_bytes) = read_header(&written).expect("it is sound").expect("it is whole");
    assert_eq!((read, &written[header_bytes..]), (header, &expected[..]));
}
