//! The mesh of this server: what travels in its lanes, and how orders reach a shard.
//!
//! How messages move and sleepers are woken is [`protocol`], which knows nothing of either.

mod protocol;

#[cfg(test)]
mod tests;

pub(super) use protocol::{DECLINED_NAP_MS, Door, lanes};

use super::{Mail, Shared};
use crate::shard::{Lane, LaneRoom, MeshMessage, Order, Shard, ShardId};
use crate::time::Now;
use protocol::Core;

/// A shard's ends of all lanes.
pub(super) type Mesh = protocol::Mesh<Shard>;

impl Core for Shard {
    type Message = MeshMessage;
    fn bytes_held(message: &MeshMessage) -> usize {
        message.bytes_held()
    }
    fn accepts(&self, from: ShardId, lane: Lane) -> bool {
        self.accepts_mesh(from, lane)
    }
    fn handle(&mut self, now: Now, from: ShardId, lane: Lane, message: MeshMessage) {
        self.handle_mesh(now, from, lane, message);
    }
    fn tell_room(&mut self, peer: ShardId, room: LaneRoom) {
        self.handle_lane(peer, room);
    }
    fn poll(&mut self) -> Option<(ShardId, Lane, MeshMessage)> {
        self.poll_mesh()
    }
}

/// Puts an order into each shard's mailbox and wakes them all.
pub(super) fn broadcast(shared: &Shared, order: Order) {
    for post in &shared.posts {
        // The mailbox holds more orders than a process is ever given; a shard that has ended needs none.
        let _ = post.mail.send(Mail(order));
        post.waker.wake();
    }
}
