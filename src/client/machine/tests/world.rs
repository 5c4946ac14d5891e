//! Clients, a network that cuts at any moment, and a model of the server, from one seed; and the checker, which holds every event that a
//! client hands out against the model's logs.
//!
//! What must hold at any time: no message twice, none out of order, none left out without a gap that says so, none of the client's own
//! unless it asked for copies; acknowledged commands are in the log once, refused ones never, unknown ones at most once. What must
//! have come to be when the faults have ended: every command has its end, and every client stands at the head of its rooms.

use super::model::{Entry, Room, Server};
use crate::client::{Action, Event, Identity, JoinOptions, Machine, Position, Recovery, Refused, SocketId, State};
use crate::time::Millis;
use serde_json::json;
use std::collections::BTreeMap;

const CLIENTS: usize = 3;
const ROOMS: [&str; 2] = ["a", "b\"ü"];
const STEPS: u64 = 600;
/// Seeds that are always run.
const SEEDS: u64 = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What a client was told of one of its publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Acked,
    Refused,
    Unknown,
}

#[derive(Debug)]
struct Published {
    room: usize,
    number: u64,
    fate: Fate,
}

/// What the checker knows of a client's membership.
#[derive(Debug, Default)]
struct View {
    /// Everything up to it was handed out, was not for this client, or was said to be lost.
    position: Option<Position>,
    joined: bool,
}

struct Client {
    name: String,
    machine: Machine,
    /// The socket that the machine uses now, and the server's name for it.
    socket: Option<(SocketId, usize)>,
    up: Vec<u8>,
    down: Vec<u8>,
    /// The server has closed behind what is in `down`.
    ended: bool,
    published: BTreeMap<u64, Published>,
    number: u64,
    views: [Option<View>; ROOMS.len()],
    /// Sockets that the client has let go of: their last bytes may still reach the server.
    stale: Vec<(usize, Vec<u8>)>,
}

struct World {
    rng: Rng,
    now: Millis,
    server: Server,
    clients: Vec<Client>,
    connections: usize,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let client = |index: usize, rng: &mut Rng| {
            let name = format!("u{index}");
            let identity = Identity { host: "model".into(), path: "/ws".into(), user: Some(name.clone()), ..Identity::default() };
            Client {
                name,
                machine: Machine::new(identity, rng.next(), Millis(0)),
                socket: None,
                up: Vec::new(),
                down: Vec::new(),
                ended: false,
                published: BTreeMap::new(),
                number: 0,
                views: Default::default(),
                stale: Vec::new(),
            }
        };
        let clients = (0..CLIENTS).map(|index| client(index, &mut rng)).collect();
        let mut server = Server::default();
        server.faults = true;
        World { rng, now: Millis(1), server, clients, connections: 0, trace: Vec::new() }
    }

    fn step(&mut self) {
        let index = self.rng.index(CLIENTS);
        match self.rng.below(40) {
            0..=9 => self.carry_up(index, false),
            10..=21 => self.carry_down(index, false),
            22..=30 => self.ask(index),
            31 if self.rng.chance(4) => self.cut(index),
            32 => {
                self.now = self.now.after(self.rng.below(200));
                self.clients[index].machine.handle_timeout(self.now);
            }
            39 if self.rng.chance(8) => self.wait(),
            33 if self.rng.chance(12) => self.server.forget_session(&mut self.rng),
            34 if self.rng.chance(20) => self.server.trim(&mut self.rng),
            35 if self.rng.chance(80) => self.server.restart(),
            36 if self.rng.chance(20) => {
                let (code, reason) = [(4200, "{\"ra\":50}"), (4102, ""), (4201, ""), (1002, ""), (4203, "")][self.rng.index(5)];
                if let Some((_, connection)) = self.clients[index].socket {
                    self.server.close(connection, code, reason);
                }
            }
            37 if self.rng.chance(3) => self.server.free_early(),
            38 => self.stale_bytes(index),
            _ if self.clients.iter().any(|client| client.socket.is_none()) => self.wait(),
            _ => self.carry_down(index, true),
        }
        self.settle();
    }

    /// Lets time pass up to the next thing that a client waits for.
    fn wait(&mut self) {
        let due = self.clients.iter().filter_map(|client| client.machine.poll_timeout()).min();
        let Some(due) = due else { return };
        self.now = self.now.max(due);
        for index in 0..CLIENTS {
            self.clients[index].machine.handle_timeout(self.now);
        }
    }

    /// Something that the application asks for.
    fn ask(&mut self, index: usize) {
        let (now, room) = (self.now, self.rng.index(ROOMS.len()));
        let client = &mut self.clients[index];
        let name = ROOMS[room];
        match self.rng.below(12) {
            0..=1 => match client.machine.join(now, name, JoinOptions::default()) {
                Ok(_) => client.views[room] = Some(View::default()),
                Err(refused) => assert_eq!((refused, client.views[room].is_some()), (Refused::AlreadyJoined, true)),
            },
            2 if self.rng.chance(4) => {
                let left = client.machine.leave(now, name);
                assert_eq!(left.is_ok(), client.views[room].take().is_some());
            }
            3 => {
                let _ = client.machine.cast(name, "\"volatile\"", None);
            }
            _ => {
                let echo = self.rng.chance(3);
                let data = json!({"from": client.name, "n": client.number}).to_string();
                match client.machine.publish(now, name, &data, None, echo) {
                    Ok(id) => {
                        client.published.insert(id.0, Published { room, number: client.number, fate: Fate::Open });
                        client.number += 1;
                    }
                    Err(refused) => assert_eq!((refused, client.views[room].is_none()), (Refused::NotJoined, true)),
                }
            }
        }
    }

    fn carry_up(&mut self, index: usize, all: bool) {
        let client = &mut self.clients[index];
        let Some((_, connection)) = client.socket else { return };
        let take = |rng: &mut Rng, length: usize| if all { length } else { rng.index(length + 1) };
        let offered = client.machine.transmit_bytes().len();
        let taken = take(&mut self.rng, offered);
        client.up.extend_from_slice(&client.machine.transmit_bytes()[..taken]);
        client.machine.handle_transmitted(self.now, taken);
        let carried = take(&mut self.rng, client.up.len());
        let bytes: Vec<u8> = client.up.drain(..carried).collect();
        self.server.received(&mut self.rng, connection, &bytes);
        if all {
            self.server.acknowledge(&mut self.rng, connection);
        }
    }

    fn carry_down(&mut self, index: usize, all: bool) {
        let client = &mut self.clients[index];
        let Some((socket, connection)) = client.socket else { return };
        let (bytes, is_closed) = self.server.output(connection);
        client.down.extend_from_slice(&bytes);
        client.ended |= is_closed;
        let carried = if all { client.down.len() } else { self.rng.index(client.down.len() + 1) };
        let bytes: Vec<u8> = client.down.drain(..carried).collect();
        client.machine.handle_received(self.now, socket, &bytes);
        if client.ended && client.down.is_empty() {
            client.machine.handle_ended(self.now, socket);
            // A machine that had heard the end before says so itself.
            if client.socket.is_some_and(|(current, _)| current == socket) {
                self.let_go(index, false);
            }
        }
    }

    /// The network loses everything that is on its way. The server hears of it now or when the next connection comes.
    fn cut(&mut self, index: usize) {
        if let Some((socket, _)) = self.clients[index].socket {
            self.let_go(index, self.rng.0 & 1 == 0);
            self.clients[index].machine.handle_ended(self.now, socket);
            *self.server.seen.entry("cut").or_default() += 1;
        }
    }

    /// Forgets a client's socket. With `late`, what it had sent may still arrive, and the server does not know yet.
    fn let_go(&mut self, index: usize, late: bool) {
        let client = &mut self.clients[index];
        let Some((_, connection)) = client.socket.take() else { return };
        let up = std::mem::take(&mut client.up);
        client.down.clear();
        client.ended = false;
        if late {
            client.stale.push((connection, up));
        } else {
            self.server.lost(connection);
        }
    }

    /// What an abandoned socket had sent arrives, in part, and its end is noticed.
    fn stale_bytes(&mut self, index: usize) {
        let Some((connection, bytes)) = self.clients[index].stale.pop() else { return };
        let arrived = self.rng.index(bytes.len() + 1);
        self.server.received(&mut self.rng, connection, &bytes[..arrived]);
        self.server.lost(connection);
    }

    /// Does what the machines want, and checks what they say.
    fn settle(&mut self) {
        for index in 0..CLIENTS {
            while let Some(action) = self.clients[index].machine.poll_action() {
                self.trace.push(format!("{} {index} {action:?}", self.now.0).chars().take(120).collect());
                match action {
                    Action::Open(socket) => {
                        assert!(self.clients[index].socket.is_none(), "two sockets at once");
                        if self.server.faults && self.rng.chance(5) {
                            self.clients[index].machine.handle_ended(self.now, socket);
                            continue;
                        }
                        self.connections += 1;
                        self.server.accept(self.connections);
                        self.clients[index].socket = Some((socket, self.connections));
                        self.clients[index].machine.handle_opened(self.now, socket);
                    }
                    Action::Drop(socket, last) => {
                        if self.clients[index].socket.is_some_and(|(current, _)| current == socket) {
                            self.clients[index].up.extend_from_slice(&last);
                            let late = self.rng.chance(2);
                            self.let_go(index, late);
                        }
                    }
                    Action::Token => panic!("no token was asked for"),
                }
            }
            while let Some(event) = self.clients[index].machine.poll_event() {
                self.trace.push(format!("{} {index} {event:?}", self.now.0));
                self.check(index, event);
            }
        }
    }

    fn check(&mut self, index: usize, event: Event) {
        let client = &mut self.clients[index];
        let place = |room: &str| ROOMS.iter().position(|name| *name == room).expect("a room of this world");
        match event {
            Event::State(State::Closed(cause)) => panic!("nobody closed it: {cause:?}"),
            Event::State(_) => {}
            Event::Joined { room, epoch, offset, recovery } => {
                let view = client.views[place(&room)].as_mut().expect("it was joined");
                assert!(recovery != Recovery::NotNeeded || view.position.is_none(), "a recovery was needed");
                view.joined = true;
                if recovery != Recovery::Complete {
                    view.position = Some(Position { epoch, offset });
                }
            }
            Event::Gap { room, range, position, .. } => {
                let view = client.views[place(&room)].as_mut().expect("it was joined");
                let before = view.position.replace(position.clone()).expect("a joined room has a position");
                match range {
                    Some(range) => assert_eq!((range, before.epoch), ((before.offset + 1, position.offset), position.epoch)),
                    // Everything up to the head of that moment is lost, and nothing else: what was told before stays told.
                    None => assert!(before.epoch != position.epoch || before.offset >= position.offset, "{before:?} {position:?}"),
                }
            }
            Event::Message(message) if message.offset.is_none() => assert_eq!(&*message.data, "\"volatile\""),
            Event::Message(message) => {
                let view = client.views[place(&message.room)].as_mut().expect("it was joined");
                assert!(view.joined, "before its room_joined");
                let room = &self.server.rooms[&*message.room];
                let offset = message.offset.expect("it was looked at");
                let data: serde_json::Value = serde_json::from_str(&message.data).expect("it is JSON");
                check_message(room, view, &client.name, offset, &data, &message.connection);
            }
            Event::Acked(id) => client.end(id.0, Fate::Acked),
            Event::Refused { command, .. } => client.end(command.0, Fate::Refused),
            Event::Unknown(id) => client.end(id.0, Fate::Unknown),
            Event::JoinRefused { .. } | Event::Left { .. } | Event::Presence { .. } | Event::Error { .. } => panic!("{event:?}"),
        }
    }

    /// No more faults: everything that is on its way arrives, and time passes until all is quiet.
    fn calm_down(&mut self) {
        self.server.faults = false;
        let mut quiet = 0;
        for round in 0.. {
            assert!(round < 2_000, "it never gets quiet");
            for index in 0..CLIENTS {
                while !self.clients[index].stale.is_empty() {
                    self.stale_bytes(index);
                }
                self.carry_up(index, true);
                self.carry_down(index, true);
            }
            self.settle();
            let is_quiet = |client: &Client| {
                let idle = client.up.is_empty() && client.down.is_empty() && client.machine.transmit_bytes().is_empty();
                matches!(client.machine.state(), State::Connected { .. })
                    && idle
                    && client.views.iter().flatten().all(|view| view.joined)
                    && client.published.values().all(|published| published.fate != Fate::Open)
            };
            quiet = if self.clients.iter().all(is_quiet) { quiet + 1 } else { 0 };
            // What one client's last word makes the server say to another is carried in the next round.
            if quiet == 3 {
                return;
            }
            if quiet == 0 && round % 4 == 3 {
                self.wait();
                self.settle();
            }
        }
    }

    /// What must have come to be in the end.
    fn judge(&self) {
        for client in &self.clients {
            for (id, published) in &client.published {
                let room = self.server.rooms.get(ROOMS[published.room]);
                let wanted = json!({"from": client.name, "n": published.number});
                let times = room.map_or(0, |room| room.log.iter().filter(|entry| entry.data == wanted).count());
                let allowed = match published.fate {
                    Fate::Acked => 1..=1,
                    Fate::Refused => 0..=0,
                    Fate::Unknown => 0..=1,
                    Fate::Open => panic!("{id} of {} has no end", client.name),
                };
                assert!(allowed.contains(&times), "{id} of {} was {:?} and took effect {times} times", client.name, published.fate);
            }
            for (place, view) in client.views.iter().enumerate() {
                let (Some(view), Some(room)) = (view, self.server.rooms.get(ROOMS[place])) else { continue };
                let Some(position) = &view.position else { continue };
                assert_eq!(*position.epoch, *room.epoch_text(), "{} is in another epoch", client.name);
                let left_out = room.of_epoch().iter().find(|entry| entry.offset > position.offset && is_for(entry, &client.name));
                assert!(left_out.is_none(), "{} never got {left_out:?}", client.name);
            }
        }
        for room in self.server.rooms.values() {
            for client in &self.clients {
                let own = room.log.iter().filter(|entry| entry.user == client.name).map(|entry| entry.data["n"].as_u64());
                assert!(own.is_sorted(), "publications of {} changed their order", client.name);
            }
        }
    }
}

impl Client {
    fn end(&mut self, id: u64, fate: Fate) {
        let published = self.published.get_mut(&id).unwrap_or_else(|| panic!("{id} was never asked for"));
        assert_eq!(published.fate, Fate::Open, "{id} ends twice");
        published.fate = fate;
    }
}

fn is_for(entry: &Entry, user: &str) -> bool {
    entry.user != user || entry.echo
}

/// A message is the one that the log has at its offset, and all that it passes over was not for this client.
fn check_message(room: &Room, view: &mut View, user: &str, offset: u64, data: &serde_json::Value, connection: &str) {
    // A message of an epoch that is over was on its way when the server restarted: the log of that epoch lies before.
    let found = room.log.iter().rposition(|entry| entry.data == *data).unwrap_or_else(|| panic!("{data} was never published"));
    let entry = &room.log[found];
    assert_eq!((entry.offset, &*entry.session.to_string()), (offset, connection), "another place or author: {data}");
    assert!(is_for(entry, user), "{user} wanted no copy of {data}");
    if let Some(position) = &mut view.position {
        assert!(offset > position.offset, "{user} got {offset} after {}", position.offset);
        // The log has every offset of an epoch, so the distance says which entries were passed over.
        let passed = &room.log[found - (offset - position.offset - 1) as usize..found];
        let left_out = passed.iter().filter(|passed| is_for(passed, user)).count();
        assert_eq!(left_out, 0, "{user} got {offset} after {}", position.offset);
        position.offset = offset;
    } else {
        let epoch = room.epoch_text().into();
        view.position = Some(Position { epoch, offset });
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed);
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        (0..STEPS).for_each(|_| world.step());
        world.calm_down();
        world.judge();
    }));
    if let Err(failure) = lived {
        let from = world.trace.len().saturating_sub(60);
        world.trace[from..].iter().for_each(|line| eprintln!("{line}"));
        eprintln!("seed {seed}");
        std::panic::resume_unwind(failure);
    }
    let mut seen = world.server.seen;
    for client in &world.clients {
        for published in client.published.values() {
            let name = match published.fate {
                Fate::Open => "open",
                Fate::Acked => "acked",
                Fate::Refused => "told refused",
                Fate::Unknown => "told unknown",
            };
            *seen.entry(name).or_default() += 1;
        }
        let stats = client.machine.stats();
        *seen.entry("messages").or_default() += stats.messages;
        *seen.entry("duplicates passed over").or_default() += stats.duplicates;
    }
    seen
}

#[test]
fn whatever_the_network_cuts_messages_come_once_and_in_order() {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        for (name, count) in run(seed) {
            *seen.entry(name).or_default() += count;
        }
    }
    let happened = |name: &str| seen.get(name).copied().unwrap_or(0);
    for name in [
        "acked",
        "buffer freed",
        "came again",
        "closed with a code",
        "cut",
        "gap after a join",
        "gap after a resume",
        "history trimmed",
        "messages",
        "recovered by a join",
        "refused",
        "refused for now",
        "restarted",
        "resume failed",
        "resumed",
        "session forgotten",
        "told refused",
        "told unknown",
    ] {
        assert!(happened(name) > SEEDS / 100, "{name} happened {} times: {seen:?}", happened(name));
    }
    eprintln!("{seen:?}");
}

#[test]
fn a_seed_does_the_same_again() {
    assert_eq!(run(7), run(7));
}
