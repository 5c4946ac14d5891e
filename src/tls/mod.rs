//! TLS 1.3 for the server, bytes to bytes: the handshake, and the records of an open connection in 192 bytes.
//!
//! ```text
//! received bytes ─► Handshake::receive ─► Progress::Continue      `out` goes to the peer, whatever the result
//!                            │        └─► Err(Failure)            `out` ends with the alert
//!                            ▼
//!                   Progress::Done ─► Records ─► open(in place in the receive buffer) ─► plaintext
//!                                            ◄─ seal(frames that wait) ─► one record or several
//!                                            ◄─ reply, close ─► what TLS itself has to say
//! ```
//!
//! The handshake is rustls' (unbuffered, aws-lc-rs): nothing here chooses a group, checks a signature or reads a certificate chain. What
//! rustls holds for an open connection is 3.6 KB, so the record layer is our own: when the handshake is done the traffic secrets, the
//! sequence numbers and the suite move into [`Records`], and the rest is freed. With [`RecordMode::Rustls`], and for TLS 1.2, rustls stays
//! for the connection's life behind the same functions: it is what the compact records are compared with.
//!
//! It knows no socket, no slot and no deadline. Time enters with [`Settings::time`], which judges certificates and tickets; only rustls'
//! ticketer reads a clock of its own, to change its keys every six hours. Entropy is aws-lc's.
//!
//! # What the caller keeps to
//! - Bytes of a record that is not complete stay with the caller, at most [`RECORD_BYTES_MAX`]; [`Records::open`] wants the record whole
//!   and in one piece. [`Handshake`] keeps what is not complete itself.
//! - What `out` got is sent in its order, once and whole. A record is never sealed twice: a send that was taken in part keeps the sealed
//!   rest.
//! - After a failure there is one thing left to do: [`Records::close`] for the alert, then the end of the connection.
//!
//! # Invariants
//! - A sequence number is used once: only `seal` and its kin move it, and neither they nor [`Records`] can be repeated or cloned.
//! - After any failure nothing is opened or sealed any more, except that one alert.
//! - Secrets are zeroized when they are dropped or replaced.

mod cache;
mod capture;
pub mod certificates;
mod compact;
mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod double;
mod engine;
mod failure;
mod handshake;
mod keys;
mod plain;
mod records;
mod subject;

#[cfg(test)]
mod tests;

pub use cache::{KEY_CACHE_PLACES_MAX, KeyCache};
pub use config::{Config, RecordMode, Settings, provider};
pub use failure::{Failure, HandshakeResult};
pub use handshake::{CLIENT_HELLO_BYTES_MAX, Established, HANDSHAKE_BYTES_MAX, Handshake, Progress};
pub use records::{Event, Opened, RECORDS_WITHOUT_DATA_MAX, Records};

/// Bytes before the protected part of a record: type, version and length (RFC 8446 §5.1).
pub const RECORD_HEADER_BYTES: usize = 5;
/// Bytes of plaintext in a record (RFC 8446 §5.1). More is sealed as several records.
pub const RECORD_PLAINTEXT_BYTES_MAX: usize = 16_384;
/// Bytes that a record's length may claim (RFC 8446 §5.2). Above: `record_overflow`.
pub const RECORD_PROTECTED_BYTES_MAX: usize = RECORD_PLAINTEXT_BYTES_MAX + 256;
/// Bytes of a record, with its header: what a caller keeps at most of one that is not complete.
pub const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + RECORD_PROTECTED_BYTES_MAX;
/// Bytes that sealing adds to each record at most: 22 with TLS 1.3 (header, type and tag), 29 with TLS 1.2 (header, nonce and tag).
pub const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 8 + TAG_BYTES;
/// Bytes of the tag of every suite.
const TAG_BYTES: usize = 16;
/// Bytes that TLS itself may put before the records of one [`Records::seal`]: its answer to a `KeyUpdate`, and a `KeyUpdate` of its own.
pub const REPLY_BYTES_MAX: usize = 2 * (RECORD_OVERHEAD_BYTES + 5);

/// Bytes that [`Records::seal`] appends at most for so much plaintext.
pub const fn sealed_bytes_max(plaintext_bytes: usize) -> usize {
    plaintext_bytes + plaintext_bytes.div_ceil(RECORD_PLAINTEXT_BYTES_MAX) * RECORD_OVERHEAD_BYTES + REPLY_BYTES_MAX
}
