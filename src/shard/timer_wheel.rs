//! One timer a connection: a hashed wheel of intrusive lists, O(1) to arm, move and cancel.
//!
//! It decides which timers are due at a tick. It does not know what a timer means, and allocates nothing after it was made: the
//! links live in a table beside the connections, 12 bytes each.
//!
//! Source: G. Varghese, T. Lauck, "Hashed and hierarchical timing wheels" (1987), scheme 6.

use crate::time::Tick;

/// Buckets: one lap is 262 s of 64 ms ticks. A timer beyond that stays in its bucket for more laps.
const BUCKETS: usize = 4_096;
const WORDS: usize = BUCKETS / 64;
const NONE: u32 = u32::MAX;

/// Links of one timer.
#[derive(Clone, Copy, Debug)]
struct Timer {
    previous: u32,
    next: u32,
    /// Invariant: meaningful only while armed.
    due: Tick,
}

const UNARMED: Timer = Timer { previous: NONE, next: NONE - 1, due: Tick(0) };

/// The wheel.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    timers: Vec<Timer>,
    heads: Box<[u32; BUCKETS]>,
    occupied: [u64; WORDS],
    /// Everything due before this tick has been handed out.
    current: Tick,
    armed: usize,
}

impl TimerWheel {
    /// A wheel for timers 0…`capacity`−1, whose time begins at `now`.
    pub(crate) fn new(capacity: usize, now: Tick) -> Self {
        TimerWheel {
            timers: Vec::with_capacity(capacity),
            heads: Box::new([NONE; BUCKETS]),
            occupied: [0; WORDS],
            current: now,
            armed: 0,
        }
    }

    pub(crate) const fn timer_bytes() -> usize {
        size_of::<Timer>()
    }

    fn bucket(due: Tick) -> usize {
        due.0 as usize % BUCKETS
    }

    fn is_armed(timer: &Timer) -> bool {
        timer.next != UNARMED.next
    }

    /// Arms or moves a timer. A tick in the past is due at once.
    pub(crate) fn arm(&mut self, index: u32, due: Tick) {
        while self.timers.len() <= index as usize {
            self.timers.push(UNARMED);
        }
        self.cancel(index);
        let due = due.max(self.current);
        let bucket = Self::bucket(due);
        let head = self.heads[bucket];
        self.timers[index as usize] = Timer { previous: NONE, next: head, due };
        if head != NONE {
            self.timers[head as usize].previous = index;
        }
        self.heads[bucket] = index;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.armed += 1;
    }

    /// Disarms a timer; nothing if it is not armed.
    pub(crate) fn cancel(&mut self, index: u32) {
        let Some(timer) = self.timers.get(index as usize).copied() else { return };
        if !Self::is_armed(&timer) {
            return;
        }
        let bucket = Self::bucket(timer.due);
        if timer.previous == NONE {
            self.heads[bucket] = timer.next;
            if timer.next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.timers[timer.previous as usize].next = timer.next;
        }
        if timer.next != NONE {
            self.timers[timer.next as usize].previous = timer.previous;
        }
        self.timers[index as usize] = UNARMED;
        self.armed -= 1;
    }

    /// When a timer is due; `None` if it is not armed.
    pub(crate) fn due(&self, index: u32) -> Option<Tick> {
        self.timers.get(index as usize).filter(|timer| Self::is_armed(timer)).map(|timer| timer.due)
    }

    /// Disarms every timer that is due at or before `now` and appends it to `due`.
    pub(crate) fn advance(&mut self, now: Tick, due: &mut Vec<u32>) {
        if now < self.current {
            return;
        }
        let ticks = (u64::from(now.0 - self.current.0) + 1).min(BUCKETS as u64);
        for step in 0..ticks {
            let bucket = (self.current.0 as usize + step as usize) % BUCKETS;
            if self.occupied[bucket / 64] & (1 << (bucket % 64)) == 0 {
                continue;
            }
            let mut index = self.heads[bucket];
            while index != NONE {
                let timer = self.timers[index as usize];
                if timer.due <= now {
                    self.cancel(index);
                    due.push(index);
                }
                index = timer.next;
            }
        }
        self.current = Tick(now.0 + 1);
    }

    /// Whether every armed timer stands once in the list of its bucket, in the future, and is of somebody who lives; says what is
    /// wrong.
    pub(crate) fn verify(&self, is_living: impl Fn(u32) -> bool) -> Result<(), &'static str> {
        let mut found = 0;
        for (word, (&occupied, heads)) in self.occupied.iter().zip(self.heads.chunks(64)).enumerate() {
            let filled = heads.iter().rev().fold(0, |bits, &head| bits << 1 | u64::from(head != NONE));
            if filled != occupied {
                return Err("the map of buckets and the buckets differ");
            }
            let mut rest = occupied;
            while rest != 0 {
                self.verify_bucket(word * 64 + rest.trailing_zeros() as usize, &mut found, &is_living)?;
                rest &= rest - 1;
            }
        }
        let armed = self.timers.iter().filter(|timer| Self::is_armed(timer)).count();
        if found == self.armed && armed == self.armed { Ok(()) } else { Err("not every armed timer is listed and counted") }
    }

    fn verify_bucket(&self, bucket: usize, found: &mut usize, is_living: &impl Fn(u32) -> bool) -> Result<(), &'static str> {
        let (mut previous, mut index) = (NONE, self.heads[bucket]);
        while index != NONE {
            let Some(timer) = self.timers.get(index as usize) else { return Err("a list leads to a timer that is not there") };
            if !Self::is_armed(timer) || timer.previous != previous || Self::bucket(timer.due) != bucket {
                return Err("a timer does not stand where it is listed");
            }
            if timer.due < self.current {
                return Err("a timer is due that was not handed out");
            }
            if !is_living(index) {
                return Err("a timer is armed for nobody");
            }
            // More than are armed can only be a circle.
            *found += 1;
            if *found > self.armed {
                return Err("more timers are listed than are armed");
            }
            (previous, index) = (index, timer.next);
        }
        Ok(())
    }

    /// A tick at or before the earliest due timer: when to look again. `None` if nothing is armed.
    ///
    /// It is exact within one lap; a timer that is further away is reported at its bucket's next turn.
    pub(crate) fn next_due(&self) -> Option<Tick> {
        if self.armed == 0 {
            return None;
        }
        let start = self.current.0 as usize % BUCKETS;
        let mut distance = 0;
        while distance < BUCKETS {
            let bucket = (start + distance) % BUCKETS;
            let word = self.occupied[bucket / 64] >> (bucket % 64);
            if word != 0 {
                return Some(Tick(self.current.0 + distance as u32 + word.trailing_zeros()));
            }
            distance += 64 - bucket % 64;
        }
        // The start's own word holds buckets before the start, a whole lap away.
        Some(Tick(self.current.0 + BUCKETS as u32 - 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// A generator for tests: SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn it_agrees_with_a_sorted_list_whatever_is_done_to_it() {
        for seed in 0..200 {
            let mut state = seed;
            let mut wheel = TimerWheel::new(64, Tick(7));
            let mut model: Vec<Option<u32>> = vec![None; 64];
            let mut now = 7;
            for _ in 0..500 {
                let index = (next(&mut state) % 64) as u32;
                match next(&mut state) % 4 {
                    0 | 1 => {
                        let due = now + 1 + (next(&mut state) % 9_000) as u32;
                        wheel.arm(index, Tick(due));
                        model[index as usize] = Some(due);
                    }
                    2 => {
                        wheel.cancel(index);
                        model[index as usize] = None;
                    }
                    _ => {
                        now += (next(&mut state) % 3_000) as u32;
                        let mut due = Vec::new();
                        wheel.advance(Tick(now), &mut due);
                        assert_eq!(wheel.verify(|_| true), Ok(()), "seed {seed}");
                        due.sort_unstable();
                        let expected: Vec<u32> = (0..64).filter(|&i| model[i as usize].is_some_and(|tick| tick <= now)).collect();
                        assert_eq!(due, expected, "seed {seed}");
                        for index in expected {
                            model[index as usize] = None;
                        }
                    }
                }
                let earliest = model.iter().flatten().min();
                match (wheel.next_due(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(&earliest)) => assert!(next.0 <= earliest.max(now + 1), "seed {seed}: {next:?} {earliest}"),
                    other => panic!("seed {seed}: {other:?}"),
                }
                for (index, due) in model.iter().enumerate() {
                    assert_eq!(wheel.due(index as u32).map(|tick| tick.0), *due, "seed {seed}");
                }
            }
        }
    }

    /// Distances in ticks: within a bucket's word, a lap, some laps, and days.
    fn distance() -> impl Strategy<Value = u32> {
        prop_oneof![0..70u32, 0..5_000u32, 0..40_000u32, 0..2_000_000u32]
    }

    /// A wheel that begins at `begin`, with timers 0, 1, … due after these distances.
    fn armed(begin: u32, distances: &[u32]) -> TimerWheel {
        let mut wheel = TimerWheel::new(distances.len(), Tick(begin));
        for (index, distance) in distances.iter().enumerate() {
            wheel.arm(index as u32, Tick(begin + distance));
        }
        wheel
    }

    fn advanced(wheel: &mut TimerWheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(Tick(now), &mut due);
        due.sort_unstable();
        due
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn a_timer_is_due_once_and_not_before_its_tick(
            begin in 0..u32::MAX / 2,
            distances in vec(distance(), 1..40),
            jumps in vec(distance(), 1..40),
        ) {
            let mut wheel = armed(begin, &distances);
            let (mut before, mut now) = (None, begin);
            for jump in jumps {
                now += jump;
                // Those whose tick has come since the last advance.
                let is_due = |tick: u32| tick <= now && before.is_none_or(|before| tick > before);
                let expected: Vec<u32> =
                    (0..distances.len()).filter(|&index| is_due(begin + distances[index])).map(|index| index as u32).collect();
                prop_assert_eq!(advanced(&mut wheel, now), expected);
                before = Some(now);
            }
        }

        #[test]
        fn a_way_in_steps_hands_out_what_one_jump_does(distances in vec(distance(), 1..40), steps in vec(distance(), 1..20)) {
            let end = 1_000 + steps.iter().sum::<u32>();
            let (mut walking, mut jumping) = (armed(1_000, &distances), armed(1_000, &distances));
            let (mut now, mut walked) = (1_000, Vec::new());
            for step in steps {
                now += step;
                walked.extend(advanced(&mut walking, now));
            }
            walked.sort_unstable();
            prop_assert_eq!(walked, advanced(&mut jumping, end));
            prop_assert_eq!(walking.next_due().is_none(), jumping.next_due().is_none());
        }

        #[test]
        fn who_always_waits_for_the_next_due_tick_meets_each_timer_at_its_own(distances in vec(distance(), 1..40)) {
            let mut wheel = armed(1_000, &distances);
            let mut left = distances.len();
            while let Some(Tick(next)) = wheel.next_due() {
                for index in advanced(&mut wheel, next) {
                    prop_assert_eq!(1_000 + distances[index as usize], next);
                    left -= 1;
                }
            }
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn only_the_last_word_about_a_timer_counts(words in vec((0..6u32, option::of(distance())), 1..60), end in distance()) {
            let mut wheel = TimerWheel::new(6, Tick(1_000));
            for (index, word) in &words {
                match word {
                    Some(distance) => wheel.arm(*index, Tick(1_000 + distance)),
                    None => wheel.cancel(*index),
                }
            }
            let last = |index: u32| words.iter().rev().find(|(other, _)| *other == index).and_then(|(_, word)| *word);
            let expected: Vec<u32> = (0..6).filter(|&index| last(index).is_some_and(|distance| distance <= end)).collect();
            prop_assert_eq!(advanced(&mut wheel, 1_000 + end), expected);
        }
    }

    #[test]
    fn the_next_due_tick_is_exact_within_a_lap() {
        let mut wheel = TimerWheel::new(4, Tick(100));
        for distance in [0, 1, 63, 64, 65, 1_000, 4_000] {
            wheel.arm(0, Tick(100 + distance));
            assert_eq!(wheel.next_due(), Some(Tick(100 + distance)));
        }
    }
}
