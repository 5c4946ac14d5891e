//! What a shard's loop counts, in plain integers; and what one shard publishes for the control plane.
//!
//! A *counter* only grows. A *gauge* is what is held now.

use crate::shard::Stats;
use crate::tls::HandshakeResult;
use std::collections::BTreeMap;

/// Upper bounds of the buckets of [`DriverStats::lag_counts`] in µs. One more bucket takes what is above.
pub const LAG_BOUNDS_US: [u64; 13] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// Counters and gauges of one shard's loop.
#[derive(Clone, Debug, Default)]
pub struct DriverStats {
    /// Counter: turns of the loop.
    pub turns: u64,
    /// Counter: calls of `io_uring_enter`.
    pub enters: u64,
    /// Counter: operations submitted.
    pub submissions: u64,
    /// Counter: completions reaped.
    pub completions: u64,
    /// Counter: times that the completion queue was too small.
    pub overflows: u64,
    /// Counter: submissions that the kernel took only in part.
    pub submit_retries: u64,
    /// Counter: turns that left completions to the next.
    pub budget_exhausted: u64,
    /// Counter: submissions in the middle of a turn, because a queue or the scratch was full.
    pub early_submits: u64,
    /// Counter: receives that found no buffer.
    pub enobufs: u64,
    /// Counter: receives armed again.
    pub rearms: u64,
    /// Counter: completions of an earlier connection of their slot, dropped.
    pub stale: u64,
    /// Counter: connections accepted.
    pub accepted: u64,
    /// Counter: accepts that failed, by errno.
    pub accept_errors: BTreeMap<i32, u64>,
    /// Counter: times that accepting was paused for want of slots.
    pub accept_pauses: u64,
    /// Counter: sockets probed for a sign of life.
    pub probes: u64,
    /// Counter: sends that the socket took in part or not at all.
    pub short_sends: u64,
    /// Counter: sends that failed.
    pub failed_sends: u64,
    /// Counter: doorbells rung at other shards.
    pub doorbells: u64,
    /// Counter: mesh messages that found their lane full although the core had been told so; they waited.
    pub lane_excess: u64,
    /// Counter: times that the core declined the head of a lane.
    pub lane_declines: u64,
    /// Counter: paused connections ended because the stash was full.
    pub stash_evictions: u64,
    /// Counter: stalls of the loop that moved deadlines.
    pub stalls: u64,
    /// Counter: length of those stalls in ms.
    pub stall_ms: u64,
    /// Counter: turns by how long they kept the loop from looking at new events; bounds are [`LAG_BOUNDS_US`].
    pub lag_counts: [u64; LAG_BOUNDS_US.len() + 1],
    /// Counter: the sum of these times in µs.
    pub lag_sum_us: u64,
    /// Counter: TLS handshakes by [`HandshakeResult`].
    pub handshakes: [u64; HandshakeResult::ALL.len()],
    /// Counter: connections that TLS ended after their handshake: a record that is forged, broken or has no place.
    pub tls_failures: u64,
    /// Gauge: TLS handshakes under way.
    pub handshakes_open: u64,
    /// Gauge: connections over TLS.
    pub tls_connections: u64,
    /// Gauge: bytes that connections over TLS keep: begins of records, and sealed bytes that wait for their sockets.
    pub tls_bytes: u64,
    /// Gauge: slots in use.
    pub slots_used: u64,
    /// Gauge: slots of the table.
    pub slots: u64,
    /// Gauge: receive buffers.
    pub buffers: u64,
    /// Gauge: the fewest receive buffers that were free since the last publication.
    pub buffers_free: u64,
    /// Gauge: bytes kept for paused connections.
    pub stash_bytes: u64,
    /// Gauge: paused connections with bytes kept.
    pub stashes: u64,
    /// Gauge: mesh messages that wait in the lanes to this shard.
    pub mesh_waiting: u64,
}

impl DriverStats {
    /// Notes a turn that kept the loop from looking at new events for `us` microseconds.
    pub(super) fn observe_lag(&mut self, us: u64) {
        self.lag_counts[LAG_BOUNDS_US.partition_point(|&bound| bound < us)] += 1;
        self.lag_sum_us += us;
    }
}

/// What one shard last published.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the core counts.
    pub shard: Stats,
    /// What the loop counts.
    pub driver: DriverStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut stats = DriverStats::default();
        for us in [0, 100, 101, 1_000_000, 1_000_001, u64::MAX >> 8] {
            stats.observe_lag(us);
        }
        assert_eq!(stats.lag_counts[..2], [2, 1]);
        assert_eq!(stats.lag_counts[12..], [1, 2]);
    }
}
