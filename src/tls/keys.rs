//! Traffic secrets and what is derived from them: key, iv and the next secret (RFC 8446 §7.1 to §7.3); and which of it a connection keeps.
//!
//! Deriving a key costs 0.4 µs with SHA-256 and 1.15 µs with SHA-384, expanding it for use 0.15 µs, sealing 64 bytes 0.1 µs (measured on a
//! virtual machine with AES and SHA instructions). So keys are kept beside their secrets, as far as 192 bytes allow: a SHA-384
//! connection derives its receiving key each time that it is not in the cache.
//!
//! Invariant: secret, key and iv of a direction change together. All are zeroized when they are replaced or dropped; a move may leave
//! a copy where they were, so a table of connections should not grow by moving.

use aws_lc_rs::aead::{self, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::{CipherSuite, ConnectionTrafficSecrets};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a traffic secret, by its hash.
const SHA256_BYTES: usize = 32;
const SHA384_BYTES: usize = 48;
/// Bytes of the longest key.
const KEY_BYTES_MAX: usize = 32;
/// Bytes of the iv of every suite.
pub(super) const IV_BYTES: usize = 12;

/// Records that may be sealed with one key of AES-GCM; then a `KeyUpdate` follows (RFC 8446 §5.5 allows 2^24.5 full ones).
pub(super) const RECORDS_PER_AES_KEY_MAX: u32 = 1 << 24;
/// The same for ChaCha20-Poly1305, whose limit is out of reach: it keeps the count in 32 bits.
const RECORDS_PER_CHACHA_KEY_MAX: u32 = u32::MAX;

/// A traffic secret of either hash, while it passes through. Zeroized when it is dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret {
    bytes: [u8; SHA384_BYTES],
    length: usize,
}

impl Secret {
    /// Takes the bytes; `None` if they are more than a secret has.
    pub(super) fn new(secret: &[u8]) -> Option<Secret> {
        let mut bytes = [0; SHA384_BYTES];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Secret { bytes, length: secret.len() })
    }

    /// The bytes, if they are as many as the hash has.
    fn array<const N: usize>(&self) -> Option<[u8; N]> {
        self.bytes[..self.length].try_into().ok()
    }
}

/// Which way records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receiving,
    Sending,
}

/// The secrets of an open connection. The variant is its suite.
pub(super) enum Keys {
    Aes128(Pair),
    ChaCha20(Pair),
    Aes256 { receiving: Lean, sending: Full<SHA384_BYTES> },
}

/// Both directions of a suite with SHA-256.
pub(super) struct Pair {
    receiving: Full<SHA256_BYTES>,
    sending: Full<SHA256_BYTES>,
}

/// All of a direction.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Full<const SECRET_BYTES: usize> {
    secret: [u8; SECRET_BYTES],
    iv: [u8; IV_BYTES],
    key: [u8; KEY_BYTES_MAX],
}

/// A direction of AES-256 whose key is derived when it is needed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Lean {
    secret: [u8; SHA384_BYTES],
    iv: [u8; IV_BYTES],
}

impl Keys {
    /// Takes the traffic secrets of both directions; `None` if the suite is none of ours or they don't fit it.
    pub(super) fn new(suite: CipherSuite, receiving: &Secret, sending: &Secret) -> Option<Keys> {
        if suite == CipherSuite::TLS13_AES_256_GCM_SHA384 {
            return Some(Keys::Aes256 { receiving: Lean::new(receiving.array()?), sending: Full::new(&AES_256, sending.array()?) });
        }
        let pair =
            |kind: &Kind| Some(Pair { receiving: Full::new(kind, receiving.array()?), sending: Full::new(kind, sending.array()?) });
        if suite == CipherSuite::TLS13_AES_128_GCM_SHA256 {
            pair(&AES_128).map(Keys::Aes128)
        } else if suite == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 {
            pair(&CHACHA20).map(Keys::ChaCha20)
        } else {
            None
        }
    }

    /// The iv of a direction, which names its key: no two keys have the same.
    pub(super) fn iv(&self, direction: Direction) -> &[u8; IV_BYTES] {
        match (self, direction) {
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Receiving) => &pair.receiving.iv,
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Sending) => &pair.sending.iv,
            (Keys::Aes256 { receiving, .. }, Direction::Receiving) => &receiving.iv,
            (Keys::Aes256 { sending, .. }, Direction::Sending) => &sending.iv,
        }
    }

    /// Expands the key of a direction for use.
    pub(super) fn expand(&self, direction: Direction) -> LessSafeKey {
        let kind = self.kind();
        match (self, direction) {
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Receiving) => kind.expand(&pair.receiving.key),
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Sending) => kind.expand(&pair.sending.key),
            (Keys::Aes256 { receiving, .. }, Direction::Receiving) => kind.expand(&receiving.key()),
            (Keys::Aes256 { sending, .. }, Direction::Sending) => kind.expand(&sending.key),
        }
    }

    /// Replaces a direction's secret by the next one (RFC 8446 §7.2).
    pub(super) fn advance(&mut self, direction: Direction) {
        let kind = self.kind();
        match (self, direction) {
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Receiving) => pair.receiving.advance(kind),
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Sending) => pair.sending.advance(kind),
            (Keys::Aes256 { receiving, .. }, Direction::Receiving) => *receiving = Lean::new(*AES_256.next(&receiving.secret)),
            (Keys::Aes256 { sending, .. }, Direction::Sending) => sending.advance(kind),
        }
    }

    /// Records that may be sealed with one key.
    pub(super) fn records_per_key_max(&self) -> u32 {
        match self {
            Keys::Aes128(_) | Keys::Aes256 { .. } => RECORDS_PER_AES_KEY_MAX,
            Keys::ChaCha20(_) => RECORDS_PER_CHACHA_KEY_MAX,
        }
    }

    /// Whether a direction's key and iv are those that rustls would go on with.
    pub(super) fn are(&self, direction: Direction, theirs: &ConnectionTrafficSecrets) -> bool {
        let (key, iv, kind): (&[u8], &[u8], _) = match theirs {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (key.as_ref(), iv.as_ref(), &AES_128),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (key.as_ref(), iv.as_ref(), &AES_256),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref(), &CHACHA20),
            _ => return false,
        };
        let ours = Zeroizing::new(match (self, direction) {
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Receiving) => pair.receiving.key,
            (Keys::Aes128(pair) | Keys::ChaCha20(pair), Direction::Sending) => pair.sending.key,
            (Keys::Aes256 { receiving, .. }, Direction::Receiving) => *receiving.key(),
            (Keys::Aes256 { sending, .. }, Direction::Sending) => sending.key,
        });
        std::ptr::eq(kind.aead(), self.kind().aead()) && ours[..kind.key_bytes()] == *key && self.iv(direction) == iv
    }

    fn kind(&self) -> &'static Kind {
        match self {
            Keys::Aes128(_) => &AES_128,
            Keys::ChaCha20(_) => &CHACHA20,
            Keys::Aes256 { .. } => &AES_256,
        }
    }
}

impl<const SECRET_BYTES: usize> Full<SECRET_BYTES> {
    fn new(kind: &Kind, secret: [u8; SECRET_BYTES]) -> Self {
        let mut full = Full { secret, iv: [0; IV_BYTES], key: [0; KEY_BYTES_MAX] };
        kind.derive(&full.secret, b"key", &mut full.key[..kind.key_bytes()]);
        kind.derive(&full.secret, b"iv", &mut full.iv);
        full
    }

    fn advance(&mut self, kind: &Kind) {
        *self = Full::new(kind, *kind.next(&self.secret));
    }
}

impl Lean {
    fn new(secret: [u8; SHA384_BYTES]) -> Self {
        let mut lean = Lean { secret, iv: [0; IV_BYTES] };
        AES_256.derive(&lean.secret, b"iv", &mut lean.iv);
        lean
    }

    fn key(&self) -> Zeroizing<[u8; KEY_BYTES_MAX]> {
        let mut key = Zeroizing::new([0; KEY_BYTES_MAX]);
        AES_256.derive(&self.secret, b"key", &mut *key);
        key
    }
}

/// What the suites differ in.
struct Kind {
    aead: fn() -> &'static aead::Algorithm,
    hash: fn() -> hkdf::Algorithm,
}

static AES_128: Kind = Kind { aead: || &aead::AES_128_GCM, hash: || hkdf::HKDF_SHA256 };
static AES_256: Kind = Kind { aead: || &aead::AES_256_GCM, hash: || hkdf::HKDF_SHA384 };
static CHACHA20: Kind = Kind { aead: || &aead::CHACHA20_POLY1305, hash: || hkdf::HKDF_SHA256 };

impl Kind {
    fn aead(&self) -> &'static aead::Algorithm {
        (self.aead)()
    }

    fn key_bytes(&self) -> usize {
        self.aead().key_len()
    }

    fn expand(&self, key: &[u8; KEY_BYTES_MAX]) -> LessSafeKey {
        let key = UnboundKey::new(self.aead(), &key[..self.key_bytes()]).expect("the key is as long as the suite's");
        LessSafeKey::new(key)
    }

    fn next<const SECRET_BYTES: usize>(&self, secret: &[u8; SECRET_BYTES]) -> Zeroizing<[u8; SECRET_BYTES]> {
        let mut next = Zeroizing::new([0; SECRET_BYTES]);
        self.derive(secret, b"traffic upd", &mut *next);
        next
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
    fn derive(&self, secret: &[u8], label: &[u8], out: &mut [u8]) {
        let length = OutputBytes(out.len());
        let length_field = (out.len() as u16).to_be_bytes();
        let label_length = [(PREFIX.len() + label.len()) as u8];
        let info: [&[u8]; 5] = [&length_field, &label_length, PREFIX, label, &[0]];
        let secret = hkdf::Prk::new_less_safe((self.hash)(), secret);
        let expanded = secret.expand(&info, length).and_then(|expanded| expanded.fill(out));
        expanded.expect("a key is shorter than 255 hashes");
    }
}

const PREFIX: &[u8] = b"tls13 ";

struct OutputBytes(usize);

impl hkdf::KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}
