//! The lanes between shards, and how a shard that sleeps is woken.
//!
//! Each ordered pair of shards has two bounded lanes. They lose nothing: the core emits only as much as it was told there is room for, and
//! what should exceed it all the same waits here. A message that the core declines stays at its lane's head, with
//! everything behind it.
//!
//! # Why no wake-up is lost
//! A shard that wants to sleep (1) sets `asleep`, (2) sets `starved` on every outgoing lane that is short of room, (3) fences, (4) looks once more at its
//! incoming lanes, its mailbox, and the room of its outgoing lanes, and (5) enters the kernel only if nothing has changed. Whoever changes something
//! for it (pushes into its lane, or takes from a lane that it fills) does that first, then fences, then reads the flags, and
//! rings if they are set. Both fences are sequentially consistent, so of a store-then-load on each side at least one load sees the
//! other's store: either the sleeper sees the change in (4), or the other sees the flags. The doorbell is a completion in the sleeper's
//! ring, which its enter does not miss, early or late; one that comes late costs a turn.
//!
//! What a shard can wait for while it sleeps:
//! - *Messages*: rung by the sender, as above.
//! - *Room in a lane that it fills*: it was told the room at the last `handle_lane`; if the peer has taken anything since, (4) sees more room than
//!   was told, and if the peer takes something later, the peer sees `starved`. Lanes with plenty of room are not marked: nobody waits for them.
//! - *The core's consent to the head of an incoming lane.* A declined head does not keep the shard awake, or it would spin. The core declines for want of room in
//!   outgoing lanes (above), or for want of something of its own (passes), whose progress is output, which keeps the shard awake, or comes with an event, which
//!   makes a turn; each turn asks again. In case a reason is of another kind, a shard with a declined head naps no longer than
//!   [`DECLINED_NAP_MS`].
//!
//! Waits form no cycle: a consequence is declined only until passes have ended, which waits for no other shard.

use super::stats::DriverStats;
use super::{Mail, Shared};
use crate::limits::{CONSEQUENCES_PER_COMMAND_MAX, LANE_BYTES_MAX, MESH_PER_TURN};
use crate::shard::{Lane, LaneRoom, MeshMessage, Order, Shard, ShardId};
use crate::time::Now;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering, fence};

/// Longest sleep of a shard that has declined a message, in ms.
pub(super) const DECLINED_NAP_MS: u64 = 10;
/// Messages taken from one lane before the next has its turn.
const PER_LANE: usize = 64;

/// What both ends of a lane see beside the channel.
#[derive(Debug, Default)]
struct Gauge {
    /// Payload bytes in the lane.
    bytes: AtomicUsize,
    /// The sender sleeps and wants to know of room.
    starved: AtomicBool,
}

/// The sending end of one lane.
#[derive(Debug)]
struct Outgoing {
    sender: Sender<MeshMessage>,
    gauge: Arc<Gauge>,
    capacity: usize,
    /// What the core emitted beyond the room that it was told. Normally empty.
    excess: VecDeque<MeshMessage>,
    /// Free places as the core knows them: told, less what it has emitted since.
    known: usize,
}

impl Outgoing {
    /// Free places; none while the lane holds too many bytes. Only the other end makes it grow.
    fn room(&self) -> usize {
        if !self.excess.is_empty() || self.gauge.bytes.load(Ordering::Relaxed) >= LANE_BYTES_MAX {
            return 0;
        }
        self.capacity - self.sender.len()
    }

    /// Whether somebody may be waiting for more room than there is.
    fn is_short(&self) -> bool {
        self.known < (self.capacity / 2).max(CONSEQUENCES_PER_COMMAND_MAX).min(self.capacity)
    }

    fn send(&mut self, message: MeshMessage, stats: &mut DriverStats) {
        self.known = self.known.saturating_sub(1);
        let refused = if self.excess.is_empty() { self.offer(message) } else { Some(message) };
        if let Some(message) = refused {
            stats.lane_excess += 1;
            self.excess.push_back(message);
        }
    }

    /// Puts a message into the channel, or gives it back if that is full.
    fn offer(&mut self, message: MeshMessage) -> Option<MeshMessage> {
        let bytes = message.bytes_held();
        self.gauge.bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.sender.try_send(message) {
            // Disconnected: the shard has ended, as all do at the same time, and nobody is left to hear of it.
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(message)) => {
                self.gauge.bytes.fetch_sub(bytes, Ordering::Relaxed);
                Some(message)
            }
        }
    }

    /// Sends what waits here, as far as it goes, and says whether anything went.
    fn flush(&mut self) -> bool {
        let waiting = self.excess.len();
        while let Some(message) = self.excess.pop_front() {
            if let Some(message) = self.offer(message) {
                self.excess.push_front(message);
                break;
            }
        }
        self.excess.len() < waiting
    }

    /// Whether there is more room than the core knows of.
    fn has_grown(&self) -> bool {
        if self.excess.is_empty() { self.room() > self.known } else { !self.sender.is_full() }
    }
}

/// The receiving end of one lane.
#[derive(Debug)]
struct Incoming {
    receiver: Receiver<MeshMessage>,
    gauge: Arc<Gauge>,
    /// The head, if the core has declined it.
    declined: Option<MeshMessage>,
}

/// How a shard is woken.
#[derive(Debug)]
pub(super) struct Door {
    /// True while the shard's thread is in the kernel, or about to be.
    asleep: AtomicBool,
    /// Its ring, or -1 before it runs.
    ring: AtomicI32,
}

impl Default for Door {
    fn default() -> Self {
        Door { asleep: AtomicBool::new(false), ring: AtomicI32::new(-1) }
    }
}

impl Door {
    /// Names the ring that doorbells go to.
    pub(super) fn open(&self, ring: RawFd) {
        self.ring.store(ring, Ordering::Release);
    }
}

/// One shard's ends of all lanes.
#[derive(Debug)]
pub(super) struct Mesh {
    id: ShardId,
    /// By peer, then by lane; `None` at this shard's own place.
    outgoing: Vec<Option<[Outgoing; 2]>>,
    incoming: Vec<Option<[Incoming; 2]>>,
    /// Where the next turn begins to serve.
    next: usize,
    /// By peer: something was pushed into a lane to it since the last doorbells.
    pushed: Vec<bool>,
    /// By peer: something was taken from a lane from it since then.
    taken: Vec<bool>,
    /// Incoming lanes whose head is declined.
    declined: usize,
}

const LANES: [Lane; 2] = [Lane::Consequence, Lane::Command];

/// The ends of all lanes between `shards` shards, by shard.
pub(super) fn lanes(shards: usize, places: usize) -> Vec<Mesh> {
    let mut meshes: Vec<Mesh> = (0..shards)
        .map(|index| Mesh {
            id: ShardId(index as u16),
            outgoing: (0..shards).map(|_| None).collect(),
            incoming: (0..shards).map(|_| None).collect(),
            next: 0,
            pushed: vec![false; shards],
            taken: vec![false; shards],
            declined: 0,
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (out_a, in_a) = lane(places);
            let (out_b, in_b) = lane(places);
            meshes[from].outgoing[to] = Some([out_a, out_b]);
            meshes[to].incoming[from] = Some([in_a, in_b]);
        }
    }
    meshes
}

fn lane(places: usize) -> (Outgoing, Incoming) {
    let (sender, receiver) = bounded(places);
    let gauge = Arc::new(Gauge::default());
    let outgoing = Outgoing { sender, gauge: Arc::clone(&gauge), capacity: places, excess: VecDeque::new(), known: places };
    (outgoing, Incoming { receiver, gauge, declined: None })
}

const fn place(lane: Lane) -> usize {
    match lane {
        Lane::Consequence => 0,
        Lane::Command => 1,
    }
}

impl Mesh {
    /// Hands incoming messages to the core, a few from each lane in turn, until none is left that it takes or the turn's budget is used up.
    /// Returns how many.
    pub(super) fn serve(&mut self, shard: &mut Shard, now: Now, stats: &mut DriverStats) -> usize {
        let lanes = self.incoming.len() * LANES.len();
        let mut served = 0;
        let mut idle = 0;
        while idle < lanes && served < MESH_PER_TURN {
            let index = self.next % lanes;
            self.next = (index + 1) % lanes;
            let from = index / LANES.len();
            let lane = LANES[index % LANES.len()];
            let budget = PER_LANE.min(MESH_PER_TURN - served);
            let taken = match &mut self.incoming[from] {
                Some(pair) => pair[place(lane)].serve(ShardId(from as u16), lane, shard, now, budget),
                None => 0,
            };
            if taken == 0 {
                idle += 1;
                continue;
            }
            idle = 0;
            served += taken;
            self.taken[from] = true;
        }
        self.declined = self.incoming.iter().flatten().flatten().filter(|incoming| incoming.declined.is_some()).count();
        stats.lane_declines += self.declined as u64;
        served
    }

    /// Tells the core how much room the lanes to each peer have.
    pub(super) fn tell_room(&mut self, shard: &mut Shard) {
        for (peer, pair) in self.outgoing.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            for outgoing in pair.iter_mut() {
                if !outgoing.excess.is_empty() {
                    self.pushed[peer] |= outgoing.flush();
                }
                outgoing.known = outgoing.room();
            }
            let room = LaneRoom { commands: pair[place(Lane::Command)].known, consequences: pair[place(Lane::Consequence)].known };
            shard.handle_lane(ShardId(peer as u16), room);
        }
    }

    /// Sends everything that the core has for other shards.
    pub(super) fn send_all(&mut self, shard: &mut Shard, stats: &mut DriverStats) {
        while let Some((to, lane, message)) = shard.poll_mesh() {
            let pair = self.outgoing.get_mut(usize::from(to.0)).and_then(Option::as_mut);
            let pair = pair.expect("the core sends to another shard of this process");
            let outgoing = &mut pair[place(lane)];
            outgoing.send(message, stats);
            // The lane has taken as many bytes as it may in the middle of the turn: no more commands for it.
            if lane == Lane::Command && outgoing.known > 0 && outgoing.gauge.bytes.load(Ordering::Relaxed) >= LANE_BYTES_MAX {
                outgoing.known = 0;
                shard.handle_lane(to, LaneRoom { commands: 0, consequences: pair[place(Lane::Consequence)].known });
            }
            self.pushed[usize::from(to.0)] = true;
        }
    }

    /// Calls `ring` with the shard and the ring of each peer that sleeps and for which something has changed.
    pub(super) fn ring_doorbells(&mut self, shared: &Shared, mut ring: impl FnMut(ShardId, RawFd)) {
        if !self.pushed.contains(&true) && !self.taken.contains(&true) {
            return;
        }
        // The messages were pushed, or the room made, before; the sleeper's flags are read after. See the top of the file.
        fence(Ordering::SeqCst);
        for (peer, door) in shared.doors.iter().enumerate() {
            let pushed = std::mem::take(&mut self.pushed[peer]);
            let taken = std::mem::take(&mut self.taken[peer]);
            let starved = taken && self.incoming[peer].iter().flatten().filter(|incoming| incoming.was_starved()).count() > 0;
            if (pushed || starved) && door.asleep.swap(false, Ordering::SeqCst) {
                ring(ShardId(peer as u16), door.ring.load(Ordering::Acquire));
            }
        }
    }

    /// Announces sleep, and says whether the shard may: nothing has come, and no room has appeared, since it last looked. If not,
    /// the announcement is withdrawn.
    pub(super) fn may_sleep(&self, shared: &Shared, mail: &Receiver<Mail>) -> bool {
        let asleep = &shared.doors[usize::from(self.id.0)].asleep;
        asleep.store(true, Ordering::SeqCst);
        for outgoing in self.outgoing.iter().flatten().flatten().filter(|outgoing| outgoing.is_short()) {
            outgoing.gauge.starved.store(true, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let may = mail.is_empty() && !self.has_incoming() && !self.has_new_room() && !shared.has_finished();
        if !may {
            asleep.store(false, Ordering::SeqCst);
        }
        may
    }

    /// Withdraws the announcement of sleep.
    pub(super) fn wake(&self, shared: &Shared) {
        shared.doors[usize::from(self.id.0)].asleep.store(false, Ordering::SeqCst);
    }

    /// Whether a message waits that the core was not asked about yet.
    fn has_incoming(&self) -> bool {
        self.incoming.iter().flatten().flatten().any(|incoming| incoming.declined.is_none() && !incoming.receiver.is_empty())
    }

    /// Whether an outgoing lane has more room than the core knows of, where it matters.
    fn has_new_room(&self) -> bool {
        self.outgoing.iter().flatten().flatten().any(|outgoing| outgoing.is_short() && outgoing.has_grown())
    }

    /// Whether the core has declined anything that still waits.
    pub(super) fn has_declined(&self) -> bool {
        self.declined > 0
    }

    /// Messages that wait in the lanes to this shard.
    pub(super) fn waiting(&self) -> usize {
        self.incoming
            .iter()
            .flatten()
            .flatten()
            .map(|incoming| incoming.receiver.len() + usize::from(incoming.declined.is_some()))
            .sum()
    }
}

impl Incoming {
    /// Whether the sender wanted to know of room; it is told once.
    fn was_starved(&self) -> bool {
        self.gauge.starved.load(Ordering::Relaxed) && self.gauge.starved.swap(false, Ordering::Relaxed)
    }

    /// Hands over at most `budget` messages, and returns how many.
    fn serve(&mut self, from: ShardId, lane: Lane, shard: &mut Shard, now: Now, budget: usize) -> usize {
        for taken in 0..budget {
            let Some(message) = self.declined.take().or_else(|| self.receiver.try_recv().ok()) else { return taken };
            if !shard.accepts_mesh(from, lane) {
                self.declined = Some(message);
                return taken;
            }
            self.gauge.bytes.fetch_sub(message.bytes_held(), Ordering::Relaxed);
            shard.handle_mesh(now, from, lane, message);
        }
        budget
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
