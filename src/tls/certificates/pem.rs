//! PEM files to certificates and keys.
//!
//! A file is read whole and bounded; sections of other kinds are passed over, so that chain and key may stand in one file.

use super::{Fault, FaultCause, PEM_BYTES_MAX};
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// A private key as it came from its file.
pub(super) struct KeyFile {
    pub(super) key: PrivateKeyDer<'static>,
    /// Permission bits of the file.
    pub(super) mode: u32,
}

/// The certificates of a file, in its order. At least one.
///
/// # Errors
/// Those of reading, and [`FaultCause::NoCertificate`].
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let (text, _) = read(path)?;
    let certificates: Vec<CertificateDer<'static>> = sections(path, &text)?;
    if certificates.is_empty() { Err(Fault::new(path, FaultCause::NoCertificate)) } else { Ok(certificates) }
}

/// The private key of a file: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// Those of reading, and for no key, several keys, or an encrypted one.
pub(super) fn key(path: &Path) -> Result<KeyFile, Fault> {
    let (text, mode) = read(path)?;
    if is_encrypted(&text) {
        return Err(Fault::new(path, FaultCause::EncryptedKey));
    }
    let mut keys: Vec<PrivateKeyDer<'static>> = sections(path, &text)?;
    match (keys.pop(), keys.len()) {
        (None, _) => Err(Fault::new(path, FaultCause::NoKey)),
        (Some(key), 0) => Ok(KeyFile { key, mode }),
        (Some(_), others) => Err(Fault::new(path, FaultCause::ManyKeys(others + 1))),
    }
}

/// The file's bytes, which may hold a key, and its permission bits.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), Fault> {
    let unreadable = |error| Fault::new(path, FaultCause::Unreadable(error));
    // Asked before it is opened: opening a pipe waits for whoever writes it.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Fault::new(path, FaultCause::NotAFile));
    }
    if metadata.len() > PEM_BYTES_MAX {
        return Err(Fault::new(path, FaultCause::TooLarge));
    }
    // Room for all of it from the start, because a buffer that grows leaves copies behind that nobody zeroizes.
    let mut text = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(Fault::new(path, FaultCause::TooLarge));
    }
    Ok((text, metadata.permissions().mode() & 0o7777))
}

/// The sections of one kind.
fn sections<T: PemObject>(path: &Path, text: &[u8]) -> Result<Vec<T>, Fault> {
    let parsed: Result<Vec<T>, Error> = T::pem_slice_iter(text).collect();
    parsed.map_err(|error| {
        // The error's own text may quote a line of the file, and with it a piece of a key.
        let detail = match error {
            Error::MissingSectionEnd { .. } => "a section has no end; the file may be cut off",
            Error::IllegalSectionStart { .. } => "a line that begins with -----BEGIN is malformed",
            Error::Base64Decode(_) => "a section is not base64",
            Error::Io(_) | Error::NoItemsFound | Error::SectionTooLarge | _ => "a section cannot be read",
        };
        Fault::new(path, FaultCause::NotPem(detail.to_owned()))
    })
}

/// Whether a key is encrypted, in PKCS #8 or in the older form with a header (RFC 1421).
fn is_encrypted(text: &[u8]) -> bool {
    let begins =
        |line: &[u8]| line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || line.starts_with(b"Proc-Type: 4,ENCRYPTED");
    text.split(|byte| *byte == b'\n').any(begins)
}
