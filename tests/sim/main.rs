//! Verify that whatever clients, sockets, lanes and clocks do, the core keeps its promises: a simulation of whole servers from seeds.
//!
//! A seed makes a world (`plan`): shards, clients of both dialects, a network, lanes between the shards, a clock, and which kinds of
//! fault there are. No kernel, no thread and no clock is in it, so a seed always does the same. `driver` turns the shards as `seam`
//! says and checks their side of that contract; `peer` is what clients do; `hear`, `room` and `watch` are the reference model, which
//! holds each message that a client gets against what may have happened. A quarter to a half of the clients are the real client machine:
//! `client` is its network and its application, `tap` reads what the server says to it, `told` and `delays` judge what it makes of that.
//! `judge` says what must hold at any time, and what must have come to be when the faults have ended.
//!
//! What is checked, by the names that a failure says: per-sender order, exactly-once execution, the same order for every member,
//! no message to a non-member, all that a join with a position recovers, gaps only for who is slow, errors and answers before the
//! ack that covers them, presence within its bound (`ghost`, `unseen`) and in the end the truth, memory within its budget, no
//! orphan, nobody closed who did nothing wrong (`innocent closed`), all acknowledgements in the end, and nothing left when all
//! have gone. Of client machines: every command has its one end, refused is without effect and unknown only of a lost session, each
//! message once and in order, gaps only where the history's bounds explain them, waits as advised, no session lost that the server
//! still had to keep, and in the end everybody connected and caught up (`liveness`).
//!
//! `cargo run --profile sim --no-default-features --example sim -- --help` runs many seeds, or one with its trace.

#[macro_use]
mod failure;
#[macro_use]
mod world;
mod client;
mod delays;
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
mod tap;
mod told;
mod watch;

use plan::{Fault, Plan};
use std::hash::{BuildHasher, Hasher};
use told::Tally;

/// Seeds that are always run.
const FIXED_SEEDS: u64 = if cfg!(debug_assertions) { 40 } else { 300 };
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
    let (mut seen, mut recovered, mut clients) = ([0; Fault::COUNT], [0; 3], Tally::default());
    for seed in 0..FIXED_SEEDS {
        let outcome = assert_clean(seed);
        assert!(outcome.frames > 100 && outcome.simulated_ms > 600_000, "seed {seed} is no run worth its name: {outcome:?}");
        seen.iter_mut().zip(outcome.seen).for_each(|(sum, count)| *sum += count);
        recovered.iter_mut().zip(outcome.recovered).for_each(|(sum, count)| *sum += count);
        clients.add(outcome.clients);
    }
    for (what, count) in clients.parts_mut() {
        assert!(*count > 0, "no client machine has had: {what}");
    }
    assert!(recovered.iter().all(|count| *count > 0), "recoveries, lags and gaps: {recovered:?}");
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

/// What finds each bug that can be planted in the core or in the client machine: the checker that speaks first, and the seeds from 0 on that it takes.
///
/// | bug | checker | seeds |
/// |---|---|---|
/// | `reset_skips_cleanup` | orphans | 1 |
/// | `reap_before_probe` | innocent closed | 17 |
/// | `heartbeat_not_hastened` | ghost | 288 |
/// | `presence_grace_forgotten` | adds up | 1 |
/// | `abandoned_join_stays` | ghost | 28 |
/// | `owed_leave_dropped` | nothing left | 1 |
/// | `drain_skips_some` | drain | 25 |
/// | `stale_generation_accepted` | innocent cut | 1 |
/// | `slot_freed_twice` | adds up | 1 |
/// | `reorder_off_by_one` | exactly once | 3 |
/// | `duplicate_executed` | volatile | 1 |
/// | `ack_before_decided` | decided | 8 |
/// | `reorder_bytes_not_released` | adds up | 1 |
/// | `lost_wakeup` | adds up | 1 |
/// | `pause_never_resumed` | adds up | 1 |
/// | `input_lost_when_paused` | innocent closed | 34 |
/// | `send_past_backlog` | non-member | 1 |
/// | `scratch_reused_before_settle` | unmoved bytes | 1 |
/// | `copy_outlives_settle` | assertion | 1 |
/// | `frame_freed_while_pending` | assertion | 1 |
/// | `close_frame_inside_frame` | JSON | 4 |
/// | `send_queue_bound_ignored` | adds up | 15 |
/// | `consequence_waits_on_lane` | innocent closed | 1 |
/// | `leave_during_pass_still_delivers` | non-member | 2 |
/// | `join_during_pass_delivers` | order | 2 |
/// | `shard_forgotten_with_watchers` | adds up | 1 |
/// | `volatile_uses_offset` | lost | 1 |
/// | `room_holds_one_too_many` | adds up | 2 |
/// | `live_before_head` | order | 15 |
/// | `behind_gets_live` | lost | 1 |
/// | `lag_loses_one` | lost | 2 |
/// | `history_not_released` | adds up | 1 |
/// | `loss_forgotten` | lost | 4 |
/// | `late_leave_removes_other_presence` | assertion | 1 |
/// | `diff_version_repeated` | unseen | 1 |
/// | `diff_holds_no_user` | adds up | 1 |
/// | `state_not_freed` | adds up | 1 |
/// | `page_skips_member` | unseen | 1 |
/// | `client_resends_blindly` | exactly once | 4 |
/// | `client_forgets_unsent` | refused | 1 |
/// | `client_ack_covers_one` | liveness | 1 |
/// | `client_backoff_not_reset` | back-off | 1 |
/// | `client_ignores_advice` | advice | 4 |
/// | `client_trusts_silence` | liveness | 1 |
/// | `client_skips_recovery` | lost | 1 |
/// | `client_hides_gap` | lost | 6 |
/// | `client_takes_earlier_answer` | presence | 4 |
/// | `client_rejoins_without_state` | presence | 5 |
/// | `client_sets_earlier_state` | presence | 14 |
/// | `client_resumes_without_resending` | liveness | 1 |
/// | `client_ignores_failed` | exactly once | 6 |
/// | `client_keeps_old_token` | needless loss | 1 |
/// | `client_tells_of_left_room` | non-member | 2 |
///
/// A change of the workload moves these numbers; the test holds each bug to the bound in `seeds_allowed`.
#[cfg(feature = "planted")]
#[test]
fn each_planted_bug_is_found() {
    use throng::planted::Bug;
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let seeds_allowed = match bug {
            // It takes a pause that a timer causes, and input in the one turn before the driver knows.
            Bug::InputLostWhenPaused => 3_000,
            // It takes a client that vanishes within its first heartbeat in a room, where nothing lengthens the bound.
            Bug::HeartbeatNotHastened => 1_500,
            _ => 300,
        };
        let found = (0..seeds_allowed).find_map(|seed| {
            let outcome = run::run(&Plan { bug: Some(bug), ..Plan::new(seed) }, false);
            outcome.failure.map(|failure| (seed, failure))
        });
        match found {
            Some((seed, failure)) => println!("/// | `{}` | {} | {} |", bug.name(), failure.checker, seed + 1),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
