//! Tests of the scanner, with serde_json as the second opinion.
#![allow(clippy::unwrap_used)]

use super::super::testing::Random;
use super::*;
use serde_json::value::RawValue;

fn string_of(text: &str) -> JsonString<'_> {
    JsonString::of(check(text).expect("a string literal")).expect("a string")
}

#[test]
fn the_grammar_is_kept_to_the_letter() {
    let good = [
        "0",
        "-0",
        "1",
        "-1",
        "10",
        "0.5",
        "-0.0",
        "1e5",
        "1E+5",
        "1e-5",
        "1e400",
        "-1e400",
        "123456789012345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        " [1 , 2] ",
        "{\"a\":{\"b\":[]}}",
        "\t\n\r 1 \r\n",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\u{7f}\"",
        "\"\\/\\b\\f\\n\\r\\t\\\"\\\\\"",
        "\"\u{feff}\"",
        "[[],{},\"\",0]",
        "{\"a\":1,\"a\":2}",
    ];
    for text in good {
        assert_eq!(check(text).map(|value| value.raw), Ok(text.trim_matches([' ', '\t', '\n', '\r'])), "{text:?}");
    }
    let bad = [
        "",
        " ",
        "00",
        "01",
        "-",
        "-01",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "0x10",
        "1_000",
        "NaN",
        "Infinity",
        "-Infinity",
        "tru",
        "True",
        "nul",
        "truee",
        "null0",
        "\"",
        "\"\\\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\U0041\"",
        "\"\n\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "'a'",
        "[",
        "]",
        "{",
        "}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "1 2",
        "{}{}",
        "[]]",
        "\u{feff}{}",
        "{}\0",
        "\0",
        "1\u{a0}",
        "\u{b}1",
        "// x\n1",
        "1/**/",
        "\u{2028}1",
    ];
    for text in bad {
        assert_eq!(check(text), Err(Malformed::Syntax), "{text:?}");
    }
}

#[test]
fn nesting_ends_at_its_bound_and_a_bomb_costs_nothing() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(check(&nested(DATA_DEPTH_MAX)).map(|value| value.depth), Ok(DATA_DEPTH_MAX));
        assert_eq!(check(&nested(DATA_DEPTH_MAX + 1)), Err(Malformed::TooDeep));
        assert_eq!(check(&nested(100_000)), Err(Malformed::TooDeep));
        assert_eq!(check(&open.repeat(100_000)), Err(Malformed::TooDeep));
    }
    assert_eq!(check(&"]".repeat(100_000)), Err(Malformed::Syntax));
    // Brackets of either kind at every depth: the bit stack remembers each.
    let mut random = Random(7);
    for _ in 0..200 {
        let kinds: Vec<bool> = (0..DATA_DEPTH_MAX).map(|_| random.one_in(2)).collect();
        let mut text: String = kinds.iter().map(|object| if *object { "{\"k\":" } else { "[" }).collect();
        text.push('0');
        let closes: Vec<u8> = kinds.iter().rev().map(|object| if *object { b'}' } else { b']' }).collect();
        let whole = format!("{text}{}", String::from_utf8(closes.clone()).unwrap());
        assert_eq!(check(&whole).map(|value| value.raw), Ok(whole.as_str()));
        let wrong = random.below(closes.len());
        let mut closes = closes;
        closes[wrong] ^= b'}' ^ b']';
        let broken = format!("{text}{}", String::from_utf8(closes).unwrap());
        assert_eq!(check(&broken), Err(Malformed::Syntax));
    }
}

#[test]
fn depth_is_that_of_the_innermost_value() {
    for (text, depth) in [("1", 0), ("\"[[\"", 0), ("[]", 1), ("[[],[[]],1]", 3), ("{\"a\":[{}]}", 3)] {
        assert_eq!(check(text).map(|value| value.depth), Ok(depth), "{text}");
    }
}

#[test]
fn serde_json_agrees_on_random_and_damaged_text() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut text = String::new();
        random.json(&mut text, 6);
        if seed % 3 != 0 {
            text = random.damage(&text);
        }
        match (check(&text), serde_json::from_str::<&RawValue>(&text)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours.raw, theirs.get(), "seed {seed}");
                accepted += 1;
            }
            (Err(_), Err(_)) => refused += 1,
            (ours, theirs) => panic!("seed {seed}: {text:?}: we say {ours:?}, serde_json says {theirs:?}"),
        }
    }
    // Both sides were put to the test.
    assert!(accepted > 5_000 && refused > 5_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn serde_json_agrees_on_what_a_string_says() {
    let mut lone = 0;
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut text = String::new();
        random.string(&mut text);
        let ours = string_of(&text).read(usize::MAX);
        match serde_json::from_str::<String>(&text) {
            Ok(theirs) => {
                assert_eq!(ours.as_deref(), Ok(theirs.as_str()), "seed {seed}: {text}");
                let mut buffer = [0; 256];
                assert_eq!(string_of(&text).read_into(&mut buffer), Ok(theirs.as_str()));
                let escaped: String = theirs.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
                assert!(string_of(&text).same(string_of(&format!("\"{escaped}\""))));
                assert!(!string_of(&text).same(string_of(&format!("\"{escaped}x\""))));
            }
            Err(_) => {
                assert_eq!(ours, Err(Unreadable::LoneSurrogate), "seed {seed}: {text}");
                assert!(!string_of(&text).same(string_of(&text)) || !text.contains('\\'));
                lone += 1;
            }
        }
    }
    assert!(lone > 100);
}

#[test]
fn a_string_without_escapes_is_borrowed_and_length_is_counted_unescaped() {
    let text = "\"plain é\"";
    assert!(matches!(string_of(text).read(8), Ok(Cow::Borrowed("plain é"))));
    assert_eq!(string_of(text).read(7), Err(Unreadable::TooLong));
    assert!(matches!(string_of("\"\\u0061b\"").read(2).as_deref(), Ok("ab")));
    assert_eq!(string_of("\"\\u0061b\"").read(1), Err(Unreadable::TooLong));
    assert_eq!(string_of("\"\\ud83d\\ude00\"").read_into(&mut [0; 3]), Err(Unreadable::TooLong));
    assert_eq!(string_of("\"\\ud83d\\ude00\"").read_into(&mut [0; 4]), Ok("😀"));
}

#[test]
fn the_first_byte_that_ends_plain_text_is_found_wherever_it_stands() {
    for length in 0..40 {
        for at in 0..length {
            for byte in 0..=u8::MAX {
                for fill in [b'a', 0x21, 0x20, 0x80, 0xff, 0x5d] {
                    let mut bytes = vec![fill; length];
                    bytes[at] = byte;
                    let ends = byte < 0x20 || byte == b'"' || byte == b'\\';
                    assert_eq!(plain_prefix(&bytes), if ends { at } else { length }, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }
    let mut random = Random(1);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.below(30)).map(|_| random.next() as u8).collect();
        let naive = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\').unwrap_or(bytes.len());
        assert_eq!(plain_prefix(&bytes), naive, "{bytes:x?}");
    }
}

#[test]
fn an_object_is_walked_key_by_key() {
    let mut object = ObjectScanner::new(" {\"a\" : [1, 2] ,\"\\u0062\":\"x\"} ").unwrap();
    let key = object.next_key().unwrap().unwrap();
    assert_eq!((key.raw(), object.value().unwrap().raw), ("a", "[1, 2]"));
    let key = object.next_key().unwrap().unwrap();
    assert_eq!((key.raw(), key.read(1).as_deref()), ("\\u0062", Ok("b")));
    assert_eq!(object.value().unwrap().raw, "\"x\"");
    assert!(object.next_key().unwrap().is_none());
}

#[test]
fn no_key_follows_one_whose_value_was_not_taken() {
    let mut scanner = ObjectScanner::new(r#"{"a":1,"b":2}"#).expect("an object begins");
    assert!(scanner.next_key().expect("a key").is_some());
    assert_eq!(scanner.next_key().map(|_| ()), Err(Malformed::Syntax));
}
