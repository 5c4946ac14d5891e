//! A strict JSON scanner (RFC 8259) that borrows, allocates nothing and never recurses.
//!
//! It decides whether text is JSON and where each value of an object begins and ends; it knows no field of the protocol. It is ours
//! because `serde_json` does not fit what clients may do to us: skipping to a `RawValue` allocates for nested values and bounds
//! no depth, and keys that a type does not name may repeat unseen. Here the nesting of a value is a bit stack of 128 places, so
//! a depth bomb ends after 128 brackets, and each key is handed out, so that the caller can refuse a second one.
//!
//! Invariants: text is valid UTF-8 on entry, and every slice handed out begins and ends beside an ASCII byte, so it is too.
//! Numbers are checked by grammar only: `1e400` is JSON, and no value is made of it. The escape of a lone surrogate is JSON too
//! (RFC 8259 §8.2) and passes in what is only relayed; [`JsonString`] refuses it where a string is to be understood.

use crate::limits::DATA_DEPTH_MAX;
use std::borrow::Cow;

/// Why text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not JSON, or not the kind of value that was expected here.
    Syntax,
    /// A value is nested more than [`DATA_DEPTH_MAX`] deep.
    TooDeep,
}

/// A value, as the bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// The text of the value, without the white space around it.
    pub raw: &'a str,
    /// Objects and arrays that enclose its innermost value, itself counted; 0 for a string, a number, `true`, `false` or `null`.
    pub depth: usize,
}

/// Walks the fields of one object that is the whole of a text.
///
/// [`next_key`](ObjectScanner::next_key) and [`value`](ObjectScanner::value) alternate. When `next_key` yields `None`, all of the
/// text was JSON and nothing but white space stands around the object.
#[derive(Clone, Debug)]
pub struct ObjectScanner<'a> {
    scanner: Scanner<'a>,
    first: bool,
}

impl<'a> ObjectScanner<'a> {
    /// Begins to walk the object that `text` should be.
    ///
    /// # Errors
    /// [`Malformed::Syntax`] if it does not begin with `{`.
    pub fn new(text: &'a str) -> Result<Self, Malformed> {
        let mut scanner = Scanner { text, at: 0 };
        scanner.skip_whitespace();
        scanner.expect(b'{')?;
        Ok(ObjectScanner { scanner, first: true })
    }

    /// The next key, or `None` after the last field.
    ///
    /// # Errors
    /// [`Malformed::Syntax`], also for anything but white space after the object.
    #[inline(always)]
    pub fn next_key(&mut self) -> Result<Option<JsonString<'a>>, Malformed> {
        let scanner = &mut self.scanner;
        scanner.skip_whitespace();
        let first = std::mem::replace(&mut self.first, false);
        match scanner.peek() {
            b'}' => {
                scanner.at += 1;
                scanner.skip_whitespace();
                return if scanner.at == scanner.text.len() { Ok(None) } else { Err(Malformed::Syntax) };
            }
            b',' if !first => {
                scanner.at += 1;
                scanner.skip_whitespace();
            }
            _ if first => {}
            _ => return Err(Malformed::Syntax),
        }
        scanner.key().map(Some)
    }

    /// The value of the key that was just given.
    ///
    /// # Errors
    /// [`Malformed`]. A value that nothing follows, or anything but `,` or `}`, is refused here already: what is given was whole.
    #[inline(always)]
    pub fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let scanner = &mut self.scanner;
        scanner.skip_whitespace();
        let start = scanner.at;
        let depth = scanner.skip_value()?;
        let raw = &scanner.text[start..scanner.at];
        scanner.skip_whitespace();
        match scanner.peek() {
            b',' | b'}' => Ok(Value { raw, depth }),
            _ => Err(Malformed::Syntax),
        }
    }
}

/// A string literal of a text that was scanned: what stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub struct JsonString<'a> {
    raw: &'a str,
    /// Bytes before the first escape: all of them if there is none.
    plain: usize,
}

/// Why a string cannot be understood, though it is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// An escaped half of a surrogate pair without its other half names no character.
    LoneSurrogate,
    /// More bytes than the caller takes.
    TooLong,
}

impl<'a> JsonString<'a> {
    /// The string that the value is; `None` if it is another kind of value.
    #[inline]
    pub fn of(value: Value<'a>) -> Option<Self> {
        let raw = value.raw.strip_prefix('"')?.strip_suffix('"')?;
        let plain = raw.bytes().position(|byte| byte == b'\\').unwrap_or(raw.len());
        Some(JsonString { raw, plain })
    }

    /// What stands between the quotes, escapes as they came.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// The string, borrowed unless it has escapes.
    ///
    /// # Errors
    /// [`Unreadable`] if it names no text or is longer than `bytes_max` bytes of UTF-8; no more than `bytes_max` are allocated.
    #[inline]
    pub fn read(self, bytes_max: usize) -> Result<Cow<'a, str>, Unreadable> {
        if !self.is_escaped() {
            return if self.raw.len() <= bytes_max { Ok(Cow::Borrowed(self.raw)) } else { Err(Unreadable::TooLong) };
        }
        let mut text = String::with_capacity(self.raw.len().min(bytes_max));
        for char in self.chars() {
            let char = char?;
            if text.len() + char.len_utf8() > bytes_max {
                return Err(Unreadable::TooLong);
            }
            text.push(char);
        }
        Ok(Cow::Owned(text))
    }

    /// The string, unescaped into `buffer` where it has escapes: for short words that are only looked up.
    ///
    /// # Errors
    /// [`Unreadable`]; it is too long if it has more bytes than `buffer`.
    #[inline]
    pub fn read_into<'b>(self, buffer: &'b mut [u8]) -> Result<&'b str, Unreadable>
    where
        'a: 'b,
    {
        if !self.is_escaped() {
            return if self.raw.len() <= buffer.len() { Ok(self.raw) } else { Err(Unreadable::TooLong) };
        }
        let mut length = 0;
        for char in self.chars() {
            let char = char?;
            if length + char.len_utf8() > buffer.len() {
                return Err(Unreadable::TooLong);
            }
            length += char.encode_utf8(&mut buffer[length..]).len();
        }
        Ok(std::str::from_utf8(&buffer[..length]).expect("only whole characters were written"))
    }

    /// Whether both are the same characters, however they are spelled. Strings with lone surrogates equal nothing.
    pub fn same(self, other: JsonString<'_>) -> bool {
        if !self.is_escaped() && !other.is_escaped() {
            return self.raw == other.raw;
        }
        let (mut ours, mut theirs) = (self.chars(), other.chars());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(Ok(our)), Some(Ok(their))) if our == their => {}
                _ => return false,
            }
        }
    }

    #[inline]
    fn is_escaped(self) -> bool {
        self.plain < self.raw.len()
    }

    fn chars(self) -> Unescape<'a> {
        Unescape { rest: self.raw }
    }
}

/// The characters of a string whose escapes were checked by [`Scanner::skip_string`].
struct Unescape<'a> {
    rest: &'a str,
}

impl Unescape<'_> {
    /// The code unit of the four hexadecimal digits at `at`; `None` if they are not there.
    fn code_unit(&self, at: usize) -> Option<u32> {
        let digits = self.rest.get(at..at + 4)?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Reads `\uXXXX`, or two of them for a pair.
    fn unicode(&mut self) -> Result<char, Unreadable> {
        let unit = self.code_unit(2).ok_or(Unreadable::LoneSurrogate)?;
        let (code, length) = match unit {
            0xd800..=0xdbff if self.rest.get(6..8) == Some("\\u") => match self.code_unit(8) {
                Some(low @ 0xdc00..=0xdfff) => (0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00), 12),
                _ => return Err(Unreadable::LoneSurrogate),
            },
            _ => (unit, 6),
        };
        let char = char::from_u32(code).ok_or(Unreadable::LoneSurrogate)?;
        self.rest = &self.rest[length..];
        Ok(char)
    }
}

impl Iterator for Unescape<'_> {
    type Item = Result<char, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        let char = self.rest.chars().next()?;
        if char != '\\' {
            self.rest = &self.rest[char.len_utf8()..];
            return Some(Ok(char));
        }
        let char = match self.rest.as_bytes().get(1)? {
            b'u' => return Some(self.unicode()),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            itself => char::from(*itself),
        };
        self.rest = &self.rest[2..];
        Some(Ok(char))
    }
}

/// Checks that `text` is one JSON value with nothing but white space around it.
///
/// # Errors
/// [`Malformed`].
pub fn check(text: &str) -> Result<Value<'_>, Malformed> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.skip_whitespace();
    let start = scanner.at;
    let depth = scanner.skip_value()?;
    let raw = &text[start..scanner.at];
    scanner.skip_whitespace();
    if scanner.at == text.len() { Ok(Value { raw, depth }) } else { Err(Malformed::Syntax) }
}

/// A place in a text.
#[derive(Clone, Debug)]
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The byte at hand; 0 at the end, which no rule of the grammar takes outside a string.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != byte {
            return Err(Malformed::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// A key and its colon.
    #[inline(always)]
    fn key(&mut self) -> Result<JsonString<'a>, Malformed> {
        let start = self.at + 1;
        let plain = self.skip_string()?;
        let raw = &self.text[start..self.at - 1];
        self.skip_whitespace();
        self.expect(b':')?;
        Ok(JsonString { raw, plain })
    }

    /// Passes over one value, and returns how deeply it is nested.
    fn skip_value(&mut self) -> Result<usize, Malformed> {
        // Bit 0 tells of the innermost open bracket whether it is an object's.
        let mut objects: u128 = 0;
        let mut depth: usize = 0;
        let mut deepest: usize = 0;
        loop {
            self.skip_whitespace();
            match self.peek() {
                b'"' => {
                    self.skip_string()?;
                }
                b'-' | b'0'..=b'9' => self.skip_number()?,
                open @ (b'{' | b'[') => {
                    if depth == DATA_DEPTH_MAX {
                        return Err(Malformed::TooDeep);
                    }
                    self.at += 1;
                    depth += 1;
                    deepest = deepest.max(depth);
                    objects = objects << 1 | u128::from(open == b'{');
                    self.skip_whitespace();
                    // The closing bracket of each kind stands two places after the opening one in ASCII.
                    if self.peek() != open + 2 {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    depth -= 1;
                    objects >>= 1;
                }
                b't' => self.skip_word("true")?,
                b'f' => self.skip_word("false")?,
                b'n' => self.skip_word("null")?,
                _ => return Err(Malformed::Syntax),
            }
            // A value has ended: close what ends with it, or go on to the next in its bracket.
            loop {
                if depth == 0 {
                    return Ok(deepest);
                }
                self.skip_whitespace();
                let in_object = objects & 1 == 1;
                match self.peek() {
                    b',' => {
                        self.at += 1;
                        if in_object {
                            self.skip_whitespace();
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(Malformed::Syntax),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    fn skip_word(&mut self, word: &str) -> Result<(), Malformed> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Malformed::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    /// RFC 8259 §6: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
    #[inline]
    fn skip_number(&mut self) -> Result<(), Malformed> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            _ => self.skip_digits()?,
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    #[inline]
    fn skip_digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { Err(Malformed::Syntax) } else { Ok(()) }
    }

    /// Passes over a string with its quotes, and returns how many bytes stand before its first escape, or in all.
    #[inline]
    fn skip_string(&mut self) -> Result<usize, Malformed> {
        self.expect(b'"')?;
        let bytes = self.text.as_bytes();
        let plain = plain_prefix(&bytes[self.at..]);
        self.at += plain;
        loop {
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(plain);
                }
                b'\\' => {
                    self.at += 1;
                    self.skip_escape()?;
                    self.at += plain_prefix(&bytes[self.at..]);
                }
                // A control character, or the end of the text.
                _ => return Err(Malformed::Syntax),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<(), Malformed> {
        let length = match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 1,
            b'u' => {
                let digits = self.text.as_bytes().get(self.at + 1..self.at + 5).ok_or(Malformed::Syntax)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Malformed::Syntax);
                }
                5
            }
            _ => return Err(Malformed::Syntax),
        };
        self.at += length;
        Ok(())
    }
}

/// How many bytes of `bytes` come before the first `"`, `\` or control character, eight at a time.
#[inline(always)]
pub(crate) fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // Each term sets the high bit of a byte that is below its bound. Borrows may set bits above the first such byte of a
        // term, never below it, so the lowest bit of their union is exact (Mycroft's test; Warren, Hacker's Delight, 6-1).
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let found = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && bytes[at] >= 0x20 && bytes[at] != b'"' && bytes[at] != b'\\' {
        at += 1;
    }
    at
}

const _: () = assert!(DATA_DEPTH_MAX <= u128::BITS as usize);

#[cfg(test)]
mod tests;
