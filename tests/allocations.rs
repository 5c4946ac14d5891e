//! Verify that a message costs no heap allocation once the core is warm: neither its publication nor any of its deliveries, on one
//! shard and over two.

use std::collections::VecDeque;
use std::fmt::Write;
use throng::limits::Limits;
use throng::shard::{Key, Lane, LaneRoom, MeshMessage, Shard, ShardConfig, ShardId};
use throng::time::{Millis, Now, WallMillis};
use throng::ws::Opcode;
use throng::ws::frame::write_masked;
use throng::ws::handshake::write_request;

const WARM: u64 = 2_000;
const MESSAGES: u64 = 10_000;
const MEMBERS: usize = 10;
const PLACES: usize = 1_024;

/// How publications are numbered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Numbered,
    Swapped,
    Volatile,
}

/// Shards with lanes, and sockets that take everything.
struct Rig {
    shards: Vec<Shard>,
    /// By sender and receiver: commands, then consequences.
    lanes: Vec<[VecDeque<MeshMessage>; 2]>,
    now: Now,
    /// Time that passes with each batch, in ms.
    step_ms: u64,
    text: String,
    frames: Vec<u8>,
    bytes_out: usize,
}

impl Rig {
    fn new(shards: usize) -> Rig {
        let now = Now { mono: Millis(1_000), wall: WallMillis(1_700_000_000_000) };
        let limits = Limits { lane_places: Some(PLACES), ..Limits::default() };
        let shard = |id| {
            let id = ShardId(id as u16);
            Shard::new(
                ShardConfig { id, shards, slots: MEMBERS, limits: limits.clone(), echo: false, seed: [7; 32], secret: [7; 32] },
                now,
            )
        };
        let lane = || [VecDeque::with_capacity(PLACES), VecDeque::with_capacity(PLACES)];
        Rig {
            shards: (0..shards).map(shard).collect(),
            lanes: (0..shards * shards).map(|_| lane()).collect(),
            now,
            step_ms: 100,
            text: String::with_capacity(1_024),
            frames: Vec::with_capacity(64 * 1024),
            bytes_out: 0,
        }
    }

    /// A member of the room `r`. Members go round the shards.
    fn join(&mut self, member: usize) {
        let (shard, key) = self.place(member);
        self.shards[shard].handle_accepted(self.now, key, None, true);
        let mut opening = Vec::new();
        write_request(&mut opening, "localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==", Some("throng.v1"), &[]);
        self.shards[shard].handle_received(self.now, key, &mut opening);
        self.say(member, format_args!(r#"{{"type":"connect","user":"user-{member}"}}"#));
        self.say(member, format_args!(r#"{{"type":"join_room","roomId":"r","seq":1}}"#));
        self.settle();
    }

    fn place(&self, member: usize) -> (usize, Key) {
        (member % self.shards.len(), Key { slot: (member / self.shards.len()) as u32, generation: 1 })
    }

    /// Adds a message to the next bytes of a member, and hands them over.
    fn say(&mut self, member: usize, message: std::fmt::Arguments<'_>) {
        self.add(message);
        self.hand_over(member);
    }

    fn add(&mut self, message: std::fmt::Arguments<'_>) {
        self.text.clear();
        self.text.write_fmt(message).expect("a String takes any text");
        write_masked(&mut self.frames, Opcode::Text, self.text.as_bytes(), [1, 2, 3, 4]);
    }

    fn hand_over(&mut self, member: usize) {
        let (shard, key) = self.place(member);
        let length = self.frames.len();
        assert_eq!(self.shards[shard].handle_received(self.now, key, &mut self.frames).consumed, length);
        self.frames.clear();
    }

    /// Turns until nothing is left to be done.
    fn settle(&mut self) {
        self.now.mono.0 += self.step_ms;
        while (0..self.shards.len()).fold(false, |more, shard| self.turn(shard) | more) {}
    }

    fn turn(&mut self, shard: usize) -> bool {
        let (count, now) = (self.shards.len(), self.now);
        let core = &mut self.shards[shard];
        let mut happened = false;
        for from in (0..count).filter(|from| *from != shard) {
            for (place, lane) in [(1, Lane::Consequence), (0, Lane::Command)] {
                let id = ShardId(from as u16);
                while core.accepts_mesh(id, lane)
                    && let Some(message) = self.lanes[from * count + shard][place].pop_front()
                {
                    core.handle_mesh(now, id, lane, message);
                    happened = true;
                }
            }
        }
        if core.poll_timeout().is_some_and(|due| due <= now.mono) {
            core.handle_timeout(now);
        }
        for to in (0..count).filter(|to| *to != shard) {
            let [commands, consequences] = &self.lanes[shard * count + to];
            let room = LaneRoom { commands: PLACES - commands.len(), consequences: PLACES - consequences.len() };
            core.handle_lane(ShardId(to as u16), room);
        }
        core.handle_turn_end(now);
        while let Some((to, lane, message)) = core.poll_mesh() {
            let place = usize::from(lane == Lane::Consequence);
            self.lanes[shard * count + usize::from(to.0)][place].push_back(message);
            happened = true;
        }
        while let Some(transmit) = core.poll_transmit() {
            self.bytes_out += core.transmit_bytes(&transmit).len();
            happened = true;
        }
        assert!(core.poll_action().is_none(), "nothing ends and nothing waits");
        core.handle_settled(now);
        happened || core.has_output()
    }

    /// Publishes `count` messages by turns, each of `batch` in one read.
    fn publish(&mut self, seqs: &mut [u64; MEMBERS], count: u64, batch: u64, order: Order) {
        for round in 0..count / batch {
            let member = (round % MEMBERS as u64) as usize;
            for place in 0..batch {
                if order != Order::Volatile {
                    // Swapped pairs: 2 1 4 3 …
                    let step = if order == Order::Numbered {
                        0
                    } else if place % 2 == 0 {
                        1
                    } else {
                        -1
                    };
                    let seq = (seqs[member] + 1 + place).wrapping_add_signed(step);
                    self.add(format_args!(
                        r#"{{"type":"broadcast","roomId":"r","data":{{"text":"hello to everybody in the room","n":{}}},"seq":{}}}"#,
                        round % 10,
                        seq
                    ));
                } else {
                    self.add(format_args!(r#"{{"type":"broadcast","roomId":"r","data":{{"x":{},"y":17}}}}"#, round % 10));
                }
            }
            seqs[member] += if order == Order::Volatile { 0 } else { batch };
            self.hand_over(member);
            self.settle();
        }
    }
}

fn allocations_of(shards: usize, batch: u64, order: Order) -> u64 {
    let mut rig = Rig::new(shards);
    for member in 0..MEMBERS {
        rig.join(member);
    }
    let mut seqs = [1; MEMBERS];
    // Warm also for what timers do.
    rig.publish(&mut seqs, WARM, batch, order);
    rig.step_ms = 1;
    let delivered = |rig: &Rig| rig.shards.iter().map(|shard| shard.stats().deliveries).sum::<u64>();
    let (before, bytes) = (delivered(&rig), rig.bytes_out);
    let counted = allocation_counter::measure(|| rig.publish(&mut seqs, MESSAGES, batch, order));
    assert_eq!(delivered(&rig) - before, MESSAGES * (MEMBERS as u64 - 1), "each message reached every other member");
    assert!(rig.bytes_out > bytes);
    counted.count_total
}

#[test]
fn a_message_on_one_shard_allocates_nothing() {
    assert_eq!(allocations_of(1, 1, Order::Numbered), 0);
    assert_eq!(allocations_of(1, 8, Order::Numbered), 0);
}

#[test]
fn a_message_between_two_shards_allocates_nothing() {
    assert_eq!(allocations_of(2, 1, Order::Numbered), 0);
    assert_eq!(allocations_of(2, 8, Order::Numbered), 0);
}

#[test]
fn messages_out_of_order_allocate_nothing() {
    assert_eq!(allocations_of(1, 8, Order::Swapped), 0);
    assert_eq!(allocations_of(2, 8, Order::Swapped), 0);
}

#[test]
fn a_volatile_message_allocates_nothing() {
    assert_eq!(allocations_of(1, 1, Order::Volatile), 0);
    assert_eq!(allocations_of(2, 8, Order::Volatile), 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}
