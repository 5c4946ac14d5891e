//! A driver of one or two shards for a fuzzer: sockets, lanes and time, in the order that the seam allows.

use super::hearing::Hearing;
use super::speech::{Speaker, text_frame};
use crate::fuzzing::input::Input;
use crate::limits::{Limits, ROOM_IDLE_MS};
use crate::shard::{
    Action, Ended, Flow, Key, Lane, LaneRoom, MeshMessage, Order, Received, Shard, ShardConfig, ShardId, Taken, Transmit,
};
use crate::time::{Millis, Now, WallMillis};
use std::collections::VecDeque;

/// Connections of a shard.
pub(super) const SLOTS: usize = 4;
/// Turns in which everything that needs no time must have happened.
const TURNS_MAX: usize = 20_000;
/// Submissions of one turn at most.
const SUBMISSIONS_MAX: usize = 10_000;

/// One connection as its driver keeps it.
#[derive(Debug)]
struct Socket {
    key: Key,
    /// Bytes from the client that the shard was not given, and what comes after them.
    outgoing: Vec<u8>,
    end: Option<Ended>,
    is_end_told: bool,
    is_paused: bool,
    /// Bytes that were given and not consumed: they come before `outgoing`.
    unread: Vec<u8>,
    awaits_writable: bool,
    /// Bytes that the socket takes before it is full.
    room: usize,
    has_spoken: bool,
    is_finished: bool,
    hearing: Hearing,
}

struct Driver {
    shard: Shard,
    sockets: [Option<Socket>; SLOTS],
    generations: [u32; SLOTS],
    collected: Vec<(Transmit, Vec<u8>)>,
    resumes: Vec<Key>,
    /// Connections to be handed over, and where.
    departures: Vec<(Key, usize)>,
    probes: Vec<Key>,
    measures: Vec<Key>,
    /// What the others say to it is not delivered.
    is_stalled: bool,
    unread_told: usize,
}

pub(super) struct World {
    drivers: Vec<Driver>,
    /// From each shard to the other, by [`Lane`].
    lanes: Vec<[VecDeque<MeshMessage>; 2]>,
    places: usize,
    limits: Limits,
    now: Now,
}

fn place(lane: Lane) -> usize {
    match lane {
        Lane::Command => 0,
        Lane::Consequence => 1,
    }
}

impl World {
    pub(super) fn new(shards: usize, limits: Limits) -> Self {
        let now = Now { mono: Millis(1_000_000), wall: WallMillis(1_700_000_000_000) };
        let driver = |id: usize| Driver {
            shard: Shard::new(
                ShardConfig {
                    id: ShardId(id as u16),
                    shards,
                    slots: SLOTS,
                    limits: limits.clone(),
                    echo: true,
                    seed: [3; 32],
                    secret: [3; 32],
                },
                now,
            ),
            sockets: [const { None }; SLOTS],
            generations: [0; SLOTS],
            collected: Vec::new(),
            resumes: Vec::new(),
            departures: Vec::new(),
            probes: Vec::new(),
            measures: Vec::new(),
            is_stalled: false,
            unread_told: 0,
        };
        let drivers = (0..shards).map(driver).collect();
        let lanes = (0..shards).map(|_| Default::default()).collect();
        World { drivers, lanes, places: limits.lane_places(shards), limits, now }
    }

    pub(super) fn shards(&self) -> usize {
        self.drivers.len()
    }

    pub(super) fn now(&self) -> Millis {
        self.now.mono
    }

    // ---- what happens outside ----------------------------------------------------------------------------------------------

    /// A client connects, if the slot is free.
    pub(super) fn connect(&mut self, shard: usize, slot: usize, admitted: bool) -> bool {
        let driver = &mut self.drivers[shard];
        if driver.sockets[slot].is_some() {
            return false;
        }
        driver.generations[slot] += 1;
        let key = Key { slot: slot as u32, generation: driver.generations[slot] };
        driver.sockets[slot] = Some(Socket {
            key,
            outgoing: Vec::new(),
            end: None,
            is_end_told: false,
            is_paused: false,
            unread: Vec::new(),
            awaits_writable: false,
            room: usize::MAX,
            has_spoken: false,
            is_finished: false,
            hearing: Hearing::default(),
        });
        driver.shard.handle_accepted(self.now, key, None, admitted);
        true
    }

    /// A client sends bytes.
    pub(super) fn send(&mut self, shard: usize, slot: usize, bytes: &[u8]) {
        if let Some(socket) = self.drivers[shard].sockets[slot].as_mut().filter(|socket| socket.end.is_none()) {
            socket.outgoing.extend_from_slice(bytes);
        }
    }

    /// A client's socket ends, behind what it has sent (`Eof`) or at once (`Error`).
    pub(super) fn end(&mut self, shard: usize, slot: usize, ended: Ended) {
        if let Some(socket) = &mut self.drivers[shard].sockets[slot] {
            socket.end = Some(ended);
        }
    }

    /// A client's socket takes so many bytes and no more; 65,535 stands for all.
    pub(super) fn set_room(&mut self, shard: usize, slot: usize, room: usize) {
        if let Some(socket) = &mut self.drivers[shard].sockets[slot] {
            socket.room = if room == usize::from(u16::MAX) { usize::MAX } else { room };
        }
    }

    pub(super) fn stall_lanes(&mut self, shard: usize, is_stalled: bool) {
        self.drivers[shard].is_stalled = is_stalled;
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono.after(ms);
    }

    pub(super) fn set_wall(&mut self, ms: u64) {
        self.now.wall = WallMillis(ms);
    }

    /// A loop stood still for the last `ms`.
    pub(super) fn stall(&mut self, shard: usize, ms: u64) {
        self.drivers[shard].shard.handle_stall(self.now, ms);
    }

    pub(super) fn order(&mut self, shard: usize, order: Order) {
        self.drivers[shard].shard.handle_order(self.now, order);
    }

    /// Events of a connection that is not there change nothing.
    pub(super) fn check_stale(&mut self, shard: usize, key: Key, input: &mut Input<'_>) {
        let now = self.now;
        let Driver { shard, sockets, .. } = &mut self.drivers[shard];
        if sockets.get(key.slot as usize).and_then(Option::as_ref).is_some_and(|socket| socket.key == key) {
            return;
        }
        let before = format!("{:?}", shard.stats());
        let all = Received { consumed: 3, flow: Flow::Continue };
        assert_eq!(shard.handle_received(now, key, &mut [0x81, 0x80, 0]), all);
        shard.handle_writable(now, key);
        shard.handle_closed(now, key, if input.flag() { Ended::Eof } else { Ended::Error });
        shard.handle_probed(now, key, input.flag());
        shard.handle_measured(key, 5);
        assert_eq!(format!("{:?}", shard.stats()), before);
    }

    /// Connects a client to each free slot, with a room that all join.
    pub(super) fn open_all(&mut self, speakers: &mut [Speaker], input: &mut Input<'_>) {
        let protocols = input.byte();
        for (at, speaker) in speakers.iter_mut().enumerate() {
            let (shard, slot) = (at / SLOTS, at % SLOTS);
            if !self.connect(shard, slot, true) {
                continue;
            }
            *speaker = Speaker::default();
            let mut request = Vec::new();
            let is_v1 = protocols >> at & 1 == 0;
            let protocol = is_v1.then_some("throng.v1");
            crate::ws::handshake::write_request(&mut request, "a", "/ws?user=ann", "dGhlIHNhbXBsZSBub25jZQ==", protocol, &[]);
            self.send(shard, slot, &request);
            if is_v1 {
                self.send(shard, slot, &text_frame(r#"{"type":"connect"}"#));
            }
            self.send(shard, slot, &speaker.joining());
        }
        (0..2 * self.shards()).for_each(|turn| self.turn(turn % self.shards(), &mut Input::new(&[])));
    }

    // ---- a turn ------------------------------------------------------------------------------------------------------------

    /// One turn of a shard. Of an input that is used up everything is read, taken and delivered.
    pub(super) fn turn(&mut self, shard: usize, input: &mut Input<'_>) {
        self.submit(shard, input);
        self.answer(shard, input);
        for slot in 0..SLOTS {
            self.serve_socket(shard, slot, input);
        }
        self.deliver(shard, input);
        let now = self.now;
        if self.drivers[shard].shard.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.drivers[shard].shard.handle_timeout(now);
        }
        self.tell_unread(shard);
        for peer in (0..self.shards()).filter(|peer| *peer != shard) {
            let lanes = &self.lanes[shard];
            let room = LaneRoom { commands: self.places - lanes[0].len(), consequences: self.places - lanes[1].len() };
            self.drivers[shard].shard.handle_lane(ShardId(peer as u16), room);
        }
        self.drivers[shard].shard.handle_turn_end(now);
        self.collect(shard, input);
        if !input.is_empty() {
            self.drivers[shard].shard.verify().unwrap_or_else(|what| panic!("{what}"));
        }
    }

    /// Sends what was collected, and settles it.
    fn submit(&mut self, shard: usize, input: &mut Input<'_>) {
        let now = self.now;
        let Driver { shard, sockets, collected, .. } = &mut self.drivers[shard];
        for (transmit, bytes) in collected.drain(..) {
            assert_eq!(shard.transmit_bytes(&transmit), bytes, "bytes were moved before they were settled");
            let socket = sockets[transmit.key.slot as usize].as_mut().filter(|socket| socket.key == transmit.key);
            // The connection was closed with this submission: what happens to the send is not told.
            let Some(socket) = socket else { continue };
            assert!(!socket.is_finished, "something is sent behind the end of our direction");
            if socket.end == Some(Ended::Error) {
                shard.handle_transmitted(now, transmit.ticket, Taken::Broken);
                continue;
            }
            let mut taken = bytes.len().min(socket.room);
            if input.byte() >= 230 {
                taken = taken.min(usize::from(input.u16()) % bytes.len());
            }
            socket.room -= if socket.room == usize::MAX { 0 } else { taken };
            socket.hearing.hear(&bytes[..taken]);
            if taken < bytes.len() {
                shard.handle_transmitted(now, transmit.ticket, Taken::Short(taken));
            }
        }
        shard.handle_settled(now);
    }

    /// What was asked about sockets is answered, now or later.
    fn answer(&mut self, shard: usize, input: &mut Input<'_>) {
        let now = self.now;
        if input.byte() < 200 {
            for key in std::mem::take(&mut self.drivers[shard].measures) {
                self.drivers[shard].shard.handle_measured(key, u32::from(input.byte()));
            }
            for key in std::mem::take(&mut self.drivers[shard].probes) {
                let Driver { shard, sockets, .. } = &mut self.drivers[shard];
                let socket = sockets[key.slot as usize].as_ref().filter(|socket| socket.key == key);
                let is_silent = socket.is_none_or(|socket| {
                    socket.outgoing.is_empty() && socket.unread.is_empty() && !socket.has_spoken && socket.end.is_none()
                });
                shard.handle_probed(now, key, is_silent);
            }
        }
        for key in std::mem::take(&mut self.drivers[shard].resumes) {
            let socket = self.drivers[shard].sockets[key.slot as usize].as_mut().filter(|socket| socket.key == key);
            let Some(socket) = socket.filter(|socket| socket.is_paused && !socket.is_end_told) else { continue };
            socket.is_paused = false;
            let unread = std::mem::take(&mut socket.unread);
            if !unread.is_empty() {
                self.feed(shard, key, unread);
            }
        }
    }

    /// Tells of a socket what has happened, or a part of it.
    fn serve_socket(&mut self, shard: usize, slot: usize, input: &mut Input<'_>) {
        let now = self.now;
        let Driver { shard: core, sockets, .. } = &mut self.drivers[shard];
        let Some(socket) = &mut sockets[slot] else { return };
        let key = socket.key;
        if socket.awaits_writable && socket.room > 0 {
            socket.awaits_writable = false;
            core.handle_writable(now, key);
        }
        if socket.is_end_told {
            return;
        }
        let is_broken = socket.end == Some(Ended::Error);
        // The end behind what was sent is told when that was read, or, of a paused connection, when it was waited for long enough.
        let is_over = socket.end == Some(Ended::Eof) && socket.outgoing.is_empty() && (!socket.is_paused || input.byte() >= 240);
        if is_broken || is_over {
            socket.is_end_told = true;
            socket.unread.clear();
            core.handle_closed(now, key, if is_broken { Ended::Error } else { Ended::Eof });
            return;
        }
        if socket.is_paused || socket.outgoing.is_empty() {
            return;
        }
        let all = socket.outgoing.len();
        let count = match input.byte() {
            0..=149 => all,
            150..=169 => 0,
            choice => usize::from(choice - 169).min(all),
        };
        let bytes = socket.outgoing.drain(..count).collect::<Vec<u8>>();
        if !bytes.is_empty() {
            self.feed(shard, key, bytes);
        }
    }

    fn feed(&mut self, shard: usize, key: Key, mut bytes: Vec<u8>) {
        let Driver { shard: core, sockets, .. } = &mut self.drivers[shard];
        let before = bytes.clone();
        let received = core.handle_received(self.now, key, &mut bytes);
        let socket = sockets[key.slot as usize].as_mut().expect("a socket is closed by an action only");
        socket.has_spoken = true;
        assert!(received.consumed <= bytes.len());
        match received.flow {
            Flow::Continue => assert_eq!(received.consumed, bytes.len(), "bytes are left only with a pause"),
            Flow::Pause => {
                assert_eq!(bytes[received.consumed..], before[received.consumed..], "what was not consumed has been changed");
                socket.is_paused = true;
                socket.unread = bytes.split_off(received.consumed);
            }
        }
    }

    /// Hands over what the other shard says.
    fn deliver(&mut self, shard: usize, input: &mut Input<'_>) {
        if self.drivers[shard].is_stalled {
            return;
        }
        for from in (0..self.shards()).filter(|from| *from != shard) {
            for lane in [Lane::Consequence, Lane::Command] {
                let mut left = match input.byte() {
                    0..=199 => usize::MAX,
                    choice => usize::from(choice - 200) % 5,
                };
                let core = &mut self.drivers[shard].shard;
                while left > 0 && !self.lanes[from][place(lane)].is_empty() && core.accepts_mesh(ShardId(from as u16), lane) {
                    let message = self.lanes[from][place(lane)].pop_front().expect("it is not empty");
                    core.handle_mesh(self.now, ShardId(from as u16), lane, message);
                    left -= 1;
                }
            }
        }
    }

    fn tell_unread(&mut self, shard: usize) {
        let driver = &mut self.drivers[shard];
        let unread = driver.sockets.iter().flatten().map(|socket| socket.unread.len()).sum();
        if unread != driver.unread_told {
            driver.unread_told = unread;
            driver.shard.handle_unread(unread);
        }
    }

    /// Collects all that a shard has to say, with submissions in between.
    fn collect(&mut self, shard: usize, input: &mut Input<'_>) {
        let room = match input.byte() {
            0..=199 => usize::MAX,
            choice => 1 + usize::from(choice - 200) % 3,
        };
        for _ in 0..SUBMISSIONS_MAX {
            let driver = &mut self.drivers[shard];
            while let Some((to, lane, message)) = driver.shard.poll_mesh() {
                assert!(usize::from(to.0) != shard && usize::from(to.0) < self.lanes.len());
                let queue = &mut self.lanes[shard][place(lane)];
                queue.push_back(message);
                assert!(queue.len() <= self.places, "a lane holds more than it has places for");
            }
            let before = driver.collected.len();
            while driver.collected.len() < room
                && let Some(transmit) = driver.shard.poll_transmit()
            {
                driver.keep(transmit);
            }
            let mut actions = 0;
            while actions < room
                && let Some(action) = driver.shard.poll_action()
            {
                driver.act(action);
                actions += 1;
            }
            self.hand_over(shard);
            let driver = &mut self.drivers[shard];
            if driver.collected.len() == before && actions == 0 || !driver.shard.has_output() {
                return;
            }
            self.submit(shard, input);
        }
        panic!("a shard's output never ends");
    }

    // ---- the end -----------------------------------------------------------------------------------------------------------

    /// Nothing is in anybody's way any more: then nothing is paused.
    pub(super) fn heal(&mut self) {
        for driver in &mut self.drivers {
            driver.is_stalled = false;
            driver.sockets.iter_mut().flatten().for_each(|socket| socket.room = usize::MAX);
        }
        self.run();
        for socket in self.drivers.iter().flat_map(|driver| driver.sockets.iter().flatten()) {
            assert!(!socket.is_paused, "{:?} stays paused", socket.key);
            assert!(!socket.awaits_writable);
        }
    }

    /// Turns until nothing happens any more.
    fn run(&mut self) {
        let mut quiet = 0;
        for turn in 0..TURNS_MAX {
            let shard = turn % self.shards();
            self.turn(shard, &mut Input::new(&[]));
            quiet = if self.is_busy() { 0 } else { quiet + 1 };
            if quiet > 2 * self.shards() {
                return;
            }
        }
        panic!("something goes on for ever without time passing");
    }

    fn is_busy(&self) -> bool {
        let is_due = |driver: &Driver| driver.shard.poll_timeout().is_some_and(|due| due <= self.now.mono);
        let has_input = |socket: &Socket| !socket.is_paused && !socket.outgoing.is_empty() && !socket.is_end_told;
        self.lanes.iter().flatten().any(|lane| !lane.is_empty())
            || self.drivers.iter().any(|driver| {
                driver.shard.has_output()
                    || is_due(driver)
                    || !driver.collected.is_empty()
                    || !driver.resumes.is_empty()
                    || driver.sockets.iter().flatten().any(has_input)
            })
    }

    /// Gives sockets to the shards that have their sessions, unless those have no slot for them.
    fn hand_over(&mut self, from: usize) {
        for (key, to) in std::mem::take(&mut self.drivers[from].departures) {
            let Some(slot) = self.drivers[to].sockets.iter().position(Option::is_none) else {
                self.drivers[from].shard.handle_stayed(self.now, key);
                continue;
            };
            let baggage = self.drivers[from].shard.take_baggage(key).expect("it is being handed over");
            let mut socket = self.drivers[from].sockets[key.slot as usize].take().expect("it has a socket");
            assert!(socket.is_paused && !socket.is_end_told, "it is paused, and the core has not heard of its end");
            let driver = &mut self.drivers[to];
            driver.generations[slot] += 1;
            let key = Key { slot: slot as u32, generation: driver.generations[slot] };
            socket.key = key;
            socket.awaits_writable = false;
            let unread = std::mem::take(&mut socket.unread);
            driver.sockets[slot] = Some(socket);
            let flow = driver.shard.handle_adopted(self.now, key, &baggage, true);
            let socket = driver.sockets[slot].as_mut().expect("it was just put there");
            socket.is_paused = flow == Flow::Pause;
            match flow {
                Flow::Pause => socket.unread = unread,
                Flow::Continue if unread.is_empty() => {}
                Flow::Continue => self.feed(to, key, unread),
            }
        }
    }

    /// Everybody goes, and every grace passes: then nothing is held.
    pub(super) fn end_all(&mut self) {
        for socket in self.drivers.iter_mut().flat_map(|driver| driver.sockets.iter_mut().flatten()) {
            socket.end = Some(Ended::Error);
        }
        self.run();
        for ms in [self.limits.presence_grace_ms + 2_000, 2_000, ROOM_IDLE_MS + 5_000, 2_000, 2_000] {
            self.pass(ms);
            self.run();
        }
        for driver in &self.drivers {
            assert!(driver.sockets.iter().all(Option::is_none), "a socket was not closed");
            driver.shard.verify_empty().unwrap_or_else(|what| panic!("{what}"));
        }
    }
}

impl Driver {
    fn keep(&mut self, transmit: Transmit) {
        assert_eq!(transmit.ticket as usize, self.collected.len(), "tickets are dense");
        assert!(self.collected.iter().all(|(other, _)| other.key != transmit.key), "two sends of one connection");
        let bytes = self.shard.transmit_bytes(&transmit).to_vec();
        assert!(!bytes.is_empty(), "a send is empty");
        self.collected.push((transmit, bytes));
    }

    fn act(&mut self, action: Action) {
        let key = action.key();
        if let Action::HandOver(key, to) = action {
            self.departures.push((key, usize::from(to.0)));
            return;
        }
        let place = &mut self.sockets[key.slot as usize];
        let socket = place.as_mut().filter(|socket| socket.key == key).expect("an action names a connection that is there");
        match action {
            Action::Close(_) => *place = None,
            Action::Finish(_) => socket.is_finished = true,
            Action::Probe(_) => {
                socket.has_spoken = false;
                self.probes.push(key);
            }
            Action::Measure(_) => self.measures.push(key),
            Action::AwaitWritable(_) => socket.awaits_writable = true,
            Action::Resume(_) => self.resumes.push(key),
            Action::HandOver(..) => {}
        }
    }
}
