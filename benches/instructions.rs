//! The hot operations, each run a given number of times, so that somebody else can count their instructions.
//!
//! Wall time on a shared machine says little; instructions say the same every time. `tests/run --long instructions` runs this under
//! callgrind, which counts only what happens below [`measured`], and compares with `instructions.txt`. Without arguments every
//! operation runs once, which shows that it works. It knows nothing of callgrind.
#![allow(clippy::print_stdout, reason = "names and results are what it is run for")]

use std::hint::black_box;
use throng::limits::Limits;
use throng::protocol::{self, Dialect, Offer, Window, decode, encode};
use throng::shard::{Key, Shard, ShardConfig, ShardId};
use throng::time;
use throng::time::{Millis, Now, Tick, WallMillis};
use throng::ws::frame::{read_header, write_masked};
use throng::ws::mask::apply_mask;
use throng::ws::{Assembler, AssemblerPool, Opcode, Step};

// The wheel is private to the shard: it is compiled in here as well, with the same `crate::time`.
#[path = "../src/shard/timer_wheel.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the bench uses a part of it")]
mod timer_wheel;

/// An operation: prepares what it needs, then runs it so many times within [`measured`].
type Operation = fn(usize);

const OPERATIONS: [(&str, Operation); 16] = [
    ("header_short", header_short),
    ("header_long", header_long),
    ("unmask_64", |count| unmask(count, 64)),
    ("unmask_1024", |count| unmask(count, 1_024)),
    ("unmask_65536", |count| unmask(count, 65_536)),
    ("message_64", message_64),
    ("decode_broadcast", |count| decode_text(count, BROADCAST)),
    ("decode_join", |count| decode_text(count, JOIN)),
    ("encode_broadcast", encode_broadcast),
    ("sequence_in_order", sequence_in_order),
    ("sequence_swapped", sequence_swapped),
    ("wheel_move", wheel_move),
    ("wheel_fire", wheel_fire),
    ("echo_64", echo_64),
    ("fanout_1", |count| fanout(count, 1)),
    ("fanout_100", |count| fanout(count, 100)),
];

const BROADCAST: &str = r#"{"type":"broadcast","roomId":"doc-abc123","data":{"cursor":{"x":120,"y":45},"by":"ada"},"seq":4711}"#;
const JOIN: &str = r#"{"type":"join_room","roomId":"doc-abc123","presence":true,"state":{"status":"here"},"seq":1}"#;
const NOW: Now = Now { mono: Millis(1_000_000), wall: WallMillis(1_700_000_000_000) };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            for (name, run) in OPERATIONS {
                run(1);
                println!("{name}: ok");
            }
        }
        ["--list-operations"] => OPERATIONS.iter().for_each(|(name, _)| println!("{name}")),
        [name, count] => {
            let (_, run) = OPERATIONS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no operation {name}"));
            run(count.parse().expect("a number of repetitions"));
        }
        other => panic!("usage: instructions [--list-operations | OPERATION COUNT], not {other:?}"),
    }
}

/// What is counted: the loop, and all that it calls.
#[inline(never)]
fn measured(count: usize, mut operation: impl FnMut(usize)) {
    for index in 0..count {
        operation(index);
    }
}

// ---- ws ---------------------------------------------------------------------------------------------------------------------

fn header_short(count: usize) {
    let bytes = masked(&[0; 64]);
    measured(count, |_| {
        let _ = black_box(read_header(black_box(&bytes)));
    });
}

fn header_long(count: usize) {
    let bytes = masked(&[0; 70_000]);
    measured(count, |_| {
        let _ = black_box(read_header(black_box(&bytes)));
    });
}

fn unmask(count: usize, length: usize) {
    // One byte off alignment, as payload behind a header is.
    let mut bytes = vec![7; length + 1];
    measured(count, |_| apply_mask(black_box(&mut bytes[1..]), black_box([1, 2, 3, 4]), 0));
}

/// A whole text message of 64 bytes: header, mask, UTF-8.
fn message_64(count: usize) {
    let sent = masked(&[b'x'; 64]);
    let mut input = sent.clone();
    let mut pool = AssemblerPool::new();
    let mut assembler: Option<Box<Assembler>> = None;
    measured(count, |_| {
        input.copy_from_slice(&sent);
        let step = throng::ws::message::read(&mut assembler, &mut pool, black_box(&mut input), 65_536);
        assert!(matches!(black_box(step), Step::Event { .. }), "a whole message is an event");
    });
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_masked(&mut bytes, Opcode::Text, payload, [0x37, 0xfa, 0x21, 0x3d]);
    bytes
}

// ---- protocol ---------------------------------------------------------------------------------------------------------------

fn decode_text(count: usize, text: &str) {
    measured(count, |_| {
        let decoded = decode(black_box(text));
        assert!(black_box(decoded).is_ok(), "it is a command");
    });
}

fn encode_broadcast(count: usize) {
    let mut out = Vec::with_capacity(4_096);
    let broadcast = encode::Broadcast {
        room: b"doc-abc123",
        data: br#"{"cursor":{"x":120,"y":45},"by":"ada"}"#,
        offset: Some(4_711),
        user: b"ada",
        connection: 0x0123_4567_89ab,
        key: None,
        ts: NOW.wall,
        seq: None,
    };
    measured(count, |_| {
        out.clear();
        encode::write_broadcast(&mut out, black_box(&broadcast));
        black_box(out.len());
    });
}

fn sequence_in_order(count: usize) {
    let mut window = Window::new(0);
    measured(count, |index| {
        let seq = index as u64 + 1;
        assert_eq!(window.offer(Dialect::V1, black_box(seq), BROADCAST.as_bytes(), NOW.mono), Offer::Execute);
        window.dispatched(seq);
        assert_eq!(window.decided(seq), seq);
    });
}

/// Two commands in the wrong order: one is kept, then both are executed.
fn sequence_swapped(count: usize) {
    let mut window = Window::new(0);
    let mut text = Vec::new();
    measured(count, |index| {
        let (first, second) = (2 * index as u64 + 1, 2 * index as u64 + 2);
        assert_eq!(window.offer(Dialect::V1, black_box(second), BROADCAST.as_bytes(), NOW.mono), Offer::Kept);
        assert_eq!(window.offer(Dialect::V1, black_box(first), BROADCAST.as_bytes(), NOW.mono), Offer::Execute);
        window.dispatched(first);
        window.decided(first);
        assert_eq!(window.next_ready(&mut text), Some(second));
        window.dispatched(second);
        window.decided(second);
    });
}

// ---- shard ------------------------------------------------------------------------------------------------------------------

const TIMERS: u32 = 10_000;

fn wheel() -> timer_wheel::TimerWheel {
    let mut wheel = timer_wheel::TimerWheel::new(TIMERS as usize, Tick(0));
    (0..TIMERS).for_each(|index| wheel.arm(index, Tick(200 + index % 400)));
    wheel
}

/// A deadline moves, as with every message of a connection.
fn wheel_move(count: usize) {
    let mut wheel = wheel();
    measured(count, |index| wheel.arm(black_box(index as u32 * 7 % TIMERS), Tick(600 + index as u32 % 64)));
}

/// A tick passes; what was due is armed again. The same number is due at each tick.
fn wheel_fire(count: usize) {
    let mut wheel = wheel();
    let mut due = Vec::with_capacity(TIMERS as usize);
    due.clear();
    wheel.advance(Tick(199), &mut due);
    measured(count, |index| {
        due.clear();
        wheel.advance(Tick(200 + index as u32), &mut due);
        due.iter().for_each(|timer| wheel.arm(*timer, Tick(600 + index as u32)));
    });
}

/// A shard without a kernel: what it wants to send is looked at and taken.
struct Core {
    shard: Shard,
    sent: usize,
}

impl Core {
    fn new(slots: usize) -> Core {
        let config =
            ShardConfig { id: ShardId(0), shards: 1, slots, limits: Limits::default(), echo: true, seed: [7; 32], secret: [7; 32] };
        Core { shard: Shard::new(config, NOW), sent: 0 }
    }

    /// Opens a connection at `path` in the plain dialect.
    fn open(&mut self, slot: usize, path: &str) -> Key {
        let key = Key { slot: slot as u32, generation: 1 };
        self.shard.handle_accepted(NOW, key, None, true);
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut bytes = std::mem::take(&mut request).into_bytes();
        self.receive(key, &mut bytes);
        self.turn();
        key
    }

    fn receive(&mut self, key: Key, bytes: &mut [u8]) {
        let received = self.shard.handle_received(NOW, key, bytes);
        assert_eq!(received.consumed, bytes.len(), "nothing here is too much for a shard");
    }

    /// The rest of a loop turn, as the driver does it.
    fn turn(&mut self) {
        self.shard.handle_turn_end(NOW);
        loop {
            while let Some((_, lane, message)) = self.shard.poll_mesh() {
                self.shard.handle_mesh(NOW, ShardId(0), lane, message);
            }
            while let Some(transmit) = self.shard.poll_transmit() {
                self.sent += black_box(self.shard.transmit_bytes(&transmit)).len();
            }
            while let Some(action) = self.shard.poll_action() {
                black_box(action);
            }
            self.shard.handle_settled(NOW);
            if !self.shard.has_output() {
                return;
            }
        }
    }
}

/// A message of 64 bytes through the whole core and back.
fn echo_64(count: usize) {
    let mut core = Core::new(16);
    let key = core.open(0, "/echo");
    let sent = masked(&[b'x'; 64]);
    let mut input = sent.clone();
    let before = core.sent;
    measured(count, |_| {
        input.copy_from_slice(&sent);
        core.receive(key, &mut input);
        core.turn();
    });
    assert_eq!(core.sent - before, count * 66, "every message came back");
}

/// A publication to so many members, through the whole core.
fn fanout(count: usize, members: usize) {
    let mut core = Core::new(members + 1);
    let join = br#"{"type":"join_room","roomId":"doc-abc123"}"#;
    let keys: Vec<Key> = (0..=members).map(|slot| core.open(slot, "/ws")).collect();
    for key in &keys {
        core.receive(*key, &mut masked(join));
        core.turn();
    }
    let publication = BROADCAST.replace(",\"seq\":4711", "");
    let sent = masked(publication.as_bytes());
    let mut input = sent.clone();
    let before = core.sent;
    measured(count, |_| {
        input.copy_from_slice(&sent);
        core.receive(keys[0], &mut input);
        core.turn();
    });
    assert!(core.sent - before >= count * members * publication.len(), "every member was sent every publication");
}

/// Keeps the names that the wheel's file refers to where it looks for them.
const _: fn(Millis) -> time::Tick = Millis::tick;
const _: fn(&str) -> Result<protocol::Envelope<'_>, protocol::Fault<'_>> = decode;
