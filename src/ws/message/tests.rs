//! Streams are built with tungstenite's frames, so that what is read was not written by the code under test.

use super::*;
use crate::ws::frame::write_masked;
use std::io::{self, Read, Write};
use tungstenite::protocol::frame::coding::OpCode;
use tungstenite::protocol::frame::{Frame as PeerFrame, FrameHeader as PeerHeader};
use tungstenite::protocol::{Role, WebSocket};

const MAX: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(CloseReason),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Seen::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Seen::Pong(bytes.to_owned()),
            Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
        }
    }
}

/// One connection's reader, and everything that it saw.
#[derive(Default)]
struct Reader {
    assembler: Option<Box<Assembler>>,
    pool: AssemblerPool,
    seen: Vec<Seen>,
    frames: u32,
}

impl Reader {
    /// Reads `bytes` as one receive would deliver them; false once it has failed.
    fn feed(&mut self, bytes: &[u8], message_bytes_max: usize) -> bool {
        let mut input = bytes.to_vec();
        let mut at = 0;
        loop {
            match read(&mut self.assembler, &mut self.pool, &mut input[at..], message_bytes_max) {
                Step::More { frames } => {
                    self.frames += frames;
                    return true;
                }
                Step::Event { consumed, frames, event } => {
                    self.frames += frames;
                    self.seen.push(event.into());
                    at += consumed;
                    assert_eq!(input[at..], bytes[at..], "input that was not consumed has been changed");
                }
                Step::Failed(reason) => {
                    self.seen.push(Seen::Failed(reason));
                    return false;
                }
            }
        }
    }

    fn held(&self) -> usize {
        self.assembler.as_ref().map_or(0, |held| held.bytes_held())
    }
}

fn frame(opcode: u8, fin: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let header = PeerHeader { is_final: fin, opcode: OpCode::from(opcode), mask: Some(mask), ..PeerHeader::default() };
    let mut bytes = Vec::new();
    PeerFrame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
    bytes
}

fn stream(frames: &[(u8, bool, &[u8])]) -> Vec<u8> {
    frames
        .iter()
        .enumerate()
        .flat_map(|(index, (opcode, fin, payload))| frame(*opcode, *fin, payload, [index as u8, 0xfe, 0x80, 7]))
        .collect()
}

fn read_all(bytes: &[u8]) -> Vec<Seen> {
    let mut reader = Reader::default();
    reader.feed(bytes, MAX);
    reader.seen
}

/// Everything that is seen when the stream comes byte by byte, and the byte at which it failed.
fn read_bytewise(bytes: &[u8], message_bytes_max: usize) -> (Vec<Seen>, Option<usize>) {
    let mut reader = Reader::default();
    let failed = (0..bytes.len()).find(|index| !reader.feed(&bytes[*index..*index + 1], message_bytes_max));
    (reader.seen, failed)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
    fn text(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| ['a', '\0', 'é', '\u{7ff}', '\u{800}', '\u{d7ff}', '\u{ffff}', '\u{10000}', '\u{10ffff}'][self.below(9)])
            .collect()
    }
}

#[test]
fn the_masked_example_of_rfc_6455_section_5_7_is_read() {
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read_all(&bytes), [Seen::Text("Hello".into())]);
}

#[test]
fn a_whole_frame_is_handed_out_of_the_input_and_nothing_is_held() {
    let mut input = frame(1, true, b"{\"type\":\"ping\"}", [1, 2, 3, 4]);
    let range = input.as_ptr_range();
    let (mut assembler, mut pool) = (None, AssemblerPool::new());
    let Step::Event { event: Event::Text(text), consumed: 21, frames: 1 } = read(&mut assembler, &mut pool, &mut input, MAX) else {
        panic!("not the text")
    };
    assert!(range.contains(&text.as_ptr()));
    assert!(assembler.is_none());
    assert_eq!(pool.bytes_held(), 0);
}

#[test]
fn a_whole_control_frame_within_a_fragmented_message_is_handed_out_of_the_input() {
    let (mut assembler, mut pool) = (None, AssemblerPool::new());
    let mut first = stream(&[(1, false, b"ab")]);
    assert_eq!(read(&mut assembler, &mut pool, &mut first, MAX), Step::More { frames: 1 });
    let mut input = stream(&[(9, true, b"p"), (0, true, b"c")]);
    let range = input.as_ptr_range();
    let Step::Event { event: Event::Ping(payload), consumed, .. } = read(&mut assembler, &mut pool, &mut input, MAX) else {
        panic!("not the ping")
    };
    assert!(range.contains(&payload.as_ptr()));
    let step = read(&mut assembler, &mut pool, &mut input[consumed..], MAX);
    assert_eq!(step, Step::Event { consumed: 7, frames: 1, event: Event::Text("abc") });
}

fn script() -> (Vec<u8>, Vec<Seen>) {
    let long = vec![b'x'; 130];
    let bytes = stream(&[
        (1, true, "héllo".as_bytes()),
        (1, false, &"a€".as_bytes()[..2]),
        (9, true, b"one"),
        (0, false, b""),
        (0, false, &"€𐍈".as_bytes()[1..5]),
        (10, true, b""),
        (0, true, &"𐍈".as_bytes()[2..]),
        (2, true, b""),
        (2, false, b"\xff\x00"),
        (0, true, &long),
        (1, true, b""),
        (8, true, b"\x03\xe8bye"),
    ]);
    let binary = [b"\xff\x00", long.as_slice()].concat();
    let seen = vec![
        Seen::Text("héllo".into()),
        Seen::Ping(b"one".into()),
        Seen::Pong(vec![]),
        Seen::Text("a€𐍈".into()),
        Seen::Binary(vec![]),
        Seen::Binary(binary),
        Seen::Text(String::new()),
        Seen::Close(Some(1000), "bye".into()),
    ];
    (bytes, seen)
}

#[test]
fn a_script_gives_the_same_events_however_it_is_cut_in_three() {
    let (bytes, expected) = script();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let mut reader = Reader::default();
            for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                assert!(reader.feed(part, MAX));
            }
            assert_eq!(reader.seen, expected, "{first} {second}");
            assert_eq!(reader.frames, 12);
            assert!(reader.assembler.is_none());
        }
    }
}

#[test]
fn a_script_gives_the_same_events_byte_by_byte() {
    let (bytes, expected) = script();
    assert_eq!(read_bytewise(&bytes, MAX), (expected, None));
}

#[test]
fn random_messages_in_random_fragments_and_chunks_come_out_as_they_went_in() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let (mut bytes, mut expected, mut frames) = (Vec::new(), Vec::new(), 0);
        for _ in 0..random.below(12) + 1 {
            let length = [0, 3, 60, 126, 700, 5_000][random.below(6)];
            let (opcode, payload) = if random.below(2) == 0 {
                let text = random.text(length);
                expected.push(Seen::Text(text.clone()));
                (1, text.into_bytes())
            } else {
                let payload = random.bytes(length);
                expected.push(Seen::Binary(payload.clone()));
                (2, payload)
            };
            let message = expected.pop().unwrap();
            let (mut rest, mut opcode) = (payload.as_slice(), opcode);
            loop {
                let last = random.below(3) == 0;
                let (part, after) = rest.split_at(if last { rest.len() } else { random.below(rest.len() + 1) });
                bytes.extend(frame(opcode, last, part, random.next().to_be_bytes()[..4].try_into().unwrap()));
                frames += 1;
                (rest, opcode) = (after, 0);
                if last {
                    break;
                }
                if random.below(3) == 0 {
                    let length = random.below(126);
                    let payload = random.bytes(length);
                    bytes.extend(frame(9, true, &payload, [4, 3, 2, 1]));
                    expected.push(Seen::Ping(payload));
                    frames += 1;
                }
            }
            expected.push(message);
        }
        let mut reader = Reader::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let size = [1, 2, 7, 64, 1_000, 100_000][random.below(6)];
            let (chunk, after) = rest.split_at(rest.len().min(random.below(size) + 1));
            assert!(reader.feed(chunk, MAX), "seed {seed}");
            assert!(reader.held() <= mem::size_of::<Assembler>() + MAX);
            rest = after;
        }
        assert_eq!(reader.seen, expected, "seed {seed}");
        assert_eq!(reader.frames, frames, "seed {seed}");
        assert!(reader.assembler.is_none(), "seed {seed}");
    }
}

#[test]
fn a_damaged_stream_gets_the_same_verdict_however_it_is_cut() {
    let (bytes, _) = script();
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let mut damaged = bytes.clone();
        for _ in 0..random.below(3) + 1 {
            let at = random.below(damaged.len());
            damaged[at] ^= 1 << random.below(8);
        }
        let message_bytes_max = [3, 100, MAX][random.below(3)];
        let mut whole = Reader::default();
        whole.feed(&damaged, message_bytes_max);
        let (bytewise, _) = read_bytewise(&damaged, message_bytes_max);
        assert_eq!(bytewise, whole.seen, "seed {seed}");
        let mut chunked = Reader::default();
        let mut rest = damaged.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(random.below(rest.len()) + 1);
            rest = if chunked.feed(chunk, message_bytes_max) { after } else { &[] };
        }
        assert_eq!(chunked.seen, whole.seen, "seed {seed}");
    }
}

/// Takes what a client writes.
struct Wire(Vec<u8>);

impl Read for Wire {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_tungstenite_client_sends_is_read() {
    let mut client = WebSocket::from_raw_socket(Wire(Vec::new()), Role::Client, None);
    let text = "ж".repeat(40_000 / 2);
    client.send(tungstenite::Message::text(text.as_str())).unwrap();
    client.send(tungstenite::Message::binary(vec![7; 126])).unwrap();
    client.send(tungstenite::Message::Ping(vec![1, 2].into())).unwrap();
    client.close(None).unwrap();
    let bytes = &client.get_ref().0;
    for chunk in [1, 3, 1_000, bytes.len()] {
        let mut reader = Reader::default();
        assert!(bytes.chunks(chunk).all(|chunk| reader.feed(chunk, MAX)));
        let expected =
            [Seen::Text(text.clone()), Seen::Binary(vec![7; 126]), Seen::Ping(vec![1, 2]), Seen::Close(None, String::new())];
        assert_eq!(reader.seen, expected);
    }
}

#[test]
fn an_unmasked_frame_fails_at_its_second_byte() {
    assert_eq!(read_all(&[0x81, 0x00]), [Seen::Failed(CloseReason::Protocol)]);
    assert_eq!(read_all(&[0x82, 0x7e]), [Seen::Failed(CloseReason::Protocol)]);
    assert_eq!(read_bytewise(&[0x82, 0x7f], MAX), (vec![Seen::Failed(CloseReason::Protocol)], Some(1)));
}

#[test]
fn a_header_that_breaks_a_rule_fails_also_when_it_is_cut() {
    for bytes in [&[0xc1][..], &[0x83], &[0x8b], &[0x09], &[0x88, 0xfe], &[0x82, 0xfe, 0, 1], &[0x82, 0xff, 0x80]] {
        assert_eq!(read_bytewise(bytes, MAX), (vec![Seen::Failed(CloseReason::Protocol)], Some(bytes.len() - 1)), "{bytes:?}");
    }
}

#[test]
fn a_continuation_needs_an_open_message() {
    assert_eq!(read_all(&stream(&[(0, true, b"x")])), [Seen::Failed(CloseReason::Protocol)]);
    assert_eq!(read_all(&stream(&[(0, false, b"")])), [Seen::Failed(CloseReason::Protocol)]);
    let after_message = stream(&[(1, false, b"x"), (0, true, b"y"), (0, true, b"z")]);
    assert_eq!(read_all(&after_message), [Seen::Text("xy".into()), Seen::Failed(CloseReason::Protocol)]);
}

#[test]
fn an_open_message_takes_only_continuations() {
    for opcode in [1, 2] {
        for fin in [false, true] {
            let bytes = stream(&[(2, false, b"x"), (9, true, b""), (opcode, fin, b"y")]);
            assert_eq!(read_all(&bytes), [Seen::Ping(vec![]), Seen::Failed(CloseReason::Protocol)]);
        }
    }
}

#[test]
fn a_frame_above_the_maximum_fails_with_its_header() {
    let bytes = frame(2, true, &[0; 101], [1, 2, 3, 4]);
    assert_eq!(read_bytewise(&bytes, 101), (vec![Seen::Binary(vec![0; 101])], None));
    assert_eq!(read_bytewise(&bytes, 100), (vec![Seen::Failed(CloseReason::TooLarge)], Some(5)));
    let claims_all = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(read_all(&claims_all), [Seen::Failed(CloseReason::TooLarge)]);
}

#[test]
fn fragments_above_the_maximum_together_fail_with_the_header_that_exceeds_it() {
    let fits = stream(&[(1, false, &[b'a'; 60]), (0, false, &[b'b'; 39]), (0, true, b"c")]);
    assert!(matches!(&read_bytewise(&fits, 100).0[..], [Seen::Text(text)] if text.len() == 100));
    let first = stream(&[(1, false, &[b'a'; 60])]);
    let exceeds = [first.clone(), stream(&[(0, false, &[b'b'; 41])])].concat();
    assert_eq!(read_bytewise(&exceeds, 100), (vec![Seen::Failed(CloseReason::TooLarge)], Some(first.len() + 5)));
    let in_a_character = stream(&[(1, false, "a€".as_bytes().split_last().unwrap().1), (0, true, &[0xac, b'b'])]);
    assert_eq!(read_all(&in_a_character), [Seen::Text("a€b".into())]);
    assert_eq!(read_bytewise(&in_a_character, 4).0, [Seen::Failed(CloseReason::TooLarge)]);
}

#[test]
fn control_frames_do_not_count_against_the_maximum() {
    let bytes = stream(&[(1, false, b"ab"), (9, true, &[1; 125]), (0, true, b"c")]);
    assert_eq!(read_bytewise(&bytes, 3).0, [Seen::Ping(vec![1; 125]), Seen::Text("abc".into())]);
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let mut reader = Reader::default();
    let bytes = frame(2, true, &vec![0; 1 << 20], [0; 4]);
    assert!(reader.feed(&bytes[..24], 1 << 24));
    assert!(reader.held() < 1_024, "{}", reader.held());
    assert!(reader.feed(&bytes[24..100_000], 1 << 24));
    assert!(reader.held() < 201_000, "{}", reader.held());
    assert!(reader.feed(&bytes[100_000..bytes.len() - 1], 1 << 24));
    assert!(reader.held() <= mem::size_of::<Assembler>() + (1 << 20), "the claim of a last frame bounds its buffer");
}

#[test]
fn a_large_message_in_many_chunks_never_holds_more_than_the_maximum() {
    let mut reader = Reader::default();
    let part = "ю".repeat(32 * 1024);
    let bytes = stream(&(0..16).map(|index| (if index == 0 { 1 } else { 0 }, index == 15, part.as_bytes())).collect::<Vec<_>>());
    for chunk in bytes.chunks(997) {
        assert!(reader.feed(chunk, 1 << 20));
        assert!(reader.held() <= mem::size_of::<Assembler>() + (1 << 20));
    }
    assert!(matches!(&reader.seen[..], [Seen::Text(text)] if text.len() == 1 << 20));
    assert_eq!(reader.frames, 16);
}

#[test]
fn valid_characters_at_every_boundary_pass_in_single_bytes_and_fragments() {
    for character in
        ['\0', '\u{7f}', '\u{80}', '\u{7ff}', '\u{800}', '\u{d7ff}', '\u{e000}', '\u{fffd}', '\u{ffff}', '\u{10000}', '\u{10ffff}']
    {
        let text = format!("<{character}>");
        let bytes = text.as_bytes();
        let fragments: Vec<(u8, bool, &[u8])> = (0..bytes.len())
            .map(|index| (if index == 0 { 1 } else { 0 }, index + 1 == bytes.len(), &bytes[index..=index]))
            .collect();
        assert_eq!(read_all(&stream(&fragments)), [Seen::Text(text.clone())]);
        assert_eq!(read_bytewise(&frame(1, true, bytes, [9, 8, 7, 6]), MAX).0, [Seen::Text(text.clone())]);
    }
}

/// Sequences that are not UTF-8, up to and with the byte that decides it (RFC 3629 §4).
const INVALID: [&[u8]; 20] = [
    b"\x80",
    b"\xbf",
    b"\xc0",
    b"\xc1",
    b"\xf5",
    b"\xf8",
    b"\xfe",
    b"\xff",
    b"\xc2\x7f",
    b"\xc2\xc2",
    b"\xdf\xc0",
    b"\xe0\x9f",
    b"\xed\xa0",
    b"\xe1\x80\x7f",
    b"\xef\xbf\xc0",
    b"\xf0\x8f",
    b"\xf4\x90",
    b"\xf1\x80\x00",
    b"\xf1\x80\x80\x41",
    b"\xf4\x8f\xbf\xc0",
];

#[test]
fn invalid_text_fails_at_the_byte_that_decides_it() {
    for invalid in INVALID {
        for before in ["", "abc", "é", "€", "𐍈"] {
            let payload = [before.as_bytes(), invalid, &[b'z'; 200]].concat();
            let decided = before.len() + invalid.len() - 1;
            let failed = vec![Seen::Failed(CloseReason::InvalidUtf8)];
            assert_eq!(read_bytewise(&frame(1, true, &payload, [5; 4]), MAX), (failed.clone(), Some(8 + decided)), "{payload:?}");
            // The rest of the frame is not needed, wherever the receive ended.
            let mut reader = Reader::default();
            assert!(!reader.feed(&frame(1, true, &payload, [5; 4])[..8 + decided + 1], MAX));
            assert_eq!(reader.seen, failed);
            let fragments: Vec<_> =
                payload.chunks(1).enumerate().map(|(index, part)| (u8::from(index == 0), false, part)).collect();
            assert_eq!(read_bytewise(&stream(&fragments), MAX), (failed, Some(7 * decided + 6)), "{payload:?}");
        }
    }
}

#[test]
fn random_bytes_as_text_fail_where_the_standard_library_says() {
    let alphabet = [0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf3, 0xf4];
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let payload: Vec<u8> = (0..12).map(|_| alphabet[random.below(alphabet.len())]).collect();
        let decided =
            (0..payload.len()).find(|at| str::from_utf8(&payload[..=*at]).is_err_and(|error| error.error_len().is_some()));
        let bytes = frame(1, true, &payload, [random.next() as u8; 4]);
        let cut = 6 + random.below(payload.len());
        let mut reader = Reader::default();
        let first = reader.feed(&bytes[..cut], MAX);
        assert_eq!(first, decided.is_none_or(|decided| 6 + decided >= cut), "{payload:x?} {cut}");
        if first {
            assert_eq!(reader.feed(&bytes[cut..], MAX), str::from_utf8(&payload).is_ok(), "{payload:x?} {cut}");
        }
        let (_, failed) = read_bytewise(&bytes, MAX);
        let at_the_end = str::from_utf8(&payload).is_err().then_some(bytes.len() - 1);
        assert_eq!(failed, decided.map(|decided| 6 + decided).or(at_the_end), "{payload:x?}");
    }
}

#[test]
fn a_text_that_ends_within_a_character_fails() {
    for end in [b"\xc2".as_slice(), b"\xe2\x82", b"\xf0\x90\x8d"] {
        assert_eq!(read_all(&frame(1, true, end, [0; 4])), [Seen::Failed(CloseReason::InvalidUtf8)]);
        assert_eq!(read_bytewise(&frame(1, true, end, [0; 4]), MAX).0, [Seen::Failed(CloseReason::InvalidUtf8)]);
        let fragments = stream(&[(1, false, end), (0, true, b"")]);
        assert_eq!(read_all(&fragments), [Seen::Failed(CloseReason::InvalidUtf8)]);
    }
}

#[test]
fn a_close_frame_may_carry_exactly_the_codes_that_a_peer_may_send() {
    for code in 0..=u16::MAX {
        let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if allowed { Seen::Close(Some(code), String::new()) } else { Seen::Failed(CloseReason::Protocol) };
        assert_eq!(read_all(&frame(8, true, &code.to_be_bytes(), [3; 4])), [expected]);
    }
}

#[test]
fn a_close_frame_carries_nothing_or_a_code_and_a_reason_in_utf8() {
    let close = |payload: &[u8]| {
        let bytes = frame(8, true, payload, [1, 2, 3, 4]);
        let whole = read_all(&bytes);
        assert_eq!(read_bytewise(&bytes, MAX).0, whole);
        whole
    };
    assert_eq!(close(b""), [Seen::Close(None, String::new())]);
    assert_eq!(close(b"\x03"), [Seen::Failed(CloseReason::Protocol)]);
    assert_eq!(close("\u{3}\u{1}ü".as_bytes()), [Seen::Failed(CloseReason::Protocol)]);
    assert_eq!(close(b"\x03\xe9\xc3\xbc"), [Seen::Close(Some(1001), "ü".into())]);
    assert_eq!(close(b"\x03\xe8\xff"), [Seen::Failed(CloseReason::InvalidUtf8)]);
    assert_eq!(close(b"\x03\xe8\xc3"), [Seen::Failed(CloseReason::InvalidUtf8)]);
    let longest = [b"\x0f\xa0".as_slice(), &[b'r'; 123]].concat();
    assert_eq!(close(&longest), [Seen::Close(Some(4000), "r".repeat(123))]);
}

#[test]
fn what_the_client_side_writes_is_read() {
    let mut bytes = Vec::new();
    write_masked(&mut bytes, Opcode::Text, "grüße".as_bytes(), [1, 2, 3, 4]);
    write_masked(&mut bytes, Opcode::Ping, b"", [0; 4]);
    assert_eq!(read_all(&bytes), [Seen::Text("grüße".into()), Seen::Ping(vec![])]);
}

#[test]
fn a_cut_message_takes_its_assembler_from_the_pool_and_gives_it_back() {
    let mut reader = Reader::default();
    let bytes = frame(1, true, &[b'a'; 5_000], [0; 4]);
    reader.feed(&bytes[..3_000], MAX);
    assert_eq!(reader.pool.bytes_held(), 0);
    reader.feed(&bytes[3_000..], MAX);
    let held = reader.pool.bytes_held();
    assert!(held >= 5_000 && reader.assembler.is_none());
    let address: *const Assembler = &*reader.pool.free[0];
    for chunk in bytes.repeat(20).chunks(1_001) {
        reader.feed(chunk, MAX);
    }
    assert_eq!(reader.pool.bytes_held(), held, "steady traffic needs no more than its first message");
    assert_eq!(address, &*reader.pool.free[0] as *const Assembler);
}

#[test]
fn an_assembler_that_is_released_within_a_message_remembers_nothing_of_it() {
    let mut reader = Reader::default();
    let cuts = [
        stream(&[(1, false, b"\xe2\x82")]),
        vec![0x82],
        frame(9, true, b"abc", [1; 4])[..8].to_vec(),
        frame(2, true, b"abc", [1; 4])[..8].to_vec(),
    ];
    for cut in cuts {
        reader.feed(&cut, MAX);
        assert!(reader.assembler.is_some());
        reader.pool.release(&mut reader.assembler);
        let whole = frame(1, true, b"fresh", [1; 4]);
        reader.feed(&whole[..7], MAX);
        reader.feed(&whole[7..], MAX);
        assert_eq!(reader.seen.pop(), Some(Seen::Text("fresh".into())));
    }
}

#[test]
fn the_pool_is_bounded_in_number_and_bytes_and_keeps_no_big_buffer() {
    let (mut pool, bytes) = (AssemblerPool::new(), frame(2, true, &vec![0; 200_000], [0; 4]));
    let begin = |pool: &mut AssemblerPool, length: usize| {
        let mut assembler = None;
        read(&mut assembler, pool, &mut bytes[..length].to_vec(), 1 << 20);
        assembler
    };
    let mut big = begin(&mut pool, 150_000);
    pool.release(&mut big);
    assert!(pool.bytes_held() < 1_024, "the buffer went back to the allocator");
    let mut many: Vec<_> = (0..ASSEMBLERS_POOLED_MAX + 10).map(|_| begin(&mut pool, 20)).collect();
    many.iter_mut().for_each(|assembler| pool.release(assembler));
    assert_eq!(pool.free.len(), ASSEMBLERS_POOLED_MAX);
    let mut large: Vec<_> = (0..200).map(|_| begin(&mut pool, 60_000)).collect();
    large.iter_mut().for_each(|assembler| pool.release(assembler));
    assert!(pool.bytes <= ASSEMBLER_POOL_BYTES_MAX);
    assert_eq!(pool.bytes, pool.free.iter().map(|assembler| assembler.bytes_held()).sum::<usize>());
}
