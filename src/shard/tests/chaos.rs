//! Workload and faults from seeds, against a model: what each client may have heard, given what a monitor of each room heard.
//!
//! The monitors are well-behaved members that never publish, so what they hear is the whole log of a room. Of every other client's
//! membership must hold: it got exactly the log after its `room_joined`, but for its own publications without echo, in order, up to
//! its leaving, or to the end if it stayed. Commands take effect in the order of their numbers, each once; acknowledgements are
//! cumulative, arrive, and come after the errors that they cover; what a watcher knows comes to the truth; and when all have gone,
//! nothing is left.
//!
//! `THRONG_SIM_SEED=n` runs one seed, `THRONG_SIM_SEEDS=n` so many.

use super::presence::Watched;
use super::world::{Disorder, World, WorldConfig};
use crate::limits::Limits;
use crate::shard::random::Random;
use crate::shard::seam::Ended;
use crate::ws::Opcode;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 40;
const STEPS: usize = 250;
const ROOMS: usize = 5;
const ACTORS: usize = 14;
/// Commands that a client has unacknowledged at most, so that a gap does not fill the reorder buffer.
const UNACKED_MAX: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V1,
    PlainNumbered,
    PlainLoose,
}

/// A publication, as the log names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    author: u64,
    number: u64,
    echo: bool,
    offset: Option<u64>,
}

/// One membership as its client saw it.
#[derive(Debug)]
struct Interval {
    room: String,
    offset: u64,
    got: Vec<Item>,
    left: bool,
}

/// What a command meant, to be played again in the order of numbers.
#[derive(Clone, Debug)]
enum Meaning {
    Join { room: String, state: Option<Value> },
    Leave(String),
    State(String, Value),
    Publish { number: u64 },
    Other,
}

#[derive(Debug)]
struct Actor {
    index: u64,
    client: usize,
    kind: Kind,
    user: String,
    session: Option<String>,
    next_seq: u64,
    acked: u64,
    /// By number: the text and what it meant. Loose clients number their commands for themselves.
    commands: BTreeMap<u64, (String, Meaning)>,
    refused: BTreeSet<u64>,
    published: u64,
    intervals: Vec<Interval>,
    watched: BTreeMap<String, Watched>,
    batch: Vec<String>,
    ended: bool,
}

struct Sim {
    world: World,
    random: Random,
    actors: Vec<Actor>,
    rooms: Vec<String>,
    shards: usize,
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = Random::new(&bytes, 7);
        let shards = [1, 2, 3, 5][random.below(4) as usize];
        let limits = Limits {
            lane_places: [None, Some(4), Some(7)][random.below(3) as usize],
            presence_members_max: [1_000, 6][random.below(2) as usize],
            message_bytes_max: 4_096,
            send_queue_bytes_max: [256, 16][random.below(2) as usize] * 1024,
            presence_grace_ms: [8_000, 0][random.below(2) as usize],
            ..Limits::default()
        };
        let mut coin = || random.below(2) == 0;
        let disorder = Disorder { splits: coin(), shorts: coin(), small_ring: coin(), shuffles: coin() };
        let world = World::new(WorldConfig { shards, slots: 40, limits, seed, disorder });
        let rooms = (0..ROOMS).map(|room| format!("room-{room}")).collect();
        let mut sim = Sim { world, random, actors: Vec::new(), rooms, shards };
        for room in 0..ROOMS {
            let monitor = sim.connect(Kind::V1);
            let room = sim.rooms[room].clone();
            sim.join(monitor, room, true, None);
            sim.flush(monitor, false);
            sim.world.run();
        }
        sim.listen();
        sim
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn connect(&mut self, kind: Kind) -> usize {
        let index = self.actors.len();
        let shard = self.random.below(self.shards as u64) as usize;
        let user = format!("user-{}", self.random.below(8));
        let client = self.world.open_socket(shard, true);
        match kind {
            Kind::V1 => {
                self.world.request(client, "/ws", Some("throng.v1"));
                self.world.send(client, &format!(r#"{{"type":"connect","user":"{user}"}}"#));
            }
            Kind::PlainNumbered | Kind::PlainLoose => self.world.request(client, &format!("/?user={user}"), None),
        }
        let first_seq = if kind == Kind::PlainNumbered { 1 + self.random.below(1_000) } else { 1 };
        self.actors.push(Actor {
            index: index as u64,
            client,
            kind,
            user,
            session: None,
            next_seq: first_seq,
            acked: 0,
            commands: BTreeMap::new(),
            refused: BTreeSet::new(),
            published: 0,
            intervals: Vec::new(),
            watched: BTreeMap::new(),
            batch: Vec::new(),
            ended: false,
        });
        index
    }

    // ---- commands -------------------------------------------------------------------------------------------------------

    fn command(&mut self, actor: usize, body: &str, meaning: Meaning) {
        let actor = &mut self.actors[actor];
        let seq = actor.next_seq;
        actor.next_seq += 1;
        let text = match actor.kind {
            Kind::PlainLoose => format!("{{{body}}}"),
            Kind::V1 | Kind::PlainNumbered => format!("{{{body},\"seq\":{seq}}}"),
        };
        actor.commands.insert(seq, (text.clone(), meaning));
        actor.batch.push(text);
    }

    fn join(&mut self, actor: usize, room: String, watches: bool, state: Option<Value>) {
        let extra = state.as_ref().map_or(String::new(), |state| format!(r#","state":{state}"#));
        let body = format!(r#""type":"join_room","roomId":"{room}","presence":{watches}{extra}"#);
        self.command(actor, &body, Meaning::Join { room, state });
    }

    fn publish(&mut self, actor: usize, room: &str, volatile: bool) {
        let echo = self.chance(3);
        let record = &mut self.actors[actor];
        record.published += 1;
        let number = record.published;
        let padding = "x".repeat(self.random.below(300) as usize);
        let body = format!(
            r#""type":"broadcast","roomId":"{room}","data":{{"a":{actor},"n":{number},"e":{echo},"p":"{padding}"}},"echo":{echo}"#
        );
        if volatile {
            self.actors[actor].batch.push(format!("{{{body}}}"));
        } else {
            self.command(actor, &body, Meaning::Publish { number });
        }
    }

    /// Sends the batch, in any order and with duplicates where numbers make it whole again.
    fn flush(&mut self, actor: usize, disorderly: bool) {
        let kind = self.actors[actor].kind;
        let mut batch = std::mem::take(&mut self.actors[actor].batch);
        if disorderly && kind != Kind::PlainLoose {
            // The first number of a plain client begins its numbering: it stays the first.
            let fixed = usize::from(kind == Kind::PlainNumbered && self.actors[actor].commands.len() == batch.len());
            if batch.len() > fixed {
                self.world.shuffle(&mut batch[fixed..]);
            }
            if self.chance(3)
                && let Some(again) = batch.iter().find(|text| text.contains("\"seq\"")).cloned()
            {
                batch.push(again);
            }
            if kind == Kind::V1 && self.chance(4) {
                // Lost, to be sent again when the server asks for it.
                batch.retain(|text| !text.contains("\"seq\"") || self.random.below(4) > 0);
            }
        }
        let client = self.actors[actor].client;
        for text in batch {
            self.world.send(client, &text);
        }
    }

    /// Sends everything that is not acknowledged again, from a number on.
    fn send_again(&mut self, actor: usize, from: u64) {
        let record = &self.actors[actor];
        let texts: Vec<String> = record.commands.range(from..).map(|(_, (text, _))| text.clone()).collect();
        let client = record.client;
        for text in texts {
            self.world.send(client, &text);
        }
    }

    fn act(&mut self, actor: usize) {
        let record = &self.actors[actor];
        if record.kind == Kind::V1 && record.next_seq - 1 - record.acked > UNACKED_MAX as u64 {
            return;
        }
        for _ in 0..1 + self.random.below(6) {
            let room = self.rooms[self.random.below(ROOMS as u64) as usize].clone();
            match self.random.below(20) {
                0..=4 => {
                    let watches = self.chance(2);
                    let state = self.chance(3).then(|| Value::from(self.random.below(1_000)));
                    self.join(actor, room, watches, state);
                }
                5..=6 => self.command(actor, &format!(r#""type":"leave_room","roomId":"{room}""#), Meaning::Leave(room)),
                7..=14 => self.publish(actor, &room, false),
                15 if self.actors[actor].kind == Kind::V1 => self.publish(actor, &room, true),
                16..=17 => {
                    let state = Value::from(self.random.below(1_000));
                    let body = format!(r#""type":"set_state","roomId":"{room}","state":{state}"#);
                    self.command(actor, &body, Meaning::State(room, state));
                }
                18 => self.ask(actor, &room),
                _ => self.command(actor, r#""type":"ping","t":1"#, Meaning::Other),
            }
        }
        self.flush(actor, true);
    }

    fn ask(&mut self, actor: usize, room: &str) {
        if self.actors[actor].kind != Kind::PlainNumbered {
            self.actors[actor].batch.push(format!(r#"{{"type":"presence","roomId":"{room}","id":"all"}}"#));
        }
    }

    fn end(&mut self, actor: usize) {
        self.actors[actor].ended = true;
        let client = self.actors[actor].client;
        match self.random.below(8) {
            0 => self.world.send_close(client, None),
            1 => self.world.send_close(client, Some(1001)),
            2 => self.world.send_close(client, Some(4900)),
            3 => self.world.send_close(client, Some(4901)),
            4 => self.world.end(client, Ended::Eof),
            5 => self.world.end(client, Ended::Error),
            6 => self.world.send_raw(client, &[0xff; 9]),
            _ => {
                // It vanishes: nothing comes from it any more.
                self.world.clients[client].pongs = false;
                self.world.clients[client].reads = 0;
                self.world.clients[client].answers_close = false;
            }
        }
    }

    fn misbehave(&mut self, actor: usize) {
        let sluggish = self.random.below(3);
        let client = &mut self.world.clients[self.actors[actor].client];
        match sluggish {
            0 => {
                client.reads = 50;
                client.incoming_max = 3_000;
            }
            1 => {
                client.reads = 0;
                client.incoming_max = 5_000;
            }
            _ => client.reads = usize::MAX,
        }
    }

    // ---- hearing --------------------------------------------------------------------------------------------------------

    fn listen(&mut self) {
        for actor in 0..self.actors.len() {
            let client = self.actors[actor].client;
            for frame in self.world.take_frames(client) {
                match frame.opcode {
                    Opcode::Text => self.hear(actor, &frame.json()),
                    Opcode::Close => self.actors[actor].ended = true,
                    Opcode::Ping | Opcode::Pong | Opcode::Binary | Opcode::Continuation => {}
                }
            }
            self.actors[actor].ended |= self.world.clients[client].closed;
        }
    }

    fn hear(&mut self, index: usize, message: &Value) {
        let room = message["roomId"].as_str().unwrap_or("").to_owned();
        let actor = &mut self.actors[index];
        let current = actor.intervals.iter_mut().rev().find(|interval| interval.room == room && !interval.left);
        match message["type"].as_str().expect("a type") {
            "welcome" => actor.session = message["sessionId"].as_str().map(str::to_owned),
            "room_joined" => {
                if current.is_none() {
                    let offset = message["offset"].as_u64().expect("an offset");
                    actor.intervals.push(Interval { room: room.clone(), offset, got: Vec::new(), left: false });
                }
                if message["version"].is_u64() {
                    actor.watched.entry(room).or_default().hear(message);
                } else {
                    actor.watched.remove(&room);
                }
            }
            "room_left" => {
                current.unwrap_or_else(|| panic!("{message} of a room that it is not in")).left = true;
                actor.watched.remove(&room);
            }
            "broadcast" => {
                let interval = current.unwrap_or_else(|| panic!("{message} comes without membership"));
                let data = &message["data"];
                interval.got.push(Item {
                    author: data["a"].as_u64().expect("an author"),
                    number: data["n"].as_u64().expect("a number"),
                    echo: data["e"].as_bool().expect("a flag"),
                    offset: message["offset"].as_u64(),
                });
            }
            "presence_diff" | "presence_state" => {
                assert!(current.is_some(), "{message} comes without membership");
                if let Some(watched) = actor.watched.get_mut(&room) {
                    watched.hear(message);
                }
            }
            "ack" => {
                let seq = message["seq"].as_u64().expect("a number");
                assert!(seq >= actor.acked && seq < actor.next_seq, "ack {seq} after {} of {}", actor.acked, actor.next_seq - 1);
                actor.acked = seq;
            }
            "nack" => {
                let expected = message["expectedSeq"].as_u64().expect("a number");
                assert!(expected > actor.acked);
                self.send_again(index, expected);
            }
            "error" => {
                if let Some(seq) = message["seq"].as_u64()
                    && message["code"] != "seq_duplicate"
                {
                    assert!(seq > actor.acked, "{message} comes after the ack {}", actor.acked);
                    assert!(actor.refused.insert(seq), "{message} comes twice");
                }
                assert_ne!(message["code"], "seq_skipped");
            }
            "pong" => {}
            other => panic!("{other} is not expected"),
        }
    }

    // ---- the run --------------------------------------------------------------------------------------------------------

    fn run(&mut self) {
        for _ in 0..STEPS {
            let living: Vec<usize> = (ROOMS..self.actors.len()).filter(|actor| !self.actors[*actor].ended).collect();
            if living.len() < ACTORS && self.chance(3) {
                let kind = [Kind::V1, Kind::V1, Kind::PlainNumbered, Kind::PlainLoose][self.random.below(4) as usize];
                let shards_with_room = (0..self.shards).all(|shard| self.world.has_slot(shard));
                if shards_with_room {
                    self.connect(kind);
                }
            }
            if !living.is_empty() {
                let actor = living[self.random.below(living.len() as u64) as usize];
                match self.random.below(30) {
                    0 => self.end(actor),
                    1 => self.misbehave(actor),
                    _ => self.act(actor),
                }
            }
            match self.random.below(20) {
                0 => self.world.pass(self.random.below(500)),
                1 if self.chance(4) => self.world.pass(self.random.below(20_000)),
                2..=3 => self.world.run(),
                _ => {
                    for _ in 0..self.random.below(4) {
                        self.world.tick(self.random.below(20));
                    }
                }
            }
            self.listen();
        }
    }

    /// Everybody who still lives behaves, and gets the time for it.
    fn heal(&mut self) {
        for _ in 0..4 {
            self.listen();
            for actor in 0..self.actors.len() {
                let client = self.actors[actor].client;
                let is_vanished = self.actors[actor].ended;
                if is_vanished {
                    continue;
                }
                self.world.clients[client].reads = usize::MAX;
                self.world.clients[client].incoming_max = 1 << 22;
                self.flush(actor, false);
                if self.actors[actor].kind == Kind::V1 {
                    self.send_again(actor, self.actors[actor].acked + 1);
                }
            }
            self.world.run();
            self.world.pass(100);
        }
        // A socket that takes less than it has room for and the rest later looks as if its peer had read.
        self.world.disorder.shorts = false;
        // Vanished clients are noticed, their grace passes, and the last presence is told.
        self.world.pass(45_000);
        self.listen();
        for _ in 0..3 {
            self.refresh();
            self.world.pass(1_500);
            self.listen();
        }
    }

    /// Watchers that missed a version ask, page by page.
    fn refresh(&mut self) {
        for actor in 0..self.actors.len() {
            if self.actors[actor].ended {
                continue;
            }
            let stale: Vec<String> =
                self.actors[actor].watched.iter().filter(|(_, watched)| watched.stale).map(|(room, _)| room.clone()).collect();
            for room in stale {
                let client = self.actors[actor].client;
                self.world.send(client, &format!(r#"{{"type":"presence","roomId":"{room}","id":"all"}}"#));
            }
        }
    }

    // ---- the verdict ----------------------------------------------------------------------------------------------------

    fn judge(&mut self) {
        self.judge_publications();
        self.judge_commands();
        self.judge_presence();
        let published: usize = (0..ROOMS).map(|room| self.actors[room].intervals[0].got.len()).sum();
        assert_eq!(self.world.sum(|stats| stats.publications), published as u64, "monitors hear everything");
    }

    fn judge_publications(&self) {
        for (place, room) in self.rooms.iter().enumerate() {
            let monitor = &self.actors[place];
            assert!(!monitor.ended, "a monitor was closed");
            let log = &monitor.intervals[0].got;
            let offsets: Vec<u64> = log.iter().filter_map(|item| item.offset).collect();
            assert!(offsets.iter().copied().eq(1..=offsets.len() as u64), "{room}: the log has no hole");
            let once: BTreeSet<(u64, u64)> = log.iter().map(|item| (item.author, item.number)).collect();
            assert_eq!(once.len(), log.len(), "{room}: each publication took effect once");
            for actor in &self.actors[ROOMS..] {
                for interval in actor.intervals.iter().filter(|interval| interval.room == *room) {
                    let begin = log.iter().position(|item| item.offset == Some(interval.offset)).map_or(0, |at| at + 1);
                    let expected: Vec<&Item> = log[begin..].iter().filter(|item| item.author != actor.index || item.echo).collect();
                    // What is volatile has no offset, so it may still have been before the join.
                    let leading = expected.iter().take_while(|item| item.offset.is_none()).count();
                    let begins = (0..=leading).find(|skip| {
                        let rest = &expected[*skip..];
                        rest.len() >= interval.got.len() && rest.iter().zip(&interval.got).all(|(a, b)| *a == b)
                    });
                    let begins = begins.unwrap_or_else(|| {
                        panic!("{room}, actor {} from {}: got {:?}\nof {expected:?}", actor.index, interval.offset, interval.got)
                    });
                    if !interval.left && !actor.ended {
                        let missing = &expected[begins + interval.got.len()..];
                        assert!(
                            missing.is_empty() || interval.got.is_empty() && missing.iter().all(|item| item.offset.is_none()),
                            "{room}, actor {}: a member lacks {missing:?}",
                            actor.index
                        );
                    }
                }
            }
        }
    }

    fn judge_commands(&self) {
        let mut executed: BTreeMap<(u64, u64), (usize, usize)> = BTreeMap::new();
        for room in 0..ROOMS {
            for (place, item) in self.actors[room].intervals[0].got.iter().enumerate() {
                executed.insert((item.author, item.number), (room, place));
            }
        }
        for actor in &self.actors {
            if actor.kind == Kind::V1 && !actor.ended {
                assert_eq!(actor.acked, actor.next_seq - 1, "actor {}: everything is acknowledged", actor.index);
            }
            let mut last = [None; ROOMS];
            for (seq, (_, meaning)) in &actor.commands {
                let Meaning::Publish { number } = meaning else { continue };
                let at = executed.get(&(actor.index, *number));
                if let Some((room, place)) = at {
                    assert!(!actor.refused.contains(seq), "actor {}: {seq} was refused and took effect", actor.index);
                    assert!(last[*room].is_none_or(|last| last < *place), "actor {}: {seq} took effect too early", actor.index);
                    last[*room] = Some(*place);
                } else if actor.kind == Kind::V1 && *seq <= actor.acked {
                    assert!(actor.refused.contains(seq), "actor {}: {seq} was acknowledged and had no effect", actor.index);
                }
            }
        }
    }

    fn judge_presence(&self) {
        for room in &self.rooms {
            let mut truth: Vec<(String, Value)> = Vec::new();
            for actor in self.actors.iter().filter(|actor| !actor.ended) {
                let (joined, state) = actor.stands_in(room);
                let sees_itself = actor.intervals.iter().any(|interval| interval.room == *room && !interval.left);
                assert_eq!(joined, sees_itself, "{room}, actor {}", actor.index);
                if joined {
                    truth.push((actor.user.clone(), state.unwrap_or(Value::Null)));
                }
            }
            truth.sort_by_key(|(user, state)| (user.clone(), state.to_string()));
            let mut users: Vec<&String> = truth.iter().map(|(user, _)| user).collect();
            users.dedup();
            for actor in self.actors.iter().filter(|actor| !actor.ended) {
                let Some(watched) = actor.watched.get(room) else { continue };
                let mut known: Vec<(String, Value)> = watched.list.iter().flat_map(|list| list.values().cloned()).collect();
                known.sort_by_key(|(user, state)| (user.clone(), state.to_string()));
                match (&watched.list, watched.counts) {
                    (Some(list), _) => {
                        assert_eq!(known, truth, "{room} as actor {} knows it", actor.index);
                        let session = actor.session.as_ref();
                        assert!(session.is_none_or(|session| list.contains_key(session)), "it knows itself");
                    }
                    (None, counts) => {
                        assert_eq!(
                            counts,
                            Some((users.len() as u64, truth.len() as u64)),
                            "{room} as actor {} counts",
                            actor.index
                        );
                    }
                }
            }
        }
    }
}

impl Actor {
    /// Whether it is in a room after all its commands, and with what state.
    fn stands_in(&self, name: &str) -> (bool, Option<Value>) {
        let (mut joined, mut now) = (false, None);
        for (_, meaning) in self.commands.values() {
            match meaning {
                Meaning::Join { room, state } if room == name => {
                    joined = true;
                    now = state.clone().or(now);
                }
                Meaning::Leave(room) if room == name => (joined, now) = (false, None),
                Meaning::State(room, state) if room == name && joined => now = Some(state.clone()),
                Meaning::Join { .. } | Meaning::Leave(_) | Meaning::State(..) | Meaning::Publish { .. } | Meaning::Other => {}
            }
        }
        (joined, now)
    }
}

fn simulate(seed: u64, loses_after: Option<u64>) {
    let mut sim = Sim::new(seed);
    sim.world.loses_after = loses_after;
    sim.run();
    sim.heal();
    sim.judge();
    sim.world.end_all();
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn whatever_clients_and_sockets_do_the_model_holds() {
    let seeds = match number_of("THRONG_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("THRONG_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(cause) = std::panic::catch_unwind(|| simulate(seed, None)) {
            eprintln!("seed {seed} fails; run it alone with THRONG_SIM_SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn the_checkers_notice_one_lost_message() {
    let seeds = (0..).filter(|seed| Sim::new(*seed).shards > 1).take(8);
    let noticed = seeds.filter(|seed| std::panic::catch_unwind(|| simulate(*seed, Some(100))).is_err()).count();
    // What is lost may have been for somebody who has gone, and then nobody misses it.
    assert!(noticed >= 4, "of 8 lost consequences {noticed} were noticed");
}
