//! A certificate chain with its key: read from two files, and judged before it is served.

use super::inspect::Facts;
use super::{CHAIN_CERTIFICATES_MAX, EXPIRY_WARNING_S, Fault, FaultCause, UnixSeconds, Warning, WarningCause, pem};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a chain and its key are. They may be one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM of the server's certificate and then its intermediates.
    pub chain: PathBuf,
    /// PEM of its private key.
    pub key: PathBuf,
}

/// SHA-256 of a certificate in DER: what browsers and `openssl x509 -fingerprint -sha256` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    /// Upper-case hexadecimal bytes with colons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// What metrics and logs say of a certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The file of its chain; `None` if it was made by this server.
    pub chain: Option<PathBuf>,
    /// The host names that it is for.
    pub hosts: Vec<Box<str>>,
    /// Tells it from every other.
    pub fingerprint: Fingerprint,
    /// From when it is valid.
    pub not_before: UnixSeconds,
    /// Until when.
    pub not_after: UnixSeconds,
}

/// A chain with the key that belongs to it.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) summary: Summary,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads a pair and judges it. Warnings are appended.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub(super) fn load(
        files: &Files,
        provider: &CryptoProvider,
        now: UnixSeconds,
        warnings: &mut Vec<Warning>,
    ) -> Result<Pair, Fault> {
        let chain = pem::certificates(&files.chain)?;
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Fault::new(&files.chain, FaultCause::ChainTooLong));
        }
        let facts = facts_of(&files.chain, &chain)?;
        let leaf = &facts[0];
        let key = pem::key(&files.key)?;
        let certified = CertifiedKey::from_der(chain, key.key, provider).map_err(|error| {
            if let Error::InvalidCertificate(error) = error {
                Fault::new(&files.chain, FaultCause::BadCertificate { number: 1, detail: error.to_string() })
            } else if error == Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                Fault::new(&files.key, FaultCause::KeyMismatch { chain: files.chain.clone() })
            } else {
                let detail = if let Error::General(detail) = error { detail } else { error.to_string() };
                Fault::new(&files.key, FaultCause::BadKey(detail))
            }
        })?;
        if now < leaf.not_before {
            return Err(Fault::new(&files.chain, FaultCause::NotYetValid(leaf.not_before)));
        }
        if now > leaf.not_after {
            return Err(Fault::new(&files.chain, FaultCause::Expired(leaf.not_after)));
        }
        if key.mode & 0o044 != 0 {
            warnings.push(Warning::new(&files.key, WarningCause::KeyReadable { mode: key.mode }));
        }
        warn_of_chain(&files.chain, &facts, now, warnings);
        let summary = summary(Some(files.chain.clone()), &certified.cert[0], leaf);
        Ok(Pair { certified: Arc::new(certified), summary })
    }

    /// A pair that was made here.
    ///
    /// # Errors
    /// What is wrong with its certificate.
    pub(super) fn made(certified: CertifiedKey) -> Result<Pair, String> {
        let facts = Facts::of(&certified.cert[0])?;
        let summary = summary(None, &certified.cert[0], &facts);
        Ok(Pair { certified: Arc::new(certified), summary })
    }
}

fn summary(chain: Option<PathBuf>, certificate: &CertificateDer<'_>, facts: &Facts) -> Summary {
    Summary {
        chain,
        hosts: facts.hosts.clone(),
        fingerprint: Fingerprint::of(certificate),
        not_before: facts.not_before,
        not_after: facts.not_after,
    }
}

/// What each certificate of a file says.
///
/// # Errors
/// The first that cannot be read.
pub(super) fn facts_of(path: &Path, certificates: &[CertificateDer<'_>]) -> Result<Vec<Facts>, Fault> {
    let facts = |(index, certificate)| {
        Facts::of(certificate).map_err(|detail| Fault::new(path, FaultCause::BadCertificate { number: index + 1, detail }))
    };
    certificates.iter().enumerate().map(facts).collect()
}

/// What is odd about a chain whose first certificate is valid now.
fn warn_of_chain(path: &Path, facts: &[Facts], now: UnixSeconds, warnings: &mut Vec<Warning>) {
    let mut warn = |cause| warnings.push(Warning::new(path, cause));
    let leaf = &facts[0];
    if leaf.not_after.0.saturating_sub(now.0) < EXPIRY_WARNING_S {
        warn(WarningCause::ExpiresSoon { at: leaf.not_after, days: leaf.not_after.days_since(now) });
    }
    if !leaf.has_names {
        warn(WarningCause::NoNames);
    }
    if leaf.is_authority {
        warn(WarningCause::IsAuthority);
    }
    if leaf.is_self_signed() {
        warn(WarningCause::SelfSigned);
    } else if facts.len() == 1 {
        warn(WarningCause::NoIntermediate { issuer: leaf.issuer_text.clone() });
    }
    for (index, pair) in facts.windows(2).enumerate() {
        if !pair[0].is_issued_by(&pair[1]) {
            warn(WarningCause::ChainOrder { number: index + 2 });
        }
    }
    for (index, other) in facts.iter().enumerate().skip(1) {
        if now > other.not_after {
            warn(WarningCause::OthersExpired { number: index + 1, at: other.not_after });
        }
    }
}
