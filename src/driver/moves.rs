//! Connections on their way to the shard that has their session.
//!
//! The core pauses such a connection before it says [`Action::HandOver`](crate::shard::Action::HandOver), so its receive is
//! cancelled already. The rest is done here, in this order:
//! 1. The last completion of its receive is awaited. What comes until then stands behind its unread bytes; an end of the stream is
//!    told to nobody, because the other shard's own receive meets it again.
//! 2. A place on the way to the other shard is taken, or waited for.
//! 3. The ring gives the socket to the other ring (`SEND_FD`), which says into which of its slots.
//! 4. What goes with it is put into the other shard's mailbox, with that slot; the slot here is closed, and what is still armed on
//!    it is cancelled. The doorbell rings.
//!
//! If the kernel refuses step 3 the connection stays, which the core answers; so it does if it ends before, or if the server drains.
//! What arrives finds its slot in its mail, so there is nothing to be paired.
//!
//! Invariants: nothing of a connection that moves is told to the core of its first shard; it counts once over all shards; a slot that
//! a socket may have been given to has a place until the mail was read, so that accepting leaves room for it, and mailboxes never
//! overflow.

use super::connections::Flag;
use super::event_loop::EventLoop;
use super::host::Host;
use super::secure::Layer;
use crate::shard::{Baggage, Ended, Flow, Key, ShardId};
use crate::uring::planted::{Bug, is_planted};
use crate::uring::{Entry, UserData};
use std::collections::VecDeque;
use std::io;

/// Connections that are on their way from one shard, and that are on their way to one. At either they wait where they are, paused.
/// It bounds the bytes that go with them, which nobody accounts for on the way, and the slots that accepting keeps free for them.
/// The double has few connections, and is to see it reached.
pub(super) const MOVES_UNDER_WAY_MAX: usize = if cfg!(any(test, feature = "fuzzing")) { 1 } else { 128 };
/// Time after which a connection that waits for a place to another shard tries again, in ms. That shard frees all places in each of
/// its turns.
pub(super) const MOVE_NAP_MS: u64 = 2;

/// A connection that has arrived at another shard.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its slot there.
    slot: u32,
    /// Whether it counts towards `connections_max`.
    counted: bool,
    baggage: Baggage,
    /// Its TLS, if it has any.
    layer: Option<Layer>,
}

/// Connections that leave a shard. Each is in one of the lists, until it has left or stays.
#[derive(Debug)]
pub(super) struct Moves {
    /// Those whose receive may still bring something.
    settling: Vec<(Key, ShardId)>,
    /// By shard that they go to: those that wait for a place.
    waiting: Vec<VecDeque<Key>>,
    /// Those whose socket the kernel is giving away. Never more than [`MOVES_UNDER_WAY_MAX`].
    under_way: Vec<(Key, ShardId)>,
    /// The shard whose connections are the next to be given away.
    next: usize,
}

impl Moves {
    /// Nobody leaves for any of so many shards.
    pub(super) fn new(shards: usize) -> Moves {
        let waiting = (0..shards).map(|_| VecDeque::new()).collect();
        Moves { settling: Vec::new(), waiting, under_way: Vec::new(), next: 0 }
    }

    /// Whether any waits for a place at the shard that it goes to, with no completion due that would bring it further.
    pub(super) fn is_waiting(&self) -> bool {
        self.under_way.len() < MOVES_UNDER_WAY_MAX && self.waiting.iter().any(|waiting| !waiting.is_empty())
    }
}

impl<H: Host> EventLoop<H> {
    // ---- leaving --------------------------------------------------------------------------------------------------------

    /// Collects the operations of a connection that is to be handed over.
    pub(super) fn begin_move(&mut self, key: Key, to: ShardId) {
        if !self.connections.is_current(key) {
            return;
        }
        self.connections.put(key, Flag::Moving, true);
        if !self.connections.put(key, Flag::Paused, true) && self.connections.has(key, Flag::Receive) {
            self.actions.push(Entry::cancel(UserData::new(crate::uring::Op::Receive, key.slot, key.generation)));
        }
        self.moves.settling.push((key, to));
    }

    /// Whether anything can be done for a connection that moves, without any event.
    pub(super) fn has_settled_moves(&self) -> bool {
        self.moves.settling.iter().any(|&(key, _)| self.has_settled(key))
    }

    /// Whether nothing more is received from a connection that moves.
    fn has_settled(&self, key: Key) -> bool {
        !self.connections.has(key, Flag::Receive) || is_planted(Bug::MovedWithItsReceive)
    }

    /// Gives away what can be.
    pub(super) fn step_moves(&mut self) -> io::Result<()> {
        let mut settling = std::mem::take(&mut self.moves.settling);
        settling.retain(|&(key, to)| {
            let has_settled = self.has_settled(key);
            if has_settled {
                self.moves.waiting[usize::from(to.0)].push_back(key);
            }
            !has_settled
        });
        self.moves.settling = settling;
        let shards = self.moves.waiting.len();
        for _ in 0..shards {
            let to = self.moves.next;
            self.moves.next = (to + 1) % shards;
            self.give_away(ShardId(to as u16))?;
        }
        Ok(())
    }

    /// Gives those that wait for one shard away, as far as there are places.
    fn give_away(&mut self, to: ShardId) -> io::Result<()> {
        let index = usize::from(to.0);
        while let Some(&key) = self.moves.waiting[index].front() {
            if self.is_draining() || self.connections.has(key, Flag::Ended) {
                self.moves.waiting[index].pop_front();
                self.stay(key);
                continue;
            }
            let is_full = self.moves.under_way.len() == MOVES_UNDER_WAY_MAX;
            if is_full || !self.shared.posts[index].places.admit() {
                return Ok(());
            }
            self.moves.waiting[index].pop_front();
            self.moves.under_way.push((key, to));
            self.connections.put(key, Flag::Given, true);
            let ring = self.shared.doors[index].ring();
            self.push(Entry::send_fd(key.slot, key.generation, ring))?;
        }
        Ok(())
    }

    /// The kernel has given a socket to another ring, into a slot there, or has not.
    pub(super) fn handle_given(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(at) = self.moves.under_way.iter().position(|&(given, _)| given == key) else { return Ok(()) };
        let (_, to) = self.moves.under_way.swap_remove(at);
        // The other shard hears of it in either case: it keeps a slot free for each place.
        if !is_planted(Bug::ArrivalNotAnnounced) {
            self.mesh.announce(to);
        }
        let Ok(slot) = u32::try_from(result) else {
            // ENFILE: its table is full. ENOMEM: the kernel's memory is. EOWNERDEAD, EBADFD: it has ended. EINVAL: before Linux 6.3.
            tracing::debug!(shard = self.id.0, to = to.0, errno = -result, "a connection can't be handed over");
            self.shared.posts[usize::from(to.0)].places.dismiss();
            self.stay(key);
            return Ok(());
        };
        let baggage = self.shard.take_baggage(key);
        let mut baggage = baggage.expect("a connection that is handed over keeps its baggage until it is asked for");
        if let Some(at) = self.connections.stash(key) {
            let unread = self.stashes.take(at).into_rest();
            self.connections.put_stash(key, None);
            if !is_planted(Bug::UnreadLeftBehind) {
                baggage.unread = unread;
            }
        }
        let (layer, _) = self.secure.take(key.slot, false);
        let counted = self.connections.put(key, Flag::Counted, false);
        for (flag, op) in super::events::ARMED {
            if self.connections.has(key, flag) {
                self.push(Entry::cancel(UserData::new(op, key.slot, key.generation)))?;
            }
        }
        if !is_planted(Bug::GivenSlotKept) {
            self.push(Entry::close(key.slot, key.generation))?;
        }
        self.connections.close(key);
        // A place was taken for it, so there is room; the mailbox of a shard that has ended is nobody's.
        let _ = self.shared.posts[usize::from(to.0)].arrivals.try_send(Arrival { slot, counted, baggage, layer });
        Ok(())
    }

    /// A connection can't go, and its core says so to its client.
    fn stay(&mut self, key: Key) {
        self.connections.put(key, Flag::Moving, false);
        self.connections.put(key, Flag::Given, false);
        self.shard.handle_stayed(self.now, key);
        if self.connections.has(key, Flag::Ended) {
            self.shard.handle_closed(self.now, key, Ended::Error);
        }
    }

    // ---- arriving -------------------------------------------------------------------------------------------------------

    /// Reads the mailbox of connections that have come from other shards.
    pub(super) fn take_arrivals(&mut self) -> io::Result<()> {
        for _ in 0..MOVES_UNDER_WAY_MAX {
            if self.shard.is_turn_full() {
                break;
            }
            let Ok(arrival) = self.arrivals.try_recv() else { break };
            self.dirty = true;
            self.adopt(arrival)?;
            self.shared.posts[usize::from(self.id.0)].places.dismiss();
        }
        Ok(())
    }

    /// Goes on with a connection where the other shard has stopped.
    fn adopt(&mut self, arrival: Arrival) -> io::Result<()> {
        let Arrival { slot, counted, baggage, layer } = arrival;
        let admitted = counted && self.has_share_left();
        if counted && !admitted && !is_planted(Bug::RefusedArrivalCounted) {
            self.shared.dismiss();
        }
        let Some(key) = self.connections.open(slot, admitted) else {
            tracing::error!(shard = self.id.0, slot, "the kernel gave a connection a slot that is taken");
            if admitted {
                self.shared.dismiss();
            }
            return Ok(());
        };
        if let Some(layer) = layer {
            self.secure.put(key.slot, layer);
        }
        let flow = self.shard.handle_adopted(self.now, key, &baggage, admitted);
        let unread = self.stashes.append(None, key, &baggage.unread);
        self.connections.put_stash(key, unread);
        if flow == Flow::Pause {
            return self.pause(key);
        }
        self.feed_unread(key)?;
        self.arm_receive(key)
    }
}
