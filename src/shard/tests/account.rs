//! What a world counts, and that nothing is left in it when all have gone.

use super::world::World;
use crate::close::CloseReason;
use crate::limits::ROOM_IDLE_MS;
use crate::shard::Stats;
use crate::shard::seam::{Ended, Order};
use crate::shard::stats::MemoryUse;
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
            let shard = &driver.shard;
            let stats = shard.stats();
            assert!(!shard.has_output(), "shard {index} has output");
            let gauges = [
                ("sockets_held", stats.sockets_held),
                ("connections_active", stats.connections_active),
                ("room_subscriptions", stats.room_subscriptions),
                ("leaves_owed", stats.leaves_owed),
                ("orphaned_subscriptions", stats.orphaned_subscriptions),
                ("room_leave_failures", stats.room_leave_failures),
                ("sessions", stats.sessions),
                ("sessions_detached", stats.sessions_detached),
                ("users", stats.users),
                ("rooms_home", stats.rooms_home),
                ("rooms_idle", stats.rooms_idle),
                ("rooms_local", stats.rooms_local),
                ("presences", stats.presences),
                ("send_queue_bytes", stats.send_queue_bytes),
                ("memberships", shard.memberships.len() as u64),
                ("stashes", shard.stashes.len() as u64),
                ("windows", shard.windows.len() as u64),
                ("states", shard.states.len() as u64),
                ("groups", shard.groups.len() as u64),
                ("passes", shard.passes as u64),
                ("backlogged", shard.backlogged as u64),
                ("waiters", shard.lanes.iter().map(|lane| lane.waiters.len() as u64).sum()),
                ("detached", shard.detached.len() as u64),
                ("reorders", shard.reorders.len() as u64),
                ("diffs", (shard.diffs_fast.len() + shard.diffs_slow.len()) as u64),
            ];
            for (name, value) in gauges {
                assert_eq!(value, 0, "{name} of shard {index}");
            }
            for memory_use in MemoryUse::ALL {
                assert_eq!(stats.memory_bytes[memory_use as usize], 0, "{memory_use:?} of shard {index}");
            }
        }
        assert!(self.lanes.iter().flatten().all(VecDeque::is_empty), "a lane holds something");
    }
}
