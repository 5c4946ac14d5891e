//! The records of an open connection: what came is opened in place, what goes is sealed, and TLS answers for itself.
//!
//! [`Records`] is either the compact state or rustls; a caller sees no difference but the size.

use super::compact::Compact;
use super::plain::Plain;
use super::{Failure, KeyCache};
use std::ops::Range;

/// Records in a row that carry no data: empty ones, `KeyUpdate`s and `user_canceled` alerts, each of which costs us a decryption and
/// nobody else anything. Above: [`Failure::UnexpectedMessage`].
pub const RECORDS_WITHOUT_DATA_MAX: u8 = 32;

/// The record layer of one open connection. It is not `Clone`, so that no nonce is used twice; it may move to another thread. The secrets
/// are zeroized when it is dropped.
pub struct Records(State);

enum State {
    Compact(Compact),
    Rustls(Box<Plain>),
}

/// Bytes of [`Records`] at most: they are a part of what an idle connection costs.
const RECORDS_BYTES_MAX: usize = 192;
const _: () = assert!(size_of::<Records>() <= RECORDS_BYTES_MAX);

/// What came of some received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes at the buffer's begin that are done with, the returned plaintext included.
    pub consumed: usize,
    /// What they held.
    pub event: Event,
}

/// What a call of [`Records::open`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Plaintext for the application, at least one byte, in this part of the buffer.
    Data(Range<usize>),
    /// No further record is complete. So many bytes are missing at least; fewer than
    /// [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX) wait in the buffer behind `consumed`.
    Missing(usize),
    /// The peer has closed its direction: whatever follows is ignored, in this buffer and later. Ours is still open.
    Closed,
}

impl Records {
    pub(super) fn compact(compact: Compact) -> Records {
        Records(State::Compact(compact))
    }

    pub(super) fn rustls(plain: Plain) -> Records {
        Records(State::Rustls(Box::new(plain)))
    }

    /// Whether rustls keeps the records of this connection, at 3.6 KB.
    pub fn is_with_rustls(&self) -> bool {
        matches!(self.0, State::Rustls(_))
    }

    /// Opens the next record that holds data, in place. To be called until it says [`Event::Missing`] or [`Event::Closed`], each time
    /// with the rest of the buffer.
    ///
    /// What TLS says meanwhile is dealt with: where that is to be answered, [`Records::has_reply`] is true afterwards.
    ///
    /// # Errors
    /// The first failure, after which nothing is opened or sealed any more: [`Records::close`] gives the alert, then the connection ends.
    pub fn open(&mut self, keys: &mut KeyCache, buffer: &mut [u8]) -> Result<Opened, Failure> {
        match &mut self.0 {
            State::Compact(compact) => compact.open(keys, buffer),
            State::Rustls(plain) => plain.open(buffer),
        }
    }

    /// Seals the parts, one behind the other, into records of at most [`RECORD_PLAINTEXT_BYTES_MAX`](super::RECORD_PLAINTEXT_BYTES_MAX)
    /// and appends them to `out`: at most [`sealed_bytes_max`](super::sealed_bytes_max) bytes. No bytes make no record. A reply that waits goes
    /// before them, and a `KeyUpdate` of our own where the suite's limit is near.
    ///
    /// # Errors
    /// If the connection has failed or [`Records::close`] was called; `out` is as it was.
    pub fn seal(&mut self, keys: &mut KeyCache, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Failure> {
        match &mut self.0 {
            State::Compact(compact) => compact.seal(keys, parts, out),
            State::Rustls(plain) => plain.seal(parts, out),
        }
    }

    /// Whether TLS has something to say by itself. It may wait for the next [`Records::seal`], which puts it first.
    pub fn has_reply(&self) -> bool {
        match &self.0 {
            State::Compact(compact) => compact.has_reply(),
            State::Rustls(plain) => plain.has_reply(),
        }
    }

    /// Appends what TLS has to say by itself, at most [`REPLY_BYTES_MAX`](super::REPLY_BYTES_MAX) bytes.
    pub fn reply(&mut self, keys: &mut KeyCache, out: &mut Vec<u8>) {
        match &mut self.0 {
            State::Compact(compact) => compact.reply(keys, out),
            State::Rustls(plain) => plain.reply(out),
        }
    }

    /// Ends our direction: appends the alert of the failure if there was one, else `close_notify`. The second time nothing.
    pub fn close(&mut self, keys: &mut KeyCache, out: &mut Vec<u8>) {
        match &mut self.0 {
            State::Compact(compact) => compact.close(keys, out),
            State::Rustls(plain) => plain.close(out),
        }
    }

    /// Takes the connection's keys out of a cache. To be called when it ends, or before it moves to another thread; without it they
    /// stay there, of no use to anybody, until others need their places.
    pub fn forget(&mut self, keys: &mut KeyCache) {
        if let State::Compact(compact) = &mut self.0 {
            compact.forget(keys);
        }
    }
}
