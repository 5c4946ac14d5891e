//! The lanes between shards, and how a shard that sleeps is woken.
//!
//! Each ordered pair of shards has two bounded lanes. They lose nothing: the core emits only as much as it was told there is room
//! for, and what should exceed it all the same waits here. A message that the core declines stays at its lane's head, with
//! everything behind it. The bound on bytes is one on what is told: a lane that holds as many takes no more in the turns that
//! follow.
//!
//! # Why no wake-up is lost
//! A shard that wants to sleep (1) sets `asleep`, (2) sets `starved` on every outgoing lane that is short of room, (3) fences,
//! (4) looks once more at its incoming lanes, its mailbox, and the room of its outgoing lanes, and (5) enters the kernel to wait
//! only if nothing has changed. Whoever changes something for it (pushes into a lane to it, or takes from a lane that it fills) does that
//! first, then fences, then reads the flags, and rings if they are set. Both fences are sequentially consistent, so of a store and
//! then a load on each side at least one load sees the other's store: either the sleeper sees the change in (4), or the other sees
//! the flags. The doorbell is a completion in the sleeper's ring, which its wait can't miss; one that comes late costs a turn.
//!
//! What a shard can wait for while it sleeps:
//! - *Messages*: rung by their sender, as above.
//! - *Connections that others hand over*, in a mailbox: announced by their sender and rung as messages are, and looked at again in
//!   (4).
//! - *Room in a lane that it fills*. If the peer has taken anything since the core was told the room, (4) sees more room than was
//!   told; if the peer takes something later, the peer sees `starved`. Lanes with plenty of room are not marked: nobody waits for
//!   them.
//! - *The core's consent to the head of an incoming lane.* A declined head alone does not keep the shard awake, or it would spin.
//!   The core declines for want of room in outgoing lanes: (4) asks it again, now that it was told the room, and more room comes
//!   with a wake-up. Or it declines for want of something of its own, such as places for passes: their progress is output, which
//!   keeps the shard awake, or comes with an event, which makes a turn, and each turn asks again. In case a reason is of another
//!   kind, a shard with a declined head naps no longer than [`DECLINED_NAP_MS`].
//!
//! `tests/models.rs` compiles this file against the atomics of a model checker, and tries all interleavings of two shards.
//!
//! Waits form no cycle: a consequence is declined only until passes have ended, which waits for no other shard.

use crate::driver::stats::DriverStats;
use crate::driver::sync::{Arc, AtomicBool, AtomicI32, AtomicUsize, Ordering, Receiver, Sender, TrySendError, bounded, fence};
use crate::limits::{CONSEQUENCES_PER_COMMAND_MAX, LANE_BYTES_MAX, MESH_PER_TURN};
use crate::shard::{Lane, LaneRoom, ShardId};
use crate::time::Now;
use std::collections::VecDeque;
use std::os::fd::RawFd;

/// Longest sleep of a shard that has declined a message, in ms.
pub(crate) const DECLINED_NAP_MS: u64 = 10;
/// Messages taken from one lane before the next has its turn.
const PER_LANE: usize = 64;

/// What the mesh asks of a core.
pub(crate) trait Core {
    /// What travels in the lanes.
    type Message;
    fn bytes_held(message: &Self::Message) -> usize;
    fn accepts(&self, from: ShardId, lane: Lane) -> bool;
    fn handle(&mut self, now: Now, from: ShardId, lane: Lane, message: Self::Message);
    fn tell_room(&mut self, peer: ShardId, room: LaneRoom);
    fn poll(&mut self) -> Option<(ShardId, Lane, Self::Message)>;
}

/// What both ends of a lane see beside the channel.
#[derive(Debug, Default)]
struct Gauge {
    /// Payload bytes in the lane.
    bytes: AtomicUsize,
    /// The sender sleeps and wants to know of room.
    starved: AtomicBool,
}

/// The sending end of one lane.
struct Outgoing<C: Core> {
    sender: Sender<C::Message>,
    gauge: Arc<Gauge>,
    capacity: usize,
    /// What the core emitted beyond the room that it was told. Normally empty.
    excess: VecDeque<C::Message>,
    /// Free places as the core knows them: told, less what it has emitted since.
    known: usize,
}

impl<C: Core> Outgoing<C> {
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

    fn send(&mut self, message: C::Message, stats: &mut DriverStats) {
        self.known = self.known.saturating_sub(1);
        let refused = if self.excess.is_empty() { self.offer(message) } else { Some(message) };
        if let Some(message) = refused {
            stats.lane_excess += 1;
            self.excess.push_back(message);
        }
    }

    /// Puts a message into the channel, or gives it back if that is full.
    fn offer(&mut self, message: C::Message) -> Option<C::Message> {
        let bytes = C::bytes_held(&message);
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
struct Incoming<C: Core> {
    receiver: Receiver<C::Message>,
    gauge: Arc<Gauge>,
    /// The head, if the core has declined it.
    declined: Option<C::Message>,
}

/// How a shard is woken.
#[derive(Debug)]
pub(crate) struct Door {
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
    pub(crate) fn open(&self, ring: RawFd) {
        self.ring.store(ring, Ordering::Release);
    }

    /// That ring.
    pub(crate) fn ring(&self) -> RawFd {
        self.ring.load(Ordering::Acquire)
    }
}

/// One shard's ends of all lanes.
pub(crate) struct Mesh<C: Core> {
    id: ShardId,
    /// By peer, then by lane; `None` at this shard's own place.
    outgoing: Vec<Option<[Outgoing<C>; 2]>>,
    incoming: Vec<Option<[Incoming<C>; 2]>>,
    /// Where the next turn begins to serve.
    next: usize,
    /// By peer: something was pushed into a lane to it, or announced, since the last doorbells.
    pushed: Vec<bool>,
    /// By peer: something was taken from a lane from it since then.
    taken: Vec<bool>,
    /// Incoming lanes whose head is declined.
    declined: usize,
}

const LANES: [Lane; 2] = [Lane::Consequence, Lane::Command];

/// The ends of all lanes between `shards` shards, by shard.
pub(crate) fn lanes<C: Core>(shards: usize, places: usize) -> Vec<Mesh<C>> {
    let mut meshes: Vec<Mesh<C>> = (0..shards)
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

fn lane<C: Core>(places: usize) -> (Outgoing<C>, Incoming<C>) {
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

impl<C: Core> Mesh<C> {
    /// Whose ends they are.
    #[cfg(test)]
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Hands incoming messages to the core, a few from each lane in turn, until none is left that it takes or the turn's budget is
    /// used up. Returns how many.
    pub(crate) fn serve(&mut self, core: &mut C, now: Now, stats: &mut DriverStats) -> usize {
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
                Some(pair) => pair[place(lane)].serve(ShardId(from as u16), lane, core, now, budget),
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
    pub(crate) fn tell_room(&mut self, core: &mut C) {
        for (peer, pair) in self.outgoing.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            for outgoing in pair.iter_mut() {
                if !outgoing.excess.is_empty() {
                    self.pushed[peer] |= outgoing.flush();
                }
                outgoing.known = outgoing.room();
            }
            let room = LaneRoom { commands: pair[place(Lane::Command)].known, consequences: pair[place(Lane::Consequence)].known };
            core.tell_room(ShardId(peer as u16), room);
        }
    }

    /// Sends everything that the core has for other shards.
    pub(crate) fn send_all(&mut self, core: &mut C, stats: &mut DriverStats) {
        while let Some((to, lane, message)) = core.poll() {
            let pair = self.outgoing.get_mut(usize::from(to.0)).and_then(Option::as_mut);
            let pair = pair.expect("the core sends to another shard of this process");
            let outgoing = &mut pair[place(lane)];
            outgoing.send(message, stats);
            // The lane has taken as many bytes as it may in the middle of the turn: no more commands for it.
            if lane == Lane::Command && outgoing.known > 0 && outgoing.gauge.bytes.load(Ordering::Relaxed) >= LANE_BYTES_MAX {
                outgoing.known = 0;
                core.tell_room(to, LaneRoom { commands: 0, consequences: pair[place(Lane::Consequence)].known });
            }
            self.pushed[usize::from(to.0)] = true;
        }
    }

    /// Something was done for a peer outside of the lanes, which its sleep must not miss: the next doorbells ring at it too.
    pub(crate) fn announce(&mut self, peer: ShardId) {
        self.pushed[usize::from(peer.0)] = true;
    }

    /// Calls `ring` with the shard and the ring of each peer that sleeps and for which something has changed.
    pub(crate) fn ring_doorbells(&mut self, doors: &[Door], mut ring: impl FnMut(ShardId, RawFd)) {
        if !self.pushed.contains(&true) && !self.taken.contains(&true) {
            return;
        }
        // The messages were pushed, or the room made, before; the sleeper's flags are read after. See the top of the file.
        fence(Ordering::SeqCst);
        for (peer, door) in doors.iter().enumerate() {
            let pushed = std::mem::take(&mut self.pushed[peer]);
            let taken = std::mem::take(&mut self.taken[peer]);
            let starved = taken && self.incoming[peer].iter().flatten().filter(|incoming| incoming.was_starved()).count() > 0;
            if (pushed || starved) && door.asleep.swap(false, Ordering::SeqCst) {
                ring(ShardId(peer as u16), door.ring());
            }
        }
    }

    /// Announces sleep, and says whether the shard may: nothing has come, and no room has appeared, since it last looked;
    /// `has_mail` is asked about the rest. If not, the announcement is withdrawn.
    pub(crate) fn may_sleep(&self, core: &C, doors: &[Door], has_mail: impl FnOnce() -> bool) -> bool {
        let asleep = &doors[usize::from(self.id.0)].asleep;
        asleep.store(true, Ordering::SeqCst);
        for outgoing in self.outgoing.iter().flatten().flatten().filter(|outgoing| outgoing.is_short()) {
            outgoing.gauge.starved.store(true, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let may = !self.has_news(core) && !has_mail();
        if !may {
            asleep.store(false, Ordering::SeqCst);
        }
        may
    }

    /// Withdraws the announcement of sleep.
    pub(crate) fn wake(&self, doors: &[Door]) {
        doors[usize::from(self.id.0)].asleep.store(false, Ordering::SeqCst);
    }

    /// Whether there is a message to take, or room, that the core doesn't know of.
    pub(crate) fn has_news(&self, core: &C) -> bool {
        self.has_incoming(core) || self.has_new_room()
    }

    /// Whether a message waits that the core would take: it was not asked about it yet, or it has learned of room since it
    /// declined.
    fn has_incoming(&self, core: &C) -> bool {
        self.incoming.iter().enumerate().any(|(from, pair)| {
            pair.iter().flatten().zip(LANES).any(|(incoming, lane)| match incoming.declined {
                Some(_) => core.accepts(ShardId(from as u16), lane),
                None => !incoming.receiver.is_empty(),
            })
        })
    }

    /// Whether an outgoing lane has more room than the core knows of, where it matters.
    fn has_new_room(&self) -> bool {
        self.outgoing.iter().flatten().flatten().any(|outgoing| outgoing.is_short() && outgoing.has_grown())
    }

    /// Whether the core has declined anything that still waits.
    pub(crate) fn has_declined(&self) -> bool {
        self.declined > 0
    }

    /// Messages that wait in the lanes to this shard.
    pub(crate) fn waiting(&self) -> usize {
        self.incoming
            .iter()
            .flatten()
            .flatten()
            .map(|incoming| incoming.receiver.len() + usize::from(incoming.declined.is_some()))
            .sum()
    }
}

impl<C: Core> Incoming<C> {
    /// Whether the sender wanted to know of room; it is told once.
    fn was_starved(&self) -> bool {
        self.gauge.starved.load(Ordering::Relaxed) && self.gauge.starved.swap(false, Ordering::Relaxed)
    }

    /// Hands over at most `budget` messages, and returns how many.
    fn serve(&mut self, from: ShardId, lane: Lane, core: &mut C, now: Now, budget: usize) -> usize {
        for taken in 0..budget {
            let Some(message) = self.declined.take().or_else(|| self.receiver.try_recv().ok()) else { return taken };
            if !core.accepts(from, lane) {
                self.declined = Some(message);
                return taken;
            }
            self.gauge.bytes.fetch_sub(C::bytes_held(&message), Ordering::Relaxed);
            core.handle(now, from, lane, message);
        }
        budget
    }
}
