//! From a client's bytes to messages: masks, fragments, UTF-8, close frames and sizes (RFC 6455 §5–§8), on the server's side.
//!
//! What lies whole in the input is unmasked in place and handed out as a slice of it. Whatever is cut, by the network or by
//! fragmentation, is copied into an [`Assembler`], which a connection holds only as long as something is unfinished. What a message
//! means, and what is answered, is not known here.
//!
//! Invariants:
//! - A buffer grows with the bytes that came, by doubling, never because of a length that was only claimed; claims only bound it.
//! - Each byte is copied, validated and unmasked once, however a message was cut.
//! - Text that is handed out is UTF-8, and text that can no longer become UTF-8 fails with the byte that decides it.

use super::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode, read_header};
use super::mask::apply_mask;
use crate::close::CloseReason;
use crate::limits::{
    ASSEMBLER_BUFFER_BYTES_POOLED_MAX, ASSEMBLER_POOL_BYTES_MAX, ASSEMBLERS_POOLED_MAX, CONTROL_PAYLOAD_BYTES_MAX,
};
use std::mem;
use std::str;
use tungstenite::protocol::frame::coding::CloseCode;

/// Something that the client said, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with a pong of the same payload: at most 125 bytes.
    Ping(&'a [u8]),
    /// A pong: at most 125 bytes.
    Pong(&'a [u8]),
    /// A close frame. Whatever follows it is to be ignored.
    Close {
        /// The code, one that a peer may send; `None` if the frame was empty (1005).
        code: Option<u16>,
        /// The reason, at most 123 bytes.
        reason: &'a str,
    },
}

/// What one [`read`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The input is consumed to its end and holds nothing (more) to hand out.
    More {
        /// Frames that ended in it.
        frames: u32,
    },
    /// A message or control frame. The input beyond `consumed` is untouched: read on there.
    Event {
        /// Bytes consumed from the front of the input.
        consumed: usize,
        /// Frames that ended in them, this one included.
        frames: u32,
        /// What came.
        event: Event<'a>,
    },
    /// The connection must be failed with this reason, and nothing more be read from it.
    Failed(CloseReason),
}

/// Reads on in a client's stream, up to the first event.
///
/// Call it again with the input beyond `consumed`, also when that is empty, until it says [`Step::More`]: the first call after an
/// event gives back the assembler that the event may have borrowed from. A connection between two messages then holds `None`.
/// After [`Step::Failed`] or a close, [`AssemblerPool::release`] whatever is held.
///
/// # Errors
/// In [`Step::Failed`], each as soon as the byte that decides it is there: [`CloseReason::Protocol`] for what RFC 6455 forbids (an
/// unmasked frame and a close code that must not be sent included), [`CloseReason::TooLarge`] for a message above
/// `message_bytes_max` as soon as a header claims it, [`CloseReason::InvalidUtf8`] for text or a close reason that is not UTF-8.
#[inline]
pub fn read<'a>(
    assembler: &'a mut Option<Box<Assembler>>,
    pool: &mut AssemblerPool,
    input: &'a mut [u8],
    message_bytes_max: usize,
) -> Step<'a> {
    if let Some(held) = assembler {
        held.forget_delivered();
        if held.is_empty() {
            pool.release(assembler);
        }
    }
    let mut at = 0;
    let mut frames = 0;
    loop {
        if assembler.as_ref().is_none_or(|held| held.frame.is_none()) {
            let (header, header_bytes) = match next_header(assembler, pool, &input[at..], message_bytes_max) {
                Ok(Some(header)) => header,
                Ok(None) => return Step::More { frames },
                Err(reason) => return Step::Failed(reason),
            };
            at += header_bytes;
            if header.is_event() && header.payload_bytes <= input.len() - at {
                let end = at + header.payload_bytes;
                let payload = &mut input[at..end];
                apply_mask(payload, header.mask, 0);
                return match whole_event(header.opcode, payload) {
                    Ok(event) => Step::Event { consumed: end, frames: frames + 1, event },
                    Err(reason) => Step::Failed(reason),
                };
            }
            assembler.get_or_insert_with(|| pool.acquire()).begin(header);
        }
        let held = assembler.as_mut().expect("a frame has begun in it");
        match held.take_payload(&mut input[at..], message_bytes_max) {
            Ok(taken) => at += taken,
            Err(reason) => return Step::Failed(reason),
        }
        match held.end_frame() {
            Ok(Progress::Unfinished) => return Step::More { frames },
            Ok(Progress::Fragment) => frames += 1,
            Ok(Progress::Event) => {
                frames += 1;
                break;
            }
            Err(reason) => return Step::Failed(reason),
        }
    }
    match assembler.as_deref().expect("an event has ended in it").event() {
        Ok(event) => Step::Event { consumed: at, frames, event },
        Err(reason) => Step::Failed(reason),
    }
}

/// The next header, judged, and the bytes of `input` that it took; `None` when all input went into an incomplete one.
#[inline]
fn next_header(
    assembler: &mut Option<Box<Assembler>>,
    pool: &mut AssemblerPool,
    input: &[u8],
    message_bytes_max: usize,
) -> Result<Option<(Frame, usize)>, CloseReason> {
    let read = match assembler {
        Some(held) if held.header_bytes > 0 => held.continue_header(input)?,
        _ => read_header(input)?,
    };
    let Some((header, header_bytes)) = read else {
        if !input.is_empty() {
            assembler.get_or_insert_with(|| pool.acquire()).keep_header(input)?;
        }
        return Ok(None);
    };
    let frame = admit(header, assembler.as_deref(), message_bytes_max)?;
    Ok(Some((frame, header_bytes)))
}

/// Judges a header by what came before it: masking (§5.1), fragmentation (§5.4), size.
#[inline]
fn admit(header: FrameHeader, assembler: Option<&Assembler>, message_bytes_max: usize) -> Result<Frame, CloseReason> {
    let Some(mask) = header.mask else { return Err(CloseReason::Protocol) };
    let mut message_bytes = 0;
    if !header.opcode.is_control() {
        let open = assembler.and_then(Assembler::message_bytes);
        if open.is_some() != (header.opcode == Opcode::Continuation) {
            return Err(CloseReason::Protocol);
        }
        message_bytes = open.unwrap_or(0);
        if header.payload_length > message_bytes_max.saturating_sub(message_bytes) as u64 {
            return Err(CloseReason::TooLarge);
        }
    }
    // At most message_bytes_max or 125: it fits a usize.
    let payload_bytes = header.payload_length as usize;
    Ok(Frame { fin: header.fin, opcode: header.opcode, mask, payload_bytes, received: 0, message_bytes })
}

/// The event that is one whole frame with this unmasked payload.
#[inline]
fn whole_event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, CloseReason> {
    Ok(match opcode {
        Opcode::Text => Event::Text(str::from_utf8(payload).map_err(|_| CloseReason::InvalidUtf8)?),
        Opcode::Binary => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => close_event(payload)?,
        Opcode::Continuation => unreachable!("a continuation is not an event of its own"),
    })
}

/// A close frame's payload (RFC 6455 §5.5.1): nothing, or a code that may be sent and a reason.
fn close_event(payload: &[u8]) -> Result<Event<'_>, CloseReason> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Event::Close { code: None, reason: "" }) } else { Err(CloseReason::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_code_that_peers_send(code) {
        return Err(CloseReason::Protocol);
    }
    let reason = str::from_utf8(reason).map_err(|_| CloseReason::InvalidUtf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

/// Whether a close frame may carry this code (RFC 6455 §7.4 and IANA's registry of close codes).
fn is_code_that_peers_send(code: u16) -> bool {
    // 1014 (bad gateway) is in the registry, but not in tungstenite's table.
    code == 1014 || CloseCode::from(code).is_allowed()
}

/// A frame whose header has been admitted.
#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    payload_bytes: usize,
    /// Bytes of payload that have come. Invariant: at most `payload_bytes`.
    received: usize,
    /// Bytes of its message in earlier frames; 0 for a control frame.
    message_bytes: usize,
}

impl Frame {
    /// True if the frame is all of its message, or a control frame.
    #[inline]
    fn is_event(&self) -> bool {
        self.fin && self.opcode != Opcode::Continuation
    }
}

/// What the end of a frame came to.
enum Progress {
    Unfinished,
    Fragment,
    Event,
}

/// The message that is being put together.
#[derive(Debug)]
enum Message {
    /// None. Invariant: the buffer, kept for its capacity, is empty.
    None(Vec<u8>),
    /// `text` is what came up to the last whole character, `tail` the bytes of the one after it.
    Text {
        text: String,
        tail: Tail,
    },
    Binary(Vec<u8>),
}

/// The first bytes of a character whose rest has not come: a proper prefix of a valid sequence.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    bytes: [u8; 4],
    length: u8,
}

impl Tail {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What a connection holds while a header, a frame or a message of its client is unfinished.
#[derive(Debug)]
pub struct Assembler {
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of an incomplete header in `header`. Invariant: 0 while `frame` is `Some`.
    header_bytes: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    message: Message,
    /// The control frame that is arriving, or has been handed out.
    control: [u8; CONTROL_PAYLOAD_BYTES_MAX],
    control_bytes: u8,
    /// The event that ended last: handed out, and forgotten with the next call. `None` when there is none.
    delivered: Option<Opcode>,
}

impl Assembler {
    fn new() -> Assembler {
        Assembler {
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            frame: None,
            message: Message::None(Vec::new()),
            control: [0; CONTROL_PAYLOAD_BYTES_MAX],
            control_bytes: 0,
            delivered: None,
        }
    }

    /// Bytes of memory that it takes, its buffer's whole capacity included.
    pub fn bytes_held(&self) -> usize {
        mem::size_of::<Assembler>() + self.buffer_capacity()
    }

    fn buffer_capacity(&self) -> usize {
        match &self.message {
            Message::None(buffer) | Message::Binary(buffer) => buffer.capacity(),
            Message::Text { text, .. } => text.capacity(),
        }
    }

    /// Bytes of the open message that have come; `None` between messages.
    fn message_bytes(&self) -> Option<usize> {
        match &self.message {
            Message::None(_) => None,
            Message::Text { text, tail } => Some(text.len() + usize::from(tail.length)),
            Message::Binary(bytes) => Some(bytes.len()),
        }
    }

    fn is_empty(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && matches!(self.message, Message::None(_))
    }

    fn forget_delivered(&mut self) {
        if self.delivered.take().is_some_and(|opcode| !opcode.is_control()) {
            self.clear_message();
        }
    }

    fn clear_message(&mut self) {
        let mut buffer = match mem::replace(&mut self.message, Message::None(Vec::new())) {
            Message::None(buffer) | Message::Binary(buffer) => buffer,
            Message::Text { text, .. } => text.into_bytes(),
        };
        buffer.clear();
        self.message = Message::None(buffer);
    }

    /// Keeps `input`, all of it, as (further) bytes of a header that is still incomplete with them.
    fn keep_header(&mut self, input: &[u8]) -> Result<(), CloseReason> {
        let start = usize::from(self.header_bytes);
        let end = start + input.len();
        self.header[start..end].copy_from_slice(input);
        self.header_bytes = end as u8;
        // The second byte tells whether a mask will come: a frame without one need not be waited for.
        if end > 1 && self.header[1] & 0x80 == 0 { Err(CloseReason::Protocol) } else { Ok(()) }
    }

    /// Reads the header that is kept and goes on in `input`; says how many bytes of `input` belong to it.
    fn continue_header(&mut self, input: &[u8]) -> Result<Option<(FrameHeader, usize)>, CloseReason> {
        let kept = usize::from(self.header_bytes);
        let mut joined = self.header;
        let fresh = input.len().min(HEADER_BYTES_MAX - kept);
        joined[kept..kept + fresh].copy_from_slice(&input[..fresh]);
        let read = read_header(&joined[..kept + fresh])?;
        Ok(read.map(|(header, header_bytes)| {
            self.header_bytes = 0;
            (header, header_bytes - kept)
        }))
    }

    fn begin(&mut self, frame: Frame) {
        if frame.opcode.is_control() {
            self.control_bytes = 0;
        } else if let Message::None(buffer) = &mut self.message {
            let buffer = mem::take(buffer);
            self.message = match frame.opcode {
                Opcode::Text => Message::Text { text: String::from_utf8(buffer).unwrap_or_default(), tail: Tail::default() },
                Opcode::Binary | Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => Message::Binary(buffer),
            };
        }
        self.frame = Some(frame);
    }

    /// Takes from the front of `input` what belongs to the frame, and says how much that is.
    fn take_payload(&mut self, input: &mut [u8], message_bytes_max: usize) -> Result<usize, CloseReason> {
        let frame = self.frame.as_mut().expect("a frame has begun");
        let taken = input.len().min(frame.payload_bytes - frame.received);
        let payload = &mut input[..taken];
        apply_mask(payload, frame.mask, frame.received);
        frame.received += taken;
        if frame.opcode.is_control() {
            let start = usize::from(self.control_bytes);
            self.control[start..start + taken].copy_from_slice(payload);
            self.control_bytes += taken as u8;
            return Ok(taken);
        }
        // The last frame's length says how large the message can still become.
        let ceiling = if frame.fin { frame.message_bytes + frame.payload_bytes } else { message_bytes_max };
        match &mut self.message {
            Message::Text { text, tail } => {
                text.reserve_exact(growth(text.len(), text.capacity(), tail.as_bytes().len() + taken, ceiling));
                append_text(text, tail, payload)?;
            }
            Message::Binary(bytes) | Message::None(bytes) => {
                bytes.reserve_exact(growth(bytes.len(), bytes.capacity(), taken, ceiling));
                bytes.extend_from_slice(payload);
            }
        }
        Ok(taken)
    }

    /// Ends the frame if all of its payload has come.
    fn end_frame(&mut self) -> Result<Progress, CloseReason> {
        let frame = self.frame.as_ref().expect("a frame has begun");
        if frame.received < frame.payload_bytes {
            return Ok(Progress::Unfinished);
        }
        let (fin, opcode) = (frame.fin, frame.opcode);
        self.frame = None;
        if !fin {
            return Ok(Progress::Fragment);
        }
        if let Message::Text { tail, .. } = &self.message
            && !opcode.is_control()
            && tail.length > 0
        {
            return Err(CloseReason::InvalidUtf8); // the message ends within a character
        }
        self.delivered = Some(opcode);
        Ok(Progress::Event)
    }

    /// The event that has just ended.
    fn event(&self) -> Result<Event<'_>, CloseReason> {
        let opcode = self.delivered.expect("an event has ended");
        if opcode.is_control() {
            return whole_event(opcode, &self.control[..usize::from(self.control_bytes)]);
        }
        Ok(match &self.message {
            Message::Text { text, .. } => Event::Text(text),
            Message::Binary(bytes) | Message::None(bytes) => Event::Binary(bytes),
        })
    }
}

/// Bytes to reserve beyond `length` so that `fresh` more fit: nothing if they do, else twice the capacity, but not above `ceiling`.
fn growth(length: usize, capacity: usize, fresh: usize, ceiling: usize) -> usize {
    const BUFFER_BYTES_MIN: usize = 256;
    let needed = length + fresh;
    if needed <= capacity {
        return 0;
    }
    (2 * capacity).min(ceiling).max(needed).max(BUFFER_BYTES_MIN) - length
}

/// Appends a part of a text that may begin and end within a character, and fails once it cannot be UTF-8 whatever follows.
fn append_text(text: &mut String, tail: &mut Tail, mut part: &[u8]) -> Result<(), CloseReason> {
    while tail.length > 0
        && let Some((&byte, rest)) = part.split_first()
    {
        part = rest;
        tail.bytes[usize::from(tail.length)] = byte;
        tail.length += 1;
        match str::from_utf8(tail.as_bytes()) {
            Ok(character) => {
                text.push_str(character);
                tail.length = 0;
            }
            // More is to come: at most three bytes are a prefix, so the fourth decides.
            Err(error) if error.error_len().is_none() => {}
            Err(_) => return Err(CloseReason::InvalidUtf8),
        }
    }
    let (whole, prefix) = part.split_at(whole_characters(part));
    text.push_str(str::from_utf8(whole).map_err(|_| CloseReason::InvalidUtf8)?);
    if !prefix.is_empty() {
        if str::from_utf8(prefix).is_err_and(|error| error.error_len().is_some()) {
            return Err(CloseReason::InvalidUtf8);
        }
        tail.bytes[..prefix.len()].copy_from_slice(prefix);
        tail.length = prefix.len() as u8;
    }
    Ok(())
}

/// Bytes of `part` in front of a last character that it does not hold whole. Judges nothing else.
fn whole_characters(part: &[u8]) -> usize {
    for (back, &byte) in part.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x00..=0x7f => 1,
        };
        return if length > back + 1 { part.len() - back - 1 } else { part.len() };
    }
    part.len()
}

/// Assemblers that wait for their next use, so that steady traffic allocates nothing. One a shard.
///
/// Holds at most [`ASSEMBLERS_POOLED_MAX`] of them and [`ASSEMBLER_POOL_BYTES_MAX`] bytes, and no buffer above
/// [`ASSEMBLER_BUFFER_BYTES_POOLED_MAX`]; the rest goes back to the allocator.
#[derive(Debug, Default)]
pub struct AssemblerPool {
    #[expect(clippy::vec_box, reason = "the boxes are what is recycled")]
    free: Vec<Box<Assembler>>,
    /// Invariant: the sum of `bytes_held` over `free`.
    bytes: usize,
}

impl AssemblerPool {
    /// An empty pool.
    pub fn new() -> AssemblerPool {
        AssemblerPool::default()
    }

    /// Bytes of memory that the pool holds for later use.
    pub fn bytes_held(&self) -> usize {
        self.bytes + self.free.capacity() * mem::size_of::<Box<Assembler>>()
    }

    /// Takes back what a connection holds, whatever its state: also the way to let go of one that closes.
    pub fn release(&mut self, assembler: &mut Option<Box<Assembler>>) {
        let Some(mut assembler) = assembler.take() else { return };
        assembler.clear_message();
        assembler.header_bytes = 0;
        assembler.frame = None;
        assembler.delivered = None;
        if assembler.buffer_capacity() > ASSEMBLER_BUFFER_BYTES_POOLED_MAX {
            assembler.message = Message::None(Vec::new());
        }
        let bytes = assembler.bytes_held();
        if self.free.len() < ASSEMBLERS_POOLED_MAX && self.bytes + bytes <= ASSEMBLER_POOL_BYTES_MAX {
            self.bytes += bytes;
            self.free.push(assembler);
        }
    }

    fn acquire(&mut self) -> Box<Assembler> {
        let Some(assembler) = self.free.pop() else { return Box::new(Assembler::new()) };
        self.bytes -= assembler.bytes_held();
        assembler
    }
}

#[cfg(test)]
mod tests;
