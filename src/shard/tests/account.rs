//! What a world counts, and that nothing is left in it when all have gone.

use super::world::World;
use crate::close::CloseReason;
use crate::limits::ROOM_IDLE_MS;
use crate::shard::Stats;
use crate::shard::seam::{Ended, Order};
use std::collections::VecDeque;

impl World {
    pub(super) fn order(&mut self, order: Order) {
        for shard in 0..self.drivers.len() {
            let now = self.now;
            self.drivers[shard].shard.handle_order(now, order);
        }
    }

    /// Closes of a reason, over all shards.
    pub(super) fn closes(&self, reason: CloseReason) -> u64 {
        self.drivers.iter().map(|driver| driver.shard.stats().closes[reason as usize]).sum()
    }

    /// A gauge or counter, over all shards.
    pub(super) fn sum(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        self.drivers.iter().map(|driver| of(driver.shard.stats())).sum()
    }

    /// Ends all clients, lets every grace pass, and sees that nothing is left anywhere.
    pub(super) fn end_all(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].closed {
                self.end(client, Ended::Error);
            }
        }
        self.stalled.clear();
        self.pass(self.limits.presence_grace_ms + 2_000);
        self.pass(ROOM_IDLE_MS + 5_000);
        self.assert_empty();
    }

    /// Nothing is held by any shard.
    pub(super) fn assert_empty(&self) {
        for (index, driver) in self.drivers.iter().enumerate() {
            if let Err(what) = driver.shard.verify_empty() {
                panic!("shard {index}: {what}");
            }
        }
        assert!(self.lanes.iter().flatten().all(VecDeque::is_empty), "a lane holds something");
    }
}
