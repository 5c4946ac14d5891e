//! All decisions of one core: no syscall, no clock, no entropy of its own, no unsafe.
#![forbid(unsafe_code)]

pub mod seam;
pub mod stats;

pub use seam::{Action, Ended, Flow, Key, Lane, LaneRoom, Order, Received, ShardId, Source, Taken, Transmit};
pub use stats::Stats;

use crate::limits::Limits;
use crate::time::{Millis, Now};
use std::net::IpAddr;

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub id: ShardId,
    /// Shards of the process.
    pub shards: usize,
    /// Slots of the connection table: direct descriptors of the ring.
    pub slots: usize,
    /// Bounds, of the whole process.
    pub limits: Limits,
    /// Serve `/echo`.
    pub echo: bool,
    /// Seed of everything that must be hard to guess or spread at random.
    pub seed: [u8; 32],
}

/// A message between two shards.
#[derive(Debug)]
pub struct MeshMessage;

impl MeshMessage {
    /// Payload bytes that the message keeps alive, for the byte bound of its lane.
    pub fn bytes_held(&self) -> usize {
        0
    }
}

/// One core's share of the server. See [`seam`] for the order of calls.
#[derive(Debug)]
pub struct Shard {
    stats: Stats,
}

#[allow(unused_variables, missing_docs)]
impl Shard {
    pub fn new(config: ShardConfig, now: Now) -> Shard {
        Shard { stats: Stats::default() }
    }
    /// `admitted` is false when the process holds `connections_max` already: the request is read and answered with 503.
    pub fn handle_accepted(&mut self, now: Now, key: Key, peer: Option<IpAddr>, admitted: bool) {}
    pub fn handle_received(&mut self, now: Now, key: Key, bytes: &mut [u8]) -> Received {
        Received { consumed: bytes.len(), flow: Flow::Continue }
    }
    pub fn handle_closed(&mut self, now: Now, key: Key, ended: Ended) {}
    pub fn handle_writable(&mut self, now: Now, key: Key) {}
    /// `silent`: nothing was there to read.
    pub fn handle_probed(&mut self, now: Now, key: Key, silent: bool) {}
    pub fn handle_transmitted(&mut self, now: Now, ticket: u32, taken: Taken) {}
    pub fn handle_settled(&mut self, now: Now) {}
    pub fn handle_mesh(&mut self, now: Now, from: ShardId, lane: Lane, message: MeshMessage) {}
    /// Whether a message of this lane may be handed over now. If not, leave it at the lane's head and ask again next turn.
    pub fn accepts_mesh(&self, from: ShardId, lane: Lane) -> bool {
        true
    }
    pub fn handle_lane(&mut self, peer: ShardId, room: LaneRoom) {}
    pub fn handle_timeout(&mut self, now: Now) {}
    /// The loop stood still for `ms`: deadlines move by as much.
    pub fn handle_stall(&mut self, now: Now, ms: u64) {}
    pub fn handle_order(&mut self, now: Now, order: Order) {}
    pub fn handle_turn_end(&mut self, now: Now) {}
    /// Bytes that the driver keeps for paused connections, whenever it changes.
    pub fn handle_unread(&mut self, bytes: usize) {}
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }
    pub fn transmit_bytes(&self, transmit: &Transmit) -> &[u8] {
        &[]
    }
    pub fn poll_action(&mut self) -> Option<Action> {
        None
    }
    pub fn poll_mesh(&mut self) -> Option<(ShardId, Lane, MeshMessage)> {
        None
    }
    pub fn poll_timeout(&self) -> Option<Millis> {
        None
    }
    pub fn has_output(&self) -> bool {
        false
    }
    /// Sockets that the shard still holds; 0 after a drain has ended.
    pub fn sockets_held(&self) -> usize {
        0
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
