//! A client whose records are made by hand, so that they can be wrong.
//!
//! The handshake is rustls'; then the client's secrets are taken, and everything that may be said under them can be said.

use super::super::keys::{Direction, Keys, Secret};
use super::*;
use aws_lc_rs::aead::{Aad, Nonce};
use std::sync::Mutex;

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(String, Vec<u8>)>>);

impl rustls::KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().expect("nobody has panicked").push((label.to_owned(), secret.to_vec()));
    }
}

/// What a server has sent, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: u8,
    pub(super) content: Vec<u8>,
}

/// A client that may say anything.
pub(super) struct Forger {
    keys: Keys,
    sent: u64,
    received: u64,
    inbox: Vec<u8>,
}

impl Forger {
    /// Shakes hands with a server as a client that keeps to the rules.
    pub(super) fn open(suite: CipherSuite, config: &Config) -> (Forger, Server) {
        let log = Arc::new(Log::default());
        let mut client_config = tls13(suite, NamedGroup::X25519);
        client_config.key_log = log.clone();
        let (_, server) = open(&client_config, config);
        let logged = log.0.lock().expect("nobody has panicked");
        let secret = |wanted: &str| {
            let (_, secret) = logged.iter().find(|(label, _)| label == wanted).expect("it was told");
            Secret::new(secret).expect("it is as long as a hash")
        };
        let (server_secret, client_secret) = (secret("SERVER_TRAFFIC_SECRET_0"), secret("CLIENT_TRAFFIC_SECRET_0"));
        let keys = Keys::new(suite, &server_secret, &client_secret).expect("it is a suite of ours");
        // The ticket was the first record.
        (Forger { keys, sent: 0, received: 1, inbox: Vec::new() }, server)
    }

    /// A record of that type with so much padding, as it should be.
    pub(super) fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(inner.len() + padding, 0);
        self.seal_inner(23, inner)
    }

    /// A record with any outer type and any inside.
    pub(super) fn seal_inner(&mut self, outer: u8, inner: Vec<u8>) -> Vec<u8> {
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
    pub(super) fn advance(&mut self) {
        self.keys.advance(Direction::Sending);
        self.sent = 0;
    }

    pub(super) fn key_update(&mut self, request: u8) -> Vec<u8> {
        let record = self.seal(22, &[24, 0, 0, 1, request], 0);
        self.advance();
        record
    }

    /// Opens what the server has sent. Its key updates are followed.
    ///
    /// # Panics
    /// If anything does not authenticate.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Vec<Answer> {
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
