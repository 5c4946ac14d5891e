//! Clients that show a certificate: whose they take, and which user it makes them.
//!
//! Whether a certificate is genuine and valid now is judged by the verifier, in the handshake. [`user_of`] reads a name in one that was
//! judged, and must not be asked about any other.

use super::pair::facts_of;
use super::{AUTHORITY_HINTS_MAX, Fault, FaultCause, UnixSeconds, Warning, WarningCause, inspect, pem};
use crate::limits::USER_ID_BYTES_MAX;
use crate::time::Now;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;

/// A verifier that lets in only clients with a certificate that one of the authorities in this PEM file issued, and that is valid when
/// it is shown.
///
/// # Errors
/// A [`Fault`] of the file.
pub fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
    now: Now,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<Warning>), Fault> {
    let authorities = pem::certificates(path)?;
    let now = UnixSeconds::of(now);
    let mut warnings = Vec::new();
    for (index, facts) in facts_of(path, &authorities)?.iter().enumerate() {
        let number = index + 1;
        if !facts.is_authority {
            warnings.push(Warning::new(path, WarningCause::NotAnAuthority { number }));
        }
        // An authority counts as one whatever its dates say: they bind those who issued it, not those who trust it.
        if now > facts.not_after {
            warnings.push(Warning::new(path, WarningCause::OthersExpired { number, at: facts.not_after }));
        }
    }
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        let unusable =
            |error: rustls::Error| Fault::new(path, FaultCause::BadCertificate { number: index + 1, detail: error.to_string() });
        roots.add(authority).map_err(unusable)?;
    }
    let has_few = roots.len() <= AUTHORITY_HINTS_MAX;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if has_few { builder } else { builder.clear_root_hint_subjects() };
    let verifier = builder.build().map_err(|error| Fault::new(path, FaultCause::BadAuthorities(error.to_string())))?;
    Ok((verifier, warnings))
}

/// Why a certificate names no user. The client that showed it is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubjectError {
    /// It is no certificate.
    Malformed,
    /// It has neither a common name nor an alternative name that could be one.
    Missing,
    /// It has several common names.
    Ambiguous,
    /// The name is in none of the encodings that are taken: UTF-8 and its subsets.
    Encoding,
    /// The name has more bytes than [`USER_ID_BYTES_MAX`]. This many.
    TooLong(usize),
    /// The name has control characters.
    ControlCharacters,
}

impl SubjectError {
    /// The label of metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            SubjectError::Malformed => "malformed",
            SubjectError::Missing => "missing",
            SubjectError::Ambiguous => "ambiguous",
            SubjectError::Encoding => "encoding",
            SubjectError::TooLong(_) => "too_long",
            SubjectError::ControlCharacters => "control_characters",
        }
    }
}

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubjectError::Malformed => f.write_str("the client's certificate is malformed"),
            SubjectError::Missing => f.write_str(
                "the client's certificate names no user: it needs a common name, or an e-mail, DNS or URI alternative name",
            ),
            SubjectError::Ambiguous => f.write_str("the client's certificate has several common names"),
            SubjectError::Encoding => f.write_str("the user in the client's certificate is not UTF-8"),
            SubjectError::TooLong(bytes) => {
                write!(f, "the user in the client's certificate has {bytes} bytes; at most {USER_ID_BYTES_MAX} are taken")
            }
            SubjectError::ControlCharacters => f.write_str("the user in the client's certificate has control characters"),
        }
    }
}

impl std::error::Error for SubjectError {}

/// The user that a client's certificate makes it: its common name, else the first of its alternative names that is an e-mail address, a
/// host name or a URI. What it returns keeps to the rules of user ids: 1 to [`USER_ID_BYTES_MAX`] bytes, no control characters.
///
/// # Errors
/// [`SubjectError`]. A common name that is there and cannot be taken is never passed over for another name.
pub fn user_of(certificate: &CertificateDer<'_>) -> Result<String, SubjectError> {
    let certificate = inspect::parse(certificate).map_err(|_| SubjectError::Malformed)?;
    let mut common_names = certificate.subject().iter_common_name();
    let common_name = common_names.next();
    if common_names.next().is_some() {
        return Err(SubjectError::Ambiguous);
    }
    let common_name = common_name.map(|name| name.as_str().map_err(|_| SubjectError::Encoding)).transpose()?;
    let name = match common_name.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => {
            let alternatives = certificate.subject_alternative_name().map_err(|_| SubjectError::Malformed)?;
            let names = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
            names.iter().find_map(text_of).ok_or(SubjectError::Missing)?
        }
    };
    if name.len() > USER_ID_BYTES_MAX {
        return Err(SubjectError::TooLong(name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(SubjectError::ControlCharacters);
    }
    Ok(name.to_owned())
}

/// An alternative name that can be a user.
fn text_of<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    let text = match name {
        GeneralName::RFC822Name(text) | GeneralName::DNSName(text) | GeneralName::URI(text) => text,
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => return None,
    };
    (!text.is_empty()).then_some(text)
}
