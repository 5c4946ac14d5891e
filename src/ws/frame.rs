//! One frame's header (RFC 6455 §5.2): strict reading, and writing for both sides.
//!
//! Judges what one header alone can break: reserved bits and opcodes, control frames that are fragmented or too long, lengths not
//! in their shortest form. Which frame may follow which, who must mask and how large a message may be is [`super::message`]'s to
//! know.

use super::mask::apply_mask;
use crate::close::CloseReason;
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;
use tungstenite::protocol::frame::FrameHeader as ClientHeader;
use tungstenite::protocol::frame::coding::OpCode as ClientOpcode;

/// Bytes of the longest header: 2, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;
/// Bytes of the longest header that a server writes: without a mask.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is (RFC 6455 §5.2). The discriminant is the value on the wire; reserved opcodes have no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text message or its first fragment.
    Text = 1,
    /// A binary message or its first fragment.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// Must be answered with a pong of the same payload.
    Ping = 9,
    /// Answer to a ping, or unasked.
    Pong = 10,
}

impl Opcode {
    /// The opcode of four bits; `None` for a reserved one.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0 => Some(Opcode::Continuation),
            1 => Some(Opcode::Text),
            2 => Some(Opcode::Binary),
            8 => Some(Opcode::Close),
            9 => Some(Opcode::Ping),
            10 => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// True for close, ping and pong, which are never fragmented and carry at most 125 bytes (RFC 6455 §5.5).
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// A frame's header as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last (or only) frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key: always there from a client, never from a server.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that the header claims: 0 to 2^63 - 1, at most 125 in a control frame.
    pub payload_length: u64,
}

/// Reads the header at the front of `bytes`, and how many bytes it takes; `None` while it is incomplete.
///
/// # Errors
/// [`CloseReason::Protocol`] as soon as the byte that breaks a rule is there.
#[inline]
pub fn read_header(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, CloseReason> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let fin = first & FIN != 0;
    let Some(opcode) = Opcode::from_bits(first & OPCODE) else { return Err(CloseReason::Protocol) };
    if first & RESERVED != 0 || (opcode.is_control() && !fin) {
        return Err(CloseReason::Protocol);
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let short = second & LENGTH;
    if opcode.is_control() && usize::from(short) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(CloseReason::Protocol);
    }
    let (payload_length, mut header_bytes) = if short < LENGTH_16 {
        (u64::from(short), 2)
    } else {
        match read_extended_length(short, &bytes[2..])? {
            Some(length) => length,
            None => return Ok(None),
        }
    };
    let mask = if second & MASKED != 0 {
        let Some(mask) = bytes[header_bytes..].first_chunk::<4>() else { return Ok(None) };
        header_bytes += mask.len();
        Some(*mask)
    } else {
        None
    };
    Ok(Some((FrameHeader { fin, opcode, mask, payload_length }, header_bytes)))
}

/// The length in the 2 or 8 `bytes` after the first two, and the header's bytes up to its end. The shortest form is required.
fn read_extended_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, CloseReason> {
    if short < LENGTH_64 {
        let Some(length) = bytes.first_chunk::<2>() else { return Ok(None) };
        let length = u16::from_be_bytes(*length);
        return if length < u16::from(LENGTH_16) { Err(CloseReason::Protocol) } else { Ok(Some((u64::from(length), 4))) };
    }
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Err(CloseReason::Protocol);
    }
    if bytes.first_chunk::<6>().is_some_and(|high| *high == [0; 6]) {
        return Err(CloseReason::Protocol); // 16 bits would have been enough
    }
    Ok(bytes.first_chunk::<8>().map(|length| (u64::from_be_bytes(*length), 10)))
}

/// A header ready to be written in front of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedHeader {
    bytes: [u8; SERVER_HEADER_BYTES_MAX],
    length: u8,
}

impl EncodedHeader {
    /// The bytes to write: 2, 4 or 10.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The header of a whole message from the server: FIN, unmasked, its length in the shortest form.
#[inline]
pub const fn header(opcode: Opcode, payload_length: usize) -> EncodedHeader {
    let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
    bytes[0] = FIN | opcode as u8;
    let length;
    if payload_length < LENGTH_16 as usize {
        bytes[1] = payload_length as u8;
        length = 2;
    } else if payload_length <= u16::MAX as usize {
        let [high, low] = (payload_length as u16).to_be_bytes();
        bytes[1] = LENGTH_16;
        bytes[2] = high;
        bytes[3] = low;
        length = 4;
    } else {
        let [a, b, c, d, e, f, g, h] = (payload_length as u64).to_be_bytes();
        bytes = [bytes[0], LENGTH_64, a, b, c, d, e, f, g, h];
        length = SERVER_HEADER_BYTES_MAX as u8;
    }
    EncodedHeader { bytes, length }
}

/// Appends a whole message from a client: FIN, masked with `mask`, which must be fresh and unguessable for each frame of a client
/// that runs other people's code (RFC 6455 §5.3).
pub fn write_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    let header = ClientHeader { opcode: ClientOpcode::from(opcode as u8), mask: Some(mask), ..ClientHeader::default() };
    out.reserve(HEADER_BYTES_MAX + payload.len());
    header.format(payload.len() as u64, out).expect("writing to a Vec does not fail");
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, CloseReason> {
        read_header(bytes)
    }

    #[test]
    fn the_headers_of_rfc_6455_section_5_7_are_read() {
        let unmasked = |fin, opcode, payload_length| FrameHeader { fin, opcode, mask: None, payload_length };
        assert_eq!(read(&[0x81, 0x05, 0x48]), Ok(Some((unmasked(true, Opcode::Text, 5), 2))));
        assert_eq!(read(&[0x01, 0x03, 0x48]), Ok(Some((unmasked(false, Opcode::Text, 3), 2))));
        assert_eq!(read(&[0x80, 0x02, 0x6c]), Ok(Some((unmasked(true, Opcode::Continuation, 2), 2))));
        assert_eq!(read(&[0x82, 0x7e, 0x01, 0x00]), Ok(Some((unmasked(true, Opcode::Binary, 256), 4))));
        assert_eq!(read(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]), Ok(Some((unmasked(true, Opcode::Binary, 65_536), 10))));
        let masked = FrameHeader { fin: true, opcode: Opcode::Pong, mask: Some([0x37, 0xfa, 0x21, 0x3d]), payload_length: 5 };
        assert_eq!(read(&[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f]), Ok(Some((masked, 6))));
    }

    #[test]
    fn every_first_byte_is_judged_as_the_rfc_says() {
        for first in 0..=u8::MAX {
            let fin = first & 0x80 != 0;
            let known = [0, 1, 2, 8, 9, 10].contains(&(first & 0x0f));
            let good = first & 0x70 == 0 && known && (fin || first & 0x0f < 8);
            assert_eq!(read(&[first]), if good { Ok(None) } else { Err(CloseReason::Protocol) }, "{first:#x}");
        }
    }

    #[test]
    fn a_control_frame_above_125_bytes_is_refused_at_its_second_byte() {
        for first in [0x88, 0x89, 0x8a] {
            assert_eq!(read(&[first, 0x80 | 125]), Ok(None));
            assert_eq!(read(&[first, 0x80 | 126]), Err(CloseReason::Protocol));
            assert_eq!(read(&[first, 0x80 | 127]), Err(CloseReason::Protocol));
        }
    }

    #[test]
    fn a_length_that_is_not_in_its_shortest_form_is_refused() {
        assert_eq!(read(&[0x82, 0xfe, 0, 125]), Err(CloseReason::Protocol));
        assert_eq!(read(&[0x82, 0x7e, 0, 126]).map(|header| header.map(|(header, _)| header.payload_length)), Ok(Some(126)));
        assert_eq!(read(&[0x82, 0xff, 0, 0, 0, 0, 0, 0]), Err(CloseReason::Protocol));
        assert_eq!(read(&[0x82, 0xff, 0, 0, 0, 0, 0]), Ok(None));
        assert_eq!(read(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Err(CloseReason::Protocol));
    }

    #[test]
    fn a_length_with_the_highest_bit_is_refused_at_that_byte() {
        assert_eq!(read(&[0x82, 0xff, 0x80]), Err(CloseReason::Protocol));
        assert_eq!(read(&[0x82, 0xff, 0x7f]), Ok(None));
        let most = read(&[0x82, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(most.map(|header| header.map(|(header, _)| header.payload_length)), Ok(Some((1 << 63) - 1)));
    }

    #[test]
    fn every_proper_prefix_of_a_header_is_incomplete() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 40] {
            let header = ClientHeader { opcode: ClientOpcode::from(2), mask: Some([1, 2, 3, 4]), ..ClientHeader::default() };
            let mut bytes = Vec::new();
            header.format(length, &mut bytes).unwrap();
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Ok(None), "{length} {end}");
            }
            let (header, header_bytes) = read(&bytes).unwrap().unwrap();
            assert_eq!((header.payload_length, header_bytes), (length, bytes.len()));
        }
    }

    #[test]
    fn the_server_writes_the_headers_that_tungstenite_writes() {
        for opcode in [Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong] {
            for length in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 65_537, 1 << 24] {
                let mut expected = Vec::new();
                let peer = ClientHeader { opcode: ClientOpcode::from(opcode as u8), ..ClientHeader::default() };
                peer.format(length as u64, &mut expected).unwrap();
                assert_eq!(header(opcode, length).as_bytes(), expected);
            }
        }
    }

    #[test]
    fn a_masked_frame_is_read_back() {
        for length in [0usize, 5, 125, 126, 70_000] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut out = b"before".to_vec();
            write_masked(&mut out, Opcode::Binary, &payload, [0x37, 0xfa, 0x21, 0x3d]);
            let (header, header_bytes) = read(&out[6..]).unwrap().unwrap();
            assert_eq!((header.fin, header.opcode, header.payload_length), (true, Opcode::Binary, length as u64));
            let mut body = out[6 + header_bytes..].to_vec();
            apply_mask(&mut body, header.mask.unwrap(), 0);
            assert_eq!(body, payload);
        }
    }
}
