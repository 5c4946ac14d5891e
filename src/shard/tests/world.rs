//! A world of shards with virtual sockets, lanes and a clock that moves only when it is told to.
//!
//! The driver here keeps to the contract of [`seam`](crate::shard::seam) and checks the core's side of it: one send a connection
//! and submission, bytes unmoved until settled, no lane over its places, no output that never ends, no deadline that stays due; and,
//! now and then, whether everything that a shard holds adds up. With the feature `planted`, `THRONG_PLANTED=name` plants a bug.

use crate::limits::Limits;
use crate::shard::random::Random;
use crate::shard::seam::{Action, Ended, Flow, Key, Lane, LaneRoom, ShardId, Taken, Transmit};
use crate::shard::{MeshMessage, Shard, ShardConfig};
use crate::time::{Millis, Now, WallMillis};
use crate::ws::Opcode;
use crate::ws::frame::{read_header, write_masked};
use crate::ws::handshake::{ResponseHead, read_response, write_request};
use serde_json::Value;
use std::collections::{HashSet, VecDeque};

mod moving;

/// Rounds of all shards in which everything that is due without time going on must have happened.
const ROUNDS_MAX: usize = 200_000;
/// How long a paused connection is kept after its peer's FIN, as the driver does.
const HANGUP_GRACE_MS: u64 = 1_000;
/// Turns from one look at everything that a shard holds to the next: a prime, so that each shard has its turn.
const TURNS_PER_LOOK: u64 = 61;
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// How the world treats its shards.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disorder {
    /// Reads are cut anywhere.
    pub(super) splits: bool,
    /// Sends are taken in part although there is room.
    pub(super) shorts: bool,
    /// Submissions hold only a few operations.
    pub(super) small_ring: bool,
    /// Shards, sockets and lanes are served in any order, and not always.
    pub(super) shuffles: bool,
}

pub(super) struct WorldConfig {
    pub(super) shards: usize,
    pub(super) slots: usize,
    pub(super) limits: Limits,
    pub(super) seed: u64,
    pub(super) disorder: Disorder,
}

impl Default for WorldConfig {
    fn default() -> Self {
        WorldConfig { shards: 1, slots: 64, limits: Limits::default(), seed: 1, disorder: Disorder::default() }
    }
}

/// One shard with what its driver keeps.
pub(super) struct Driver {
    pub(super) shard: Shard,
    slots: Vec<Option<usize>>,
    generations: Vec<u32>,
    collected: Vec<(Transmit, Vec<u8>)>,
    resumes: Vec<Key>,
    probes: Vec<Key>,
    measures: Vec<(Key, usize)>,
    overdue: usize,
}

/// A frame that a client got.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.opcode, Opcode::Text);
        serde_json::from_slice(&self.payload).expect("a text frame is JSON")
    }
    pub(super) fn close_code(&self) -> Option<u16> {
        self.payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code))
    }
}

/// A client with its side of the socket.
pub(super) struct Client {
    pub(super) shard: usize,
    key: Key,
    accepted: bool,
    admitted: bool,
    is_v1: bool,
    /// Bytes on their way to the server, and what comes after them.
    outgoing: Vec<u8>,
    end: Option<Ended>,
    end_told: bool,
    /// The driver's side.
    paused: bool,
    stash: Vec<u8>,
    hung_up: Option<Millis>,
    awaits_writable: bool,
    heard: bool,
    /// Bytes that the server's kernel holds for the client.
    incoming: VecDeque<u8>,
    pub(super) incoming_max: usize,
    /// The socket is told to take bytes again only when it holds fewer than this.
    pub(super) writable_below: usize,
    /// The server has finished its direction.
    pub(super) finished: bool,
    /// The server has closed the socket.
    pub(super) closed: bool,
    /// Bytes that the client reads in one round.
    pub(super) reads: usize,
    pub(super) pongs: bool,
    pub(super) answers_close: bool,
    pub(super) said_close: bool,
    received: Vec<u8>,
    pub(super) upgraded: bool,
    /// The HTTP answer.
    pub(super) http: Vec<u8>,
    /// What came and was not yet taken.
    pub(super) frames: VecDeque<Frame>,
}

impl Client {
    /// What its shard knows it by.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    fn is_writable(&self) -> bool {
        self.incoming.len() < self.incoming_max.min(self.writable_below)
    }

    /// Whether the driver has something to tell the core of it.
    fn has_event(&self, now: Now) -> bool {
        !self.accepted
            || (self.awaits_writable && self.is_writable())
            || (self.end == Some(Ended::Error) && !self.end_told)
            || (!self.end_told && !self.paused && (self.end.is_some() || !self.outgoing.is_empty()))
            || self.hung_up.is_some_and(|due| due <= now.mono)
    }
}

pub(super) struct World {
    pub(super) drivers: Vec<Driver>,
    pub(super) clients: Vec<Client>,
    pub(super) now: Now,
    pub(super) random: Random,
    pub(super) disorder: Disorder,
    pub(super) lanes: Vec<[VecDeque<MeshMessage>; 2]>,
    places: usize,
    pub(super) limits: Limits,
    /// Lanes whose messages are not delivered.
    pub(super) stalled: HashSet<(usize, usize)>,
    turns: u64,
}

/// The bug that whoever runs the tests wants planted in every world.
#[cfg(feature = "planted")]
fn planted_by_name() -> Option<crate::planted::Bug> {
    let name = std::env::var("THRONG_PLANTED").ok()?;
    Some(crate::planted::Bug::of_name(&name).unwrap_or_else(|| panic!("no bug is named {name}")))
}

fn place(lane: Lane) -> usize {
    match lane {
        Lane::Command => 0,
        Lane::Consequence => 1,
    }
}

impl World {
    pub(super) fn new(config: WorldConfig) -> World {
        #[cfg(feature = "planted")]
        crate::planted::plant(planted_by_name());
        let WorldConfig { shards, slots, limits, seed, disorder } = config;
        let now = Now { mono: Millis(1_000_000), wall: WallMillis(1_700_000_000_000) };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let drivers = (0..shards)
            .map(|id| {
                let config = ShardConfig {
                    id: ShardId(id as u16),
                    shards,
                    slots,
                    limits: limits.clone(),
                    echo: true,
                    seed: bytes,
                    secret: bytes,
                };
                Driver {
                    shard: Shard::new(config, now),
                    slots: vec![None; slots],
                    generations: vec![0; slots],
                    collected: Vec::new(),
                    resumes: Vec::new(),
                    probes: Vec::new(),
                    measures: Vec::new(),
                    overdue: 0,
                }
            })
            .collect();
        World {
            drivers,
            clients: Vec::new(),
            now,
            random: Random::new(&bytes, 99),
            disorder,
            lanes: (0..shards * shards).map(|_| Default::default()).collect(),
            places: limits.lane_places(shards),
            limits,
            stalled: HashSet::new(),
            turns: 0,
        }
    }

    pub(super) fn shard(&self, index: usize) -> &Shard {
        &self.drivers[index].shard
    }

    /// The shard that is home to a room.
    pub(super) fn home_of(&self, room: &str) -> usize {
        usize::from(self.drivers[0].shard.home_of_room(room).0)
    }

    /// The first room of a row of names whose home is `shard`.
    pub(super) fn room_at(&self, shard: usize) -> String {
        (0..).map(|number| format!("room-{number}")).find(|room| self.home_of(room) == shard).expect("hashes reach every shard")
    }

    // ---- clients --------------------------------------------------------------------------------------------------------

    /// A socket that is accepted and has sent nothing.
    pub(super) fn open_socket(&mut self, shard: usize, admitted: bool) -> usize {
        let driver = &mut self.drivers[shard];
        let slot = driver.slots.iter().position(Option::is_none).expect("a free slot");
        driver.generations[slot] += 1;
        let id = self.clients.len();
        driver.slots[slot] = Some(id);
        let key = Key { slot: slot as u32, generation: driver.generations[slot] };
        self.clients.push(Client {
            shard,
            key,
            accepted: false,
            admitted,
            is_v1: false,
            outgoing: Vec::new(),
            end: None,
            end_told: false,
            paused: false,
            stash: Vec::new(),
            hung_up: None,
            awaits_writable: false,
            heard: false,
            incoming: VecDeque::new(),
            incoming_max: 1 << 20,
            writable_below: usize::MAX,
            finished: false,
            closed: false,
            reads: usize::MAX,
            pongs: true,
            answers_close: true,
            said_close: false,
            received: Vec::new(),
            upgraded: false,
            http: Vec::new(),
            frames: VecDeque::new(),
        });
        id
    }

    /// Queues an upgrade request.
    pub(super) fn request(&mut self, client: usize, path: &str, protocol: Option<&str>) {
        self.clients[client].is_v1 = protocol.is_some();
        write_request(&mut self.clients[client].outgoing, "localhost", path, KEY, protocol, &[]);
    }

    /// A plain client that is upgraded.
    pub(super) fn plain(&mut self, shard: usize, user: &str) -> usize {
        let client = self.open_socket(shard, true);
        self.request(client, &format!("/ws?user={user}"), None);
        self.run();
        assert!(self.clients[client].upgraded, "{:?}", String::from_utf8_lossy(&self.clients[client].http));
        client
    }

    /// A `throng.v1` client that is welcome.
    pub(super) fn v1(&mut self, shard: usize, user: &str) -> usize {
        let client = self.open_socket(shard, true);
        self.request(client, "/ws", Some("throng.v1"));
        self.send(client, &format!(r#"{{"type":"connect","user":"{user}"}}"#));
        self.run();
        let welcome = self.take(client);
        assert_eq!(welcome.len(), 1, "{welcome:?}");
        assert_eq!(welcome[0]["type"], "welcome");
        client
    }

    /// A client of `/echo`.
    pub(super) fn echo(&mut self, shard: usize) -> usize {
        let client = self.open_socket(shard, true);
        self.request(client, "/echo", None);
        self.run();
        assert!(self.clients[client].upgraded);
        client
    }

    /// Queues a text message.
    pub(super) fn send(&mut self, client: usize, text: &str) {
        self.send_frame(client, Opcode::Text, text.as_bytes());
    }

    pub(super) fn send_frame(&mut self, client: usize, opcode: Opcode, payload: &[u8]) {
        let mask = (self.random.next() as u32).to_le_bytes();
        write_masked(&mut self.clients[client].outgoing, opcode, payload, mask);
    }

    pub(super) fn send_raw(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].outgoing.extend_from_slice(bytes);
    }

    pub(super) fn send_close(&mut self, client: usize, code: Option<u16>) {
        let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
        self.clients[client].said_close = true;
        self.send_frame(client, Opcode::Close, &payload);
    }

    /// The client's socket ends: behind what it has sent (`Eof`), or at once (`Error`).
    pub(super) fn end(&mut self, client: usize, ended: Ended) {
        self.clients[client].end = Some(ended);
    }

    /// Sends messages and lets everything happen.
    pub(super) fn say(&mut self, client: usize, texts: &[&str]) {
        for text in texts {
            self.send(client, text);
        }
        self.run();
    }

    /// Takes the messages that a client got, and drops control frames but a close.
    pub(super) fn take(&mut self, client: usize) -> Vec<Value> {
        let frames = std::mem::take(&mut self.clients[client].frames);
        frames.iter().filter(|frame| frame.opcode == Opcode::Text).map(Frame::json).collect()
    }

    /// Takes everything that a client got.
    pub(super) fn take_frames(&mut self, client: usize) -> Vec<Frame> {
        std::mem::take(&mut self.clients[client].frames).into()
    }

    /// The codes of the close frames that a client got and that were not taken.
    pub(super) fn close_codes(&self, client: usize) -> Vec<Option<u16>> {
        let frames = self.clients[client].frames.iter();
        frames.filter(|frame| frame.opcode == Opcode::Close).map(Frame::close_code).collect()
    }

    /// Takes the types of the messages that a client got.
    pub(super) fn take_types(&mut self, client: usize) -> Vec<String> {
        self.take(client).iter().map(|message| message["type"].as_str().expect("a type").to_owned()).collect()
    }

    // ---- time -----------------------------------------------------------------------------------------------------------

    /// Lets everything happen that needs no time.
    pub(super) fn run(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                return;
            }
        }
        panic!("something goes on for ever without time passing");
    }

    /// Lets `ms` pass, with every deadline in it met in order.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono.after(ms);
        self.run();
        let mut same = 0;
        while let Some(due) = self.next_due().filter(|due| *due <= end) {
            let to = due.max(self.now.mono);
            same = if to == self.now.mono { same + 1 } else { 0 };
            assert!(same < 1_000, "a deadline stays due");
            self.set_time(to);
            self.run();
        }
        self.set_time(end);
        self.run();
    }

    /// Lets `ms` pass in the middle of everything.
    pub(super) fn tick(&mut self, ms: u64) {
        self.set_time(self.now.mono.after(ms));
        self.round();
    }

    fn set_time(&mut self, to: Millis) {
        self.now.wall.0 += to.since(self.now.mono);
        self.now.mono = to;
    }

    fn next_due(&self) -> Option<Millis> {
        let hangups = self.clients.iter().filter(|client| !client.closed).filter_map(|client| client.hung_up);
        self.drivers.iter().filter_map(|driver| driver.shard.poll_timeout()).chain(hangups).min()
    }

    /// One turn of each shard, and one read of each client. Whether anything happened.
    pub(super) fn round(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.drivers.len()).collect();
        if self.disorder.shuffles {
            self.shuffle(&mut order);
        }
        let mut happened = false;
        for shard in order {
            happened |= self.turn(shard);
        }
        for client in 0..self.clients.len() {
            happened |= self.read(client);
        }
        happened
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            let other = self.random.below(place as u64 + 1) as usize;
            items.swap(place, other);
        }
    }

    // ---- the driver -----------------------------------------------------------------------------------------------------

    /// One turn of a shard, in the order of the contract. Whether anything happened.
    pub(super) fn turn(&mut self, shard: usize) -> bool {
        let mut happened = self.submit(shard);
        happened |= self.sockets(shard);
        happened |= self.mesh(shard);
        let now = self.now;
        let is_due = |driver: &Driver| driver.shard.poll_timeout().is_some_and(|due| due <= now.mono);
        if is_due(&self.drivers[shard]) {
            self.drivers[shard].shard.handle_timeout(now);
        }
        for peer in (0..self.drivers.len()).filter(|peer| *peer != shard) {
            let lanes = &self.lanes[shard * self.drivers.len() + peer];
            let room = LaneRoom { commands: self.places - lanes[0].len(), consequences: self.places - lanes[1].len() };
            self.drivers[shard].shard.handle_lane(ShardId(peer as u16), room);
        }
        self.drivers[shard].shard.handle_turn_end(now);
        happened |= self.collect(shard);
        self.verify(shard);
        let driver = &mut self.drivers[shard];
        driver.overdue = if is_due(driver) { driver.overdue + 1 } else { 0 };
        assert!(driver.overdue < 10_000, "a deadline stays due however often it is handled");
        happened
            || driver.shard.has_output()
            || !driver.resumes.is_empty()
            || !driver.probes.is_empty()
            || !driver.measures.is_empty()
    }

    /// Sees whether what a shard holds adds up, now and then.
    fn verify(&mut self, shard: usize) {
        self.turns += 1;
        if self.turns.is_multiple_of(TURNS_PER_LOOK)
            && let Err(what) = self.drivers[shard].shard.verify()
        {
            panic!("shard {shard} at turn {}: {what}", self.turns);
        }
    }

    /// Submits what was collected and settles it.
    fn submit(&mut self, shard: usize) -> bool {
        let collected = std::mem::take(&mut self.drivers[shard].collected);
        let mut seen = HashSet::new();
        for (index, (transmit, bytes)) in collected.iter().enumerate() {
            assert_eq!(transmit.ticket as usize, index, "tickets are dense");
            assert!(seen.insert(transmit.key), "one send a connection and submission");
            assert!(!bytes.is_empty(), "no send is empty");
            let driver = &mut self.drivers[shard];
            assert_eq!(driver.shard.transmit_bytes(transmit), &bytes[..], "bytes stay unmoved until settled");
            let Some(client) = driver.slots[transmit.key.slot as usize] else { continue };
            let client = &mut self.clients[client];
            if client.key != transmit.key {
                continue;
            }
            assert!(!client.finished, "nothing is sent after the direction was finished");
            if client.end == Some(Ended::Error) {
                driver.shard.handle_transmitted(self.now, transmit.ticket, Taken::Broken);
                continue;
            }
            let mut room = client.incoming_max.saturating_sub(client.incoming.len());
            if self.disorder.shorts && self.random.below(4) == 0 {
                room = room.min(self.random.below(bytes.len() as u64 + 1) as usize);
            }
            let taken = bytes.len().min(room);
            client.incoming.extend(&bytes[..taken]);
            if taken < bytes.len() {
                driver.shard.handle_transmitted(self.now, transmit.ticket, Taken::Short(taken));
            }
        }
        self.drivers[shard].shard.handle_settled(self.now);
        !collected.is_empty()
    }

    /// What happened on the sockets of a shard.
    fn sockets(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let now = self.now;
        for (key, bytes) in std::mem::take(&mut self.drivers[shard].measures) {
            self.drivers[shard].shard.handle_measured(key, bytes as u32);
        }
        if self.disorder.shuffles && self.random.below(20) == 0 {
            self.tell_stale(shard);
        }
        for key in std::mem::take(&mut self.drivers[shard].probes) {
            let Some(id) = self.client_of(shard, key) else { continue };
            let client = &self.clients[id];
            let silent = client.outgoing.is_empty() && client.stash.is_empty() && !client.heard;
            self.drivers[shard].shard.handle_probed(now, key, silent);
            happened = true;
        }
        for key in std::mem::take(&mut self.drivers[shard].resumes) {
            let Some(id) = self.client_of(shard, key) else { continue };
            happened = true;
            if !std::mem::replace(&mut self.clients[id].paused, false) {
                continue;
            }
            let stash = std::mem::take(&mut self.clients[id].stash);
            if !stash.is_empty() {
                self.feed(id, stash);
            }
        }
        let mut slots: Vec<usize> = (0..self.drivers[shard].slots.len()).collect();
        if self.disorder.shuffles {
            self.shuffle(&mut slots);
        }
        for slot in slots {
            let Some(id) = self.drivers[shard].slots[slot] else { continue };
            if !self.disorder.shuffles || self.random.below(3) > 0 {
                happened |= self.socket(shard, id);
            } else {
                happened |= self.clients[id].has_event(now);
            }
        }
        happened
    }

    /// Something is told of a slot's last connection, which is over: it has to be ignored, whoever is in the slot now.
    fn tell_stale(&mut self, shard: usize) {
        let slot = self.random.below(self.drivers[shard].slots.len() as u64) as usize;
        let Some(generation) = self.drivers[shard].generations[slot].checked_sub(1) else { return };
        let key = Key { slot: slot as u32, generation };
        let core = &mut self.drivers[shard].shard;
        match self.random.below(4) {
            0 => core.handle_closed(self.now, key, Ended::Error),
            1 => core.handle_writable(self.now, key),
            2 => core.handle_probed(self.now, key, true),
            _ => drop(core.handle_received(self.now, key, &mut [0xff; 9])),
        }
    }

    fn client_of(&self, shard: usize, key: Key) -> Option<usize> {
        self.drivers[shard].slots[key.slot as usize].filter(|id| self.clients[*id].key == key)
    }

    fn socket(&mut self, shard: usize, id: usize) -> bool {
        let now = self.now;
        let client = &mut self.clients[id];
        let key = client.key;
        let core = &mut self.drivers[shard].shard;
        if !client.accepted {
            client.accepted = true;
            core.handle_accepted(now, key, None, client.admitted);
            return true;
        }
        let mut happened = false;
        if client.awaits_writable && client.is_writable() {
            client.awaits_writable = false;
            core.handle_writable(now, key);
            happened = true;
        }
        if client.end == Some(Ended::Error) && !client.end_told {
            client.end_told = true;
            core.handle_closed(now, key, Ended::Error);
            return true;
        }
        if client.end_told {
            return happened;
        }
        if client.paused {
            if client.end == Some(Ended::Eof) && client.outgoing.is_empty() {
                let due = *client.hung_up.get_or_insert(now.mono.after(HANGUP_GRACE_MS));
                if due <= now.mono {
                    client.end_told = true;
                    client.hung_up = None;
                    core.handle_closed(now, key, Ended::Eof);
                    return true;
                }
            }
            return happened;
        }
        client.hung_up = None;
        if !client.outgoing.is_empty() {
            let all = client.outgoing.len();
            let count = match self.disorder.splits {
                true if self.random.below(8) > 0 => 1 + self.random.below(all.min(200) as u64) as usize,
                _ => all,
            };
            let bytes: Vec<u8> = self.clients[id].outgoing.drain(..count).collect();
            self.feed(id, bytes);
            return true;
        }
        if client.end == Some(Ended::Eof) {
            client.end_told = true;
            core.handle_closed(now, key, Ended::Eof);
            return true;
        }
        happened
    }

    /// Hands bytes to the core.
    fn feed(&mut self, id: usize, mut bytes: Vec<u8>) {
        let client = &mut self.clients[id];
        client.heard = true;
        let core = &mut self.drivers[client.shard].shard;
        let all = bytes.len();
        let received = core.handle_received(self.now, client.key, &mut bytes);
        assert!(received.consumed <= all);
        match received.flow {
            Flow::Continue => assert_eq!(received.consumed, all, "bytes are left only with a pause"),
            Flow::Pause => {
                client.paused = true;
                client.stash = bytes.split_off(received.consumed);
            }
        }
    }

    fn mesh(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let shards = self.drivers.len();
        let mut lanes: Vec<(usize, Lane)> =
            (0..shards).filter(|from| *from != shard).flat_map(|from| [(from, Lane::Consequence), (from, Lane::Command)]).collect();
        if self.disorder.shuffles {
            self.shuffle(&mut lanes);
        }
        for (from, lane) in lanes {
            if self.stalled.contains(&(from, shard)) {
                continue;
            }
            let mut left = if self.disorder.shuffles { self.random.below(6) } else { u64::MAX };
            loop {
                let queue = &mut self.lanes[from * shards + shard][place(lane)];
                if queue.is_empty() {
                    break;
                }
                let core = &mut self.drivers[shard].shard;
                if left == 0 {
                    happened = true;
                    break;
                }
                if !core.accepts_mesh(ShardId(from as u16), lane) {
                    break;
                }
                left -= 1;
                let message = queue.pop_front().expect("it is not empty");
                happened = true;
                core.handle_mesh(self.now, ShardId(from as u16), lane, message);
            }
        }
        happened
    }

    /// Collects all outputs, with a submission in between when a queue is full.
    fn collect(&mut self, shard: usize) -> bool {
        let mut happened = false;
        let shards = self.drivers.len();
        for _ in 0..ROUNDS_MAX {
            let driver = &mut self.drivers[shard];
            while let Some((to, lane, message)) = driver.shard.poll_mesh() {
                let queue = &mut self.lanes[shard * shards + usize::from(to.0)][place(lane)];
                queue.push_back(message);
                assert!(queue.len() <= self.places, "a lane holds more than it has places for");
                happened = true;
            }
            let room = if self.disorder.small_ring { 1 + self.random.below(5) as usize } else { usize::MAX };
            let mut collected = 0;
            while driver.collected.len() < room
                && let Some(transmit) = driver.shard.poll_transmit()
            {
                let bytes = driver.shard.transmit_bytes(&transmit).to_vec();
                driver.collected.push((transmit, bytes));
                collected += 1;
            }
            let mut actions = Vec::new();
            while actions.len() < room
                && let Some(action) = driver.shard.poll_action()
            {
                actions.push(action);
                collected += 1;
            }
            for action in actions {
                self.act(shard, action);
            }
            happened |= collected > 0;
            if collected == 0 || !self.drivers[shard].shard.has_output() {
                return happened;
            }
            self.submit(shard);
        }
        panic!("a shard's output never ends");
    }

    fn act(&mut self, shard: usize, action: Action) {
        let key = action.key();
        let id = self.client_of(shard, key).expect("actions name current connections");
        let client = &mut self.clients[id];
        match action {
            Action::Close(_) => {
                client.closed = true;
                self.drivers[shard].slots[key.slot as usize] = None;
            }
            Action::Finish(_) => client.finished = true,
            Action::Probe(_) => {
                client.heard = false;
                self.drivers[shard].probes.push(key);
            }
            Action::Measure(_) => self.drivers[shard].measures.push((key, client.incoming.len())),
            Action::AwaitWritable(_) => client.awaits_writable = true,
            Action::Resume(_) => self.drivers[shard].resumes.push(key),
            Action::HandOver(_, to) => self.hand_over(shard, id, usize::from(to.0)),
        }
    }

    // ---- the client's side ----------------------------------------------------------------------------------------------

    /// A client reads, and answers as a client does.
    fn read(&mut self, id: usize) -> bool {
        let client = &mut self.clients[id];
        let count = client.reads.min(client.incoming.len());
        if count == 0 || client.end == Some(Ended::Error) {
            return false;
        }
        client.received.extend(client.incoming.drain(..count));
        if !client.upgraded {
            let head_bytes = match read_response(&client.received) {
                ResponseHead::Incomplete => return true,
                ResponseHead::Malformed => panic!("not an HTTP answer: {:?}", String::from_utf8_lossy(&client.received)),
                ResponseHead::Complete { response, .. } if response.status != 101 => {
                    client.http = client.received.clone();
                    return true;
                }
                ResponseHead::Complete { response, head_bytes } => {
                    let protocol = client.is_v1.then_some("throng.v1");
                    assert!(response.accepts(KEY, protocol), "{:?}", String::from_utf8_lossy(&client.received));
                    head_bytes
                }
            };
            client.http = client.received.drain(..head_bytes).collect();
            client.upgraded = true;
        }
        let mut replies = Vec::new();
        while let Some((header, header_bytes)) = read_header(&client.received).expect("a server writes sound frames") {
            assert!(header.fin && header.mask.is_none());
            let end = header_bytes + header.payload_length as usize;
            if client.received.len() < end {
                break;
            }
            let frame = Frame { opcode: header.opcode, payload: client.received[header_bytes..end].to_vec() };
            client.received.drain(..end);
            assert_ne!(client.frames.back().map(|last| last.opcode), Some(Opcode::Close), "nothing comes after a close frame");
            match frame.opcode {
                Opcode::Ping if client.pongs => replies.push((Opcode::Pong, frame.payload.clone())),
                Opcode::Close if client.answers_close && !client.said_close => {
                    client.said_close = true;
                    replies.push((Opcode::Close, frame.payload.get(..2).unwrap_or(&[]).to_vec()));
                }
                Opcode::Continuation | Opcode::Text | Opcode::Binary | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
            }
            client.frames.push_back(frame);
        }
        for (opcode, payload) in replies {
            if self.clients[id].end.is_none() {
                self.send_frame(id, opcode, &payload);
            }
        }
        true
    }
}
