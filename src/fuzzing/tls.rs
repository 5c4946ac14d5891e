//! The record layer against a model of RFC 8446, and the handshake against itself cut otherwise.
//!
//! The records are those of a client that has the keys and says what the input says, right or wrong; both ends have fixed secrets. The
//! model judges what is inside of a record: whether it is data, what it ends, and how often nothing may be said. The handshake gets the
//! input as it comes, without a certificate or with one whose signatures are none. Its result and the length of its answer must not
//! depend on how the input is cut; what is random in an answer is not looked at.

use super::input::{Cuts, Input};
use crate::tls::double::{self, Forger, SUITES};
use crate::tls::{
    Config, Event, Failure, HANDSHAKE_BYTES_MAX, Handshake, KeyCache, Opened, Progress, RECORD_BYTES_MAX,
    RECORD_PLAINTEXT_BYTES_MAX, RECORDS_WITHOUT_DATA_MAX, RecordMode, Records, Settings, sealed_bytes_max,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{SignatureAlgorithm, SignatureScheme};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Says what the input says to an open connection, or shows it to a handshake.
///
/// # Panics
/// If the record layer does other than its model, or a handshake depends on how its input is cut.
pub fn tls(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(5) {
        0 => handshake(&mut input, false),
        1 => handshake(&mut input, true),
        suite => records(&mut input, suite - 2),
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Failed(Failure),
}

fn records(input: &mut Input<'_>, suite: usize) {
    let (mut forger, records) = double::open(SUITES[suite], u32::from(input.byte()) + 2);
    let cuts = Cuts::new(u64::from(input.byte()));
    let keys = KeyCache::new(1 + input.below(3));
    let mut end = OurEnd { records, keys, cuts, buffer: Vec::new(), plaintext: Vec::new(), end: None };
    let mut model = Model::default();
    while !input.is_empty() && model.end.is_none() {
        let bytes = match input.below(16) {
            kind @ 0..=9 => {
                let (kind, content_below) = [(DATA, 256), (HANDSHAKE, 7), (ALERT, 4)][[0, 0, 0, 0, 0, 0, 1, 1, 1, 2][kind]];
                let count = input.below(content_below);
                let content = input.take(count);
                model.take(&mut forger, kind, content, 0)
            }
            10 => {
                let (kind, padding) = (input.byte(), usize::from(input.u16()) % (RECORD_PLAINTEXT_BYTES_MAX + 200));
                let count = input.below(8);
                model.take(&mut forger, kind, input.take(count), padding)
            }
            11 | 12 => {
                let request = u8::from(input.flag());
                model.take(&mut forger, HANDSHAKE, &[24, 0, 0, 1, request], 0)
            }
            13 => model.take_wrong(&mut forger, input),
            _ => {
                let count = usize::from(input.u16()) % 40_000;
                end.answer(&mut forger, count);
                model.owes_key_update = false;
                continue;
            }
        };
        end.receive(&bytes);
        assert_eq!((end.end, end.plaintext.len()), (model.end, model.plaintext.len()));
        assert!(end.plaintext == model.plaintext);
        assert_eq!(end.records.has_reply(), model.owes_key_update && !matches!(model.end, Some(End::Failed(_))));
        if model.end.is_none() && input.flag() {
            end.reply(&mut forger);
            model.owes_key_update = false;
        }
    }
    end.close(&mut forger);
}

/// Our end of a connection.
struct OurEnd {
    records: Records,
    keys: KeyCache,
    cuts: Cuts,
    buffer: Vec<u8>,
    plaintext: Vec<u8>,
    end: Option<End>,
}

impl OurEnd {
    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.end.is_none() {
            let (piece, rest) = bytes.split_at(self.cuts.next(bytes.len()));
            self.buffer.extend_from_slice(piece);
            bytes = rest;
            while self.open() {}
        }
    }

    /// Opens a record; says whether another may follow.
    fn open(&mut self) -> bool {
        let opened = self.records.open(&mut self.keys, &mut self.buffer);
        let Ok(Opened { consumed, event }) = opened else {
            self.end = opened.err().map(End::Failed);
            return false;
        };
        let goes_on = match event {
            Event::Data(range) => {
                assert!(!range.is_empty() && range.end <= consumed);
                self.plaintext.extend_from_slice(&self.buffer[range]);
                true
            }
            Event::Missing(bytes) => {
                assert!(bytes > 0 && self.buffer.len() - consumed + bytes <= RECORD_BYTES_MAX);
                false
            }
            Event::Closed => {
                assert_eq!(consumed, self.buffer.len());
                self.end = Some(End::Closed);
                false
            }
        };
        self.buffer.drain(..consumed);
        goes_on
    }

    /// Sends so many bytes, and checks that they arrive.
    fn answer(&mut self, forger: &mut Forger, count: usize) {
        let plaintext: Vec<u8> = (0..count).map(|at| (at / 3) as u8).collect();
        let (first, second) = plaintext.split_at(count / 3);
        let mut out = Vec::new();
        self.records.seal(&mut self.keys, &[first, &[], second], &mut out).expect("it is open");
        assert!(out.len() <= sealed_bytes_max(count));
        let arrived = forger.receive(&out).into_iter().filter(|answer| answer.kind == DATA);
        assert!(arrived.flat_map(|answer| answer.content).eq(plaintext));
        assert!(!self.records.has_reply(), "a reply goes first");
    }

    /// Sends what TLS has to say.
    fn reply(&mut self, forger: &mut Forger) {
        let (mut out, due) = (Vec::new(), self.records.has_reply());
        self.records.reply(&mut self.keys, &mut out);
        assert_eq!(forger.receive(&out).len(), usize::from(due));
    }

    /// Closes, once, and checks that the client is told what it should be.
    fn close(mut self, forger: &mut Forger) {
        let mut out = Vec::new();
        self.records.close(&mut self.keys, &mut out);
        self.records.close(&mut self.keys, &mut out);
        let told: Vec<Vec<u8>> = forger.receive(&out).into_iter().map(|answer| answer.content).collect();
        let due = match self.end {
            Some(End::Failed(failure)) => failure.alert().map(|description| vec![2, u8::from(description)]),
            Some(End::Closed) | None => Some(vec![1, 0]),
        };
        assert_eq!(told, Vec::from_iter(due));
        assert_eq!(self.records.seal(&mut self.keys, &[b"x"], &mut out), Err(Failure::Ended));
        self.records.forget(&mut self.keys);
        assert!(self.keys.is_empty(), "a key of an ended connection is held");
    }
}

/// What a client's records come to, judged by what is in them.
#[derive(Default)]
struct Model {
    plaintext: Vec<u8>,
    end: Option<End>,
    owes_key_update: bool,
    /// What came of a handshake message that is not whole.
    message: Vec<u8>,
    without_data: u8,
}

impl Model {
    /// Judges a record, and has it made.
    fn take(&mut self, forger: &mut Forger, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let bytes = forger.seal(kind, content, padding);
        // A zero is padding as well, so the type is the last byte of the content that is none.
        let inner: Vec<u8> = content.iter().copied().chain([kind]).collect();
        let last = inner.iter().rposition(|byte| *byte != 0);
        let judged = match last {
            _ if inner.len() + padding > RECORD_PLAINTEXT_BYTES_MAX + 1 => Err(End::Failed(Failure::RecordOverflow)),
            Some(last) => self.judge(forger, inner[last], &inner[..last]),
            None => Err(End::Failed(Failure::UnexpectedMessage)),
        };
        self.end = judged.err();
        bytes
    }

    fn judge(&mut self, forger: &mut Forger, kind: u8, content: &[u8]) -> Result<(), End> {
        let unexpected = End::Failed(Failure::UnexpectedMessage);
        match (kind, content) {
            (DATA, []) if self.message.is_empty() => {}
            (DATA, data) if self.message.is_empty() => {
                self.plaintext.extend_from_slice(data);
                self.without_data = 0;
                return Ok(());
            }
            (ALERT, _) if !self.message.is_empty() => return Err(unexpected),
            (ALERT, [_, 0]) => return Err(End::Closed),
            (ALERT, [_, 90]) => {}
            (ALERT, [_, _]) => return Err(End::Failed(Failure::PeerAlert)),
            (ALERT, _) => return Err(End::Failed(Failure::Undecodable)),
            (HANDSHAKE, [_, ..]) => {
                self.message.extend_from_slice(content);
                self.judge_message(forger)?;
            }
            _ => return Err(unexpected),
        }
        self.without_data += 1;
        if self.without_data > RECORDS_WITHOUT_DATA_MAX { Err(unexpected) } else { Ok(()) }
    }

    fn judge_message(&mut self, forger: &mut Forger) -> Result<(), End> {
        let whole = [24, 0, 0, 1];
        let head = &self.message[..self.message.len().min(4)];
        if head[0] != whole[0] {
            return Err(End::Failed(Failure::UnexpectedMessage));
        }
        if head != &whole[..head.len()] {
            return Err(End::Failed(Failure::Undecodable));
        }
        match self.message[head.len()..] {
            [] => return Ok(()),
            [request @ 0..=1] => self.owes_key_update |= request == 1,
            [_] => return Err(End::Failed(Failure::IllegalParameter)),
            _ => return Err(End::Failed(Failure::UnexpectedMessage)),
        }
        self.message.clear();
        forger.advance();
        Ok(())
    }

    /// A record that is wrong by itself.
    fn take_wrong(&mut self, forger: &mut Forger, input: &mut Input<'_>) -> Vec<u8> {
        let mut record = forger.seal(DATA, b"some data", 0);
        let (way, byte) = (input.below(5), input.byte());
        let failure = match way {
            0 => {
                let at = 5 + usize::from(byte) % (record.len() - 5);
                record[at] ^= 1 << (byte & 7);
                Failure::BadRecordMac
            }
            1 if byte != DATA => {
                record[0] = byte;
                Failure::UnexpectedRecord
            }
            2 => {
                record.splice(3..5, [0x41, byte | 1]);
                Failure::RecordOverflow
            }
            3 => {
                record.splice(3..5, [0, byte % 17]);
                Failure::BadRecordMac
            }
            // One is missing.
            _ => {
                record = forger.seal(DATA, b"the next", 0);
                Failure::BadRecordMac
            }
        };
        self.end = Some(End::Failed(failure));
        record
    }
}

/// What a handshake came to: how it failed, and how much it has answered.
type Outcome = (Option<Failure>, usize);

fn handshake(input: &mut Input<'_>, has_certificate: bool) {
    static CONFIGS: OnceLock<[Config; 2]> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| [false, true].map(config));
    let config = &configs[usize::from(has_certificate)];
    let mut cuts = Cuts::new(u64::from(input.byte()));
    let mut bytes = input.rest().to_vec();
    // A fuzzer finds the length of a record only by chance; this one is right as long as there is one record.
    if let (Some(length), [22, 3, _, high, low, ..]) = (bytes.len().checked_sub(5), &mut bytes[..]) {
        [*high, *low] = (length.min(RECORD_PLAINTEXT_BYTES_MAX) as u16).to_be_bytes();
    }
    let whole = shake(config, &bytes, |left| left);
    assert_eq!(whole, shake(config, &bytes, |left| cuts.next(left)), "it depends on the cuts");
    assert_eq!(whole, shake(config, &bytes, |_| 1), "it depends on the cuts");
}

fn shake(config: &Config, bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> Outcome {
    let (mut handshake, mut out, mut rest) = (Handshake::new(config), Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(cut(rest.len()));
        rest = left;
        match handshake.receive(piece, &mut out) {
            Ok(Progress::Continue) => assert!(handshake.bytes_held() <= 2 * HANDSHAKE_BYTES_MAX),
            Ok(Progress::Done { .. }) => panic!("nobody finishes a handshake without keys"),
            Err(failure) => {
                assert_eq!(handshake.bytes_held(), 0);
                return (Some(failure), out.len());
            }
        }
    }
    (None, out.len())
}

fn config(has_certificate: bool) -> Config {
    let settings = Settings {
        certificates: Arc::new(Certificates { has_certificate }),
        client_verifier: None,
        tls12: false,
        records: RecordMode::Compact,
        time: Arc::new(Standing),
    };
    Config::new(settings).expect("it is sound")
}

#[derive(Debug)]
struct Certificates {
    has_certificate: bool,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = || CertifiedKey::new(vec![CertificateDer::from(vec![0x30, 0])], Arc::new(NoKey));
        self.has_certificate.then(|| Arc::new(key()))
    }
}

/// Signs everything with the same bytes.
#[derive(Debug)]
struct NoKey;

impl SigningKey for NoKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(NoKey) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NoKey {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(vec![0; 64])
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct Standing;

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000)))
    }
}
