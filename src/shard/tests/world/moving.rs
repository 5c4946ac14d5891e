//! The driver's part when a connection is handed over: the socket, with what was not read of it, goes to the other shard at once.

use super::World;
use crate::shard::seam::{Flow, Key};

impl World {
    pub(super) fn hand_over(&mut self, from: usize, id: usize, to: usize) {
        let old = self.clients[id].key;
        assert!(self.clients[id].paused && !self.clients[id].end_told, "it is paused, and the core has not heard of its end");
        let Some(slot) = self.drivers[to].slots.iter().position(Option::is_none) else {
            self.drivers[from].shard.handle_stayed(self.now, old);
            return;
        };
        let baggage = self.drivers[from].shard.take_baggage(old).expect("it is being handed over");
        self.drivers[from].slots[old.slot as usize] = None;
        let driver = &mut self.drivers[to];
        driver.generations[slot] += 1;
        driver.slots[slot] = Some(id);
        let client = &mut self.clients[id];
        client.shard = to;
        client.key = Key { slot: slot as u32, generation: driver.generations[slot] };
        client.awaits_writable = false;
        client.hung_up = None;
        client.paused = driver.shard.handle_adopted(self.now, client.key, &baggage, client.admitted) == Flow::Pause;
        if !client.paused {
            let unread = std::mem::take(&mut client.stash);
            if !unread.is_empty() {
                self.feed(id, unread);
            }
        }
    }
}
