//! The lanes and doorbells between two threads, each with a ring of the kernel that runs the tests.

use super::protocol::{Core, Door, Mesh, lanes};
use crate::driver::stats::DriverStats;
use crate::limits::{CONSEQUENCES_PER_COMMAND_MAX, LANE_BYTES_MAX};
use crate::shard::{Lane, LaneRoom, ShardId};
use crate::time::Now;
use crate::uring::{BuffersConfig, Entry, Ring, RingConfig, Wait};
use std::collections::VecDeque;
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
    let id = usize::from(mesh.id().0);
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
