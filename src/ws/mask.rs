//! Masking of payloads (RFC 6455 §5.3): XOR with a four-byte key that repeats.
//!
//! Masking and unmasking are the same operation. Works on whole words at any alignment, in a loop that the compiler vectorises.

/// Masks or unmasks `bytes` in place. `phase` is the offset of the first byte in its payload; only its value modulo 4 counts.
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let [a, b, c, d] = mask;
    let key = match phase % 4 {
        0 => [a, b, c, d],
        1 => [b, c, d, a],
        2 => [c, d, a, b],
        _ => [d, a, b, c],
    };
    let key: [u8; 8] = [key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]];
    let word = u64::from_ne_bytes(key);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(bytes: &[u8], mask: [u8; 4], phase: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(index, byte)| byte ^ mask[(index + phase) % 4]).collect()
    }

    #[test]
    fn the_example_of_rfc_6455_section_5_7_is_unmasked() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn every_length_alignment_and_phase_agrees_with_the_definition() {
        let source: Vec<u8> = (0..160u32).map(|index| (index * 37 + 11) as u8).collect();
        for start in 0..9 {
            for length in 0..130 {
                for phase in 0..9 {
                    let mut bytes = source.clone();
                    apply_mask(&mut bytes[start..start + length], [1, 0x80, 0x33, 0xfe], phase);
                    assert_eq!(
                        bytes[start..start + length],
                        reference(&source[start..start + length], [1, 0x80, 0x33, 0xfe], phase)
                    );
                    assert_eq!(bytes[..start], source[..start]);
                    assert_eq!(bytes[start + length..], source[start + length..]);
                }
            }
        }
    }

    #[test]
    fn a_payload_masked_in_two_parts_is_the_payload_masked_whole() {
        let source: Vec<u8> = (0..100).collect();
        let whole = reference(&source, [9, 8, 7, 6], 0);
        for split in 0..=source.len() {
            let mut bytes = source.clone();
            let (left, right) = bytes.split_at_mut(split);
            apply_mask(left, [9, 8, 7, 6], 0);
            apply_mask(right, [9, 8, 7, 6], split);
            assert_eq!(bytes, whole);
        }
    }
}
