//! The record layer of a connection that stays with rustls: all of TLS 1.2, and everything with [`RecordMode::Rustls`](super::RecordMode).
//!
//! Behind the same functions as the compact one, but for comfort of comparison, not for speed: what is opened is copied twice.

use super::engine::{self, Pause};
use super::records::{Event, Opened};
use super::{Failure, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX, RECORD_PROTECTED_BYTES_MAX};
use rustls::server::UnbufferedServerConnection;

/// An open connection of rustls.
pub(super) struct Plain {
    connection: UnbufferedServerConnection,
    /// What rustls wants to see again: a piece of a handshake message. rustls bounds it.
    input: Vec<u8>,
    /// What rustls has to say by itself.
    reply: Vec<u8>,
    failure: Option<Failure>,
    is_closed_by_peer: bool,
    is_closed: bool,
}

impl Plain {
    pub(super) fn new(connection: UnbufferedServerConnection) -> Plain {
        Plain { connection, input: Vec::new(), reply: Vec::new(), failure: None, is_closed_by_peer: false, is_closed: false }
    }

    pub(super) fn open(&mut self, buffer: &mut [u8]) -> Result<Opened, Failure> {
        if self.failure.is_some() {
            return Err(Failure::Ended);
        }
        let opened = self.open_until_event(buffer);
        if let Err(failure) = opened {
            self.failure = Some(failure);
        }
        opened
    }

    fn open_until_event(&mut self, buffer: &mut [u8]) -> Result<Opened, Failure> {
        let mut consumed = 0;
        loop {
            if self.is_closed_by_peer {
                return Ok(Opened { consumed: buffer.len(), event: Event::Closed });
            }
            let left = &mut buffer[consumed..];
            let record_bytes = record_bytes(left)?;
            if record_bytes > left.len() {
                return Ok(Opened { consumed, event: Event::Missing(record_bytes - left.len()) });
            }
            self.input.extend_from_slice(&left[..record_bytes]);
            let data_bytes = self.take(&mut left[..record_bytes])?;
            let start = consumed;
            consumed += record_bytes;
            if data_bytes > 0 {
                return Ok(Opened { consumed, event: Event::Data(start..start + data_bytes) });
            }
        }
    }

    /// Has rustls take the record that was appended to the input, puts what it held into `room` and says how much that was.
    fn take(&mut self, room: &mut [u8]) -> Result<usize, Failure> {
        let mut data_bytes = 0;
        let mut fits = true;
        let keep = |data: &[u8]| match room.get_mut(data_bytes..data_bytes + data.len()) {
            Some(room) => {
                room.copy_from_slice(data);
                data_bytes += data.len();
            }
            None => fits = false,
        };
        let pause = engine::run(&mut self.connection, &mut self.input, &mut self.reply, keep);
        match pause.map_err(|error| engine::failure_of(&error))? {
            Pause::Open => {}
            Pause::PeerClosed | Pause::Closed => self.is_closed_by_peer = true,
            Pause::Input => return Err(Failure::Internal),
        }
        if fits { Ok(data_bytes) } else { Err(Failure::Internal) }
    }

    pub(super) fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.failure.is_some() || self.is_closed {
            return Err(Failure::Ended);
        }
        self.reply(out);
        let start = out.len();
        let plaintext = parts.concat();
        for chunk in plaintext.chunks(RECORD_PLAINTEXT_BYTES_MAX) {
            let sealed = engine::write(&mut self.connection, &mut self.input, out, |traffic, out| {
                engine::append_encrypted(out, |room| traffic.encrypt(chunk, room))
            });
            if let Err(error) = sealed {
                let failure = engine::failure_of(&error);
                out.truncate(start);
                self.failure = Some(failure);
                return Err(failure);
            }
        }
        Ok(())
    }

    pub(super) fn has_reply(&self) -> bool {
        !self.reply.is_empty() && self.failure.is_none() && !self.is_closed
    }

    pub(super) fn reply(&mut self, out: &mut Vec<u8>) {
        if self.has_reply() {
            out.append(&mut self.reply);
            self.reply = Vec::new();
        }
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        // With a failure, this is rustls' alert.
        out.append(&mut self.reply);
        if self.failure.is_none() {
            let start = out.len();
            let closed = engine::write(&mut self.connection, &mut self.input, out, |traffic, out| {
                engine::append_encrypted(out, |room| traffic.queue_close_notify(room))
            });
            if closed.is_err() {
                out.truncate(start);
            }
        }
    }
}

/// Bytes of the record that begins here, as far as that is known yet. Its type is judged by rustls.
fn record_bytes(buffer: &[u8]) -> Result<usize, Failure> {
    let Some(&[_, _, _, high, low]) = buffer.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(RECORD_HEADER_BYTES) };
    let protected_bytes = usize::from(u16::from_be_bytes([high, low]));
    if protected_bytes > RECORD_PROTECTED_BYTES_MAX {
        return Err(Failure::RecordOverflow);
    }
    Ok(RECORD_HEADER_BYTES + protected_bytes)
}
