//! What is read in an X.509 certificate (RFC 5280): names, validity, who issued it. Judges nothing: whether it may be trusted is for
//! whoever it is shown to.

use super::UnixSeconds;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What a certificate says.
pub(super) struct Facts {
    /// Host names that it is for, in lower case, each once. They may begin with `*.`.
    pub(super) hosts: Vec<Box<str>>,
    /// It is for some host or address.
    pub(super) has_names: bool,
    pub(super) not_before: UnixSeconds,
    pub(super) not_after: UnixSeconds,
    /// Whose it is, in DER.
    subject: Vec<u8>,
    /// Who issued it, in DER.
    issuer: Vec<u8>,
    /// The same for people.
    pub(super) issuer_text: String,
    /// It may issue others.
    pub(super) is_authority: bool,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is malformed.
    pub(super) fn of(der: &CertificateDer<'_>) -> Result<Facts, String> {
        let certificate = parse(der)?;
        let alternatives = certificate.subject_alternative_name().map_err(|_| "its subject alternative names are malformed")?;
        let alternatives = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut hosts: Vec<Box<str>> = Vec::new();
        for name in alternatives {
            let GeneralName::DNSName(host) = name else { continue };
            let host = host.to_ascii_lowercase().into_boxed_str();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let has_addresses = alternatives.iter().any(|name| matches!(name, GeneralName::IPAddress(_)));
        Ok(Facts {
            has_names: has_addresses || !hosts.is_empty(),
            hosts,
            not_before: UnixSeconds(certificate.validity().not_before.timestamp()),
            not_after: UnixSeconds(certificate.validity().not_after.timestamp()),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            issuer_text: certificate.issuer().to_string(),
            is_authority: certificate.is_ca(),
        })
    }

    /// Whether it names itself as its issuer.
    pub(super) fn is_self_signed(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it names `other` as its issuer.
    pub(super) fn is_issued_by(&self, other: &Facts) -> bool {
        self.issuer == other.subject
    }
}

/// The certificate that these bytes are, and nothing behind it.
///
/// # Errors
/// What is malformed.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("bytes follow it".to_owned()),
        Err(_) => Err("it is not an X.509 certificate in DER".to_owned()),
    }
}
