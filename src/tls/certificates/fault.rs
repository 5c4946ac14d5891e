//! What can be wrong with certificate files: faults, for which nothing is served or replaced, and warnings, in spite of which it is.
//!
//! Each says which file, what is wrong and what mends it; none says anything of a key but where it is.

use super::{CHAIN_CERTIFICATES_MAX, PAIRS_MAX, PEM_BYTES_MAX, UnixSeconds};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why certificates cannot be served.
#[derive(Debug)]
pub struct Fault {
    /// The file that is to be mended.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: FaultCause,
}

/// What is wrong with a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum FaultCause {
    /// It cannot be opened or read.
    Unreadable(io::Error),
    /// It is a folder, a pipe or a device: what cannot be read again for a reload.
    NotAFile,
    /// It has more bytes than [`PEM_BYTES_MAX`].
    TooLarge,
    /// It is not PEM (RFC 7468): cut off, or damaged.
    NotPem(String),
    /// There is no certificate in it.
    NoCertificate,
    /// The chain has more certificates than [`CHAIN_CERTIFICATES_MAX`].
    ChainTooLong,
    /// One of its certificates is no X.509 certificate that can be used.
    BadCertificate {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no private key in it.
    NoKey,
    /// The private key is encrypted, and nobody is there to give a passphrase.
    EncryptedKey,
    /// There are this many private keys in it, and which is meant is not for the server to guess.
    ManyKeys(usize),
    /// The private key is of no kind that can be used.
    BadKey(String),
    /// The private key in it belongs to another certificate than the one in this file.
    KeyMismatch {
        /// The file of the chain.
        chain: PathBuf,
    },
    /// The certificate is no longer valid.
    Expired(UnixSeconds),
    /// The certificate is not valid yet.
    NotYetValid(UnixSeconds),
    /// There are more pairs than [`PAIRS_MAX`]; this is the first too many.
    TooManyPairs,
    /// The authorities in it cannot be used to judge clients.
    BadAuthorities(String),
}

impl Fault {
    pub(super) fn new(path: impl Into<PathBuf>, cause: FaultCause) -> Fault {
        Fault { path: path.into(), cause }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.cause {
            FaultCause::Unreadable(error) => write!(
                f,
                "{path} cannot be read: {error}; check the path, and that the server's user may read the file and enter its folders"
            ),
            FaultCause::NotAFile => {
                write!(f, "{path} is not a regular file; give a PEM file, which can be read again when it changes")
            }
            FaultCause::TooLarge => write!(f, "{path} has more than {PEM_BYTES_MAX} bytes; give only the PEM that is needed"),
            FaultCause::NotPem(detail) => write!(f, "{path} is not whole PEM: {detail}; write the file anew"),
            FaultCause::NoCertificate => write!(
                f,
                "{path} holds no certificate; give a PEM file with -----BEGIN CERTIFICATE-----, \
                 or convert DER with `openssl x509 -inform der -in FILE`"
            ),
            FaultCause::ChainTooLong => write!(
                f,
                "{path} holds more than {CHAIN_CERTIFICATES_MAX} certificates; give the server's certificate and its intermediates only"
            ),
            FaultCause::BadCertificate { number, detail } => {
                write!(f, "certificate {number} of {path} cannot be used: {detail}; have it issued anew")
            }
            FaultCause::NoKey => write!(
                f,
                "{path} holds no private key; give a PEM file with -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)"
            ),
            FaultCause::EncryptedKey => write!(
                f,
                "the private key in {path} is encrypted; decrypt it with `openssl pkey -in FILE -out NEW`, and let only the server's user read it"
            ),
            FaultCause::ManyKeys(count) => {
                write!(f, "{path} holds {count} private keys; leave the one that belongs to the certificate")
            }
            FaultCause::BadKey(detail) => {
                write!(
                    f,
                    "the private key in {path} cannot be used: {detail}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more"
                )
            }
            FaultCause::KeyMismatch { chain } => write!(
                f,
                "the private key in {path} does not belong to the certificate in {}; give the pair that was issued together, \
                 the server's own certificate first",
                chain.display()
            ),
            FaultCause::Expired(at) => {
                write!(f, "the certificate in {path} expired on {at}; renew it, or set this machine's clock if it is ahead")
            }
            FaultCause::NotYetValid(at) => {
                write!(f, "the certificate in {path} is not valid before {at}; wait, or set this machine's clock if it is behind")
            }
            FaultCause::TooManyPairs => {
                write!(f, "{path} is one certificate too many: at most {PAIRS_MAX} are served; join names into fewer certificates")
            }
            FaultCause::BadAuthorities(detail) => {
                write!(
                    f,
                    "clients cannot be judged by {path}: {detail}; give the PEM of the authority that issues their certificates"
                )
            }
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let FaultCause::Unreadable(error) = &self.cause { Some(error) } else { None }
    }
}

/// What an operator should know of certificates that are served all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file that it is about.
    pub path: PathBuf,
    /// What is odd about it.
    pub cause: WarningCause,
}

/// What is odd about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningCause {
    /// Others than its owner may read the private key.
    KeyReadable {
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate expires within [`EXPIRY_WARNING_S`](super::EXPIRY_WARNING_S).
    ExpiresSoon {
        /// When.
        at: UnixSeconds,
        /// Whole days until then.
        days: i64,
    },
    /// A certificate of the chain is not the issuer of the one before it.
    ChainOrder {
        /// Which, from 1.
        number: usize,
    },
    /// An intermediate certificate, or an authority, is no longer valid.
    OthersExpired {
        /// Which, from 1.
        number: usize,
        /// Since when.
        at: UnixSeconds,
    },
    /// Only the server's own certificate is given, and it was issued by somebody else.
    NoIntermediate {
        /// By whom.
        issuer: String,
    },
    /// The certificate vouches for itself.
    SelfSigned,
    /// The certificate names no host: no client can be shown it by name, and none of today's would take it.
    NoNames,
    /// The server's certificate is one that may issue others, as `openssl req -x509` makes them: strict clients refuse it as a server's.
    IsAuthority,
    /// A certificate of the authorities is none that may issue others.
    NotAnAuthority {
        /// Which, from 1.
        number: usize,
    },
}

impl Warning {
    pub(super) fn new(path: impl Into<PathBuf>, cause: WarningCause) -> Warning {
        Warning { path: path.into(), cause }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.cause {
            WarningCause::KeyReadable { mode } => {
                write!(
                    f,
                    "others may read the private key in {path} (mode {mode:04o}); run `chmod 600` on it, as the server's user"
                )
            }
            WarningCause::ExpiresSoon { at, days } => {
                write!(f, "the certificate in {path} expires on {at}, in {days} days; check that its renewal runs")
            }
            WarningCause::ChainOrder { number } => write!(
                f,
                "certificate {number} of {path} did not issue the one before it; put the server's own certificate first, then each one's issuer"
            ),
            WarningCause::OthersExpired { number, at } => {
                write!(f, "certificate {number} of {path} expired on {at}; replace it with its issuer's current one")
            }
            WarningCause::NoIntermediate { issuer } => write!(
                f,
                "{path} holds only the server's own certificate; clients that don't know its issuer ({issuer}) refuse it: give the full chain"
            ),
            WarningCause::SelfSigned => {
                write!(f, "the certificate in {path} is self-signed; only clients that were given it will trust it")
            }
            WarningCause::NoNames => {
                write!(
                    f,
                    "the certificate in {path} has no host name or address as subject alternative name; clients will refuse it"
                )
            }
            WarningCause::IsAuthority => write!(
                f,
                "the certificate in {path} is that of an authority (CA:TRUE), which some clients refuse as a server's; \
                 make it with `-addext basicConstraints=critical,CA:FALSE`"
            ),
            WarningCause::NotAnAuthority { number } => write!(
                f,
                "certificate {number} of {path} is not that of an authority (CA:TRUE is missing); give the issuer's, not a client's own"
            ),
        }
    }
}
