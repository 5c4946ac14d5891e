//! The window of sequenced commands against sets and maps of numbers.

use super::input::Input;
use crate::limits::{INTEGER_MAX, REORDER_BYTES_MAX, REORDER_COMMANDS_MAX, REORDER_FAILURES_MAX, WINDOW};
use crate::protocol::{Dialect, Expired, Offer, Verdict, Window, judge};
use crate::time::Millis;
use std::collections::{BTreeMap, BTreeSet};

/// Operations of one run at most.
const STEPS_MAX: usize = 1_000;
/// How long a command waits for an earlier one.
const AGE_MS: u64 = 2_000;

/// Offers, dispatches, decides and lets time pass as the bytes say.
///
/// # Panics
/// If the window and the model disagree about any answer or count.
pub fn sequence(data: &[u8]) {
    let mut input = Input::new(data);
    let dialect = if input.flag() { Dialect::V1 } else { Dialect::Plain };
    let mut pair = Pair::new(dialect, input.magnitude().min(INTEGER_MAX - (1 << 20)));
    let texts = vec![0x20; REORDER_BYTES_MAX + 1];
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        pair.step(&mut input, &texts);
        pair.compare();
    }
}

/// A command that waits.
struct Kept {
    text: Vec<u8>,
    arrived: Millis,
}

/// What is known of a session's numbers, without any packing.
struct Model {
    dialect: Dialect,
    /// All up to it are decided or given up.
    base: u64,
    expected: u64,
    undecided: BTreeSet<u64>,
    kept: BTreeMap<u64, Kept>,
    failures: u8,
    nacked: bool,
    floor: Millis,
    refused_until: Option<Millis>,
}

impl Model {
    fn new(dialect: Dialect, acked: u64) -> Self {
        let (expected, floor) = (acked + 1, Millis(0));
        let (undecided, kept) = (BTreeSet::new(), BTreeMap::new());
        Model { dialect, base: acked, expected, undecided, kept, failures: 0, nacked: false, floor, refused_until: None }
    }

    fn acked(&self) -> u64 {
        let first = self.undecided.range(self.base + 1..).next();
        first.map_or(self.expected, |first| *first) - 1
    }

    /// Numbers that a client counts as unacknowledged, and those of before a gap that was given up.
    fn load(&self) -> u64 {
        self.expected - self.acked() - 1 + self.undecided.range(..=self.base).count() as u64
    }

    fn has_room(&self) -> bool {
        self.load() < u64::from(WINDOW)
    }

    fn bytes(&self) -> usize {
        self.kept.values().map(|kept| kept.text.len()).sum()
    }

    fn first(&self) -> Option<u64> {
        self.kept.keys().next().copied()
    }

    fn expect(&mut self, seq: u64) {
        self.expected = seq;
        self.failures = 0;
        self.nacked = false;
        self.refused_until = None;
    }

    fn fail(&mut self) -> bool {
        self.kept.clear();
        self.failures += 1;
        self.nacked = true;
        self.failures >= REORDER_FAILURES_MAX
    }

    fn skip_to(&mut self, seq: u64) -> u64 {
        let from = self.expected;
        self.base = seq - 1;
        self.expect(seq);
        from
    }

    fn offer(&mut self, seq: u64, text: &[u8], now: Millis) -> Offer {
        if seq < self.expected || self.kept.contains_key(&seq) {
            return Offer::Duplicate;
        }
        if !self.has_room() {
            return Offer::WindowFull;
        }
        if seq == self.expected {
            return Offer::Execute;
        }
        if self.kept.len() < REORDER_COMMANDS_MAX && self.bytes() + text.len() <= REORDER_BYTES_MAX {
            self.kept.insert(seq, Kept { text: text.to_vec(), arrived: now });
            return Offer::Kept;
        }
        if self.first() == Some(self.expected) {
            return Offer::WindowFull;
        }
        if self.dialect == Dialect::Plain {
            let to_exclusive = self.first().unwrap_or(seq).min(seq);
            return Offer::Skipped { from: self.skip_to(to_exclusive), to_exclusive };
        }
        if self.fail() { Offer::Insufficient } else { Offer::Freed { expected: self.expected, received: seq } }
    }

    fn next_ready(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.first() != Some(self.expected) || !self.has_room() {
            return None;
        }
        self.kept.pop_first().map(|(seq, kept)| (seq, kept.text))
    }

    fn poll_nack(&mut self) -> Option<(u64, u64)> {
        let first = self.first().filter(|first| *first != self.expected && !self.nacked && self.has_room())?;
        self.nacked = true;
        Some((self.expected, first))
    }

    fn deadline(&self) -> Option<Millis> {
        let oldest = self.kept.values().map(|kept| kept.arrived.max(self.floor)).min();
        oldest.into_iter().chain(self.refused_until).max().filter(|_| self.has_room()).map(|since| since.after(AGE_MS))
    }

    fn expire(&mut self, now: Millis) -> Expired {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Expired::Nothing;
        }
        match self.first() {
            None => {
                self.refused_until = None;
                self.nacked = false;
                Expired::Nothing
            }
            Some(first) if first == self.expected => Expired::Nothing,
            Some(first) if self.dialect == Dialect::Plain => Expired::Skipped { from: self.skip_to(first), to_exclusive: first },
            Some(first) if !self.fail() => Expired::Freed { expected: self.expected, received: first },
            Some(_) => Expired::Insufficient,
        }
    }
}

/// The window and the model, to which the same is done.
struct Pair {
    window: Window,
    model: Model,
    now: Millis,
}

impl Pair {
    fn new(dialect: Dialect, acked: u64) -> Self {
        Pair { window: Window::new(acked), model: Model::new(dialect, acked), now: Millis(1_000) }
    }

    fn step(&mut self, input: &mut Input<'_>, texts: &[u8]) {
        match input.below(16) {
            0..=5 => self.offer(input, texts),
            6..=8 => self.decide(usize::from(input.byte())),
            9 | 10 => {
                let mut text = b"old".to_vec();
                let ready = self.window.next_ready(&mut text).map(|seq| (seq, text));
                assert_eq!(ready, self.model.next_ready());
                if let Some((seq, _)) = ready {
                    self.execute(seq, input.byte());
                }
            }
            11 => assert_eq!(self.window.poll_nack(), self.model.poll_nack()),
            12 => {
                self.now = self.now.after(u64::from(input.u16() % 4_000));
                if input.flag() {
                    self.window.resumed(self.now);
                    self.model.floor = self.model.floor.max(self.now);
                }
            }
            13 => {
                // Exactly when it says, or whenever.
                if let Some(deadline) = self.window.deadline(AGE_MS).filter(|_| input.flag()) {
                    self.now = self.now.max(deadline);
                }
                let dialect = self.model.dialect;
                assert_eq!(self.window.expire(dialect, self.now, AGE_MS), self.model.expire(self.now));
            }
            14 => {
                let (seq, acked) = (self.near(input.byte()), self.model.acked());
                let verdict = judge(acked, seq);
                assert_eq!(verdict == Verdict::Duplicate, seq <= acked);
                assert_eq!(verdict == Verdict::Execute, seq == acked + 1);
            }
            _ if input.byte() < 16 => {
                let acked = input.magnitude().min(INTEGER_MAX - (1 << 20));
                self.window.start(acked);
                self.model = Model::new(self.model.dialect, acked);
            }
            // A run of commands in their order, to fill the window.
            _ => (0..input.below(80)).for_each(|_| {
                let seq = self.model.expected;
                let offer = self.model.offer(seq, b"{}", self.now);
                assert_eq!(self.window.offer(self.model.dialect, seq, b"{}", self.now), offer);
                if offer == Offer::Execute {
                    self.execute(seq, 0);
                }
            }),
        }
    }

    /// A number near the expected one, or far above.
    fn near(&self, choice: u8) -> u64 {
        let seq = match choice {
            0..=199 => self.model.expected.saturating_sub(20) + u64::from(choice % 100),
            200..=219 => self.model.expected,
            220..=249 => self.model.expected + (1 << (choice - 220)),
            _ => INTEGER_MAX,
        };
        seq.clamp(1, INTEGER_MAX)
    }

    fn offer(&mut self, input: &mut Input<'_>, texts: &[u8]) {
        let (seq, size) = (self.near(input.byte()), input.byte());
        let length = if size < 200 { usize::from(size) } else { usize::from(size - 199) * 2_000 % texts.len() };
        let mut text = texts[..length].to_vec();
        if let Some(first) = text.first_mut() {
            *first = size;
        }
        let offer = self.window.offer(self.model.dialect, seq, &text, self.now);
        assert_eq!(offer, self.model.offer(seq, &text, self.now));
        if offer == Offer::Execute {
            self.execute(seq, input.byte());
        }
    }

    /// What has its turn is dispatched, refused for now, or given up by its caller.
    fn execute(&mut self, seq: u64, choice: u8) {
        match choice {
            0..=230 if seq < INTEGER_MAX => {
                self.window.dispatched(seq);
                self.model.expect(seq + 1);
                self.model.undecided.insert(seq);
            }
            231..=245 => {
                let after = u64::from(choice) * 10;
                self.window.refused(self.now, after);
                self.model.refused_until = Some(self.now.after(after));
                self.model.nacked = true;
            }
            _ => {}
        }
    }

    fn decide(&mut self, choice: usize) {
        let undecided = &mut self.model.undecided;
        if undecided.is_empty() {
            return;
        }
        let seq = *undecided.iter().nth(choice % undecided.len()).expect("there are so many");
        undecided.remove(&seq);
        assert_eq!(self.window.decided(seq), self.model.acked());
    }

    fn compare(&self) {
        let (window, model) = (&self.window, &self.model);
        assert_eq!((window.expected(), window.acked(), window.has_room()), (model.expected, model.acked(), model.has_room()));
        assert_eq!(window.undecided() as usize, model.undecided.len());
        assert_eq!((window.commands_buffered(), window.bytes_buffered()), (model.kept.len(), model.bytes()));
        assert_eq!(window.deadline(AGE_MS), model.deadline());
        let is_idle = model.undecided.is_empty() && model.kept.is_empty() && model.refused_until.is_none() && model.failures == 0;
        assert_eq!(window.is_idle(), is_idle);
        assert!(window.bytes_buffered() <= window.bytes_held() && window.bytes_held() <= 2 * REORDER_BYTES_MAX);
        assert!(window.undecided() <= WINDOW);
    }
}
