//! Sizes and durations as an operator writes them, and how they are written back.
//!
//! Sizes: a whole number of bytes, or one with a binary unit: `65536`, `64K`, `64KiB`, `16M`, `1G`. Durations: a whole number with a
//! unit: `500ms`, `12s`, `5m`, `1h`; a bare number is refused, because nobody remembers whether it meant seconds. What this file
//! writes, it reads back to the same number.

const SIZE_UNITS: [(&str, u64); 4] = [("t", 1 << 40), ("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)];
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes.
///
/// # Errors
/// A sentence that says what would have been right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(format!("{text:?} is not a size: write bytes, or a number with K, M, G or T (of 1024)")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is larger than 2^64 bytes"))
}

/// Milliseconds.
///
/// # Errors
/// A sentence that says what would have been right.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit: write {number}s or {number}ms"));
    }
    match DURATION_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number.checked_mul(*factor).ok_or_else(|| format!("{text:?} is longer than 2^64 ms")),
        None => Err(format!("{text:?} is not a duration: write a number with ms, s, m or h")),
    }
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(format!("{text:?} does not begin with a number"));
    }
    let number = digits.parse().map_err(|_| format!("{digits} does not fit in 64 bits"))?;
    Ok((number, unit.trim_start()))
}

/// The shortest exact way to write a size.
pub fn format_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{}", bytes / factor, unit.to_ascii_uppercase());
        }
    }
    bytes.to_string()
}

/// The shortest exact way to write a duration.
pub fn format_duration(ms: u64) -> String {
    for (unit, factor) in DURATION_UNITS {
        if ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

/// A size for reading, not for reading back: `1.5 MiB`.
pub fn human_size(bytes: u64) -> String {
    let (unit, factor) = match bytes {
        0..1_024 => return format!("{bytes} B"),
        1_024..1_048_576 => ("KiB", 1_u64 << 10),
        1_048_576..1_073_741_824 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    format!("{:.1} {unit}", bytes as f64 / factor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        for (text, bytes) in
            [("65536", 65_536), ("64K", 65_536), ("64k", 65_536), ("64KiB", 65_536), ("64 M", 64 << 20), ("1G", 1 << 30), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "K", "-1", "1.5G", "64X", "64 K K", "99999999999999999999", "18446744073709551615K", "0x10", "１"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("500ms", 500), ("12s", 12_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
        assert!(parse_duration("12").unwrap_err().contains("12s"));
        for text in ["", "s", "12 seconds", "-1s", "1.5s", "12S", "18446744073709551615h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for value in [0, 1, 999, 1_000, 1_024, 1_500, 60_000, 65_536, 90_000, 1 << 30, u64::MAX] {
            assert_eq!(parse_size(&format_size(value)), Ok(value));
            assert_eq!(parse_duration(&format_duration(value)), Ok(value));
        }
    }
}
