//! What the tests of this module share: a seeded generator of numbers and of JSON text. No entropy, so a failure replays.

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Appends a JSON value, nested at most `depth` deep.
    pub(super) fn json(&mut self, out: &mut String, depth: usize) {
        self.space(out);
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => out.push_str(self.pick(&["true", "false", "null"])),
            1..=2 => self.number(out),
            3..=5 => self.string(out),
            6..=7 => {
                out.push('{');
                for index in 0..self.below(5) {
                    if index > 0 {
                        out.push(',');
                    }
                    self.space(out);
                    self.string(out);
                    self.space(out);
                    out.push(':');
                    self.json(out, depth - 1);
                }
                self.space(out);
                out.push('}');
            }
            _ => {
                out.push('[');
                for index in 0..self.below(6) {
                    if index > 0 {
                        out.push(',');
                    }
                    self.json(out, depth - 1);
                }
                self.space(out);
                out.push(']');
            }
        }
        self.space(out);
    }

    fn space(&mut self, out: &mut String) {
        if self.one_in(6) {
            out.push_str(self.pick(&[" ", "\t", "\n", "\r", "  \r\n"]));
        }
    }

    fn number(&mut self, out: &mut String) {
        let whole = self.next() >> self.below(64);
        out.push_str(self.pick(&["", "", "-"]));
        out.push_str(&whole.to_string());
        if self.one_in(3) {
            out.push('.');
            out.push_str(&self.below(1000).to_string());
        }
        if self.one_in(4) {
            out.push_str(self.pick(&["e", "E", "e+", "E-"]));
            out.push_str(&self.below(500).to_string());
        }
    }

    /// Appends a string literal, with any escapes that the grammar has, lone surrogates among them.
    pub(super) fn string(&mut self, out: &mut String) {
        out.push('"');
        for _ in 0..self.below(20) {
            match self.below(12) {
                0 => out.push_str(self.pick(&["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"])),
                1 => out.push_str(&format!("\\u{:04x}", self.below(0x1_0000))),
                2 => out.push_str(self.pick(&["\\ud83d\\ude00", "\\uD800", "\\uDC00x", "\\ud800\\u0041", "\\u0000"])),
                3 => out.push_str(self.pick(&["é", "漢", "😀", "\u{7f}", "\u{85}", "\u{feff}", "\u{2028}"])),
                _ => out.push(char::from(b'a' + self.below(26) as u8)),
            }
        }
        out.push('"');
    }

    /// Damages a text a little; it stays UTF-8.
    pub(super) fn damage(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(2) {
            let at = self.below(chars.len() + 1);
            let stray = *self.pick(&[
                &'"',
                &'\\',
                &'{',
                &'}',
                &'[',
                &']',
                &',',
                &':',
                &'0',
                &'1',
                &'-',
                &'+',
                &'.',
                &'e',
                &'u',
                &'t',
                &'n',
                &' ',
                &'\0',
                &'\n',
                &'\u{1f}',
                &'\u{7f}',
                &'\u{feff}',
                &'é',
                &'\u{a0}',
            ]);
            match self.below(4) {
                0 => chars.truncate(at),
                1 => chars.insert(at, stray),
                2 if at < chars.len() => {
                    chars.remove(at);
                }
                _ if at < chars.len() => chars[at] = stray,
                _ => chars.push(stray),
            }
        }
        chars.into_iter().collect()
    }
}
