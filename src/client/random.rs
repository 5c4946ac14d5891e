//! Pseudo-random numbers from the seed that a machine was made with: jitter, masks and handshake keys.
//!
//! A mask has to be unpredictable only to whoever chooses the payload without seeing the connection (RFC 6455 §10.3: scripts in a
//! browser). A program that links this crate chooses its own bytes, so the masks here need to be fresh, not secret.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `most`, both included, each as likely (to within 2^-32 for bounds below 2^32).
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }

    pub(crate) fn mask(&mut self) -> [u8; 4] {
        (self.next() as u32).to_ne_bytes()
    }

    /// A value of `Sec-WebSocket-Key`: 16 bytes in base64 (RFC 6455 §4.1).
    pub(crate) fn handshake_key(&mut self) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits = u128::from(self.next()) << 64 | u128::from(self.next());
        let digit = |index: u128| char::from(ALPHABET[(index & 63) as usize]);
        // 21 digits hold 126 bits, the 22nd the last two and four zeros.
        let mut key: String = (0..21).map(|place| digit(bits >> (122 - 6 * place))).collect();
        key.push(digit((bits & 3) << 4));
        key.push_str("==");
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::handshake::{Head, read_head, write_request};

    #[test]
    fn a_handshake_key_is_16_bytes_in_base64_and_fresh() {
        let mut random = Random::new(7);
        let first = random.handshake_key();
        assert_ne!(first, random.handshake_key());
        let mut request = Vec::new();
        write_request(&mut request, "localhost", "/ws", &first, None, &[]);
        let Head::Complete { request, .. } = read_head(&request) else { panic!("a whole head") };
        assert_eq!(request.upgrade().expect("a correct upgrade").key, first);
    }

    #[test]
    fn both_ends_of_a_range_are_drawn() {
        let mut random = Random::new(1);
        let mut seen = [false; 4];
        (0..200).for_each(|_| seen[random.up_to(3) as usize] = true);
        assert_eq!(seen, [true; 4]);
        assert_eq!(random.up_to(0), 0);
    }
}
