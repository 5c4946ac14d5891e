//! A certificate for a machine that has none: made at start, self-signed, for this machine's own names, and gone with the process.
//!
//! Its lifetime and key are what browsers take where a page names a certificate by its hash: ECDSA P-256 and at most two weeks.

use super::pair::{Fingerprint, Pair};
use super::{DEVELOPMENT_VALIDITY_S, UnixSeconds};
use crate::time::Now;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;

/// For clocks that differ a little: the certificate is valid from this long before it was made, in seconds.
const CLOCK_ALLOWANCE_S: i64 = 3600;
/// Bytes of a host name (RFC 1035 §2.3.4). A longer one is left out.
const HOST_BYTES_MAX: usize = 253;

/// Why no certificate could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevelopmentError(String);

impl fmt::Display for DevelopmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no certificate could be made for development: {}; give one with its key instead", self.0)
    }
}

impl std::error::Error for DevelopmentError {}

/// A self-signed certificate for `localhost`, 127.0.0.1, ::1 and the machine's host name, with its key.
pub struct Development {
    pair: Pair,
    names: Vec<String>,
    pem: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), in base64.
    public_key_hash: String,
}

impl fmt::Debug for Development {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Development").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Development {
    /// Makes one, valid for [`DEVELOPMENT_VALIDITY_S`].
    ///
    /// # Errors
    /// What the generator says.
    pub fn make(provider: &CryptoProvider, now: Now) -> Result<Development, DevelopmentError> {
        Development::for_host(host_name().as_deref(), provider, UnixSeconds::of(now))
    }

    pub(super) fn for_host(
        host: Option<&str>,
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<Development, DevelopmentError> {
        let failed = |error: rcgen::Error| DevelopmentError(error.to_string());
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(host.filter(|host| is_host_name(host) && *host != "localhost").map(str::to_owned));
        let mut parameters = CertificateParams::new(names.clone()).map_err(failed)?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "throng, for development");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (from, until) = (now.0 - CLOCK_ALLOWANCE_S, now.0 - CLOCK_ALLOWANCE_S + DEVELOPMENT_VALIDITY_S);
        let moment = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        (parameters.not_before, parameters.not_after) = (moment(from), moment(until));

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        let public_key_hash = base64(&Sha256::digest(key.subject_public_key_info()));
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], private, provider)
            .map_err(|error| DevelopmentError(error.to_string()))?;
        let pair = Pair::made(certified).map_err(DevelopmentError)?;
        Ok(Development { pair, names, pem: certificate.pem(), public_key_hash })
    }

    /// The certificate in PEM, for clients that can be told whom to trust. The key is not in it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.pair.summary.fingerprint
    }

    /// What a developer needs to know to connect, for the server to print: several lines, the last without an end.
    pub fn hint(&self, port: u16) -> String {
        format!(
            "a certificate for development was made, for {names}, until {until}\n\
             \x20 SHA-256 {fingerprint}\n\
             \x20 browsers: open https://localhost:{port}/ once, compare the SHA-256, and accept it; until then wss:// fails without a question\n\
             \x20 Chromium, for tests: --user-data-dir=NEW_FOLDER --ignore-certificate-errors-spki-list={hash}\n\
             \x20 nobody else can trust it, and the next start makes another: for others give a certificate with its key",
            names = self.names.join(", "),
            until = self.pair.summary.not_after,
            fingerprint = self.fingerprint(),
            hash = self.public_key_hash,
        )
    }

    pub(super) fn pair(&self) -> Pair {
        self.pair.clone()
    }
}

/// The machine's host name, where the system tells it.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_ascii_lowercase())
}

fn is_host_name(name: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    name.len() <= HOST_BYTES_MAX && name.split('.').all(is_label)
}

/// Base64 with padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
