//! The text of a 64-bit id: 11 characters of the URL-safe base-64 alphabet (RFC 4648 §5), most significant first, no padding.
//!
//! Epochs, session ids and connection ids are such texts. To a client they are opaque; the server reads its own back. Each number
//! has exactly one text: anything else is refused, so comparing texts is comparing numbers.

/// Bytes of the text of every id.
pub const ID64_BYTES: usize = 11;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const DIGITS: [u8; 256] = {
    let mut digits = [u8::MAX; 256];
    let mut value = 0;
    while value < 64 {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Appends the text of `id`. None of its characters needs an escape in JSON or a URL.
pub fn write_id64(out: &mut Vec<u8>, id: u64) {
    out.extend_from_slice(&id64(id));
}

/// The text of `id`.
pub fn id64(id: u64) -> [u8; ID64_BYTES] {
    let mut text = [0; ID64_BYTES];
    for (place, byte) in text.iter_mut().enumerate() {
        let shift = 6 * (ID64_BYTES - 1 - place);
        *byte = ALPHABET[(id >> shift) as usize & 63];
    }
    text
}

/// The id whose text this is; `None` if it is not exactly what [`id64`] gives for some id.
pub fn read_id64(text: &[u8]) -> Option<u64> {
    let text: &[u8; ID64_BYTES] = text.try_into().ok()?;
    // 11 digits hold 66 bits: the first must stay below 16, or two texts would name one number.
    if DIGITS[usize::from(text[0])] >= 16 {
        return None;
    }
    text.iter().try_fold(0u64, |id, byte| match DIGITS[usize::from(*byte)] {
        u8::MAX => None,
        digit => Some(id << 6 | u64::from(digit)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_back() {
        let samples = (0..64).map(|bit| 1u64 << bit).chain([0, u64::MAX, 0x0123_4567_89ab_cdef]);
        for id in samples {
            let mut text = Vec::new();
            write_id64(&mut text, id);
            assert_eq!(read_id64(&text), Some(id));
        }
    }

    #[test]
    fn only_the_one_text_of_a_number_is_read() {
        for text in ["", "A", "AAAAAAAAAA", "AAAAAAAAAAAA", "QAAAAAAAAAA", "AAAAA AAAAA", "AAAAA+AAAAA", "AAAAAAAAAA\0"] {
            assert_eq!(read_id64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(read_id64(b"P__________"), Some(u64::MAX));
    }
}
