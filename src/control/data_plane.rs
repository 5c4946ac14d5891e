//! What the control plane knows of the shards: snapshots to read, orders to give, and whether they still run.
//!
//! The driver's server is joined to it in one place; admin, metrics and the life of the server are written against this trait and
//! tested with doubles.

use crate::shard::Order;
use crate::time::Millis;

pub use crate::driver::stats::{DriverStats, LAG_BOUNDS_US, Snapshot};

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
