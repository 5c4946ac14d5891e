//! Tests of the order of commands, beside a reference model of maps.
#![allow(clippy::unwrap_used)]

use super::super::testing::Random;
use super::*;
use Dialect::{Plain, V1};
use std::collections::{BTreeMap, BTreeSet};

const AGE: u64 = 2_000;

/// Offers `seqs` one after another as a shard would, dispatching whatever has its turn; returns the order of execution.
fn execute(window: &mut Window, dialect: Dialect, seqs: &[u64]) -> Vec<u64> {
    let mut order = Vec::new();
    drain(window, &mut order);
    for seq in seqs {
        if window.offer(dialect, *seq, seq.to_string().as_bytes(), Millis(0)) == Offer::Execute {
            window.dispatched(*seq);
            order.push(*seq);
        }
        drain(window, &mut order);
    }
    order
}

fn drain(window: &mut Window, order: &mut Vec<u64>) {
    let mut text = Vec::new();
    while let Some(ready) = window.next_ready(&mut text) {
        assert_eq!(text, ready.to_string().as_bytes());
        window.dispatched(ready);
        order.push(ready);
    }
}

#[test]
fn a_session_at_rest_needs_only_a_number() {
    for (acked, seq, verdict) in [
        (0, 1, Verdict::Execute),
        (0, 2, Verdict::Early),
        (5, 5, Verdict::Duplicate),
        (5, 1, Verdict::Duplicate),
        (5, 6, Verdict::Execute),
        (5, INTEGER_MAX, Verdict::Early),
        (INTEGER_MAX, INTEGER_MAX, Verdict::Duplicate),
        (INTEGER_MAX - 1, INTEGER_MAX, Verdict::Execute),
    ] {
        assert_eq!(judge(acked, seq), verdict, "{seq} after {acked}");
    }
}

#[test]
fn one_two_three_five_four_is_executed_in_order() {
    assert_eq!(execute(&mut Window::new(0), V1, &[1, 2, 3, 5, 4]), [1, 2, 3, 4, 5]);
}

#[test]
fn any_order_with_any_duplicates_is_executed_in_order_and_once() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let count = 1 + random.below(60) as u64;
        let base = random.next() % (INTEGER_MAX - 100);
        let mut seqs: Vec<u64> = (1..=count).map(|n| base + n).collect();
        for _ in 0..random.below(20) {
            seqs.push(base + 1 + random.below(count as usize) as u64);
        }
        for at in (1..seqs.len()).rev() {
            seqs.swap(at, random.below(at + 1));
        }
        let expected: Vec<u64> = (1..=count).map(|n| base + n).collect();
        for dialect in [V1, Plain] {
            let mut window = Window::new(base);
            assert_eq!(execute(&mut window, dialect, &seqs), expected, "seed {seed}");
            for seq in expected.iter().rev() {
                window.decided(*seq);
            }
            assert_eq!(window.acked(), base + count);
            assert!(window.is_idle());
        }
    }
}

#[test]
fn a_gap_is_nacked_once_and_the_next_gap_again() {
    let mut window = Window::new(0);
    execute(&mut window, V1, &[1, 3, 4]);
    assert_eq!(window.poll_nack(), Some((2, 3)));
    execute(&mut window, V1, &[6]);
    assert_eq!(window.poll_nack(), None);
    assert_eq!(execute(&mut window, V1, &[2]), [2, 3, 4]);
    assert_eq!(window.poll_nack(), Some((5, 6)));
    assert_eq!(window.poll_nack(), None);
    assert_eq!(execute(&mut window, V1, &[5]), [5, 6]);
    assert_eq!(window.poll_nack(), None);
}

#[test]
fn a_gap_that_closes_within_its_batch_is_not_nacked() {
    let mut window = Window::new(0);
    execute(&mut window, V1, &[2, 3, 1]);
    assert_eq!(window.poll_nack(), None);
}

#[test]
fn a_number_far_ahead_is_only_early() {
    for dialect in [V1, Plain] {
        let mut window = Window::new(0);
        assert_eq!(window.offer(dialect, INTEGER_MAX, b"x", Millis(0)), Offer::Kept);
        assert!(window.bytes_held() < 1_024);
    }
    let mut window = Window::new(0);
    window.offer(Plain, INTEGER_MAX, b"x", Millis(0));
    assert_eq!(window.expire(Plain, Millis(AGE), AGE), Expired::Skipped { from: 1, to_exclusive: INTEGER_MAX });
    assert_eq!(window.next_ready(&mut Vec::new()), Some(INTEGER_MAX));
    window.dispatched(INTEGER_MAX);
    assert_eq!(window.offer(Plain, INTEGER_MAX, b"x", Millis(0)), Offer::Duplicate);
    assert_eq!(window.decided(INTEGER_MAX), INTEGER_MAX);
    assert!(window.is_idle());
}

#[test]
fn the_third_overflow_at_one_number_is_insufficient() {
    let mut window = Window::new(0);
    for round in 1..=REORDER_FAILURES_MAX {
        for seq in 2..2 + REORDER_COMMANDS_MAX as u64 {
            assert_eq!(window.offer(V1, seq, b"early", Millis(0)), Offer::Kept);
        }
        let offer = window.offer(V1, 1_000, b"early", Millis(0));
        if round < REORDER_FAILURES_MAX {
            assert_eq!(offer, Offer::Freed { expected: 1, received: 1_000 });
            assert_eq!((window.bytes_held(), window.bytes_buffered()), (0, 0));
            assert!(!window.is_idle(), "the failures must not be forgotten");
        } else {
            assert_eq!(offer, Offer::Insufficient);
        }
    }
}

#[test]
fn progress_forgives_earlier_failures() {
    let mut window = Window::new(0);
    for seq in 1..10 {
        for _ in 0..REORDER_FAILURES_MAX - 1 {
            assert_eq!(window.offer(V1, seq + 1, b"early", Millis(0)), Offer::Kept);
            assert_eq!(window.expire(V1, Millis(AGE), AGE), Expired::Freed { expected: seq, received: seq + 1 });
        }
        assert_eq!(execute(&mut window, V1, &[seq]), [seq]);
    }
}

#[test]
fn what_was_kept_expires_by_the_age_of_the_oldest() {
    let mut window = Window::new(0);
    assert_eq!(window.deadline(AGE), None);
    window.offer(V1, 3, b"3", Millis(100));
    window.offer(V1, 2, b"2", Millis(900));
    assert_eq!(window.deadline(AGE), Some(Millis(100 + AGE)));
    assert_eq!(window.expire(V1, Millis(99 + AGE), AGE), Expired::Nothing);
    assert_eq!(window.expire(V1, Millis(100 + AGE), AGE), Expired::Freed { expected: 1, received: 2 });
    assert_eq!(window.deadline(AGE), None);
}

#[test]
fn a_plain_gap_is_given_up_at_its_time_and_execution_goes_on() {
    let mut window = Window::new(0);
    assert_eq!(execute(&mut window, Plain, &[1, 4, 5, 8]), [1]);
    assert_eq!(window.expire(Plain, Millis(AGE), AGE), Expired::Skipped { from: 2, to_exclusive: 4 });
    assert_eq!(execute(&mut window, Plain, &[2]), [4, 5]);
    assert_eq!(window.expire(Plain, Millis(AGE), AGE), Expired::Skipped { from: 6, to_exclusive: 8 });
    assert_eq!(execute(&mut window, Plain, &[]), [8]);
    assert_eq!(window.undecided(), 4);
    for seq in [5, 8, 1, 4] {
        window.decided(seq);
    }
    assert!(window.is_idle());
    assert_eq!(window.acked(), 8);
}

#[test]
fn a_plain_overflow_gives_up_the_gap_instead_of_commands() {
    let mut window = Window::new(0);
    let mut order = Vec::new();
    let mut text = Vec::new();
    for seq in 2..=REORDER_COMMANDS_MAX as u64 + 1 {
        assert_eq!(window.offer(Plain, seq, b"early", Millis(0)), Offer::Kept);
    }
    let last = REORDER_COMMANDS_MAX as u64 + 5;
    assert_eq!(window.offer(Plain, last, b"early", Millis(0)), Offer::Skipped { from: 1, to_exclusive: 2 });
    while let Some(ready) = window.next_ready(&mut text) {
        window.dispatched(ready);
        order.push(ready);
    }
    assert_eq!(order, (2..=REORDER_COMMANDS_MAX as u64 + 1).collect::<Vec<_>>());
    assert_eq!(window.offer(Plain, last, b"early", Millis(0)), Offer::WindowFull);
    window.decided(2);
    assert_eq!(window.offer(Plain, last, b"early", Millis(0)), Offer::Kept);
}

#[test]
fn a_plain_command_too_large_to_wait_is_not_lost() {
    let mut window = Window::new(0);
    let large = vec![b'x'; REORDER_BYTES_MAX + 1];
    assert_eq!(window.offer(Plain, 9, &large, Millis(0)), Offer::Skipped { from: 1, to_exclusive: 9 });
    assert_eq!(window.offer(Plain, 9, &large, Millis(0)), Offer::Execute);
}

#[test]
fn a_refusal_for_now_consumes_nothing_and_later_commands_wait_for_its_delay() {
    let mut window = Window::new(0);
    assert_eq!(window.offer(V1, 1, b"1", Millis(0)), Offer::Execute);
    window.refused(Millis(0), 5_000);
    assert!(!window.is_idle());
    assert_eq!(window.offer(V1, 2, b"2", Millis(10)), Offer::Kept);
    assert_eq!(window.poll_nack(), None, "the client knows what to send again");
    assert_eq!(window.deadline(AGE), Some(Millis(5_000 + AGE)));
    assert_eq!(execute(&mut window, V1, &[1]), [1, 2]);
    // The delay was for that command only.
    window.offer(V1, 4, b"4", Millis(20));
    assert_eq!(window.deadline(AGE), Some(Millis(20 + AGE)));
}

#[test]
fn a_refusal_that_the_client_never_takes_up_is_forgotten() {
    let mut window = Window::new(0);
    window.refused(Millis(0), 1_000);
    assert_eq!(window.expire(V1, Millis(999 + AGE), AGE), Expired::Nothing);
    assert!(!window.is_idle());
    assert_eq!(window.expire(V1, Millis(1_000 + AGE), AGE), Expired::Nothing);
    assert!(window.is_idle());
    assert_eq!(window.deadline(AGE), None);
}

#[test]
fn a_pause_in_reading_is_not_held_against_a_gap() {
    let mut window = Window::new(0);
    window.offer(V1, 2, b"2", Millis(0));
    window.resumed(Millis(10_000));
    assert_eq!(window.deadline(AGE), Some(Millis(10_000 + AGE)));
    assert_eq!(window.expire(V1, Millis(9_000 + AGE), AGE), Expired::Nothing);
}

#[test]
fn decisions_out_of_order_are_acknowledged_as_a_prefix() {
    let mut window = Window::new(10);
    execute(&mut window, V1, &[11, 12, 13, 14]);
    assert_eq!(window.decided(13), 10);
    assert_eq!(window.decided(12), 10);
    assert_eq!(window.undecided(), 2);
    assert_eq!(window.decided(11), 13);
    assert_eq!(window.decided(14), 14);
    assert!(window.is_idle());
}

#[test]
fn the_window_is_counted_from_the_oldest_undecided_command() {
    let mut window = Window::new(0);
    let all: Vec<u64> = (1..=u64::from(WINDOW)).collect();
    assert_eq!(execute(&mut window, V1, &all), all);
    assert!(!window.has_room());
    assert_eq!(window.offer(V1, 65, b"65", Millis(0)), Offer::WindowFull);
    assert_eq!(window.offer(V1, 66, b"66", Millis(0)), Offer::WindowFull);
    assert_eq!(window.offer(V1, 64, b"64", Millis(0)), Offer::Duplicate);
    for seq in 2..=u64::from(WINDOW) {
        assert_eq!(window.decided(seq), 0);
    }
    assert_eq!((window.has_room(), window.undecided()), (false, 1));
    assert_eq!(window.decided(1), 64);
    assert!(window.is_idle());
}

#[test]
fn a_full_window_has_no_gap_and_no_deadline() {
    let mut window = Window::new(0);
    window.offer(V1, 66, b"66", Millis(0));
    execute(&mut window, V1, &(1..=64).collect::<Vec<_>>());
    assert_eq!((window.poll_nack(), window.deadline(AGE)), (None, None));
    window.decided(1);
    assert_eq!((window.poll_nack(), window.deadline(AGE)), (Some((65, 66)), Some(Millis(AGE))));
}

#[test]
fn a_window_begins_anew_in_its_old_buffers_and_steady_disorder_allocates_nothing() {
    let mut window = Window::new(0);
    let raw = [b'x'; 1_000];
    let mut text = Vec::new();
    let mut held = None;
    for round in 0..60u64 {
        window.start(round * 7);
        for base in (round * 7 + 1..round * 7 + 3_000).step_by(40) {
            for seq in (base + 1..base + 40).chain([base]) {
                if window.offer(V1, seq, &raw[..(seq % 1_000) as usize], Millis(0)) == Offer::Execute {
                    window.dispatched(seq);
                    window.decided(seq);
                }
            }
            while let Some(ready) = window.next_ready(&mut text) {
                assert_eq!(text.len() as u64, ready % 1_000);
                window.dispatched(ready);
                window.decided(ready);
            }
        }
        assert!(window.is_idle());
        if round >= 10 {
            assert_eq!(*held.get_or_insert(window.bytes_held()), window.bytes_held());
        }
    }
}

#[test]
#[should_panic(expected = "decided once")]
fn deciding_twice_is_the_callers_mistake() {
    let mut window = Window::new(0);
    execute(&mut window, V1, &[1, 2]);
    window.decided(2);
    window.decided(2);
}

/// What a window should be, in maps and sets, with nothing clever.
struct Model {
    dialect: Dialect,
    expected: u64,
    undecided: BTreeSet<u64>,
    /// Undecided from before numbers that were given up.
    stray: BTreeSet<u64>,
    kept: BTreeMap<u64, (Vec<u8>, u64)>,
    failures: u8,
    told: bool,
    floor: u64,
    refused_until: Option<u64>,
}

impl Model {
    fn new(dialect: Dialect, acked: u64) -> Self {
        let (undecided, stray, kept) = Default::default();
        Model { dialect, expected: acked + 1, undecided, stray, kept, failures: 0, told: false, floor: 0, refused_until: None }
    }
    fn acked(&self) -> u64 {
        self.undecided.first().copied().unwrap_or(self.expected) - 1
    }
    fn has_room(&self) -> bool {
        self.expected - 1 - self.acked() + (self.stray.len() as u64) < u64::from(WINDOW)
    }
    fn bytes(&self) -> usize {
        self.kept.values().map(|(raw, _)| raw.len()).sum()
    }
    fn advance(&mut self, to: u64) {
        (self.expected, self.failures, self.told, self.refused_until) = (to, 0, false, None);
    }
    fn skip(&mut self, to: u64) -> (u64, u64) {
        let from = self.expected;
        self.stray.append(&mut self.undecided);
        self.advance(to);
        (from, to)
    }
    fn fail(&mut self) -> bool {
        self.kept.clear();
        self.failures += 1;
        self.told = true;
        self.failures == REORDER_FAILURES_MAX
    }
    fn offer(&mut self, seq: u64, raw: &[u8], now: u64) -> Offer {
        if seq < self.expected || self.kept.contains_key(&seq) {
            return Offer::Duplicate;
        }
        if !self.has_room() {
            return Offer::WindowFull;
        }
        if seq == self.expected {
            return Offer::Execute;
        }
        if self.kept.len() < REORDER_COMMANDS_MAX && self.bytes() + raw.len() <= REORDER_BYTES_MAX {
            self.kept.insert(seq, (raw.to_vec(), now));
            return Offer::Kept;
        }
        if self.dialect == Plain {
            let first = self.kept.keys().copied().chain([seq]).min().unwrap();
            let (from, to_exclusive) = self.skip(first);
            return Offer::Skipped { from, to_exclusive };
        }
        if self.fail() { Offer::Insufficient } else { Offer::Freed { expected: self.expected, received: seq } }
    }
    fn expire(&mut self, now: u64) -> Expired {
        let oldest = self.kept.values().map(|(_, arrived)| (*arrived).max(self.floor)).min();
        let Some(since) = oldest.into_iter().chain(self.refused_until).max() else { return Expired::Nothing };
        if now < since + AGE || !self.has_room() {
            return Expired::Nothing;
        }
        let Some(first) = self.kept.keys().next().copied() else {
            (self.refused_until, self.told) = (None, false);
            return Expired::Nothing;
        };
        if self.dialect == Plain {
            let (from, to_exclusive) = self.skip(first);
            return Expired::Skipped { from, to_exclusive };
        }
        if self.fail() { Expired::Insufficient } else { Expired::Freed { expected: self.expected, received: first } }
    }
    fn poll_nack(&mut self) -> Option<(u64, u64)> {
        let first = *self.kept.keys().next()?;
        if self.told || !self.has_room() {
            return None;
        }
        self.told = true;
        Some((self.expected, first))
    }
}

/// Drives a window and its model through one random life, and counts what happened.
struct Run {
    random: Random,
    window: Window,
    model: Model,
    now: u64,
    executed: Vec<u64>,
    seen: BTreeMap<&'static str, u64>,
    ended: bool,
    starves: bool,
}

impl Run {
    fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The command that has its turn is dispatched, or sometimes refused for now.
    fn turn(&mut self, seq: u64) {
        if self.random.one_in(12) {
            let delay = self.random.below(4_000) as u64;
            self.window.refused(Millis(self.now), delay);
            self.model.refused_until = Some(self.now + delay);
            self.model.told = true;
            self.see("refused");
            return;
        }
        self.window.dispatched(seq);
        self.model.undecided.insert(seq);
        self.model.advance(seq + 1);
        self.executed.push(seq);
    }

    fn drain(&mut self) {
        let mut text = vec![1, 2, 3];
        while let Some(seq) = self.window.next_ready(&mut text) {
            assert_eq!(seq, self.model.expected);
            assert!(self.model.has_room());
            let (raw, _) = self.model.kept.remove(&seq).expect("what is ready was kept");
            assert_eq!(text, raw);
            self.turn(seq);
            self.see("ready");
        }
        assert!(!self.model.kept.contains_key(&self.model.expected) || !self.model.has_room());
    }

    fn offer(&mut self) {
        let ahead = match self.random.below(40) {
            0..=15 => 0,
            16..=33 => self.random.below(8) as u64,
            34..=37 => self.random.below(90) as u64,
            38 => self.random.next() % INTEGER_MAX,
            _ => 0,
        };
        // A client that never sends what is missing.
        let ahead = if self.starves { ahead + 1 } else { ahead };
        let behind = if self.random.one_in(10) { self.random.below(5) as u64 } else { 0 };
        let seq = (self.model.expected.saturating_add(ahead)).saturating_sub(behind).clamp(1, INTEGER_MAX);
        let length = match self.random.below(60) {
            0 => self.random.below(REORDER_BYTES_MAX + 100),
            1..=3 => self.random.below(9_000),
            4..=20 if self.starves => self.random.below(40_000),
            _ => self.random.below(90),
        };
        let raw = vec![self.random.next() as u8; length];
        for _ in 0..=REORDER_COMMANDS_MAX + 1 {
            let offer = self.window.offer(self.model.dialect, seq, &raw, Millis(self.now));
            assert_eq!(offer, self.model.offer(seq, &raw, self.now));
            match offer {
                Offer::Execute => self.turn(seq),
                Offer::Insufficient => self.ended = true,
                Offer::Duplicate | Offer::Kept | Offer::Freed { .. } | Offer::Skipped { .. } | Offer::WindowFull => {}
            }
            self.see(match offer {
                Offer::Execute => "execute",
                Offer::Duplicate => "duplicate",
                Offer::Kept => "kept",
                Offer::Freed { .. } => "freed",
                Offer::Insufficient => "insufficient",
                Offer::Skipped { .. } => "skipped",
                Offer::WindowFull => "full",
            });
            self.drain();
            if !matches!(offer, Offer::Skipped { .. }) {
                return;
            }
        }
        panic!("a command never found its place");
    }

    fn decide(&mut self) {
        let open: Vec<u64> = self.model.undecided.iter().chain(&self.model.stray).copied().collect();
        if let Some(seq) = (!open.is_empty()).then(|| open[self.random.below(open.len())]) {
            self.model.undecided.remove(&seq);
            self.model.stray.remove(&seq);
            assert_eq!(self.window.decided(seq), self.model.acked());
            self.drain();
        }
    }

    fn expire(&mut self) {
        self.now += self.random.below(1_500) as u64;
        let expired = self.window.expire(self.model.dialect, Millis(self.now), AGE);
        assert_eq!(expired, self.model.expire(self.now));
        match expired {
            Expired::Nothing => {}
            Expired::Freed { .. } => self.see("expired freed"),
            Expired::Skipped { .. } => self.see("expired skipped"),
            Expired::Insufficient => {
                self.see("expired insufficient");
                self.ended = true;
            }
        }
        self.drain();
    }

    fn step(&mut self, decides: usize) {
        match self.random.below(20) {
            0..=11 => self.offer(),
            12..=15 if self.random.below(10) < decides => self.decide(),
            16 => self.expire(),
            17 => {
                assert_eq!(self.window.poll_nack(), self.model.poll_nack());
                self.see("nack asked");
            }
            18 if self.random.one_in(10) => {
                self.window.resumed(Millis(self.now));
                self.model.floor = self.now;
            }
            _ => {}
        }
        let (window, model) = (&self.window, &self.model);
        assert_eq!((window.acked(), window.expected()), (model.acked(), model.expected));
        assert_eq!(window.undecided() as usize, model.undecided.len() + model.stray.len());
        assert_eq!((window.has_room(), window.bytes_buffered()), (model.has_room(), model.bytes()));
        assert_eq!(window.commands_buffered(), model.kept.len());
        assert!(window.undecided() <= WINDOW);
        assert!(window.bytes_held() <= REORDER_BYTES_MAX + REORDER_COMMANDS_MAX * size_of::<Entry>());
        let idle = window.undecided() == 0 && model.kept.is_empty() && model.refused_until.is_none() && model.failures == 0;
        assert_eq!(window.is_idle(), idle);
    }
}

#[test]
fn a_window_does_what_its_model_does() {
    let mut seen = BTreeMap::new();
    let mut window = Window::default();
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let dialect = if random.one_in(2) { V1 } else { Plain };
        let acked = if random.one_in(5) { INTEGER_MAX - random.below(50) as u64 } else { random.below(100) as u64 };
        let decides = random.below(11);
        window.start(acked);
        let model = Model::new(dialect, acked);
        let mut run = Run { random, window, model, now: 0, executed: Vec::new(), seen, ended: false, starves: seed % 4 == 0 };
        for _ in 0..150 {
            if run.random.one_in(200) {
                run.starves = !run.starves;
            }
            if !run.ended {
                run.step(decides);
            }
        }
        let steps = run.executed.windows(2).map(|pair| pair[1].checked_sub(pair[0]));
        assert!(steps.clone().all(|step| step.is_some_and(|step| step > 0)), "seed {seed}: each once, in order");
        assert!(dialect == Plain || steps.clone().all(|step| step == Some(1)), "seed {seed}: without a hole");
        (seen, window) = (run.seen, run.window);
    }
    // The runs went everywhere: otherwise the agreement would say little.
    for what in [
        "execute",
        "duplicate",
        "kept",
        "freed",
        "insufficient",
        "skipped",
        "full",
        "ready",
        "refused",
        "nack asked",
        "expired freed",
        "expired skipped",
        "expired insufficient",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 20), "{what} was seen {:?} times", seen.get(what));
    }
}

#[test]
fn a_kept_command_that_has_its_turn_and_was_not_drained_is_neither_freed_nor_expired() {
    let mut window = Window::new(0);
    for seq in 2..2 + REORDER_COMMANDS_MAX as u64 {
        assert_eq!(window.offer(V1, seq, seq.to_string().as_bytes(), Millis(0)), Offer::Kept);
    }
    assert_eq!(window.offer(V1, 1, b"x", Millis(0)), Offer::Execute);
    window.dispatched(1);
    assert_eq!(window.offer(V1, 100, b"x", Millis(0)), Offer::WindowFull);
    assert_eq!(window.expire(V1, Millis(10 * AGE), AGE), Expired::Nothing);
    window.decided(1);
    let mut order = Vec::new();
    drain(&mut window, &mut order);
    assert_eq!(order.len(), REORDER_COMMANDS_MAX);
}
