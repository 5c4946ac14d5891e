//! The record layer in its compact form: the secrets of TLS 1.3, two counts and a few bytes of state.
//!
//! It decides what each record of an open connection means (RFC 8446 §5, §4.6.3, §6). It does not know how the keys came about.
//!
//! Invariants:
//! - `sent` and `received` grow with each record, before its result is known, and begin again only with a new key.
//! - While a piece of a handshake message is held, only its continuation is taken.

use super::cache::Place;
use super::keys::{Direction, Keys};
use super::records::{Event, Opened, RECORDS_WITHOUT_DATA_MAX};
use super::{Failure, KeyCache, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX, RECORD_PROTECTED_BYTES_MAX, TAG_BYTES};
use aws_lc_rs::aead::{Aad, Nonce};
use std::ops::Range;

/// An open connection of TLS 1.3.
pub(super) struct Compact {
    keys: Keys,
    /// Records opened with the present receiving key.
    received: u64,
    /// Records sealed with the present sending key.
    sent: u32,
    /// Records that are sealed with one key, the `KeyUpdate` that ends it included.
    records_per_key: u32,
    receiving_place: Place,
    sending_place: Place,
    /// The piece of a `KeyUpdate` that came so far: it may be cut like any handshake message.
    piece: [u8; KEY_UPDATE_BYTES - 1],
    piece_bytes: u8,
    /// Records in a row that carried no data.
    without_data: u8,
    failure: Option<Failure>,
    /// The peer has sent `close_notify`.
    is_closed_by_peer: bool,
    /// Our `close_notify` or alert was sealed: nothing is sealed any more.
    is_closed: bool,
    /// The peer has asked for a `KeyUpdate` that is not sealed yet.
    owes_key_update: bool,
}

/// Bytes of a `KeyUpdate`: type, three of length, request.
const KEY_UPDATE_BYTES: usize = 5;
/// What a `KeyUpdate` begins with.
const KEY_UPDATE_HEAD: [u8; KEY_UPDATE_BYTES - 1] = [24, 0, 0, 1];
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;
/// Alerts that are no failure (RFC 8446 §6.1), and their level.
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
/// Type and legacy version of every protected record.
const RECORD_HEAD: [u8; 3] = [APPLICATION_DATA, 3, 3];
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

impl Compact {
    /// Takes over with so many records received and sent under these keys.
    pub(super) fn new(keys: Keys, received: u64, sent: u32, records_per_key: Option<u32>) -> Compact {
        let records_per_key = records_per_key.unwrap_or(u32::MAX).min(keys.records_per_key_max());
        Compact {
            keys,
            received,
            sent,
            records_per_key,
            receiving_place: Place::NONE,
            sending_place: Place::NONE,
            piece: [0; KEY_UPDATE_BYTES - 1],
            piece_bytes: 0,
            without_data: 0,
            failure: None,
            is_closed_by_peer: false,
            is_closed: false,
            owes_key_update: false,
        }
    }

    pub(super) fn open(&mut self, cache: &mut KeyCache, buffer: &mut [u8]) -> Result<Opened, Failure> {
        if self.failure.is_some() {
            return Err(Failure::Ended);
        }
        let opened = self.open_until_event(cache, buffer);
        if let Err(failure) = opened {
            self.failure = Some(failure);
        }
        opened
    }

    fn open_until_event(&mut self, cache: &mut KeyCache, buffer: &mut [u8]) -> Result<Opened, Failure> {
        if self.is_closed_by_peer {
            return Ok(Opened { consumed: buffer.len(), event: Event::Closed });
        }
        let mut consumed = 0;
        loop {
            let left = &mut buffer[consumed..];
            let record_bytes = record_bytes(left)?;
            if record_bytes > left.len() {
                return Ok(Opened { consumed, event: Event::Missing(record_bytes - left.len()) });
            }
            let (kind, content) = self.open_record(cache, &mut left[..record_bytes])?;
            let event = self.take(cache, kind, &left[content.clone()])?;
            let at = consumed;
            consumed += record_bytes;
            match event {
                Taken::Data => {
                    return Ok(Opened { consumed, event: Event::Data(at + content.start..at + content.end) });
                }
                Taken::Closed => return Ok(Opened { consumed: buffer.len(), event: Event::Closed }),
                Taken::Nothing => {}
            }
        }
    }

    /// Opens a whole record in place; gives the type that was hidden in it, and where its content lies.
    fn open_record(&mut self, cache: &mut KeyCache, record: &mut [u8]) -> Result<(u8, Range<usize>), Failure> {
        let (header, protected) = record.split_at_mut(RECORD_HEADER_BYTES);
        let iv = self.keys.iv(Direction::Receiving);
        let nonce = nonce(iv, self.received);
        self.received += 1;
        let key = cache.key(&mut self.receiving_place, iv, || self.keys.expand(Direction::Receiving));
        let opened = key.open_in_place(nonce, Aad::from(&*header), protected).map_err(|_| Failure::BadRecordMac)?;
        if opened.len() > RECORD_PLAINTEXT_BYTES_MAX + 1 {
            return Err(Failure::RecordOverflow);
        }
        // What is behind the last byte that is not zero is padding (RFC 8446 §5.4).
        let last = opened.iter().rposition(|byte| *byte != 0).ok_or(Failure::UnexpectedMessage)?;
        Ok((opened[last], RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + last))
    }

    fn take(&mut self, cache: &mut KeyCache, kind: u8, content: &[u8]) -> Result<Taken, Failure> {
        if self.piece_bytes > 0 && kind != HANDSHAKE {
            return Err(Failure::UnexpectedMessage);
        }
        match kind {
            APPLICATION_DATA if !content.is_empty() => {
                self.without_data = 0;
                return Ok(Taken::Data);
            }
            APPLICATION_DATA => {}
            HANDSHAKE => self.take_handshake(cache, content)?,
            ALERT => {
                let [_level, description] = content else { return Err(Failure::Undecodable) };
                match *description {
                    CLOSE_NOTIFY => {
                        self.is_closed_by_peer = true;
                        return Ok(Taken::Closed);
                    }
                    // Says nothing by itself: a `close_notify` should follow.
                    USER_CANCELED => {}
                    _ => return Err(Failure::PeerAlert),
                }
            }
            _ => return Err(Failure::UnexpectedMessage),
        }
        self.without_data += 1;
        if self.without_data > RECORDS_WITHOUT_DATA_MAX { Err(Failure::UnexpectedMessage) } else { Ok(Taken::Nothing) }
    }

    /// The only handshake message that a client may send now is a `KeyUpdate`, and nothing in its record may follow it.
    fn take_handshake(&mut self, cache: &mut KeyCache, content: &[u8]) -> Result<(), Failure> {
        if content.is_empty() {
            return Err(Failure::UnexpectedMessage);
        }
        let held = usize::from(self.piece_bytes);
        let head_bytes = content.len().min(self.piece.len() - held);
        let (head, rest) = content.split_at(head_bytes);
        self.piece[held..held + head_bytes].copy_from_slice(head);
        let held = held + head_bytes;
        if self.piece[0] != KEY_UPDATE_HEAD[0] {
            return Err(Failure::UnexpectedMessage);
        }
        if self.piece[..held] != KEY_UPDATE_HEAD[..held] {
            return Err(Failure::Undecodable);
        }
        self.piece_bytes = held as u8;
        match rest {
            [] => return Ok(()),
            [UPDATE_NOT_REQUESTED] => {}
            [UPDATE_REQUESTED] => self.owes_key_update = true,
            [_] => return Err(Failure::IllegalParameter),
            _ => return Err(Failure::UnexpectedMessage),
        }
        self.piece_bytes = 0;
        cache.forget(&mut self.receiving_place, self.keys.iv(Direction::Receiving));
        self.keys.advance(Direction::Receiving);
        self.received = 0;
        Ok(())
    }

    pub(super) fn seal(&mut self, cache: &mut KeyCache, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.failure.is_some() || self.is_closed {
            return Err(Failure::Ended);
        }
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        self.reply(cache, out);
        let mut bytes = Parts { parts, at: 0 };
        while left > 0 {
            if self.sent + 1 >= self.records_per_key {
                self.seal_key_update(cache, out);
            }
            let count = left.min(RECORD_PLAINTEXT_BYTES_MAX);
            self.seal_record(cache, APPLICATION_DATA, count, |out| bytes.append(count, out), out);
            left -= count;
        }
        Ok(())
    }

    pub(super) fn has_reply(&self) -> bool {
        self.owes_key_update && self.failure.is_none() && !self.is_closed
    }

    pub(super) fn reply(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>) {
        if self.has_reply() {
            self.seal_key_update(cache, out);
            self.owes_key_update = false;
        }
    }

    pub(super) fn close(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        let (level, description) = match self.failure {
            None => (WARNING, CLOSE_NOTIFY),
            Some(failure) => match failure.alert() {
                Some(description) => (FATAL, u8::from(description)),
                None => return,
            },
        };
        let alert = [level, description];
        self.seal_record(cache, ALERT, alert.len(), |out| out.extend_from_slice(&alert), out);
    }

    pub(super) fn forget(&mut self, cache: &mut KeyCache) {
        cache.forget(&mut self.receiving_place, self.keys.iv(Direction::Receiving));
        cache.forget(&mut self.sending_place, self.keys.iv(Direction::Sending));
    }

    /// Ends the present sending key. The peer is not asked to do the same: its own limit is its own affair.
    fn seal_key_update(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>) {
        let append = |out: &mut Vec<u8>| {
            out.extend_from_slice(&KEY_UPDATE_HEAD);
            out.push(UPDATE_NOT_REQUESTED);
        };
        self.seal_record(cache, HANDSHAKE, KEY_UPDATE_BYTES, append, out);
        cache.forget(&mut self.sending_place, self.keys.iv(Direction::Sending));
        self.keys.advance(Direction::Sending);
        self.sent = 0;
    }

    /// Seals one record, whose content `append` puts into `out`.
    fn seal_record(
        &mut self,
        cache: &mut KeyCache,
        kind: u8,
        content_bytes: usize,
        append: impl FnOnce(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let protected_bytes = content_bytes + 1 + TAG_BYTES;
        out.reserve(RECORD_HEADER_BYTES + protected_bytes);
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..3].copy_from_slice(&RECORD_HEAD);
        header[3..].copy_from_slice(&(protected_bytes as u16).to_be_bytes());
        out.extend_from_slice(&header);
        let start = out.len();
        append(out);
        out.push(kind);
        debug_assert_eq!(out.len() - start, content_bytes + 1, "the content is as long as was said");
        let iv = self.keys.iv(Direction::Sending);
        let nonce = nonce(iv, u64::from(self.sent));
        self.sent = self.sent.checked_add(1).expect("a key is replaced before its records are counted out");
        let key = cache.key(&mut self.sending_place, iv, || self.keys.expand(Direction::Sending));
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..]);
        out.extend_from_slice(tag.expect("a record is far below the limit of every suite").as_ref());
    }
}

/// What an opened record came to.
enum Taken {
    Data,
    Nothing,
    Closed,
}

/// Bytes of the record that begins here, as far as that is known yet; at least those of a header.
fn record_bytes(buffer: &[u8]) -> Result<usize, Failure> {
    // Whatever is not protected has no place after the handshake, not even an alert (RFC 8446 §5).
    if buffer.first().is_some_and(|kind| *kind != APPLICATION_DATA) {
        return Err(Failure::UnexpectedRecord);
    }
    let Some(&[_, _, _, high, low]) = buffer.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(RECORD_HEADER_BYTES) };
    let protected_bytes = usize::from(u16::from_be_bytes([high, low]));
    if protected_bytes > RECORD_PROTECTED_BYTES_MAX {
        return Err(Failure::RecordOverflow);
    }
    if protected_bytes <= TAG_BYTES {
        return Err(Failure::BadRecordMac);
    }
    Ok(RECORD_HEADER_BYTES + protected_bytes)
}

/// The nonce of a record (RFC 8446 §5.3).
fn nonce(iv: &[u8; 12], sequence: u64) -> Nonce {
    let mut nonce = *iv;
    for (byte, count) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= count;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Several pieces of plaintext, read as one.
struct Parts<'a> {
    parts: &'a [&'a [u8]],
    /// Bytes of the first part that were read.
    at: usize,
}

impl Parts<'_> {
    /// Appends the next `count` bytes. There are as many.
    fn append(&mut self, mut count: usize, out: &mut Vec<u8>) {
        while count > 0 {
            let rest = &self.parts[0][self.at..];
            if rest.len() > count {
                out.extend_from_slice(&rest[..count]);
                self.at += count;
                return;
            }
            out.extend_from_slice(rest);
            count -= rest.len();
            (self.parts, self.at) = (&self.parts[1..], 0);
        }
    }
}
