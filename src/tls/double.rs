//! A client whose records are made by hand, so that they can be wrong: for tests and fuzz targets.
//!
//! It has the client's secrets, and everything that may be said under them can be said. It knows nothing of what is allowed.

use super::compact::Compact;
use super::keys::{Direction, Keys, Secret};
use super::{RECORD_PROTECTED_BYTES_MAX, Records};
use aws_lc_rs::aead::{Aad, Nonce};
use rustls::CipherSuite;

/// Every suite of TLS 1.3 that is offered.
pub(crate) const SUITES: [CipherSuite; 3] =
    [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256];

/// An open connection without a handshake: both ends with the same secrets, always the same ones. Our end seals so many records with a key.
pub(crate) fn open(suite: CipherSuite, records_per_key: u32) -> (Forger, Records) {
    let length = if suite == CipherSuite::TLS13_AES_256_GCM_SHA384 { 48 } else { 32 };
    let secret = |fill: u8| Secret::new(&[fill; 48][..length]).expect("it is as long as a hash");
    let (client, server) = (secret(1), secret(2));
    let keys = |receiving, sending| Keys::new(suite, receiving, sending).expect("it is a suite of ours");
    let forger = Forger::new(keys(&server, &client), 0);
    (forger, Records::compact(Compact::new(keys(&client, &server), 0, 0, Some(records_per_key))))
}

/// What a server has sent, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: u8,
    pub(crate) content: Vec<u8>,
}

/// A client that may say anything.
pub(crate) struct Forger {
    keys: Keys,
    sent: u64,
    received: u64,
    inbox: Vec<u8>,
}

impl Forger {
    /// A client that has sent nothing, and received so many records.
    pub(super) fn new(keys: Keys, received: u64) -> Forger {
        Forger { keys, sent: 0, received, inbox: Vec::new() }
    }

    /// A record of that type with so much padding, as it should be.
    pub(crate) fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(inner.len() + padding, 0);
        self.seal_inner(23, inner)
    }

    /// A record with any outer type and any inside.
    pub(crate) fn seal_inner(&mut self, outer: u8, inner: Vec<u8>) -> Vec<u8> {
        let length = (inner.len() + 16) as u16;
        let mut record = vec![outer, 3, 3];
        record.extend_from_slice(&length.to_be_bytes());
        let aad = Aad::from(<[u8; 5]>::try_from(&record[..]).expect("it has five bytes"));
        record.extend_from_slice(&inner);
        let nonce = nonce(self.keys.iv(Direction::Sending), self.sent);
        let tag = self.keys.expand(Direction::Sending).seal_in_place_separate_tag(nonce, aad, &mut record[5..]);
        record.extend_from_slice(tag.expect("it is short enough").as_ref());
        self.sent += 1;
        record
    }

    /// The next records have the next key.
    pub(crate) fn advance(&mut self) {
        self.keys.advance(Direction::Sending);
        self.sent = 0;
    }

    /// Opens what the server has sent. Its key updates are followed.
    ///
    /// # Panics
    /// If anything does not authenticate, or is a message that a server may not send.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<Answer> {
        self.inbox.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while let Some(header) = self.inbox.first_chunk::<5>().copied() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if self.inbox.len() < 5 + length {
                break;
            }
            assert_eq!(header[..3], [23, 3, 3]);
            assert!(length <= RECORD_PROTECTED_BYTES_MAX);
            let mut record: Vec<u8> = self.inbox.drain(..5 + length).collect();
            let nonce = nonce(self.keys.iv(Direction::Receiving), self.received);
            self.received += 1;
            let key = self.keys.expand(Direction::Receiving);
            let inner = key.open_in_place(nonce, Aad::from(header), &mut record[5..]).expect("it authenticates");
            let (kind, content) = inner.split_last().expect("it has a type");
            let answer = Answer { kind: *kind, content: content.to_vec() };
            if answer.kind == 22 {
                assert_eq!(answer.content, [24, 0, 0, 1, 0], "the only message that a server may send, and it asks for nothing");
                self.keys.advance(Direction::Receiving);
                self.received = 0;
            }
            answers.push(answer);
        }
        answers
    }
}

fn nonce(iv: &[u8; 12], sequence: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce.iter_mut().zip(iv).for_each(|(byte, iv)| *byte ^= iv);
    Nonce::assume_unique_for_key(nonce)
}
