//! The chaos run in its long form: 200 Rust clients and a page in Chromium for two minutes, on one shard and on three, and once more with a
//! server that is killed meanwhile.
//!
//! `CHAOS_SECONDS`, `CHAOS_SEED` and `CHAOS_CLIENTS` change it.

use crate::chaos::{self, Plan};
use std::time::Duration;

/// Runs all of it and prints a line for each.
pub(crate) fn run() {
    let seconds = number("CHAOS_SECONDS", 120);
    let clients = number("CHAOS_CLIENTS", 200) as usize;
    let base = Plan {
        shards: 1,
        clients,
        chaos: Duration::from_secs(seconds), // As long as it takes for a connection to count as stable, and a little more.
        calm_each: Duration::from_secs(12),
        seed: number("CHAOS_SEED", 1),
        restarts: 0,
        page: true,
    };
    let plans = [base, Plan { shards: 3, ..base }, Plan { shards: 3, restarts: 3, ..base }];
    let lines: Vec<String> = plans.iter().map(|plan| chaos::run(plan).line).collect();
    lines.iter().for_each(|line| println!("{line}"));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}
