//! A Rust file as the tidy rules see it: its text, and its code with comments and literals blanked out.

/// One file.
pub(crate) struct File {
    /// Its path below the project's root, with `/`.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
    /// Its text with comments, strings and character literals replaced by spaces: same length, same lines.
    pub(crate) code: String,
}

impl File {
    /// From a path and a text.
    pub(crate) fn new(name: &str, text: &str) -> File {
        File { name: name.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The top module that it belongs to (`ws` for `src/ws/mask.rs`); `None` outside `src`.
    pub(crate) fn module(&self) -> Option<String> {
        let first = self.name.strip_prefix("src/")?.split('/').next()?;
        Some(first.trim_end_matches(".rs").to_owned())
    }

    /// How many `super` lead from it to the crate's root.
    pub(crate) fn depth(&self) -> usize {
        let parts: Vec<&str> = self.name.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
        parts.len() - usize::from(parts.last() == Some(&"mod"))
    }

    /// Its lines.
    pub(crate) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// The code before its tests, which stand last.
    pub(crate) fn code_without_tests(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod ").or_else(|| self.code.find("#[cfg(test)] mod "));
        &self.code[..end.unwrap_or(self.code.len())]
    }

    /// The 1-based line at a byte of the code.
    pub(crate) fn line_at(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// A complaint about a place.
    pub(crate) fn complaint(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.name, self.line_at(at))
    }

    /// Where a word occurs in a piece of the code, as a whole word.
    pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = code[..*at].chars().next_back().is_some_and(inside);
            let after = code[at + word.len()..].chars().next().is_some_and(inside);
            !before && !after
        })
    }
}

/// Replaces comments and literals by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        if end == at {
            at += 1;
            continue;
        }
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8(code).expect("whole characters were replaced")
}

/// The end of the comment or literal that begins at a byte; `at` itself if none does.
fn literal_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    let find = |needle: &str, from: usize| text[from..].find(needle).map_or(text.len(), |found| from + found + needle.len());
    match rest {
        [b'/', b'/', ..] => text[at..].find('\n').map_or(text.len(), |found| at + found),
        [b'/', b'*', ..] => block_comment_end(bytes, at),
        [b'"', ..] => string_end(bytes, at + 1),
        [b'r', b'"' | b'#', ..] if !within_word(bytes, at) => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return at;
            }
            find(&format!("\"{}", "#".repeat(hashes)), at + hashes + 2)
        }
        [b'\'', b'\\', ..] => find("'", at + 3),
        // A lifetime has no closing quote after one character.
        [b'\'', ..] => {
            let mut chars = text[at + 1..].char_indices().skip(1);
            match chars.next() {
                Some((width, '\'')) => at + 1 + width + 1,
                _ => at,
            }
        }
        _ => at,
    }
}

fn within_word(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a literal too: its `r` follows a `b` that begins a word.
    let before = |back: usize| at.checked_sub(back).map(|index| bytes[index]);
    let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if before(1) == Some(b'b') || before(1) == Some(b'c') { word(before(2)) } else { word(before(1)) }
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

#[test]
fn comments_and_literals_are_blank_and_the_rest_stays() {
    let text = "a // b\nc /* d /* e */ f */ g \"h \\\" i\" j 'k' '\\'' l 'm: r#\"n \"o\" p\"# br\"q\" for r in s";
    let words: Vec<String> = blank(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "c", "g", "j", "l", "'m:", "b", "for", "r", "in", "s"]);
    assert_eq!(blank(text).len(), text.len());
}
