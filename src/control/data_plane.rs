//! What the control plane knows of the shards: snapshots to read, orders to give, and whether they still run.
//!
//! The driver's server is joined to it in one place; admin, metrics and the life of the server are written against this trait and
//! tested with doubles.

use crate::shard::{Order, Stats};
use crate::time::Millis;

/// Upper bounds of the buckets of [`LoopStats::lag_counts`], in microseconds; the last bucket has none.
pub const LAG_BOUNDS_US: [u64; 13] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// What a shard's loop counts beside its core: the ring and the turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Counter: turns of the loop.
    pub turns: u64,
    /// Counter: `io_uring_enter` calls.
    pub enters: u64,
    /// Counter: completions handled.
    pub completions: u64,
    /// Counter: times that the completion queue overflowed into the kernel's list.
    pub overflows: u64,
    /// Counter: receives that ended because no buffer was free.
    pub enobufs: u64,
    /// Counter: receives armed again.
    pub rearms: u64,
    /// Counter: completions of a connection that was closed before.
    pub stale_completions: u64,
    /// Counter: accepts that failed.
    pub accept_errors: u64,
    /// Gauge: receive buffers that are free.
    pub buffers_free: u64,
    /// Counter: turns by how late the loop was, each in the first bucket of [`LAG_BOUNDS_US`] that it fits, else in the last.
    pub lag_counts: [u64; LAG_BOUNDS_US.len() + 1],
    /// Counter: sum of the lags, in microseconds.
    pub lag_sum_us: u64,
}

/// One shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The core's counts.
    pub shard: Stats,
    /// The loop's counts.
    pub event_loop: LoopStats,
}

/// The running shards.
pub trait DataPlane: Send + Sync + 'static {
    /// The latest snapshot of every shard, in order of shards. Never waits for a shard.
    fn snapshots(&self) -> Vec<Snapshot>;
    /// Gives every shard an order. Never waits for a shard.
    fn order(&self, order: Order);
    /// Sockets held by all shards: 0 once everything is closed.
    fn sockets(&self) -> usize;
    /// Shards whose thread runs. Fewer than were started: one has failed.
    fn shards_running(&self) -> usize;
    /// The monotonic clock of the shards, in which orders are dated.
    fn now(&self) -> Millis;
}
