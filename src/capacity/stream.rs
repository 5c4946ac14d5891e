//! What a server sends after the upgrade: frames, cut anywhere, to messages.
//!
//! A frame that lies whole in the input is handed out as a slice of it; only what is cut or fragmented is copied. A connection
//! between two frames holds no buffer. The server is not trusted: whatever it may not send is a [`Violation`], and nothing grows by
//! what a header merely claims.

use crate::ws::Opcode;
use crate::ws::frame::{FrameHeader, read_header};
use std::mem;

/// Bytes of a message. Above: a violation. What the largest servers in use allow by default.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// A text message. Whether it is UTF-8 is for its reader to find out.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping.
    Pong,
    /// The last frame, with its code if it has one.
    Close(Option<u16>),
}

/// What the server did against RFC 6455, or beyond our bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// The receiving half of an open connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The beginning of a frame that was cut; empty and without memory between frames.
    cut: Vec<u8>,
    /// The message of which fragments have come.
    message: Option<Box<Message>>,
    /// A close frame came: what follows is ignored.
    ended: bool,
}

#[derive(Debug)]
struct Message {
    is_text: bool,
    bytes: Vec<u8>,
}

impl Stream {
    /// Reads on, and hands out what is whole.
    ///
    /// # Errors
    /// [`Violation`]; nothing more may be read then.
    pub(super) fn read(&mut self, input: &[u8], handle: &mut impl FnMut(Incoming<'_>)) -> Result<(), Violation> {
        let mut rest = self.complete_cut_frame(input, handle)?;
        while !rest.is_empty() && !self.ended {
            match frame_at(rest)? {
                Some((header, header_bytes, end)) if end <= rest.len() => {
                    self.read_frame(header, &rest[header_bytes..end], handle)?;
                    rest = &rest[end..];
                }
                Some(_) | None => {
                    self.cut.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Adds input to the frame that was cut until it is whole. Returns what is left.
    fn complete_cut_frame<'i>(
        &mut self,
        mut input: &'i [u8],
        handle: &mut impl FnMut(Incoming<'_>),
    ) -> Result<&'i [u8], Violation> {
        while !self.cut.is_empty() && !input.is_empty() {
            let wanted = match frame_at(&self.cut)? {
                Some((_, _, end)) => end - self.cut.len(),
                // At most 13 times: then the header is whole.
                None => 1,
            };
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            self.cut.extend_from_slice(taken);
            input = rest;
            if let Some((header, header_bytes, end)) = frame_at(&self.cut)?
                && end == self.cut.len()
            {
                let frame = mem::take(&mut self.cut);
                self.read_frame(header, &frame[header_bytes..], handle)?;
            }
        }
        Ok(input)
    }

    fn read_frame(&mut self, header: FrameHeader, payload: &[u8], handle: &mut impl FnMut(Incoming<'_>)) -> Result<(), Violation> {
        match header.opcode {
            Opcode::Ping => handle(Incoming::Ping(payload)),
            Opcode::Pong => handle(Incoming::Pong),
            Opcode::Close => {
                self.ended = true;
                match payload {
                    [] => handle(Incoming::Close(None)),
                    [high, low, ..] => handle(Incoming::Close(Some(u16::from_be_bytes([*high, *low])))),
                    [_] => return Err(Violation("a close frame of one byte")),
                }
            }
            Opcode::Text | Opcode::Binary => {
                if self.message.is_some() {
                    return Err(Violation("a message within a message"));
                }
                let is_text = header.opcode == Opcode::Text;
                if !header.fin {
                    self.message = Some(Box::new(Message { is_text, bytes: payload.to_vec() }));
                } else if is_text {
                    handle(Incoming::Text(payload));
                } else {
                    handle(Incoming::Binary(payload));
                }
            }
            Opcode::Continuation => {
                let Some(message) = &mut self.message else { return Err(Violation("a continuation of nothing")) };
                if message.bytes.len() + payload.len() > MESSAGE_BYTES_MAX {
                    return Err(Violation("a message above 64 MiB"));
                }
                message.bytes.extend_from_slice(payload);
                if header.fin {
                    let message = self.message.take().expect("it was just extended");
                    handle(if message.is_text { Incoming::Text(&message.bytes) } else { Incoming::Binary(&message.bytes) });
                }
            }
        }
        Ok(())
    }
}

/// The header at the front, its bytes, and where its frame ends; `None` while the header is incomplete.
#[inline]
fn frame_at(bytes: &[u8]) -> Result<Option<(FrameHeader, usize, usize)>, Violation> {
    let Some((header, header_bytes)) = read_header(bytes).map_err(|_| Violation("a frame that RFC 6455 forbids"))? else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err(Violation("a masked frame from a server"));
    }
    if header.payload_length > MESSAGE_BYTES_MAX as u64 {
        return Err(Violation("a frame above 64 MiB"));
    }
    Ok(Some((header, header_bytes, header_bytes + header.payload_length as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame::header;

    fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        [header(opcode, payload.len()).as_bytes(), payload].concat()
    }

    /// Each thing that was said, as text; then the violation, if one ended it.
    fn read_in_pieces(bytes: &[u8], piece: usize) -> Vec<String> {
        let mut stream = Stream::default();
        let mut heard = Vec::new();
        for piece in bytes.chunks(piece) {
            let result = stream.read(piece, &mut |incoming| {
                heard.push(match incoming {
                    Incoming::Text(bytes) => format!("text {} {:?}", bytes.len(), bytes.last()),
                    Incoming::Binary(_) | Incoming::Ping(_) | Incoming::Pong | Incoming::Close(_) => format!("{incoming:?}"),
                });
            });
            if let Err(violation) = result {
                heard.push(violation.0.to_owned());
                break;
            }
        }
        heard
    }

    #[test]
    fn any_chunking_gives_the_same_messages() {
        let mut bytes = frame(Opcode::Text, b"one");
        bytes.extend(frame(Opcode::Ping, b"p"));
        bytes.extend(frame(Opcode::Text, &vec![b'x'; 300]));
        bytes.extend([0x01, 2, b'a', b'b']); // a first fragment,
        bytes.extend(frame(Opcode::Pong, b"")); // a control frame within,
        bytes.extend([0x80, 1, b'c']); // and the last fragment
        bytes.extend(frame(Opcode::Text, &vec![b'y'; 70_000]));
        bytes.extend(frame(Opcode::Binary, b""));
        bytes.extend(frame(Opcode::Close, &[0x10, 0x68]));
        bytes.extend(b"whatever follows a close");
        let whole = read_in_pieces(&bytes, bytes.len());
        assert_eq!(whole.len(), 8);
        assert_eq!(whole[3], "Pong");
        assert_eq!(whole[4], "text 3 Some(99)");
        assert_eq!(whole[7], "Close(Some(4200))");
        for piece in (1..40).chain([64, 125, 1_000, 65_536]) {
            assert_eq!(read_in_pieces(&bytes, piece), whole, "in pieces of {piece}");
        }
    }

    #[test]
    fn no_buffer_is_kept_between_frames() {
        let mut stream = Stream::default();
        for byte in frame(Opcode::Text, b"hello") {
            stream.read(&[byte], &mut |_| {}).unwrap();
        }
        assert_eq!(stream.cut.capacity(), 0);
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut stream = Stream::default();
        stream.read(header(Opcode::Text, MESSAGE_BYTES_MAX).as_bytes(), &mut |_| {}).unwrap();
        assert!(stream.cut.capacity() < 100);
        assert!(stream.read(b"x", &mut |_| {}).is_ok());
        let too_long = header(Opcode::Text, MESSAGE_BYTES_MAX + 1);
        assert!(Stream::default().read(too_long.as_bytes(), &mut |_| {}).is_err());
    }

    #[test]
    fn what_a_server_must_not_send_is_a_violation_at_any_cut() {
        let bad: [&[u8]; 5] = [&[0x81, 0x80, 1, 2, 3, 4], &[0x80, 0], &[0x88, 1, 0], &[0x01, 0, 0x81, 0], &[0xf1, 0]];
        for bytes in bad {
            for piece in 1..=bytes.len() {
                let heard = read_in_pieces(bytes, piece);
                assert_eq!(heard.len(), 1, "{bytes:?} in pieces of {piece}: {heard:?}");
            }
        }
    }
}
