//! The assembler against tungstenite's, on a client's stream that is built and cut as the bytes say.
//!
//! Both must see the same messages and fail alike. Ours fails at the byte that decides, tungstenite's when a frame is whole; so where
//! ours has failed and tungstenite waits, the frame at fault is made whole with zeros, and then tungstenite must fail too. Exceptions:
//! tungstenite takes lengths that are not in their shortest form; knows no close code 1014; turns a close code that must not be sent
//! into a close of its own; and judges the size of a frame before everything else about it, and the text of a close reason before
//! its code.

use super::input::{Cuts, Input};
use crate::close::CloseReason;
use crate::ws::mask::apply_mask;
use crate::ws::message::{Assembler, AssemblerPool, Event, Step, read};
use std::io::{self, Cursor, Read, Write};
use tungstenite::protocol::frame::FrameHeader as PeerHeader;
use tungstenite::protocol::frame::coding::OpCode as PeerOpcode;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error as PeerError, Message as PeerMessage};

/// Bytes of a stream at most.
const STREAM_BYTES_MAX: usize = 6_000;
/// Bytes of the reading buffer of tungstenite: small, because it is filled with zeros for each stream.
const PEER_BUFFER_BYTES: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// Reads a stream whole, in pieces and byte by byte, and has tungstenite read it.
///
/// # Panics
/// If the four see different messages or fail differently, or an assembler holds more than its message may have.
pub fn message(data: &[u8]) {
    let mut input = Input::new(data);
    let message_bytes_max = input.pick(&[300, 125, 1_000, 4_096]);
    let mut cuts = Cuts::new(u64::from(input.byte()));
    let stream = build(&mut input);
    let mut pool = AssemblerPool::new();
    let whole = Reader::new(message_bytes_max).read(&mut pool, &stream, |left| left);
    let pieces = Reader::new(message_bytes_max).read(&mut pool, &stream, |left| cuts.next(left));
    let bytes = Reader::new(message_bytes_max).read(&mut pool, &stream, |_| 1);
    for cut in [&pieces, &bytes] {
        assert_eq!((&whole.seen, whole.failed), (&cut.seen, cut.failed), "it depends on the cuts");
    }
    assert!(bytes.end <= pieces.end && pieces.end <= whole.end);
    check_against_peer(&stream, &bytes, message_bytes_max);
}

/// A client's stream: mostly sound frames, some that are not, and some bytes as they come.
fn build(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < STREAM_BYTES_MAX {
        let kind = input.byte();
        let opcode = [0, 0, 1, 1, 2, 8, 9, 10][usize::from(kind & 7)];
        match kind >> 5 {
            7 => {
                let count = input.below(24);
                stream.extend_from_slice(input.take(count));
            }
            6 => push_odd_frame(&mut stream, input),
            shape => {
                let is_final = opcode >= 8 || kind & 8 == 0;
                let mut payload = match shape {
                    0..=2 => {
                        let count = input.below(60);
                        input.take(count).to_vec()
                    }
                    // Long ones, of a few bytes that repeat.
                    _ => {
                        let count = usize::from(input.u16() % 1_100);
                        let taken = usize::from(kind >> 4 & 1) * 3 + 1;
                        let pattern = input.take(taken);
                        pattern.iter().copied().cycle().take(if pattern.is_empty() { 0 } else { count }).collect()
                    }
                };
                let mask = [kind, 0x80, 0x33, input.byte()];
                let header = PeerHeader {
                    is_final,
                    opcode: PeerOpcode::from(opcode),
                    mask: Some(mask),
                    rsv1: false,
                    rsv2: false,
                    rsv3: false,
                };
                header.format(payload.len() as u64, &mut stream).expect("writing to a Vec does not fail");
                apply_mask(&mut payload, mask, 0);
                stream.extend_from_slice(&payload);
            }
        }
    }
    stream.truncate(STREAM_BYTES_MAX);
    stream
}

/// A frame whose header may say anything, in any form of length.
fn push_odd_frame(stream: &mut Vec<u8>, input: &mut Input<'_>) {
    let (first, form, mask) = (input.byte(), input.byte(), input.flag());
    let payload_bytes = input.below(140);
    let masked = u8::from(mask) << 7;
    stream.push(first);
    match form % 3 {
        0 => stream.push(masked | payload_bytes as u8 & 0x7f),
        1 => {
            stream.push(masked | 126);
            stream.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            stream.push(masked | 127);
            stream.extend_from_slice(&(u64::from(form >> 2) << 56 | payload_bytes as u64).to_be_bytes());
        }
    }
    if mask {
        stream.extend_from_slice(&[0; 4]);
    }
    stream.extend_from_slice(input.take(payload_bytes));
}

/// What one way of reading came to.
struct Reader {
    message_bytes_max: usize,
    seen: Vec<Seen>,
    failed: Option<CloseReason>,
    /// Bytes handed over when it failed or closed, or all.
    end: usize,
}

impl Reader {
    fn new(message_bytes_max: usize) -> Self {
        Reader { message_bytes_max, seen: Vec::new(), failed: None, end: 0 }
    }

    /// Hands the stream over in pieces whose lengths `cut` chooses from what is left.
    fn read(mut self, pool: &mut AssemblerPool, stream: &[u8], mut cut: impl FnMut(usize) -> usize) -> Self {
        let mut assembler = None;
        while self.end < stream.len() && !self.has_ended() {
            let start = self.end;
            self.end += cut(stream.len() - start);
            self.feed(&mut assembler, pool, &stream[start..self.end]);
            let held = assembler.as_ref().map_or(0, |held| held.bytes_held());
            // A buffer that was used before keeps its capacity.
            assert!(held <= size_of::<Assembler>() + 4_096, "{held} bytes are held");
        }
        if !self.has_ended() && ends_between_messages(stream) {
            assert!(assembler.is_none(), "between two messages nothing is held");
        }
        pool.release(&mut assembler);
        self
    }

    fn has_ended(&self) -> bool {
        self.failed.is_some() || matches!(self.seen.last(), Some(Seen::Close(..)))
    }

    fn feed(&mut self, assembler: &mut Option<Box<Assembler>>, pool: &mut AssemblerPool, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        let mut at = 0;
        loop {
            match read(assembler, pool, &mut input[at..], self.message_bytes_max) {
                Step::More { .. } => return,
                Step::Failed(reason) => {
                    self.failed = Some(reason);
                    return;
                }
                Step::Event { consumed, frames, event } => {
                    assert!(frames > 0, "an event ends with its frame");
                    self.seen.push(match event {
                        Event::Text(text) => Seen::Text(text.to_owned()),
                        Event::Binary(bytes) => Seen::Binary(bytes.to_owned()),
                        Event::Ping(bytes) => Seen::Ping(bytes.to_owned()),
                        Event::Pong(bytes) => Seen::Pong(bytes.to_owned()),
                        Event::Close { code, reason } => Seen::Close(code, reason.to_owned()),
                    });
                    at += consumed;
                    assert_eq!(input[at..], bytes[at..], "what was not consumed has been changed");
                    if self.has_ended() {
                        return;
                    }
                }
            }
        }
    }
}

/// A header as tungstenite reads it, and where its frame stands.
struct PeerFrame {
    header: PeerHeader,
    start: usize,
    header_bytes: usize,
    payload_bytes: u64,
}

impl PeerFrame {
    fn at(stream: &[u8], start: usize) -> Option<PeerFrame> {
        let mut cursor = Cursor::new(&stream[start..]);
        let (header, payload_bytes) = PeerHeader::parse(&mut cursor).ok()??;
        Some(PeerFrame { header, start, header_bytes: cursor.position() as usize, payload_bytes })
    }

    /// Where the frame ends; `None` if it claims to be longer than anything here.
    fn end(&self) -> Option<usize> {
        let payload_bytes = usize::try_from(self.payload_bytes).ok().filter(|bytes| *bytes <= 1 << 20)?;
        Some(self.start + self.header_bytes + payload_bytes)
    }

    fn is_shortest(&self) -> bool {
        self.header.len(self.payload_bytes) == self.header_bytes
    }
}

/// Whether a stream of sound frames ends with a frame that ends a message, or with a control frame outside of one.
fn ends_between_messages(stream: &[u8]) -> bool {
    let (mut start, mut is_open) = (0, false);
    while start < stream.len() {
        let Some(frame) = PeerFrame::at(stream, start) else { return false };
        let Some(end) = frame.end().filter(|end| *end <= stream.len()) else { return false };
        if u8::from(frame.header.opcode) < 8 {
            is_open = !frame.header.is_final;
        }
        start = end;
    }
    !is_open
}

/// What tungstenite came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    Waits,
    Closed,
    Failed(CloseReason),
}

fn check_against_peer(stream: &[u8], ours: &Reader, message_bytes_max: usize) {
    let (mut seen, mut end) = peer_read(stream, message_bytes_max);
    if ours.seen.last() == Some(&Seen::Close(Some(1014), close_reason(ours))) {
        // tungstenite takes the code for one that must not be sent.
        assert_eq!(seen.pop(), Some(Seen::Close(Some(1002), "Protocol violation".to_owned())));
        assert_eq!(seen, ours.seen[..ours.seen.len() - 1]);
        return;
    }
    let Some(reason) = ours.failed else {
        assert_eq!((&seen, end), (&ours.seen, if ours.has_ended() { PeerEnd::Closed } else { PeerEnd::Waits }));
        return;
    };
    let fault = fault_of(stream, ours.end - 1);
    if fault.as_ref().is_some_and(|frame| !frame.is_shortest() || frame.payload_bytes >= 1 << 63) {
        assert_eq!(reason, CloseReason::Protocol);
        assert_eq!(seen[..ours.seen.len()], ours.seen);
        return;
    }
    if end == PeerEnd::Waits {
        // A header that is refused by itself may be what is cut.
        let frame_end = fault.as_ref().and_then(PeerFrame::end).unwrap_or(stream.len() + 14);
        let mut whole = stream.to_vec();
        whole.resize(frame_end.max(stream.len()), 0);
        (seen, end) = peer_read(&whole, message_bytes_max);
    }
    if end == PeerEnd::Closed && seen.len() == ours.seen.len() + 1 {
        // A close code that must not be sent.
        assert_eq!((reason, seen.pop()), (CloseReason::Protocol, Some(Seen::Close(Some(1002), "Protocol violation".to_owned()))));
        end = PeerEnd::Failed(CloseReason::Protocol);
    }
    assert_eq!(seen, ours.seen);
    let is_large = fault.as_ref().is_none_or(|frame| frame.payload_bytes > message_bytes_max as u64);
    let is_close = fault.as_ref().is_some_and(|frame| u8::from(frame.header.opcode) == 8);
    // What of the frame tungstenite judges before what ours has failed by.
    let is_large_first = is_large && end == PeerEnd::Failed(CloseReason::TooLarge);
    let is_text_first = is_close && reason == CloseReason::Protocol && end == PeerEnd::Failed(CloseReason::InvalidUtf8);
    assert!(is_large_first || is_text_first || end == PeerEnd::Failed(reason), "{end:?} for {reason:?}");
}

fn close_reason(ours: &Reader) -> String {
    match ours.seen.last() {
        Some(Seen::Close(_, reason)) => reason.clone(),
        Some(Seen::Text(_) | Seen::Binary(_) | Seen::Ping(_) | Seen::Pong(_)) | None => String::new(),
    }
}

/// The frame that the byte at `at` belongs to, its header completed with zeros if it is cut; `None` if tungstenite can't read it.
fn fault_of(stream: &[u8], at: usize) -> Option<PeerFrame> {
    let mut padded = stream.to_vec();
    padded.extend_from_slice(&[0; 14]);
    let mut start = 0;
    loop {
        let frame = PeerFrame::at(&padded, start)?;
        match frame.end() {
            Some(end) if end <= at => start = end,
            _ => return Some(frame),
        }
    }
}

fn peer_read(stream: &[u8], message_bytes_max: usize) -> (Vec<Seen>, PeerEnd) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
        .read_buffer_size(PEER_BUFFER_BYTES);
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(stream)), Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(PeerMessage::Text(text)) => seen.push(Seen::Text(text.as_str().to_owned())),
            Ok(PeerMessage::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(PeerMessage::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(PeerMessage::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            Ok(PeerMessage::Close(frame)) => {
                let (code, reason) = match frame {
                    Some(frame) => (Some(frame.code.into()), frame.reason.as_str().to_owned()),
                    None => (None, String::new()),
                };
                seen.push(Seen::Close(code, reason));
                return (seen, PeerEnd::Closed);
            }
            Ok(PeerMessage::Frame(_)) => unreachable!("it is never read"),
            Err(PeerError::Io(_)) => return (seen, PeerEnd::Waits),
            Err(PeerError::Protocol(_)) => return (seen, PeerEnd::Failed(CloseReason::Protocol)),
            Err(PeerError::Utf8(_)) => return (seen, PeerEnd::Failed(CloseReason::InvalidUtf8)),
            Err(PeerError::Capacity(_)) => return (seen, PeerEnd::Failed(CloseReason::TooLarge)),
            Err(error) => panic!("tungstenite says {error}"),
        }
    }
}

/// A socket from which a stream came, and nothing more does; what is written to it goes nowhere.
struct Wire<'a>(Cursor<&'a [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
