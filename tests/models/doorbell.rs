//! The lanes and doorbells of two or three shards: each sleeps without a timeout whenever it may, so a lost wake-up is a deadlock.

use crate::limits::LANE_BYTES_MAX;
use crate::protocol::{Core, Door, Mesh, lanes};
use crate::shard::{Lane, LaneRoom, ShardId};
use crate::shim::{Fault, Step, at, plant};
use crate::time::Now;
use crate::{check, check_with, fails};
use loom::sync::{Condvar, Mutex};
use std::sync::Arc;
use throng::driver::DriverStats;

/// Sends numbers to one other shard in commands, and takes those that come, in order of each sender.
#[derive(Default)]
struct Counter {
    to_send: u64,
    sent: u64,
    /// By sender.
    received: [u64; 3],
    room: usize,
    peer: ShardId,
    bytes: usize,
}

impl Core for Counter {
    type Message = (u64, usize);
    fn bytes_held(message: &(u64, usize)) -> usize {
        message.1
    }
    fn accepts(&self, _: ShardId, _: Lane) -> bool {
        true
    }
    fn handle(&mut self, _: Now, from: ShardId, _: Lane, message: (u64, usize)) {
        let received = &mut self.received[usize::from(from.0)];
        assert_eq!(message.0, *received, "lost, doubled or out of order");
        *received += 1;
    }
    fn tell_room(&mut self, peer: ShardId, room: LaneRoom) {
        if peer == self.peer {
            self.room = room.commands;
        }
    }
    fn poll(&mut self) -> Option<(ShardId, Lane, (u64, usize))> {
        if self.room == 0 || self.sent == self.to_send {
            return None;
        }
        self.room -= 1;
        self.sent += 1;
        Some((self.peer, Lane::Command, (self.sent - 1, self.bytes)))
    }
}

/// A shard's completion queue, as far as doorbells go: one that came before the wait ends it at once.
#[derive(Default)]
struct Ring {
    rung: Mutex<bool>,
    signal: Condvar,
}

impl Ring {
    fn complete(&self) {
        *self.rung.lock().unwrap() = true;
        self.signal.notify_one();
    }
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.signal.wait(rung).unwrap();
        }
        *rung = false;
    }
}

struct Machine {
    doors: Vec<Door>,
    rings: Vec<Ring>,
}

impl Machine {
    fn new(shards: usize) -> Arc<Machine> {
        let doors = (0..shards).map(|_| Door::default()).collect();
        Arc::new(Machine { doors, rings: (0..shards).map(|_| Ring::default()).collect() })
    }
}

/// The loop of a shard, as far as the mesh is concerned, until it has sent and received what it should.
fn run(mesh: &mut Mesh<Counter>, id: usize, machine: &Machine, mut core: Counter, to_receive: u64) {
    let mut stats = DriverStats::default();
    loop {
        mesh.serve(&mut core, Now::default(), &mut stats);
        mesh.tell_room(&mut core);
        mesh.send_all(&mut core, &mut stats);
        at(Step::Ring, || mesh.ring_doorbells(&machine.doors, |peer, _| machine.rings[usize::from(peer.0)].complete()));
        if core.sent == core.to_send && core.received.iter().sum::<u64>() == to_receive {
            assert_eq!(stats.lane_excess, 0);
            return;
        }
        if at(Step::FallAsleep, || mesh.may_sleep(&core, &machine.doors, || false)) {
            machine.rings[id].wait();
            mesh.wake(&machine.doors);
        } else {
            loom::thread::yield_now();
        }
    }
}

/// Two shards with lanes of `places`, which send each other so many messages of `bytes`.
fn exchange(places: usize, counts: [u64; 2], bytes: usize) {
    let mut meshes = lanes::<Counter>(2, places);
    let machine = Machine::new(2);
    let (mut second, mut first) = (meshes.pop().unwrap(), meshes.pop().unwrap());
    let core = |id: usize| Counter { to_send: counts[id], peer: ShardId(1 - id as u16), bytes, ..Counter::default() };
    let (mine, theirs) = (core(0), core(1));
    let other = {
        let machine = Arc::clone(&machine);
        loom::thread::spawn(move || run(&mut second, 1, &machine, theirs, counts[0]))
    };
    run(&mut first, 0, &machine, mine, counts[1]);
    other.join().unwrap();
}

/// A shard that sleeps, and two that have one message each for it.
fn two_ring_at_one() {
    let mut meshes = lanes::<Counter>(3, 1);
    let machine = Machine::new(3);
    let mut sleeper = meshes.pop().unwrap();
    let ringers: Vec<_> = meshes
        .into_iter()
        .enumerate()
        .map(|(id, mut mesh)| {
            let machine = Arc::clone(&machine);
            let core = Counter { to_send: 1, peer: ShardId(2), ..Counter::default() };
            loom::thread::spawn(move || run(&mut mesh, id, &machine, core, 0))
        })
        .collect();
    run(&mut sleeper, 2, &machine, Counter::default(), 2);
    ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
}

/// A shard that sleeps, and one that puts a thing into its mailbox and announces it. The sleeper looks there once more, or does not.
fn announce_to_a_sleeper(looks_again: bool) {
    let mut meshes = lanes::<Counter>(2, 1);
    let machine = Machine::new(2);
    let (mut sleeper, mut giver) = (meshes.pop().unwrap(), meshes.pop().unwrap());
    let (sender, mailbox) = crate::shim::bounded::<u64>(1);
    let other = {
        let machine = Arc::clone(&machine);
        loom::thread::spawn(move || {
            assert!(sender.try_send(7).is_ok());
            giver.announce(ShardId(1));
            giver.ring_doorbells(&machine.doors, |peer, _| machine.rings[usize::from(peer.0)].complete());
        })
    };
    let mut core = Counter { peer: ShardId(0), ..Counter::default() };
    loop {
        if let Ok(thing) = mailbox.try_recv() {
            assert_eq!(thing, 7);
            break;
        }
        sleeper.tell_room(&mut core);
        if sleeper.may_sleep(&core, &machine.doors, || looks_again && !mailbox.is_empty()) {
            machine.rings[1].wait();
            sleeper.wake(&machine.doors);
        } else {
            loom::thread::yield_now();
        }
    }
    other.join().unwrap();
}

/// Whether an exchange fails with a fault planted.
fn fails_with(fault: Fault, places: usize, counts: [u64; 2]) -> bool {
    plant(Some(fault));
    let failed = fails(move || exchange(places, counts, 0));
    plant(None);
    failed
}

#[test]
fn a_sleeper_hears_of_every_message() {
    check(|| exchange(2, [2, 0], 0));
}

#[test]
fn a_sender_that_sleeps_for_want_of_places_hears_of_room() {
    check(|| exchange(1, [2, 0], 0));
}

#[test]
fn a_sender_that_sleeps_for_want_of_bytes_hears_of_room() {
    check(|| exchange(2, [2, 0], LANE_BYTES_MAX));
}

#[test]
fn two_shards_that_send_and_sleep_both_end() {
    check(|| exchange(1, [1, 1], 0));
}

#[test]
fn a_sleeper_hears_of_the_messages_of_two_shards() {
    check_with(2, two_ring_at_one);
}

#[test]
fn a_sleeper_hears_of_what_is_announced_beside_the_lanes() {
    check(|| announce_to_a_sleeper(true));
}

#[test]
fn without_a_second_look_at_the_mailbox_a_wakeup_is_lost() {
    assert!(fails(|| announce_to_a_sleeper(false)));
}

#[test]
fn without_the_sleepers_fence_a_wakeup_is_lost() {
    assert!(fails_with(Fault::SleeperHasNoFence, 2, [2, 0]));
}

#[test]
fn without_the_ringers_fence_a_wakeup_is_lost() {
    assert!(fails_with(Fault::RingerHasNoFence, 2, [2, 0]));
}

#[test]
fn without_a_second_look_at_messages_a_wakeup_is_lost() {
    assert!(fails_with(Fault::NoSecondLookAtMessages, 2, [2, 0]));
}

#[test]
fn without_a_second_look_at_room_a_wakeup_is_lost() {
    assert!(fails_with(Fault::NoSecondLookAtRoom, 1, [2, 0]));
}

#[test]
fn without_word_of_room_a_wakeup_is_lost() {
    assert!(fails_with(Fault::NoWordOfRoom, 1, [2, 0]));
}
