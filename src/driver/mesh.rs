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
//! - *Room in a lane that it fills*. If the peer has taken anything since the core was told the room, (4) sees more room than was
//!   told; if the peer takes something later, the peer sees `starved`. Lanes with plenty of room are not marked: nobody waits for
//!   them.
//! - *The core's consent to the head of an incoming lane.* A declined head alone does not keep the shard awake, or it would spin.
//!   The core declines for want of room in outgoing lanes: (4) asks it again, now that it was told the room, and more room comes
//!   with a wake-up. Or it declines for want of something of its own, such as places for passes: their progress is output, which
//!   keeps the shard awake, or comes with an event, which makes a turn, and each turn asks again. In case a reason is of another
//!   kind, a shard with a declined head naps no longer than [`DECLINED_NAP_MS`].
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

/// What the mesh asks of a core. [`Shard`] is the one; tests have simpler ones.
pub(super) trait Core {
    /// What travels in the lanes.
    type Message;
    fn bytes_held(message: &Self::Message) -> usize;
    fn accepts(&self, from: ShardId, lane: Lane) -> bool;
    fn handle(&mut self, now: Now, from: ShardId, lane: Lane, message: Self::Message);
    fn tell_room(&mut self, peer: ShardId, room: LaneRoom);
    fn poll(&mut self) -> Option<(ShardId, Lane, Self::Message)>;
}

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
pub(super) struct Mesh<C: Core = Shard> {
    id: ShardId,
    /// By peer, then by lane; `None` at this shard's own place.
    outgoing: Vec<Option<[Outgoing<C>; 2]>>,
    incoming: Vec<Option<[Incoming<C>; 2]>>,
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
pub(super) fn lanes<C: Core>(shards: usize, places: usize) -> Vec<Mesh<C>> {
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
    /// Hands incoming messages to the core, a few from each lane in turn, until none is left that it takes or the turn's budget is
    /// used up. Returns how many.
    pub(super) fn serve(&mut self, core: &mut C, now: Now, stats: &mut DriverStats) -> usize {
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
    pub(super) fn tell_room(&mut self, core: &mut C) {
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
    pub(super) fn send_all(&mut self, core: &mut C, stats: &mut DriverStats) {
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

    /// Calls `ring` with the shard and the ring of each peer that sleeps and for which something has changed.
    pub(super) fn ring_doorbells(&mut self, doors: &[Door], mut ring: impl FnMut(ShardId, RawFd)) {
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
                ring(ShardId(peer as u16), door.ring.load(Ordering::Acquire));
            }
        }
    }

    /// Announces sleep, and says whether the shard may: nothing has come, and no room has appeared, since it last looked;
    /// `has_mail` is asked about the rest. If not, the announcement is withdrawn.
    pub(super) fn may_sleep(&self, core: &C, doors: &[Door], has_mail: impl FnOnce() -> bool) -> bool {
        let asleep = &doors[usize::from(self.id.0)].asleep;
        asleep.store(true, Ordering::SeqCst);
        for outgoing in self.outgoing.iter().flatten().flatten().filter(|outgoing| outgoing.is_short()) {
            outgoing.gauge.starved.store(true, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        let may = !self.has_incoming(core) && !self.has_new_room() && !has_mail();
        if !may {
            asleep.store(false, Ordering::SeqCst);
        }
        may
    }

    /// Withdraws the announcement of sleep.
    pub(super) fn wake(&self, doors: &[Door]) {
        doors[usize::from(self.id.0)].asleep.store(false, Ordering::SeqCst);
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

/// Puts an order into each shard's mailbox and wakes them all.
pub(super) fn broadcast(shared: &Shared, order: Order) {
    for post in &shared.posts {
        // The mailbox holds more orders than a process is ever given; a shard that has ended needs none.
        let _ = post.mail.send(Mail(order));
        post.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::{BuffersConfig, Entry, Ring, RingConfig, Wait};
    use std::sync::Barrier;

    /// Sends numbers to the other shard and answers each that it gets.
    #[derive(Default)]
    struct Counter {
        to_send: u64,
        sent: u64,
        answers_owed: VecDeque<u64>,
        answers: u64,
        received: u64,
        room: LaneRoom,
        peer: ShardId,
        bytes: usize,
    }

    impl Core for Counter {
        type Message = (u64, usize);
        fn bytes_held(message: &Self::Message) -> usize {
            message.1
        }
        fn accepts(&self, _: ShardId, lane: Lane) -> bool {
            lane == Lane::Consequence || self.answers_owed.len() < self.room.consequences
        }
        fn handle(&mut self, _: Now, _: ShardId, lane: Lane, message: Self::Message) {
            let count = match lane {
                Lane::Command => {
                    self.answers_owed.push_back(message.0);
                    &mut self.received
                }
                Lane::Consequence => &mut self.answers,
            };
            assert_eq!(message.0, *count, "out of order");
            *count += 1;
        }
        fn tell_room(&mut self, _: ShardId, room: LaneRoom) {
            self.room = room;
        }
        fn poll(&mut self) -> Option<(ShardId, Lane, Self::Message)> {
            if self.room.consequences > 0
                && let Some(number) = self.answers_owed.pop_front()
            {
                self.room.consequences -= 1;
                return Some((self.peer, Lane::Consequence, (number, self.bytes)));
            }
            if self.room.commands > 0 && self.sent < self.to_send {
                self.room.commands -= 1;
                self.sent += 1;
                return Some((self.peer, Lane::Command, (self.sent - 1, self.bytes)));
            }
            None
        }
    }

    /// One shard's loop, as far as the mesh is concerned: it sleeps without a timeout whenever it may.
    fn run(mut mesh: Mesh<Counter>, doors: &[Door], barrier: &Barrier, count: u64, bytes: usize) -> u64 {
        let mut ring = Ring::new(RingConfig {
            submissions: 8,
            completions: 64,
            slots: 0,
            buffers: BuffersConfig { count: 1, bytes: 4096 },
            incremental: true,
        })
        .unwrap();
        ring.enable().unwrap();
        let id = usize::from(mesh.id.0);
        doors[id].open(ring.descriptor());
        barrier.wait();
        let mut core = Counter { to_send: count, peer: ShardId(1 - id as u16), bytes, ..Counter::default() };
        let mut stats = DriverStats::default();
        let mut sleeps = 0;
        loop {
            while ring.next_completion().is_some() {}
            mesh.serve(&mut core, Now::default(), &mut stats);
            mesh.tell_room(&mut core);
            mesh.send_all(&mut core, &mut stats);
            mesh.ring_doorbells(doors, |_, descriptor| ring.push(Entry::doorbell(descriptor, 0)).unwrap());
            if core.answers == count && core.received == count && core.answers_owed.is_empty() {
                ring.enter([], Wait::Poll).unwrap();
                assert_eq!(stats.lane_excess, 0);
                break;
            }
            let sleep = mesh.may_sleep(&core, doors, || false);
            sleeps += u64::from(sleep);
            ring.enter([], if sleep { Wait::Forever } else { Wait::Poll }).unwrap();
            mesh.wake(doors);
        }
        // The ring stays until the other has rung its last.
        barrier.wait();
        sleeps
    }

    fn flood(places: usize, count: u64, bytes: usize) {
        let mut meshes = lanes::<Counter>(2, places).into_iter();
        let doors = [Door::default(), Door::default()];
        let barrier = Barrier::new(2);
        let (first, second) = (meshes.next().unwrap(), meshes.next().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| run(first, &doors, &barrier, count, bytes));
            scope.spawn(|| run(second, &doors, &barrier, count, bytes));
        });
    }

    // In each of these a lost wake-up would leave both threads asleep for good.

    #[test]
    fn two_shards_that_flood_each_other_through_tiny_lanes_lose_nothing_and_both_end() {
        flood(CONSEQUENCES_PER_COMMAND_MAX, 20_000, 0);
    }

    #[test]
    fn lanes_that_are_short_of_bytes_rather_than_places_wake_their_sender_too() {
        flood(64, 2_000, LANE_BYTES_MAX);
    }

    #[test]
    fn roomy_lanes_deliver_in_order() {
        flood(4_096, 100_000, 10);
    }

    #[test]
    fn a_declined_head_keeps_its_place_and_everything_behind_it() {
        let mut meshes = lanes::<Counter>(2, 8);
        let mut stats = DriverStats::default();
        let mut sender = Counter { to_send: 3, peer: ShardId(1), ..Counter::default() };
        meshes[0].tell_room(&mut sender);
        meshes[0].send_all(&mut sender, &mut stats);
        let mut receiver = Counter { peer: ShardId(0), ..Counter::default() };
        assert_eq!(meshes[1].serve(&mut receiver, Now::default(), &mut stats), 0);
        assert!(meshes[1].has_declined() && meshes[1].waiting() == 3);
        receiver.room.consequences = 2;
        assert_eq!(meshes[1].serve(&mut receiver, Now::default(), &mut stats), 2);
        receiver.room.consequences = 8;
        assert_eq!(meshes[1].serve(&mut receiver, Now::default(), &mut stats), 1);
        assert_eq!((receiver.received, meshes[1].waiting()), (3, 0));
    }

    #[test]
    fn what_exceeds_a_lane_waits_and_follows_in_order() {
        let mut meshes = lanes::<Counter>(2, 4);
        let mut stats = DriverStats::default();
        let mut sender =
            Counter { to_send: 10, peer: ShardId(1), room: LaneRoom { commands: 10, consequences: 0 }, ..Counter::default() };
        meshes[0].send_all(&mut sender, &mut stats);
        assert_eq!(stats.lane_excess, 6);
        let mut receiver = Counter { room: LaneRoom { commands: 0, consequences: 100 }, ..Counter::default() };
        for _ in 0..3 {
            meshes[1].serve(&mut receiver, Now::default(), &mut stats);
            meshes[0].tell_room(&mut sender);
        }
        assert_eq!((receiver.received, sender.room.commands), (10, 4));
    }
}
