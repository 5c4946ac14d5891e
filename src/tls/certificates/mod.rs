//! Certificates: which one the server shows to whom, when it takes new ones from disk, and which clients' certificates it takes.
//!
//! [`Store`] holds the pairs of chain and key that are served, chosen by the name that a client asks for, and replaces all of them at once.
//! [`client_verifier`] and [`user_of`] are about the certificates of clients, [`Development`] makes one for a machine that has none.
//!
//! Knows no listener, no connection, and no clock: the time is an argument. It logs nothing: what an operator should hear is a [`Fault`]
//! or a [`Warning`], whose texts name file, cause and remedy.
//!
//! Invariants: what is served was read whole, and each key belongs to its certificate; a fault while reading leaves what is served as
//! it was; private keys are in no `Debug` output, and the text of their files is zeroized.

mod client_ca;
mod date;
mod development;
mod fault;
mod inspect;
mod names;
mod pair;
mod pem;
mod store;
#[cfg(test)]
mod tests;

pub use client_ca::{SubjectError, client_verifier, user_of};
pub use date::UnixSeconds;
pub use development::{Development, DevelopmentError};
pub use fault::{Fault, FaultCause, Warning, WarningCause};
pub use pair::{Files, Fingerprint, Summary};
pub use store::{Change, Store};

/// Pairs of chain and key that are served. Above: refused. Each look for changes asks the file system about both files of each.
pub const PAIRS_MAX: usize = 256;
/// Bytes of a PEM file; a bundle of all public authorities has a quarter of a MiB. Above: refused, before it is read.
pub const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Certificates of a chain. Above: refused. All of them are sent in each full handshake.
pub const CHAIN_CERTIFICATES_MAX: usize = 16;
/// Seconds before the end of a certificate from which it is warned of: two weeks, when every renewal tool should have acted.
pub const EXPIRY_WARNING_S: i64 = 14 * 24 * 3600;
/// Time for which changed files must stay as they are before a fault in them is told, in ms: renewal tools write chain and key one after
/// the other, and copy them over slow disks.
pub const SETTLE_MS: u64 = 10_000;
/// Authorities up to which clients are told whom the server trusts (RFC 8446 §4.2.4). Above: they are not told, because the list would
/// make each handshake long, and has at most 64 KiB.
pub const AUTHORITY_HINTS_MAX: usize = 32;
/// How long a development certificate is valid, in seconds, from an hour before it was made: browsers take no more than two weeks where a
/// page names a certificate by its hash.
pub const DEVELOPMENT_VALIDITY_S: i64 = 13 * 24 * 3600;
