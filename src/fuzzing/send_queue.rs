//! The send queues of a shard against streams of bytes.
//!
//! A few open connections, each with a list of the frames that its socket is owed, in the order in which they must leave. The list
//! follows from two rules: frames leave in the order in which they were queued, but a control frame that finds a backlog goes before
//! what waits there, though behind what is partly sent, behind earlier ones of its kind, and behind the answer to the upgrade
//! request. Each send must be the next bytes of that list; what a socket takes of it is the fuzzer's choice.

use super::input::Input;
use crate::limits::{COALESCE_BYTES_MAX, Limits};
use crate::shard::stats::MemoryUse;
use crate::shard::{Action, Ended, Flow, Key, Shard, ShardConfig, ShardId, Taken, Transmit};
use crate::time::{Millis, Now, WallMillis};
use crate::ws::Opcode;
use crate::ws::frame::header;
use crate::ws::handshake::{write_request, write_upgrade};
use std::collections::VecDeque;
use std::rc::Rc;

/// Connections of one run.
const SLOTS: usize = 4;
/// Operations of one run at most.
const STEPS_MAX: usize = 400;
/// Frames that are queued in one run at most.
const FRAMES_MAX: usize = 300;
/// Bytes that a frame takes in the list of a backlog.
const QUEUED_BYTES: u64 = 8;
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const NOW: Now = Now { mono: Millis(1_000_000), wall: WallMillis(1_700_000_000_000) };

/// Queues frames for some sockets, and has the sockets take what the bytes say.
///
/// # Panics
/// If a socket gets anything but its frames in their order, a send breaks the contract of the seam, or an account is not of what is
/// held.
pub fn send_queue(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.finish();
}

/// A frame that is owed.
#[derive(Clone, Debug)]
struct Owed {
    bytes: Rc<[u8]>,
    /// It is a control frame that found a backlog.
    passes: bool,
    /// It is the answer to the upgrade request, which nothing passes.
    is_greeting: bool,
}

/// A connection and what its socket is owed.
#[derive(Debug)]
struct Socket {
    generation: u32,
    is_open: bool,
    owed: VecDeque<Owed>,
    /// Bytes of the first that were taken.
    first_taken: usize,
    is_backlogged: bool,
    /// The shard wants to be told when the socket takes bytes.
    awaits: bool,
}

impl Socket {
    fn bytes_owed(&self) -> usize {
        self.owed.iter().map(|owed| owed.bytes.len()).sum::<usize>() - self.first_taken
    }

    fn push(&mut self, bytes: Rc<[u8]>, is_control: bool) {
        if !(is_control && self.is_backlogged) {
            self.owed.push_back(Owed { bytes, passes: false, is_greeting: false });
            return;
        }
        let mut place = usize::from(self.first_taken > 0 || self.owed.front().is_some_and(|owed| owed.is_greeting));
        while self.owed.get(place).is_some_and(|owed| owed.passes) {
            place += 1;
        }
        self.owed.insert(place, Owed { bytes, passes: true, is_greeting: false });
    }

    /// The socket takes `count` bytes.
    fn take(&mut self, count: usize) {
        self.first_taken += count;
        while let Some(first) = self.owed.front()
            && self.first_taken >= first.bytes.len()
        {
            self.first_taken -= first.bytes.len();
            self.owed.pop_front();
        }
    }

    /// Checks that `sent` is what comes next, and no more than one send may be.
    fn check_send(&self, sent: &[u8]) {
        assert!(!sent.is_empty(), "a send is empty");
        let (mut at, mut frames, mut skip) = (0, 0, self.first_taken);
        for owed in &self.owed {
            if at == sent.len() {
                break;
            }
            let rest = &owed.bytes[skip..];
            skip = 0;
            assert!(sent.len() >= at + rest.len(), "a send ends within a frame");
            assert_eq!(sent[at..at + rest.len()], *rest, "another frame is sent");
            at += rest.len();
            frames += 1;
        }
        assert_eq!(at, sent.len(), "more is sent than is owed");
        assert!(frames == 1 || sent.len() <= COALESCE_BYTES_MAX, "{frames} frames of {} bytes are sent together", sent.len());
    }
}

struct World {
    shard: Shard,
    sockets: [Socket; SLOTS],
    /// The submission that is being collected: each send and its bytes.
    collected: Vec<(Transmit, Vec<u8>)>,
    frames: usize,
}

impl World {
    fn new() -> Self {
        // Nobody is closed for reading slowly: that is another rule than those of this model.
        let limits = Limits { send_queue_bytes_max: 1 << 30, ..Limits::default() };
        let config = ShardConfig { id: ShardId(0), shards: 1, slots: SLOTS, limits, echo: false, seed: [7; 32], secret: [7; 32] };
        let socket =
            || Socket { generation: 0, is_open: false, owed: VecDeque::new(), first_taken: 0, is_backlogged: false, awaits: false };
        let shard = Shard::new(config, NOW);
        World { shard, sockets: [socket(), socket(), socket(), socket()], collected: Vec::new(), frames: 0 }
    }

    fn key(&self, slot: usize) -> Key {
        Key { slot: slot as u32, generation: self.sockets[slot].generation }
    }

    /// One thing that happens between two submissions, or a submission. Nothing else happens while sends are collected.
    fn step(&mut self, input: &mut Input<'_>) {
        let slot = input.below(SLOTS);
        match input.below(16) {
            0..=5 => self.queue(input, 1 << slot, false),
            6 => {
                let slots = input.byte();
                self.queue(input, slots, false);
            }
            7 | 8 => self.queue(input, 1 << slot, true),
            9 | 10 => {
                if std::mem::take(&mut self.sockets[slot].awaits) {
                    self.shard.handle_writable(NOW, self.key(slot));
                }
            }
            11 if input.below(4) == 0 => self.close(slot),
            11 => self.open(slot),
            12 => {
                // Of a connection that was there before, or will be.
                let key =
                    Key { generation: self.sockets[slot].generation.wrapping_add(1 + u32::from(input.byte())), ..self.key(slot) };
                self.shard.handle_writable(NOW, key);
                self.shard.handle_closed(NOW, key, Ended::Error);
            }
            _ => self.submit(input),
        }
    }

    fn open(&mut self, slot: usize) {
        if self.sockets[slot].is_open {
            return;
        }
        self.sockets[slot].generation += 1;
        self.sockets[slot].is_open = true;
        let key = self.key(slot);
        self.shard.handle_accepted(NOW, key, None, true);
        let mut request = Vec::new();
        write_request(&mut request, "a", "/ws", WEBSOCKET_KEY, None, &[]);
        let received = self.shard.handle_received(NOW, key, &mut request);
        assert_eq!((received.consumed, received.flow), (request.len(), Flow::Continue));
        let mut answer = Vec::new();
        write_upgrade(&mut answer, WEBSOCKET_KEY, None);
        self.sockets[slot].owed.push_back(Owed { bytes: answer.into(), passes: false, is_greeting: true });
    }

    /// Queues one frame, the same, for every slot whose bit is set.
    fn queue(&mut self, input: &mut Input<'_>, slots: u8, is_control: bool) {
        if self.frames == FRAMES_MAX {
            return;
        }
        self.frames += 1;
        let size = input.byte();
        let length = match size {
            _ if is_control => usize::from(size % 126),
            0..=199 => usize::from(size),
            200..=229 => usize::from(size - 199) * 251,
            230..=249 => COALESCE_BYTES_MAX - 8 + usize::from(size - 230),
            _ => 60_000 + usize::from(size),
        };
        let payload: Vec<u8> = self.frames.to_le_bytes().into_iter().cycle().take(length).collect();
        let opcode = if is_control { Opcode::Pong } else { Opcode::Text };
        let frame = self.shard.message_frame(opcode, &payload);
        let bytes: Rc<[u8]> = [header(opcode, length).as_bytes(), &payload].concat().into();
        let chosen = self.sockets.iter_mut().enumerate().filter(|(slot, socket)| slots & 1 << slot != 0 && socket.is_open);
        for (slot, socket) in chosen {
            match is_control {
                true => self.shard.push_control(slot as u32, frame),
                false => self.shard.push_frame(slot as u32, frame),
            }
            socket.push(bytes.clone(), is_control);
        }
        self.shard.release_frame(frame);
    }

    fn close(&mut self, slot: usize) {
        if self.sockets[slot].is_open {
            self.shard.handle_closed(NOW, self.key(slot), Ended::Error);
            self.forget(slot);
            // A slot is used again only after the shard has said that it may be.
            self.act();
        }
    }

    fn forget(&mut self, slot: usize) {
        let socket = &mut self.sockets[slot];
        socket.is_open = false;
        socket.is_backlogged = false;
        socket.awaits = false;
        socket.owed.clear();
        socket.first_taken = 0;
    }

    /// Collects up to some sends, has the sockets take of each what the bytes say, and settles.
    fn submit(&mut self, input: &mut Input<'_>) {
        let room = 1 + input.below(SLOTS + 1);
        self.shard.handle_turn_end(NOW);
        self.collect(room);
        let mut taken_whole = Vec::new();
        for (transmit, bytes) in std::mem::take(&mut self.collected) {
            assert_eq!(self.shard.transmit_bytes(&transmit), bytes, "bytes were moved before they were settled");
            let slot = transmit.key.slot as usize;
            let whole = bytes.len();
            let count = match input.byte() {
                // A socket that takes everything, as most do.
                0..=127 => whole,
                128..=139 => {
                    self.shard.handle_transmitted(NOW, transmit.ticket, Taken::Broken);
                    self.forget(slot);
                    continue;
                }
                140..=159 => 0,
                160..=199 => whole - 1,
                _ => usize::from(input.u16()) % whole,
            };
            if count == whole {
                taken_whole.push((slot, whole));
                continue;
            }
            self.shard.handle_transmitted(NOW, transmit.ticket, Taken::Short(count));
            let socket = &mut self.sockets[slot];
            socket.take(count);
            socket.is_backlogged = true;
        }
        self.shard.handle_settled(NOW);
        for (slot, count) in taken_whole {
            self.sockets[slot].take(count);
            self.sockets[slot].is_backlogged &= !self.sockets[slot].owed.is_empty();
        }
        self.act();
        self.shard.verify().unwrap_or_else(|what| panic!("{what}"));
        self.check_accounts();
    }

    fn collect(&mut self, room: usize) {
        while self.collected.len() < room
            && let Some(transmit) = self.shard.poll_transmit()
        {
            let slot = transmit.key.slot as usize;
            assert_eq!(transmit.ticket as usize, self.collected.len(), "tickets are dense");
            assert!(self.collected.iter().all(|(other, _)| other.key != transmit.key), "two sends of one connection");
            assert!(self.sockets[slot].is_open && transmit.key == self.key(slot), "a send of nobody");
            assert!(!self.sockets[slot].awaits, "a send to a socket that is full");
            let bytes = self.shard.transmit_bytes(&transmit).to_vec();
            self.sockets[slot].check_send(&bytes);
            self.collected.push((transmit, bytes));
        }
    }

    /// What the shard wants done with sockets.
    fn act(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::AwaitWritable(key) if key == self.key(key.slot as usize) => self.sockets[key.slot as usize].awaits = true,
                // It broke after that was asked.
                Action::AwaitWritable(_) => {}
                Action::Close(key) => assert!(!self.sockets[key.slot as usize].is_open, "nobody asked for the end"),
                other @ (Action::Finish(_) | Action::Probe(_) | Action::Measure(_) | Action::Resume(_) | Action::HandOver(..)) => {
                    panic!("{other:?}")
                }
            }
        }
        for socket in &mut self.sockets {
            socket.awaits &= socket.is_open;
        }
    }

    fn check_accounts(&self) {
        let backlogs = || self.sockets.iter().filter(|socket| socket.is_backlogged);
        let stats = self.shard.stats();
        let bytes: usize = backlogs().map(Socket::bytes_owed).sum();
        assert_eq!(stats.send_queue_bytes, bytes as u64, "bytes that wait for slow sockets");
        let frames = backlogs().map(|socket| socket.owed.len()).sum::<usize>() as u64;
        let list_bytes = stats.memory_bytes[MemoryUse::Backlog as usize];
        assert_eq!(list_bytes, frames * QUEUED_BYTES, "the lists of {frames} frames");
        // A frame is charged once, however many queues it is in.
        let mut held: Vec<&Rc<[u8]>> = Vec::new();
        for owed in backlogs().flat_map(|socket| &socket.owed) {
            if !held.iter().any(|other| Rc::ptr_eq(other, &owed.bytes)) {
                held.push(&owed.bytes);
            }
        }
        let least: usize = held.iter().map(|bytes| bytes.len()).sum();
        let charged = stats.memory_bytes[MemoryUse::Frames as usize] as usize;
        assert!(charged >= least, "{charged} bytes are charged for {least}");
        let is_pending = self.sockets.iter().any(|socket| !socket.is_backlogged && !socket.owed.is_empty());
        if !is_pending && !self.shard.has_output() {
            assert!(charged <= 2 * least + 64 * held.len(), "{charged} bytes are charged for {least}");
        }
        assert!(self.sockets.iter().all(|socket| socket.is_backlogged || !socket.awaits));
    }

    /// All sockets take everything; then nothing is held.
    fn finish(&mut self) {
        let mut everything = Input::new(&[]);
        for _ in 0..4 * FRAMES_MAX {
            for slot in 0..SLOTS {
                if std::mem::take(&mut self.sockets[slot].awaits) {
                    self.shard.handle_writable(NOW, self.key(slot));
                }
            }
            self.submit(&mut everything);
            if !self.shard.has_output() {
                break;
            }
        }
        for socket in &self.sockets {
            assert!(socket.owed.is_empty(), "{} frames were never sent", socket.owed.len());
        }
        let stats = self.shard.stats();
        assert_eq!((stats.send_queue_bytes, stats.memory_bytes_held()), (0, 0));
        (0..SLOTS).for_each(|slot| self.close(slot));
        self.shard.handle_turn_end(NOW);
        let stats = self.shard.stats();
        assert_eq!((stats.sockets_held, stats.sessions, self.shard.has_output()), (0, 0, false));
    }
}
