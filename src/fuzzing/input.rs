//! Takes decisions from a fuzzer's bytes.
//!
//! Bytes are read from the front, in the order in which they are asked for, so that a small change of the input is a small change of
//! what happens. An input that is used up yields zeros: every prefix of an input is an input.

/// What is left of the bytes.
#[derive(Clone, Debug)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Input { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number of `bytes` bytes, most significant first; at most 8.
    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    pub(super) fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    pub(super) fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    pub(super) fn u64(&mut self) -> u64 {
        self.number(8)
    }

    /// A number of any magnitude, small ones as likely as large ones: one byte says how many bits, so that an edge is one bit flip away.
    pub(super) fn magnitude(&mut self) -> u64 {
        let bits = self.byte() % 65;
        match bits {
            0 => 0,
            bits => self.number(usize::from(bits).div_ceil(8)) & (u64::MAX >> (64 - bits)),
        }
    }

    /// A number below `bound`, which is 1 to 256.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        debug_assert!((1..=256).contains(&bound));
        usize::from(self.byte()) % bound
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of `choices`, of which there are 1 to 256.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// The next `count` bytes, or as many as are left.
    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

/// Where to cut a stream, from a number: SplitMix64 (Steele, Lea and Flood, 2014).
///
/// For bodies that read text: the text stays whole in the input, where a fuzzer's dictionary can work on it.
#[derive(Clone, Debug)]
pub(super) struct Cuts(u64);

impl Cuts {
    pub(super) fn new(seed: u64) -> Self {
        Cuts(seed)
    }

    /// The length of the next piece of `left` bytes, from 1 to all of them.
    pub(super) fn next(&mut self, left: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let most = match z >> 62 {
            0 => 2,
            1 => 9,
            2 => 130,
            _ => left,
        };
        1 + (z as usize % most.min(left).max(1)).min(left - 1)
    }
}
