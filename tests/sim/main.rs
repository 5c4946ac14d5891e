//! Verify that whatever clients, sockets, lanes and clocks do, the core keeps its promises: a simulation of whole servers from seeds.
//!
//! A seed makes a world (`plan`): shards, clients of both dialects, a network, lanes between the shards, a clock, and which kinds of
//! fault there are. No kernel, no thread and no clock is in it, so a seed always does the same. `driver` turns the shards as `seam`
//! says and checks their side of that contract; `peer` is what clients do; `hear`, `room` and `watch` are the reference model, which
//! holds each message that a client gets against what may have happened; `judge` says what must hold at any time, and what must
//! have come to be when the faults have ended.
//!
//! What is checked, by the names that a failure says: per-sender order, exactly-once execution, the same order for every member,
//! no message to a non-member, errors and answers before the ack that covers them, presence within its bound (`ghost`, `unseen`)
//! and in the end the truth, memory within its budget, no orphan, nobody closed who did nothing wrong (`innocent closed`), all
//! acknowledgements in the end, and nothing left when all have gone.
//!
//! `cargo run --release --no-default-features --example sim -- --help` runs many seeds, or one with its trace.

#[macro_use]
mod failure;
#[macro_use]
mod world;
mod driver;
mod hear;
mod json;
mod judge;
mod peer;
mod plan;
mod rng;
mod room;
mod run;
mod socket;
mod watch;

use plan::{Fault, Plan};
use std::hash::{BuildHasher, Hasher};

/// Seeds that are always run.
const FIXED_SEEDS: u64 = if cfg!(debug_assertions) { 24 } else { 300 };
/// Seeds that nobody has run before.
const FRESH_SEEDS: u64 = if cfg!(debug_assertions) { 8 } else { 100 };

fn assert_clean(seed: u64) -> run::Outcome {
    let plan = Plan::new(seed);
    let outcome = run::run(&plan, false);
    assert!(outcome.failure.is_none(), "{}", run::report(&plan, &outcome));
    outcome
}

#[test]
fn fixed_seeds_are_clean_and_every_kind_of_fault_happens() {
    let mut seen = [0; Fault::COUNT];
    for seed in 0..FIXED_SEEDS {
        let outcome = assert_clean(seed);
        seen.iter_mut().zip(outcome.seen).for_each(|(sum, count)| *sum += count);
    }
    for fault in Fault::ALL {
        // Bounds that are small are no event.
        assert!(seen[*fault as usize] > 0 || *fault == Fault::SmallBounds, "{fault:?} never happened");
    }
}

#[test]
fn fresh_seeds_are_clean() {
    let start = std::hash::RandomState::new().build_hasher().finish();
    for seed in 0..FRESH_SEEDS {
        assert_clean(start.wrapping_add(seed));
    }
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in 1_000..1_003 {
        let plan = Plan::new(seed);
        let (first, second) = (run::run(&plan, true), run::run(&plan, true));
        assert!(first.trace.len() > plan::OPERATIONS && first.trace == second.trace, "seed {seed} does one thing or another");
    }
}

#[test]
fn the_canary_is_always_found_and_made_small() {
    for seed in 0..8 {
        let plan = Plan { canary: true, ..Plan::new(seed) };
        let outcome = run::run(&plan, false);
        assert!(outcome.failure.is_some(), "seed {seed}: a client does not hear everything, and nobody noticed");
    }
    let plan = Plan { canary: true, ..Plan::new(0) };
    let outcome = run::run(&plan, false);
    let small = run::shrink(&plan, &outcome);
    assert!(small.steps.len() < plan.steps.len() / 4, "{} steps are left", small.steps.len());
    let again = run::run(&small, false).failure.expect("it fails still");
    assert_eq!(again.checker, outcome.failure.expect("it failed").checker);
}
