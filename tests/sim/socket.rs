//! A connection below the protocol: bytes in both directions, how it ends, and what the driver keeps of it.
//!
//! It knows how a kernel treats bytes, and how a client finds frames in them; not what is in a frame.

use throng::shard::{Ended, Key};
use throng::time::Millis;

/// Bytes that a socket usually holds for its client.
pub(crate) const HELD_BYTES_MAX: usize = 1 << 20;

/// Bytes that come in at one end and go out at the other.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    bytes: Vec<u8>,
    start: usize,
}

impl Pipe {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
    /// Where writers that append by themselves do so.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }
    /// Takes the first bytes out.
    pub(crate) fn take(&mut self, count: usize, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.front()[..count]);
        self.consume(count);
    }
    /// Drops all but the first bytes.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.bytes.truncate(self.start + count);
    }
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}

/// A socket with both its sides.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) shard: usize,
    pub(crate) key: Key,
    pub(crate) admitted: bool,
    /// The core knows of it.
    pub(crate) accepted: bool,
    /// Bytes on their way to the server, and what comes behind them.
    pub(crate) to_server: Pipe,
    pub(crate) end: Option<Ended>,
    pub(crate) end_told: bool,
    /// The driver's side: reading is paused, with what was not consumed.
    pub(crate) paused: bool,
    pub(crate) stash: Vec<u8>,
    pub(crate) hung_up: Option<Millis>,
    pub(crate) awaits_writable: bool,
    /// Something came since the last probe.
    pub(crate) heard: bool,
    /// When the core last got bytes of it.
    pub(crate) last_fed: Millis,
    /// Bytes that the kernel holds for the client.
    pub(crate) to_client: Pipe,
    pub(crate) held_bytes_max: usize,
    /// The server has finished its direction.
    pub(crate) finished: bool,
    /// The server has closed the socket.
    pub(crate) closed: bool,
    /// The client's machine reads and sends no more.
    pub(crate) vanished: bool,
    /// The client has sent its close frame: what it sends later is not a client's any more.
    pub(crate) said_close: bool,
    /// The HTTP answer was read.
    pub(crate) answered: bool,
    /// What the client has read and could not take apart yet.
    pub(crate) received: Pipe,
    /// A close frame came: nothing may follow.
    pub(crate) heard_close: bool,
}

impl Socket {
    pub(crate) fn new(shard: usize, key: Key, admitted: bool) -> Socket {
        Socket {
            shard,
            key,
            admitted,
            accepted: false,
            to_server: Pipe::default(),
            end: None,
            end_told: false,
            paused: false,
            stash: Vec::new(),
            hung_up: None,
            awaits_writable: false,
            heard: false,
            last_fed: Millis(0),
            to_client: Pipe::default(),
            held_bytes_max: HELD_BYTES_MAX,
            finished: false,
            closed: false,
            vanished: false,
            said_close: false,
            answered: false,
            received: Pipe::default(),
            heard_close: false,
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.to_client.len() < self.held_bytes_max
    }

    /// Whether the driver has something to tell the core of it.
    pub(crate) fn has_event(&self, now: Millis) -> bool {
        !self.accepted
            || (self.awaits_writable && self.is_writable())
            || (self.end == Some(Ended::Error) && !self.end_told)
            || (!self.end_told && !self.paused && (self.end.is_some() || !self.to_server.is_empty()))
            || self.hung_up.is_some_and(|due| due <= now)
    }
}

/// One frame of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    /// Where its payload is in what was received.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The first whole frame of what came, by RFC 6455 §5.2 as a client reads it; `Err` says what a server must not send.
pub(crate) fn read_frame(bytes: &[u8]) -> Result<Option<Frame>, String> {
    let (Some(&first), Some(&second)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    let opcode = first & 0x0f;
    if first & 0xf0 != 0x80 || !matches!(opcode, TEXT | 2 | CLOSE | PING | PONG) {
        return Err(format!("a frame begins with {first:#04x}"));
    }
    let (start, length) = match second {
        0..=125 => (2, usize::from(second)),
        126 => {
            let Some(length) = bytes.get(2..4) else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            if length < 126 {
                return Err(format!("{length} bytes are written long"));
            }
            (4, length)
        }
        127 => {
            let Some(length) = bytes.get(2..10) else { return Ok(None) };
            let length = u64::from_be_bytes(length.try_into().expect("it is eight bytes")) as usize;
            if length < 65_536 {
                return Err(format!("{length} bytes are written long"));
            }
            (10, length)
        }
        _ => return Err("a server masks".to_owned()),
    };
    if opcode >= CLOSE && length > 125 {
        return Err(format!("a control frame has {length} bytes"));
    }
    Ok((bytes.len() >= start + length).then_some(Frame { opcode, start, end: start + length }))
}
