//! Resume tokens: what a client shows to go on with its session.
//!
//! A token names the session and which of its connections got it (the *attach*), and proves with a code that this process gave it
//! out. A session counts its attaches, so tokens rotate without being stored: the session knows which of them still hold.
//!
//! ```text
//! session id, 11 characters | attach, 11 | HMAC-SHA-256 of both, its first 128 bits, 22
//! ```
//! The key is of the process and never leaves it, so every shard can tell a genuine token, and the token of another process means
//! nothing here. It does not know whether the session still exists.

use super::mesh::SessionId;
use crate::protocol::id64::{ID64_BYTES, id64, read_id64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Characters of a token.
pub(crate) const TOKEN_BYTES: usize = 4 * ID64_BYTES;
/// Bytes of the code that are in a token: nobody guesses 128 bits.
const CODE_BYTES: usize = 16;

const _: () = assert!(TOKEN_BYTES <= crate::protocol::command::RESUME_TOKEN_BYTES_MAX);

/// What a genuine token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) session: SessionId,
    /// The session's first connection is 0.
    pub(crate) attach: u16,
}

/// Makes tokens and tells genuine ones.
#[derive(Clone)]
pub(crate) struct Tokens {
    /// Keyed, and fed with nothing.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// With the key of the process.
    pub(crate) fn new(secret: &[u8; 32]) -> Tokens {
        Tokens { mac: Hmac::new_from_slice(secret).expect("a key of any length will do") }
    }

    fn fed(&self, claim: Claim) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(&claim.session.0.to_be_bytes());
        mac.update(&claim.attach.to_be_bytes());
        mac
    }

    /// The token of a session's connection. No character of it needs an escape in JSON.
    pub(crate) fn write(&self, claim: Claim) -> [u8; TOKEN_BYTES] {
        let code = self.fed(claim).finalize().into_bytes();
        let half = |at: usize| u64::from_be_bytes(code[at..at + 8].try_into().expect("eight bytes are eight bytes"));
        let words = [claim.session.0, u64::from(claim.attach), half(0), half(8)];
        let mut text = [0; TOKEN_BYTES];
        for (place, word) in text.chunks_exact_mut(ID64_BYTES).zip(words) {
            place.copy_from_slice(&id64(word));
        }
        text
    }

    /// What a token says, if it is genuine. Takes the same time for every code that is wrong.
    pub(crate) fn read(&self, text: &str) -> Option<Claim> {
        if text.len() != TOKEN_BYTES {
            return None;
        }
        let mut words = text.as_bytes().chunks_exact(ID64_BYTES).map(read_id64);
        let mut word = || words.next().flatten();
        let claim = Claim { session: SessionId(word()?), attach: u16::try_from(word()?).ok()? };
        let mut code = [0; CODE_BYTES];
        code[..8].copy_from_slice(&word()?.to_be_bytes());
        code[8..].copy_from_slice(&word()?.to_be_bytes());
        self.fed(claim).verify_truncated_left(&code).ok().map(|()| claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let tokens = Tokens::new(&[7; 32]);
        for claim in [Claim { session: SessionId(0), attach: 0 }, Claim { session: SessionId(u64::MAX), attach: u16::MAX }] {
            let text = tokens.write(claim);
            assert_eq!(tokens.read(std::str::from_utf8(&text).unwrap()), Some(claim));
        }
    }

    #[test]
    fn a_token_that_is_changed_anywhere_or_of_another_process_means_nothing() {
        let tokens = Tokens::new(&[7; 32]);
        let text = tokens.write(Claim { session: SessionId(0x0123_4567_89ab_cdef), attach: 3 });
        for place in 0..TOKEN_BYTES {
            for other in [b'A', b'_', b' '] {
                let mut changed = text;
                if changed[place] != other {
                    changed[place] = other;
                    assert_eq!(tokens.read(std::str::from_utf8(&changed).unwrap()), None, "changed at {place}");
                }
            }
        }
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!(Tokens::new(&[8; 32]).read(text), None);
        assert_eq!(tokens.read(&text[1..]), None);
        assert_eq!(tokens.read(&format!("{text}A")), None);
    }
}
