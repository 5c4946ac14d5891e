//! Just enough JSON to read what a server says: the fields of an object as slices of the text.
//!
//! It shares no code with the server. It takes for granted that the text is JSON; every so often a frame is given to `serde_json`,
//! which does not.

/// Fields that an object has at most.
const FIELDS_MAX: usize = 24;

/// The fields of one object, values raw.
pub(crate) struct Object<'a> {
    fields: [(&'a [u8], &'a [u8]); FIELDS_MAX],
    count: usize,
}

impl<'a> Object<'a> {
    /// Reads the outermost level of an object.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Object<'a>> {
        let mut object = Object { fields: [(&[], &[]); FIELDS_MAX], count: 0 };
        if text.first() != Some(&b'{') || text.last() != Some(&b'}') {
            return None;
        }
        let mut at = 1;
        while text.get(at) != Some(&b'}') {
            let name_end = value_end(text, at)?;
            let name = text.get(at + 1..name_end - 1)?;
            if text.get(name_end) != Some(&b':') {
                return None;
            }
            let end = value_end(text, name_end + 1)?;
            if object.count == FIELDS_MAX || object.fields[..object.count].iter().any(|(other, _)| *other == name) {
                return None;
            }
            object.fields[object.count] = (name, &text[name_end + 1..end]);
            object.count += 1;
            at = match text.get(end) {
                Some(b',') => end + 1,
                Some(b'}') => end,
                _ => return None,
            };
        }
        (at + 1 == text.len()).then_some(object)
    }

    /// The raw value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.fields[..self.count].iter().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| *value)
    }

    /// What is between the quotes of a text field; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &'a [u8] {
        self.get(name).map_or(&[], |raw| raw.get(1..raw.len().saturating_sub(1)).unwrap_or(&[]))
    }

    /// A field that is a whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(number)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// A whole number.
pub(crate) fn number(raw: &[u8]) -> Option<u64> {
    let mut sum = 0u64;
    for byte in raw {
        sum = sum.checked_mul(10)?.checked_add(u64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?))?;
    }
    (!raw.is_empty()).then_some(sum)
}

/// The raw items of an array.
pub(crate) fn items(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 1;
    std::iter::from_fn(move || {
        if raw.get(at).is_none_or(|byte| *byte == b']') {
            return None;
        }
        let end = value_end(raw, at)?;
        let item = &raw[at..end];
        at = end + usize::from(raw.get(end) == Some(&b','));
        Some(item)
    })
}

/// Where the value that begins at `at` ends.
fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => string_end(text, at),
        b'{' | b'[' => {
            let (mut depth, mut at) = (0usize, at);
            loop {
                match text.get(at)? {
                    b'"' => at = string_end(text, at)? - 1,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => text[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b']')).map(|length| at + length),
    }
}

fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
