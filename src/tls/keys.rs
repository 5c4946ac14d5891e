//! Traffic secrets and what is derived from them: key, iv and the next secret (RFC 8446 §7.1 to §7.3).

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of the longest traffic secret: SHA-384.
const SECRET_BYTES_MAX: usize = 48;

/// A traffic secret of either hash, while it passes through. Zeroized when it is dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret {
    bytes: [u8; SECRET_BYTES_MAX],
    length: usize,
}

impl Secret {
    /// Takes the bytes; `None` if they are more than a secret has.
    pub(super) fn new(secret: &[u8]) -> Option<Secret> {
        let mut bytes = [0; SECRET_BYTES_MAX];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Secret { bytes, length: secret.len() })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
