//! Runs of the double from fixed seeds, proof that they exercise what they claim, and proof that they bite.
//!
//! A failure names its seed: `THRONG_SEEDS=N..M` runs these instead, as `tests/run --long ring` does for as many as it is told.

use super::{Seen, run};
use crate::uring::double::{Choices, Faults};
use crate::uring::planted::{Bug, plant};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs of one test.
const SEEDS: u64 = if cfg!(miri) { 1 } else { 300 };
/// Runs within which each planted bug is found.
const SEEDS_PLANTED_MAX: u64 = 1_500;
/// Bytes of choices of one run: some hundred turns.
const CHOICES: usize = if cfg!(miri) { 600 } else { 4_000 };

fn add(sum: &mut Seen, seen: Seen) {
    sum.turns += seen.turns;
    sum.echoes += seen.echoes;
    sum.deliveries += seen.deliveries;
    sum.closed += seen.closed;
    sum.doorbells += seen.doorbells;
    sum.stashes += seen.stashes;
    sum.stale += seen.stale;
    sum.early_submits += seen.early_submits;
    sum.resumed += seen.resumed;
    sum.handed_over += seen.handed_over;
    sum.sent_away += seen.sent_away;
    let (total, faults) = (&mut sum.faults, seen.faults);
    *total = Faults {
        short_sends: total.short_sends + faults.short_sends,
        no_buffers: total.no_buffers + faults.no_buffers,
        ended_early: total.ended_early + faults.ended_early,
        late: total.late + faults.late,
        overflows: total.overflows + faults.overflows,
        refused_submissions: total.refused_submissions + faults.refused_submissions,
        errors: total.errors + faults.errors,
    };
}

/// `THRONG_SEEDS`, as `N..M`.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("THRONG_SEEDS") else { return 0..SEEDS };
    let (from, to) = text.split_once("..").expect("THRONG_SEEDS is N..M");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Whether a run from a seed fails.
fn fails(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(Choices::from_seed(seed, CHOICES)))).is_err()
}

#[test]
fn nothing_is_lost_repeated_or_left_whatever_the_kernel_decides() {
    let mut sum = Seen::default();
    let seeds = seeds();
    for seed in seeds.clone() {
        match catch_unwind(AssertUnwindSafe(|| run(Choices::from_seed(seed, CHOICES)))) {
            Ok(seen) => add(&mut sum, seen),
            Err(_) => panic!("seed {seed} fails, see above; replay it with THRONG_SEEDS={seed}..{}", seed + 1),
        }
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start < SEEDS || cfg!(miri) {
        return;
    }
    let Seen {
        turns: _,
        echoes,
        deliveries,
        closed,
        doorbells,
        stashes,
        stale,
        early_submits,
        resumed,
        handed_over,
        sent_away,
        faults,
    } = sum;
    let Faults { short_sends, no_buffers, ended_early, late, overflows, refused_submissions, errors } = faults;
    let loop_saw = [echoes, deliveries, closed, doorbells, stashes, stale, early_submits, resumed, handed_over, sent_away];
    let kernel_did = [short_sends, no_buffers, ended_early, late, overflows, refused_submissions, errors];
    assert!(loop_saw.into_iter().chain(kernel_did).all(|count| count >= 20), "something was hardly exercised: {sum:?}");
}

#[test]
fn without_any_choice_a_server_starts_and_drains() {
    let seen = run(Choices::default());
    assert_eq!((seen.echoes, seen.stale), (0, 0));
}

#[test]
#[cfg(not(miri))]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        plant(Some(bug));
        let found = (0..SEEDS_PLANTED_MAX).find(|&seed| fails(seed));
        plant(None);
        match found {
            Some(seed) => println!("{bug:?} is found with seed {seed}"),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, [], "planted bugs that nothing notices");
}
