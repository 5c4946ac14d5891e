//! Where a double takes its decisions from: a string of bytes, so that a fuzzer can steer every one of them.
//!
//! Invariant: once the string is used up every answer is the first, which is always the harmless one; so a run ends calmly.

use std::fmt;

/// Decisions still to be taken.
#[derive(Default)]
pub struct Choices {
    bytes: Vec<u8>,
    at: usize,
}

impl Choices {
    /// Those that the bytes make.
    pub fn new(bytes: &[u8]) -> Choices {
        Choices { bytes: bytes.to_vec(), at: 0 }
    }

    /// `length` bytes that follow from a seed.
    pub fn from_seed(seed: u64, length: usize) -> Choices {
        // SplitMix64: every seed, also 0 and its neighbours, has a stream of its own.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ mixed >> 31) as u8
        };
        Choices { bytes: (0..length).map(|_| next()).collect(), at: 0 }
    }

    /// A number below `count`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn pick(&mut self, count: usize) -> usize {
        assert!(count > 0, "a choice among nothing");
        let mut drawn = 0;
        let mut reach = 1;
        while reach < count {
            drawn = drawn << 8 | usize::from(self.byte());
            reach <<= 8;
        }
        drawn % count
    }

    /// True once in `count` times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.pick(count) == count - 1
    }

    /// Whether only the first answers are left.
    pub fn are_used_up(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }
}

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Choices({} of {})", self.at, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_below_their_count_and_end_with_the_first() {
        let mut choices = Choices::from_seed(7, 1_000);
        for count in [1, 2, 3, 255, 256, 257, 70_000] {
            assert!((0..20).all(|_| choices.pick(count) < count));
        }
        while !choices.are_used_up() {
            choices.pick(2);
        }
        assert_eq!((choices.pick(70_000), choices.once_in(4)), (0, false));
    }

    #[test]
    fn seeds_differ_from_their_neighbours() {
        assert_ne!(Choices::from_seed(0, 16).bytes, Choices::from_seed(1, 16).bytes);
    }
}
