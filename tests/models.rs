//! Verify that no wake-up, message or count is lost between the threads of a server, over all interleavings within bounds.
//!
//! The files under test are compiled here once more, with the atomics of a model checker in place of the machine's: it runs each
//! model in every order of its threads' accesses with at most three preemptions, and lets loads see every value that the memory model
//! allows. Two shards that both sleep for good are a deadlock, which it reports. Each protocol is also run with a part of it taken away,
//! and then has to fail.
//!
//! What two threads of a server touch, and where it is looked at:
//!
//! | memory | who | looked at |
//! |---|---|---|
//! | lanes, with their bytes and `starved` | two shards | here; a lane's queue is replaced by one of weaker ordering than crossbeam's |
//! | `asleep` of a shard | the shard, and all that ring at it | here |
//! | `ring` of a shard | written once before any thread has sent anything, then read | `a_doorbell_rings_in_another_ring` |
//! | `Admission`, `Finish`, `Published` | all shards; the last one with the control plane | here |
//! | mailboxes of connections that are handed over | two shards | crossbeam's; that a sleeper hears of what is in one: here |
//! | mailboxes of orders | control plane to shard | crossbeam's, and an eventfd that is polled without pause: a write before the poll is armed completes it, so that there is no moment in which it is missed; `without_any_choice_a_server_starts_and_drains` |
//! | the byte that peeks are read to | kernel of all rings | nobody reads it |
//! | `Waker` | all | one system call, no memory |
//!
//! Sequentially consistent accesses count as acquire and release here, which is weaker than they are; fences count in full.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a thread of a model that panics fails it")]
#![allow(dead_code, reason = "the files under test have more than the models use")]

#[path = "models/counting.rs"]
mod counting;
#[path = "models/doorbell.rs"]
mod doorbell;
#[path = "models/shim.rs"]
mod shim;

#[path = "../src/driver/commons.rs"]
mod commons;
#[path = "../src/driver/mesh/protocol.rs"]
mod protocol;

/// What the files under test import.
mod driver {
    pub(crate) use crate::shim as sync;
    pub(crate) mod stats {
        pub(crate) use throng::driver::DriverStats;
    }
}
mod limits {
    pub(crate) use throng::limits::{CONSEQUENCES_PER_COMMAND_MAX, LANE_BYTES_MAX, MESH_PER_TURN};
}
mod shard {
    pub(crate) use throng::shard::{Lane, LaneRoom, ShardId};
}
mod time {
    pub(crate) use throng::time::Now;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Preemptions in one run of a model with two threads, unless `THRONG_PREEMPTIONS` names a higher number.
const PREEMPTIONS_MAX: usize = 3;

/// Runs a model in all orders.
fn check(model: impl Fn() + Sync + Send + 'static) {
    check_with(PREEMPTIONS_MAX, model);
}

/// The same with another bound, for models with more threads.
fn check_with(preemptions_max: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    let told = std::env::var("THRONG_PREEMPTIONS").ok().map(|text| text.parse().expect("THRONG_PREEMPTIONS is a number"));
    let more = told.map_or(0, |told: usize| told.saturating_sub(PREEMPTIONS_MAX));
    builder.preemption_bound = Some(preemptions_max + more);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Whether a model fails in any order.
fn fails(model: impl Fn() + Sync + Send + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(model))).is_err()
}
