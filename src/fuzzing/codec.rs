//! The JSON of both directions against serde_json.
//!
//! Text is JSON for ours exactly if it is for serde_json, up to the bound on nesting. A message that is decoded says what serde_json
//! reads in it; one that is refused breaks the rule that its code names. What is encoded is read back.

mod decoding;
mod encoding;

use super::input::Input;
use crate::limits::DATA_DEPTH_MAX;
use crate::protocol::scan::{Malformed, check};
use serde_json::value::RawValue;

/// Names of fields, ours and one that is not, in spellings of which some are one field.
const KEYS: [&str; 26] = [
    "type",
    "roomId",
    "seq",
    "data",
    "state",
    "key",
    "echo",
    "id",
    "presence",
    "since",
    "mode",
    "cursor",
    "limit",
    "t",
    "token",
    "user",
    "resume",
    "client",
    "attempt",
    "lastCode",
    "unknown",
    "typ\\u0065",
    "ro\\u006fmId",
    "\\u0073eq",
    "",
    "\\ud800",
];
/// Values of fields, some of them wrong everywhere.
const VALUES: [&str; 40] = [
    "\"broadcast\"",
    "\"ping\"",
    "\"join_room\"",
    "\"leave_room\"",
    "\"set_state\"",
    "\"presence\"",
    "\"history\"",
    "\"refresh\"",
    "\"connect\"",
    "\"p\\u0069ng\"",
    "\"room\"",
    "\"\"",
    "\"\\u0000\"",
    "\"\\udc00\"",
    "\"\u{85}\"",
    "\"all\"",
    "\"latest\"",
    "true",
    "false",
    "null",
    "0",
    "1",
    "9007199254740991",
    "9007199254740992",
    "-1",
    "1.0",
    "1e1",
    "{}",
    "[]",
    "{\"epoch\":\"e\",\"offset\":1}",
    "{\"offset\":2,\"epoch\":\"\"}",
    "{\"epoch\":\"e\",\"offset\":1,\"x\":[[[[[[1]]]]]]}",
    "{\"epoch\":\"e\",\"epoch\":\"e\"}",
    "\"12345678901234567\"",
    "[[[[[[[1]]]]]]]",
    "[[[[[[1]]]]]]",
    "\"😀\\ud83d\\ude00\"",
    "1e400",
    " 7 ",
    "\"\\\"\\\\\\/\\n\"",
];

/// Reads the bytes as text or builds a message from them, and writes every frame of the server with what they name.
///
/// # Panics
/// If ours and serde_json's reading differ.
pub fn codec(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => {
            // Text as it comes, for the fuzzer's dictionary to work on.
            if let Ok(text) = std::str::from_utf8(input.rest()) {
                check_text(text);
            }
        }
        1 | 2 => check_text(&build(&mut input)),
        _ => encoding::check_frames(&mut input),
    }
}

/// An object of some fields.
fn build(input: &mut Input<'_>) -> String {
    let mut text = String::from("{");
    let fields = 1 + input.below(40);
    for place in 0..fields {
        if input.is_empty() {
            break;
        }
        if place > 0 {
            text.push(',');
        }
        let key = input.byte();
        match KEYS.get(usize::from(key) % 40) {
            Some(known) => text.push_str(&format!("\"{known}\":")),
            None => text.push_str(&format!("\"{}\":", "k".repeat(usize::from(key)))),
        }
        let value = input.byte();
        match VALUES.get(usize::from(value) % 48) {
            Some(value) => text.push_str(value),
            None => match value % 4 {
                0 => text.push_str(&input.magnitude().to_string()),
                1 => {
                    let depth = usize::from(input.byte());
                    text.push_str(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
                }
                2 => text.push_str(&format!("\"{}\"", "é".repeat(usize::from(input.u16() % 300)))),
                _ => {
                    let count = input.below(30);
                    text.push_str(&String::from_utf8_lossy(input.take(count)));
                }
            },
        }
    }
    text.push('}');
    text
}

fn check_text(text: &str) {
    match (check(text), serde_json::from_str::<&RawValue>(text)) {
        (Ok(value), Ok(raw)) => {
            assert_eq!(value.raw, raw.get());
            assert_eq!(value.depth, depth_of(value.raw));
            assert!(value.depth <= DATA_DEPTH_MAX);
        }
        (Err(Malformed::Syntax), Err(_)) => {}
        // Whether the rest is JSON is not looked at.
        (Err(Malformed::TooDeep), _) => assert!(depth_of(text) > DATA_DEPTH_MAX),
        (ours, theirs) => panic!("ours says {ours:?}, serde_json {theirs:?} of {text:?}"),
    }
    decoding::check_decoding(text);
}

/// How deep the brackets outside of strings are nested.
fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
