//! The browser client as it is served: `throng.js` without comments and indentation, and the tag that names this text.
//!
//! It decides the bytes, their type, and how long they may be kept; it does not know who serves them: the shards do for whoever reaches
//! only the data port, the admin listener for itself.
//!
//! Invariant: what is served is made of the source by the rule of `tests/web/strip.mjs`, which its size is measured with.

#![forbid(unsafe_code)]

use foldhash::quality::FixedState;
use std::hash::BuildHasher;
use std::sync::OnceLock;

/// Where it is served.
pub const PATH: &str = "/throng.js";
/// Its media type; a module is refused by browsers under another.
pub const CONTENT_TYPE: &str = "text/javascript; charset=utf-8";
/// A server of a new version has a new client; pages may go on with the old one for so long.
pub const CACHE_CONTROL: &str = "public, max-age=300";
/// Who may load it (`Access-Control-Allow-Origin`): it is public, and nothing is answered by who asks.
pub const ALLOW_ORIGIN: &str = "*";
/// Its TypeScript types.
pub const TYPES: &str = include_str!("throng.d.ts");

const SOURCE: &str = include_str!("throng.js");

/// A text and its entity tag.
#[derive(Debug)]
pub struct Script {
    /// What is served.
    pub text: String,
    /// Its strong entity tag, in quotes.
    pub etag: String,
}

/// The client, made at the first call.
pub fn client() -> &'static Script {
    static CLIENT: OnceLock<Script> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let text = strip(SOURCE);
        Script { etag: etag_of(&text), text }
    })
}

/// A strong entity tag: two texts that differ have the same one with a probability of 2⁻⁶⁴.
pub fn etag_of(text: &str) -> String {
    format!("\"{:016x}\"", FixedState::with_seed(0).hash_one(text.as_bytes()))
}

/// Whether an `If-None-Match` names this tag (RFC 9110 §13.1.2): one of a list, by the weak comparison, or `*`.
///
/// No tag of ours has a comma in it, so a list can be cut at its commas.
pub fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// A script without comments and indentation.
///
/// The rule is one of lines: block comments stand on lines of their own, a line comment stands alone or behind `; `, `{ ` or `) `.
fn strip(source: &str) -> String {
    let mut stripped = String::with_capacity(source.len());
    let mut in_comment = false;
    for line in source.split('\n') {
        let opens = line.trim_start_matches(' ').strip_prefix("/**");
        if in_comment || opens.is_some() {
            in_comment = !opens.filter(|_| !in_comment).unwrap_or(line).ends_with("*/");
            continue;
        }
        let code = code_of(line.trim());
        if !code.is_empty() {
            if !stripped.is_empty() {
                stripped.push('\n');
            }
            stripped.push_str(code);
        }
    }
    stripped
}

/// A line without its line comment.
fn code_of(line: &str) -> &str {
    if line.starts_with("//") {
        return "";
    }
    let comment = line.match_indices(" // ").map(|(at, _)| at).find(|at| line[..*at].ends_with([';', '{', ')']));
    comment.map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indentation_go_and_code_stays() {
        let source = "/** Head.\n * More; // of it\n */\nconst a = 1; // One.\n\n  /** One line. */\n  f({ // Open.\n    \"a // b\", // kept\n  }); // End.\n\
                      // Alone.\nconst u = `http://x`;\n  //\nif (x) // why\n    y(); // a; // b\n";
        assert_eq!(strip(source), "const a = 1;\nf({\n\"a // b\", // kept\n});\nconst u = `http://x`;\nif (x)\ny();");
    }

    #[test]
    fn the_client_is_served_without_a_comment_and_with_all_its_lines_of_code() {
        let served = &client().text;
        assert!(!served.contains("/**") && !served.lines().any(|line| line.starts_with("//") || line.starts_with(' ')));
        let code = SOURCE
            .lines()
            .filter(|line| line.contains('{') && !line.contains("/**") && !line.trim().starts_with(['*', '/']))
            .count();
        let kept = served.lines().filter(|line| line.contains('{')).count();
        assert_eq!(code, kept, "no line that opens a block is lost");
    }

    #[test]
    fn a_list_of_tags_names_ours_or_not() {
        let etag = &client().etag;
        for (list, is_named) in [
            (String::new(), false),
            ("\"0\"".into(), false),
            (etag.clone(), true),
            (format!("\"0\", W/{etag}"), true),
            ("*".into(), true),
            (etag.trim_matches('"').to_owned(), false),
        ] {
            assert_eq!(names(&list, etag), is_named, "{list}");
        }
    }
}
