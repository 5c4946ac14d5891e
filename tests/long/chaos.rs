//! The chaos run in its long form: 200 Rust clients and a page in Chromium for two minutes, on one shard and on three, and once more with a
//! server that is killed meanwhile.
//!
//! `CHAOS_SECONDS`, `CHAOS_SEED` and `CHAOS_CLIENTS` change it.

use crate::chaos::{self, Outcome, Plan};
use std::time::Duration;

/// Runs all of it and prints a line for each.
pub(crate) fn run() {
    let seconds = number("CHAOS_SECONDS", 120);
    let clients = number("CHAOS_CLIENTS", 200) as usize;
    let base = Plan {
        shards: 1,
        clients,
        chaos: Duration::from_secs(seconds),
        // As long as it takes for a connection to count as stable, and a little more.
        calm_each: Duration::from_secs(12),
        seed: number("CHAOS_SEED", 1),
        restarts: 0,
        page: true,
        // More than is published: whoever comes back gets all that it missed.
        history: 1 << 17,
    };
    let plans = [base, Plan { shards: 3, ..base }, Plan { shards: 3, restarts: 3, history: 256, ..base }];
    let outcomes: Vec<Outcome> = plans.iter().map(chaos::run).collect();
    for (plan, outcome) in plans.iter().zip(outcomes) {
        println!("{}", outcome.line);
        let is_owed_all = plan.restarts == 0;
        assert!(!is_owed_all || outcome.figures.gaps == 0, "the history has it all, so no gap is due");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}
