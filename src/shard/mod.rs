//! DOUBLE of the core, to run the driver before the core exists: a raw TCP echo that pauses, probes, closes and uses the mesh.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

pub mod seam;
pub mod stats;

pub use seam::{Action, Ended, Flow, Key, Lane, LaneRoom, Order, Received, ShardId, Source, Taken, Transmit};
pub use stats::Stats;

use crate::limits::Limits;
use crate::limits::{COALESCE_BYTES_MAX, SCRATCH_BYTES};
use crate::time::{Millis, Now};
use std::collections::VecDeque;
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub struct ShardConfig {
    pub id: ShardId,
    pub shards: usize,
    pub slots: usize,
    pub limits: Limits,
    pub echo: bool,
    pub seed: [u8; 32],
}

#[derive(Debug)]
pub struct MeshMessage(pub Vec<u8>);

impl MeshMessage {
    pub fn bytes_held(&self) -> usize {
        self.0.len()
    }
}

const PAUSE_ABOVE: usize = 64 * 1024;
const RESUME_BELOW: usize = 16 * 1024;

#[derive(Debug, Default)]
struct Conn {
    key: Option<Key>,
    out: VecDeque<u8>,
    dirty: bool,
    waiting: bool,
    paused: bool,
    resuming: bool,
    ended: bool,
    closing: bool,
    sent: usize,
    last_in: u64,
}

#[derive(Debug)]
pub struct Shard {
    stats: Stats,
    config: ShardConfig,
    conns: Vec<Conn>,
    dirty: VecDeque<u32>,
    scratch: Vec<u8>,
    flights: Vec<(Key, usize)>,
    actions: VecDeque<Action>,
    mesh: VecDeque<(ShardId, Lane, MeshMessage)>,
    rooms: Vec<LaneRoom>,
    reply_owed: Vec<usize>,
    next_probe: u32,
    due: Millis,
    held: usize,
    draining: bool,
    pub ghosts: u64,
    pub settled: u64,
    pub mesh_sum_out: u64,
    unread: usize,
    rng: u64,
}

impl Shard {
    pub fn new(config: ShardConfig, now: Now) -> Shard {
        Shard {
            stats: Stats::default(),
            conns: (0..config.slots).map(|_| Conn::default()).collect(),
            dirty: VecDeque::new(),
            scratch: Vec::with_capacity(SCRATCH_BYTES),
            flights: Vec::new(),
            actions: VecDeque::new(),
            mesh: VecDeque::new(),
            rooms: vec![LaneRoom::default(); config.shards],
            reply_owed: vec![0; config.shards],
            next_probe: 0,
            due: now.mono.after(20),
            held: 0,
            draining: false,
            ghosts: 0,
            settled: 0,
            mesh_sum_out: 0,
            unread: 0,
            rng: 88172645463325252 + u64::from(config.id.0),
            config,
        }
    }
    fn rand(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }
    fn conn(&mut self, key: Key) -> Option<&mut Conn> {
        let c = &mut self.conns[key.slot as usize];
        (c.key == Some(key)).then_some(c)
    }
    fn mark(&mut self, slot: u32) {
        let c = &mut self.conns[slot as usize];
        if !c.dirty && !c.waiting {
            c.dirty = true;
            self.dirty.push_back(slot);
        }
    }
    fn close(&mut self, key: Key) {
        if let Some(c) = self.conn(key) {
            *c = Conn { dirty: c.dirty, ..Conn::default() };
            self.held -= 1;
            self.actions.push_back(Action::Close(key));
        }
    }
    pub fn handle_accepted(&mut self, now: Now, key: Key, _peer: Option<IpAddr>, admitted: bool) {
        let c = &mut self.conns[key.slot as usize];
        assert!(c.key.is_none(), "accept on a slot that is held");
        *c = Conn { key: Some(key), dirty: c.dirty, last_in: now.mono.0, ..Conn::default() };
        self.held += 1;
        self.stats.connections_total += 1;
        if !admitted {
            c.out.extend(b"REFUSED");
            c.closing = true;
            self.stats.refusals[0] += 1;
            self.mark(key.slot);
        }
    }
    pub fn handle_received(&mut self, now: Now, key: Key, bytes: &mut [u8]) -> Received {
        let id = self.config.id;
        let shards = self.config.shards;
        let cut = self.rand() as usize % (bytes.len() + 1);
        let r = self.rand();
        let Some(c) = self.conn(key) else { return Received { consumed: bytes.len(), flow: Flow::Continue } };
        assert!(!c.paused, "received while paused");
        assert!(!c.ended, "received after the end");
        assert!(!bytes.is_empty());
        c.last_in = now.mono.0;
        let mut consumed = bytes.len();
        let mut flow = Flow::Continue;
        if c.out.len() + bytes.len() > PAUSE_ABOVE {
            consumed = cut;
            flow = Flow::Pause;
            c.paused = true;
        } else if r % 97 == 0 {
            // A pause for no reason, in the middle of the bytes, resumed at once.
            consumed = cut;
            flow = Flow::Pause;
            c.paused = true;
            c.resuming = true;
            self.actions.push_back(Action::Resume(key));
        }
        let c = &mut self.conns[key.slot as usize];
        c.out.extend(&bytes[..consumed]);
        bytes[..consumed].fill(0xEE);
        self.stats.bytes_in += consumed as u64;
        let out = c.out.len();
        if flow == Flow::Pause {
            self.stats.pauses += 1;
            if out < RESUME_BELOW && !self.conns[key.slot as usize].resuming {
                self.conns[key.slot as usize].resuming = true;
                self.actions.push_back(Action::Resume(key));
            }
        }
        self.mark(key.slot);
        if shards > 1 && self.mesh.len() < 10_000 {
            let to = ShardId(((usize::from(id.0) + 1 + (r as usize >> 20) % (shards - 1)) % shards) as u16);
            self.mesh_sum_out += 1;
            self.mesh.push_back((to, Lane::Command, MeshMessage(vec![0; (r % 300) as usize])));
        }
        Received { consumed, flow }
    }
    pub fn handle_closed(&mut self, _now: Now, key: Key, ended: Ended) {
        let Some(c) = self.conn(key) else { return };
        assert!(!c.ended, "the end was told twice");
        c.ended = true;
        match ended {
            Ended::Eof if !c.out.is_empty() => c.closing = true,
            _ => {
                self.stats.closes[if ended == Ended::Eof { 4 } else { 5 }] += 1;
                self.close(key);
            }
        }
    }
    pub fn handle_writable(&mut self, _now: Now, key: Key) {
        if let Some(c) = self.conn(key) {
            c.waiting = false;
            self.mark(key.slot);
        }
    }
    pub fn handle_probed(&mut self, _now: Now, key: Key, silent: bool) {
        if self.conn(key).is_some() && silent {
            self.ghosts += 1;
            self.stats.pings_sent += 1;
        }
        self.stats.pongs_received += 1;
    }
    pub fn handle_transmitted(&mut self, _now: Now, ticket: u32, taken: Taken) {
        let (key, length) = self.flights[ticket as usize];
        self.flights[ticket as usize].1 = usize::MAX;
        self.stats.sends_short += 1;
        let Some(c) = self.conn(key) else { return };
        match taken {
            Taken::Short(count) => {
                assert!(count < length, "a short send of {count} of {length}");
                c.out.drain(..count);
                c.waiting = true;
                self.actions.push_back(Action::AwaitWritable(key));
            }
            Taken::Broken => self.close(key),
        }
    }
    pub fn handle_settled(&mut self, _now: Now) {
        self.settled += 1;
        let flights = std::mem::take(&mut self.flights);
        for &(key, length) in &flights {
            if length == usize::MAX {
                continue;
            }
            self.stats.bytes_out += length as u64;
            let Some(c) = self.conn(key) else { continue };
            c.out.drain(..length);
            if !c.out.is_empty() {
                self.mark(key.slot);
            } else if c.closing {
                self.stats.closes[0] += 1;
                self.close(key);
                continue;
            }
            let c = &mut self.conns[key.slot as usize];
            if c.paused && !c.resuming && c.out.len() < RESUME_BELOW && !c.ended {
                c.resuming = true;
                self.actions.push_back(Action::Resume(key));
            }
        }
        // What was in the scratch may not be read by anybody any more.
        self.scratch.fill(0xAA);
        self.scratch.clear();
    }
    pub fn handle_mesh(&mut self, _now: Now, from: ShardId, lane: Lane, message: MeshMessage) {
        self.stats.mesh_in += 1;
        if lane == Lane::Command {
            self.reply_owed[usize::from(from.0)] += 1;
            self.mesh.push_front((from, Lane::Consequence, message));
        } else {
            self.stats.publications += 1;
        }
    }
    pub fn accepts_mesh(&self, from: ShardId, lane: Lane) -> bool {
        lane == Lane::Consequence
            || self.rooms[usize::from(from.0)].consequences > self.reply_owed[usize::from(from.0)] + 4
            || self.rooms[usize::from(from.0)].consequences >= 4 && self.reply_owed[usize::from(from.0)] == 0
    }
    pub fn handle_lane(&mut self, peer: ShardId, room: LaneRoom) {
        self.rooms[usize::from(peer.0)] = room;
    }
    pub fn handle_timeout(&mut self, now: Now) {
        self.due = now.mono.after(20);
        for _ in 0..50 {
            let slot = self.next_probe;
            self.next_probe = (slot + 1) % self.conns.len() as u32;
            if let Some(key) = self.conns[slot as usize].key {
                self.actions.push_back(Action::Probe(key));
            }
        }
        if self.held == 0 {
            self.due = Millis(u64::MAX / 4);
        }
    }
    pub fn handle_stall(&mut self, _now: Now, _ms: u64) {}
    pub fn handle_order(&mut self, _now: Now, order: Order) {
        if let Order::Drain { .. } = order {
            self.draining = true;
            for slot in 0..self.conns.len() {
                if let Some(key) = self.conns[slot].key {
                    self.close(key);
                }
            }
        }
    }
    pub fn handle_turn_end(&mut self, now: Now) {
        if self.held > 0 && self.due.0 > now.mono.0 + 20 {
            self.due = now.mono.after(20);
        }
    }
    pub fn handle_unread(&mut self, bytes: usize) {
        self.unread = bytes;
    }
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        loop {
            let &slot = self.dirty.front()?;
            let c = &mut self.conns[slot as usize];
            let key = match c.key {
                Some(key) if !c.waiting && !c.out.is_empty() => key,
                _ => {
                    c.dirty = false;
                    self.dirty.pop_front();
                    continue;
                }
            };
            let length = c.out.len().min(COALESCE_BYTES_MAX);
            if self.scratch.len() + length > SCRATCH_BYTES {
                return None;
            }
            c.dirty = false;
            self.dirty.pop_front();
            if self.flights.iter().rev().take(8).any(|f| f.0 == key) {
                panic!("two sends in one submission");
            }
            let start = self.scratch.len();
            self.scratch.extend(c.out.iter().take(length));
            let ticket = self.flights.len() as u32;
            self.flights.push((key, length));
            // Not dirty again before it is settled.
            self.stats.sends += 1;
            return Some(Transmit { key, ticket, source: Source::Scratch { start: start as u32, length: length as u32 } });
        }
    }
    pub fn transmit_bytes(&self, transmit: &Transmit) -> &[u8] {
        match transmit.source {
            Source::Scratch { start, length } => &self.scratch[start as usize..(start + length) as usize],
            Source::Frame { .. } => unreachable!(),
        }
    }
    pub fn poll_action(&mut self) -> Option<Action> {
        while let Some(action) = self.actions.pop_front() {
            if let Action::Resume(key) = action {
                let Some(c) = self.conn(key) else { continue };
                c.paused = false;
                c.resuming = false;
            }
            return Some(action);
        }
        None
    }
    pub fn poll_mesh(&mut self) -> Option<(ShardId, Lane, MeshMessage)> {
        let index = self.mesh.iter().take(64).position(|(to, lane, _)| {
            let room = self.rooms[usize::from(to.0)];
            if *lane == Lane::Command { room.commands > 0 } else { room.consequences > 0 }
        })?;
        let (to, lane, message) = self.mesh.remove(index)?;
        let room = &mut self.rooms[usize::from(to.0)];
        if lane == Lane::Command {
            room.commands -= 1;
        } else {
            room.consequences -= 1;
            self.reply_owed[usize::from(to.0)] -= 1;
        }
        self.stats.mesh_out += 1;
        Some((to, lane, message))
    }
    pub fn poll_timeout(&self) -> Option<Millis> {
        Some(self.due)
    }
    pub fn has_output(&self) -> bool {
        !self.actions.is_empty()
            || self.dirty.iter().any(|&slot| {
                let c = &self.conns[slot as usize];
                c.key.is_some() && !c.waiting && !c.out.is_empty()
            })
            || self.mesh.iter().take(64).any(|(to, lane, _)| {
                let room = self.rooms[usize::from(to.0)];
                if *lane == Lane::Command { room.commands > 0 } else { room.consequences > 0 }
            })
    }
    pub fn sockets_held(&self) -> usize {
        self.held
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
