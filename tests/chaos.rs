//! Verify that nothing that was acknowledged is lost, repeated or out of order without a word, whatever happens to connections and to the
//! server. In the form of some seconds; `tests/run --long chaos` runs the long one, with a page in Chromium.
#![allow(clippy::print_stdout, reason = "figures and seed of a run")]

#[path = "chaos/mod.rs"]
mod chaos;
#[path = "chaos/judging.rs"]
mod judging;
mod support;

use chaos::Plan;
use std::time::Duration;
use support::Setup;

over_shards![connections_are_cut_reset_and_stalled, the_server_is_killed_and_started_again_meanwhile];

/// Seeds differ between runs only on purpose.
const SEED: u64 = 1;

fn plan(setup: &Setup) -> Plan {
    Plan {
        shards: setup.count(),
        clients: 20,
        chaos: Duration::from_secs(6),
        calm_each: Duration::from_secs(2),
        seed: SEED,
        restarts: 0,
        page: false,
        history: 256,
    }
}

fn connections_are_cut_reset_and_stalled(setup: &Setup) {
    let outcome = chaos::run(&plan(setup));
    println!("{}", outcome.line);
    let figures = outcome.figures;
    assert!(figures.acked > 20 && figures.deliveries > 10 * figures.acked, "little happened: {}", outcome.line);
}

fn the_server_is_killed_and_started_again_meanwhile(setup: &Setup) {
    let outcome = chaos::run(&Plan { restarts: 2, ..plan(setup) });
    println!("{}", outcome.line);
    assert!(outcome.figures.gaps > 0, "a restart loses what was kept, and that is told: {}", outcome.line);
}
