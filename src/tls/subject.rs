//! The common name in the subject of a client's certificate (RFC 5280 §4.1.2.6).
//!
//! The certificate was verified before; here it is only read, and what can't be read has no name. It does not know what a user is.

/// Tags of DER that are read.
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The version of a certificate: `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The common name of the subject, if there is exactly one and it is text.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut certificate = Reader(Reader(certificate).expect(SEQUENCE)?);
    let mut to_be_signed = Reader(certificate.expect(SEQUENCE)?);
    if to_be_signed.0.first() == Some(&VERSION) {
        to_be_signed.expect(VERSION)?;
    }
    to_be_signed.expect(INTEGER)?;
    // The signature's algorithm, the issuer and the validity.
    for _ in 0..3 {
        to_be_signed.expect(SEQUENCE)?;
    }
    let mut subject = Reader(to_be_signed.expect(SEQUENCE)?);
    let mut found = None;
    while !subject.0.is_empty() {
        let mut names = Reader(subject.expect(SET)?);
        while !names.0.is_empty() {
            let mut name = Reader(names.expect(SEQUENCE)?);
            if name.expect(OBJECT_IDENTIFIER)? != COMMON_NAME {
                continue;
            }
            let (tag, value) = name.next()?;
            let is_text = matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
            // Two names, or one that is no text: whoever is meant, it is not to be guessed.
            if !is_text || found.is_some() {
                return None;
            }
            found = Some(std::str::from_utf8(value).ok()?.to_owned());
        }
    }
    found
}

/// Reads the elements of what is left, one behind the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next element, which has that tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Tag and content of the next element. Tags above 30 and lengths of more than two bytes don't occur before a subject ends.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let length_bytes = usize::from(if first < 0x80 { 0 } else { first & 0x7f });
        if length_bytes > 2 {
            return None;
        }
        let (long, rest) = rest.split_at_checked(length_bytes)?;
        let length =
            if length_bytes == 0 { usize::from(first) } else { long.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}
