//! A small server that keeps PROTOCOL §2 to §5 for rooms, history, sessions and sequence, with the faults that it may have. Rooms
//! have presence neither lists nor diffs here.

use crate::client::machine::tests::world::Rng;
use crate::ws::handshake::{Head, read_head, write_upgrade};
use crate::ws::message::{AssemblerPool, Event, Step, read};
use crate::ws::{Assembler, Opcode, frame};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A publication in the log of a room, which is never forgotten; what a client can still get is from `Room::kept_from` on.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) user: String,
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) echo: bool,
    pub(super) data: Value,
}

#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) epoch: u64,
    pub(super) log: Vec<Entry>,
    /// Index in `log` of the oldest that history still has.
    kept_from: usize,
    /// Index in `log` of the first of this epoch.
    epoch_from: usize,
}

impl Room {
    pub(super) fn head(&self) -> u64 {
        self.log[self.epoch_from..].last().map_or(0, |entry| entry.offset)
    }

    pub(super) fn epoch_text(&self) -> String {
        format!("e{}", self.epoch)
    }

    /// Those of this epoch after an offset; `None` if history no longer has all of them.
    fn after(&self, offset: u64) -> Option<&[Entry]> {
        let from = self.epoch_from + usize::try_from(offset).expect("offsets are small here");
        (from >= self.kept_from && from <= self.log.len()).then(|| &self.log[from..])
    }

    /// Those of this epoch.
    pub(super) fn of_epoch(&self) -> &[Entry] {
        &self.log[self.epoch_from..]
    }
}

#[derive(Debug)]
struct Session {
    user: String,
    /// The tokens that take it up: the newest, and the one before it until something has come on the newest connection.
    tokens: Vec<u64>,
    next: u64,
    early: BTreeMap<u64, Value>,
    failed: Vec<(u64, String)>,
    rooms: BTreeSet<String>,
    connection: Option<usize>,
    /// `next` was refused for now.
    refused: bool,
    unacked: bool,
}

/// One connection, from the upgrade on.
#[derive(Default)]
struct Connection {
    is_upgraded: bool,
    head: Vec<u8>,
    assembler: Option<Box<Assembler>>,
    session: Option<u64>,
    /// What the network is to carry to the client.
    out: Vec<u8>,
    is_closed: bool,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) rooms: BTreeMap<String, Room>,
    sessions: BTreeMap<u64, Session>,
    connections: BTreeMap<usize, Connection>,
    /// Every session that a user has had.
    had: BTreeMap<String, BTreeSet<u64>>,
    next_id: u64,
    pool: AssemblerPool,
    /// What happened, so that a run can prove that it meant something.
    pub(super) seen: BTreeMap<&'static str, u64>,
    pub(super) faults: bool,
}

impl Server {
    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn accept(&mut self, connection: usize) {
        self.connections.insert(connection, Connection::default());
    }

    /// What is to be carried to the client, and whether the server has closed after it.
    pub(super) fn output(&mut self, connection: usize) -> (Vec<u8>, bool) {
        let Some(found) = self.connections.get_mut(&connection) else { return (Vec::new(), true) };
        (std::mem::take(&mut found.out), found.is_closed)
    }

    /// The network has lost the connection; the session stays.
    pub(super) fn lost(&mut self, connection: usize) {
        if let Some(id) = self.connections.remove(&connection).and_then(|connection| connection.session)
            && let Some(session) = self.sessions.get_mut(&id)
            && session.connection == Some(connection)
        {
            session.connection = None;
            session.early.clear();
        }
    }

    pub(super) fn received(&mut self, rng: &mut Rng, connection: usize, bytes: &[u8]) {
        let Some(found) = self.connections.get_mut(&connection).filter(|found| !found.is_closed) else { return };
        let mut bytes = bytes.to_vec();
        if !found.is_upgraded {
            found.head.append(&mut bytes);
            let Head::Complete { request, head_bytes } = read_head(&found.head) else { return };
            let key = request.upgrade().expect("the client asks rightly").key.to_owned();
            write_upgrade(&mut found.out, &key, Some("throng.v1"));
            bytes = found.head.split_off(head_bytes);
            found.is_upgraded = true;
        }
        let mut at = 0;
        loop {
            let Some(found) = self.connections.get_mut(&connection) else { return };
            let mut assembler = found.assembler.take();
            let step = read(&mut assembler, &mut self.pool, &mut bytes[at..], 1 << 20);
            let text = match step {
                Step::More { .. } => None,
                Step::Failed(reason) => panic!("the client broke RFC 6455: {reason:?}"),
                Step::Event { consumed, event, .. } => {
                    at += consumed;
                    match event {
                        Event::Text(text) => Some(Some(text.to_owned())),
                        Event::Close { .. } => {
                            self.end(connection);
                            return;
                        }
                        Event::Binary(_) | Event::Ping(_) | Event::Pong(_) => Some(None),
                    }
                }
            };
            if let Some(found) = self.connections.get_mut(&connection) {
                found.assembler = assembler;
            }
            let Some(text) = text else { break };
            if let Some(text) = text {
                self.handle(rng, connection, serde_json::from_str(&text).expect("the client sends JSON"));
            }
        }
        self.acknowledge(rng, connection);
    }

    fn end(&mut self, connection: usize) {
        if let Some(found) = self.connections.get_mut(&connection) {
            found.is_closed = true;
        }
        let id = self.connections.get(&connection).and_then(|found| found.session);
        if let Some(session) = id.and_then(|id| self.sessions.get_mut(&id)).filter(|session| session.connection == Some(connection))
        {
            session.connection = None;
            session.early.clear();
        }
    }

    fn send(&mut self, connection: usize, frame_: &Value) {
        let Some(found) = self.connections.get_mut(&connection).filter(|found| !found.is_closed) else { return };
        let text = frame_.to_string();
        found.out.extend_from_slice(frame::header(Opcode::Text, text.len()).as_bytes());
        found.out.extend_from_slice(text.as_bytes());
    }

    /// Ends a connection with a close code.
    pub(super) fn close(&mut self, connection: usize, code: u16, reason: &str) {
        let Some(found) = self.connections.get_mut(&connection).filter(|found| found.is_upgraded && !found.is_closed) else {
            return;
        };
        found.out.extend_from_slice(frame::header(Opcode::Close, 2 + reason.len()).as_bytes());
        found.out.extend_from_slice(&code.to_be_bytes());
        found.out.extend_from_slice(reason.as_bytes());
        self.end(connection);
        self.note("closed with a code");
    }

    /// Forgets a session: its token has expired.
    pub(super) fn forget_session(&mut self, rng: &mut Rng) {
        let ids: Vec<u64> = self.sessions.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let session = self.sessions.remove(&ids[rng.index(ids.len())]).expect("it was just there");
        if let Some(connection) = session.connection {
            self.close(connection, 4203, "");
        }
        self.note("session forgotten");
    }

    /// The oldest of a history go.
    pub(super) fn trim(&mut self, rng: &mut Rng) {
        for room in self.rooms.values_mut() {
            room.kept_from += rng.index(room.log.len() - room.kept_from + 1);
        }
        self.note("history trimmed");
    }

    /// Everything but the rooms' logs in the checker's eyes is gone: numbering begins anew.
    pub(super) fn restart(&mut self) {
        for connection in self.connections.keys().copied().collect::<Vec<_>>() {
            self.end(connection);
        }
        self.sessions.clear();
        for room in self.rooms.values_mut() {
            room.epoch += 1;
            room.kept_from = room.log.len();
            room.epoch_from = room.log.len();
        }
        self.note("restarted");
    }

    /// What waits in a reorder buffer is dropped, and said to be missing.
    pub(super) fn free_early(&mut self) {
        let mut nacks = Vec::new();
        for session in self.sessions.values_mut() {
            if let (Some(connection), Some(first)) = (session.connection, session.early.keys().next()) {
                nacks.push((connection, json!({"type": "nack", "expectedSeq": session.next, "received": first})));
                session.early.clear();
            }
        }
        for (connection, nack) in nacks {
            self.send(connection, &nack);
            self.note("buffer freed");
        }
    }

    fn handle(&mut self, rng: &mut Rng, connection: usize, message: Value) {
        let kind = message["type"].as_str().expect("a type").to_owned();
        let session = self.connections[&connection].session;
        match (kind.as_str(), session) {
            ("connect", None) => self.connect(connection, &message),
            (_, None) => panic!("before connect: {message}"),
            ("ping", _) => self.send(connection, &json!({"type": "pong"})),
            (_, Some(id)) => self.sequence(rng, connection, id, message),
        }
    }

    fn connect(&mut self, connection: usize, message: &Value) {
        let user = message["user"].as_str().expect("a user").to_owned();
        let resume = message.get("resume");
        let token = resume.map(|resume| resume["token"].as_str().and_then(|token| token.parse::<u64>().ok()).expect("a token"));
        let found =
            token.and_then(|token| self.sessions.iter().find(|(_, session)| session.tokens.contains(&token)).map(|(id, _)| *id));
        let new_token = self.id();
        let Some(id) = found else {
            if resume.is_some() {
                self.note("resume failed");
            }
            let id = self.id();
            self.had.entry(user.clone()).or_default().insert(id);
            let session = Session {
                user,
                tokens: vec![new_token],
                next: 1,
                early: BTreeMap::new(),
                failed: Vec::new(),
                rooms: BTreeSet::new(),
                connection: Some(connection),
                refused: false,
                unacked: false,
            };
            self.sessions.insert(id, session);
            self.connections.get_mut(&connection).expect("it speaks").session = Some(id);
            let welcome = json!({"type": "welcome", "sessionId": id.to_string(), "resumeToken": new_token.to_string(), "resumed": false,
                "nextSeq": 1, "heartbeatMs": 12_000, "timeoutMs": 6_000, "limits": {"window": 8}});
            return self.send(connection, &welcome);
        };
        self.note("resumed");
        if let Some(old) = self.sessions[&id].connection {
            self.close(old, 4202, "");
        }
        self.resume(connection, id, new_token, &resume.expect("it was found by it")["rooms"]);
    }

    fn resume(&mut self, connection: usize, id: u64, new_token: u64, positions: &Value) {
        let session = self.sessions.get_mut(&id).expect("it was found");
        session.connection = Some(connection);
        let used = session.tokens.last().copied();
        session.tokens = used.into_iter().chain([new_token]).collect();
        (session.refused, session.unacked) = (false, false);
        let failed: Vec<Value> = session.failed.iter().map(|(seq, code)| json!({"seq": seq, "code": code})).collect();
        let (next, user, member_of) = (session.next, session.user.clone(), session.rooms.clone());
        let (mut rooms, mut recovered) = (serde_json::Map::new(), Vec::new());
        for (name, position) in positions.as_object().expect("positions by room") {
            if !member_of.contains(name) {
                continue;
            }
            match self.recover(name, position, &user, Some(id)) {
                Ok(frames) => {
                    rooms.insert(name.clone(), json!({"complete": true, "count": frames.len()}));
                    recovered.extend(frames);
                }
                Err(reason) => {
                    let room = &self.rooms[name];
                    let gap = json!({"gap": {"reason": reason}, "epoch": room.epoch_text(), "offset": room.head()});
                    rooms.insert(name.clone(), gap);
                    self.note("gap after a resume");
                }
            }
        }
        self.connections.get_mut(&connection).expect("it speaks").session = Some(id);
        let welcome = json!({"type": "welcome", "sessionId": id.to_string(), "resumeToken": new_token.to_string(), "resumed": true,
            "nextSeq": next, "rooms": rooms, "failed": failed, "heartbeatMs": 12_000, "timeoutMs": 6_000, "limits": {"window": 8}});
        self.send(connection, &welcome);
        recovered.iter().for_each(|frame| self.send(connection, frame));
    }

    /// What was missed since a position, or why it cannot be said. In the same session own publications come only as echoes; in another
    /// one all of them come, with their numbers.
    fn recover(&self, name: &str, position: &Value, user: &str, same_session: Option<u64>) -> Result<Vec<Value>, &'static str> {
        let room = &self.rooms[name];
        if position["epoch"] != room.epoch_text() {
            return Err("epoch_changed");
        }
        let missed = room.after(position["offset"].as_u64().expect("an offset")).ok_or("expired")?;
        let had = &self.had[user];
        let is_told = |entry: &&Entry| same_session != Some(entry.session) || entry.echo;
        let told = missed.iter().filter(is_told).map(|entry| {
            let own = same_session.is_none() && had.contains(&entry.session);
            broadcast(name, entry, own.then_some(entry.seq))
        });
        Ok(told.collect())
    }

    fn sequence(&mut self, rng: &mut Rng, connection: usize, id: u64, message: Value) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.connection == Some(connection)) else { return };
        if let Some(newest) = session.tokens.last().copied() {
            session.tokens = vec![newest];
        }
        let Some(seq) = message.get("seq").map(|seq| seq.as_u64().expect("a number")) else {
            return self.publish(id, 0, &message); // volatile
        };
        session.unacked = true;
        if seq < session.next {
            return self.note("came again");
        }
        if seq > session.next {
            let (next, first) = (session.next, session.early.is_empty() && !session.refused);
            session.early.insert(seq, message);
            assert!(session.early.len() <= 8, "beyond the window");
            if first {
                self.send(connection, &json!({"type": "nack", "expectedSeq": next, "received": seq}));
            }
            return;
        }
        let mut turn = Some(message);
        while let Some(message) = turn {
            if !self.decide(rng, connection, id, &message) {
                return;
            }
            let session = self.sessions.get_mut(&id).expect("it decides");
            turn = session.early.remove(&session.next);
        }
    }

    /// Decides the command whose turn it is; false if it was refused for now.
    fn decide(&mut self, rng: &mut Rng, connection: usize, id: u64, message: &Value) -> bool {
        let (kind, room) = (message["type"].as_str().expect("a type"), message["roomId"].as_str().expect("a room").to_owned());
        let session = self.sessions.get_mut(&id).expect("it speaks");
        let seq = session.next;
        if self.faults && rng.chance(25) {
            session.refused = true;
            let error =
                json!({"type": "error", "code": "rate_limited", "message": "", "retryable": true, "retryAfterMs": 40, "seq": seq});
            self.send(connection, &error);
            self.note("refused for now");
            return false;
        }
        session.refused = false;
        session.next += 1;
        let is_member = session.rooms.contains(&room);
        let code = match kind {
            "broadcast" if !is_member => Some("not_joined"),
            "broadcast" if self.faults && rng.chance(30) => Some("room_unavailable"),
            _ => None,
        };
        if let Some(code) = code {
            session.failed.push((seq, code.to_owned()));
            self.send(connection, &json!({"type": "error", "code": code, "message": "", "retryable": false, "seq": seq}));
            self.note("refused");
            return true;
        }
        match kind {
            "join_room" => self.join(connection, id, seq, &room, message.get("since")),
            "leave_room" => {
                session.rooms.remove(&room);
                self.send(connection, &json!({"type": "room_left", "roomId": room, "reason": "left", "seq": seq}));
            }
            "broadcast" => self.publish(id, seq, message),
            _ => {}
        }
        true
    }

    fn join(&mut self, connection: usize, id: u64, seq: u64, name: &str, since: Option<&Value>) {
        let room = self.rooms.entry(name.to_owned()).or_default();
        let mut joined = json!({"type": "room_joined", "roomId": name, "seq": seq, "epoch": room.epoch_text(), "offset": room.head(), "recovered": false});
        let session = self.sessions.get_mut(&id).expect("it joins");
        let is_new = session.rooms.insert(name.to_owned());
        assert!(is_new || since.is_none(), "a member that joins again would recover nothing");
        let user = session.user.clone();
        let mut frames = Vec::new();
        match since.map(|since| self.recover(name, since, &user, None)) {
            None => {}
            Some(Ok(recovered)) => {
                joined["recovered"] = true.into();
                frames = recovered;
                self.note("recovered by a join");
            }
            Some(Err(reason)) => {
                joined["gap"] = json!({"reason": reason});
                self.note("gap after a join");
            }
        }
        self.send(connection, &joined);
        frames.iter().for_each(|frame| self.send(connection, frame));
    }

    fn publish(&mut self, id: u64, seq: u64, message: &Value) {
        let name = message["roomId"].as_str().expect("a room");
        let user = self.sessions[&id].user.clone();
        let echo = message["echo"] == true;
        let room = self.rooms.entry(name.to_owned()).or_default();
        let entry = Entry { offset: room.head() + 1, user, session: id, seq, echo, data: message["data"].clone() };
        let mut frame = broadcast(name, &entry, None);
        if seq > 0 {
            room.log.push(entry);
        } else {
            frame.as_object_mut().expect("a frame").remove("offset");
        }
        let members = self.sessions.iter().filter(|(member, session)| session.rooms.contains(name) && (**member != id || echo));
        let connections: Vec<usize> = members.filter_map(|(_, session)| session.connection).collect();
        for connection in connections {
            self.send(connection, &frame);
        }
    }

    /// One cumulative acknowledgement, now or with a later one.
    pub(super) fn acknowledge(&mut self, rng: &mut Rng, connection: usize) {
        let id = self.connections.get(&connection).and_then(|found| found.session);
        let Some(session) = id.and_then(|id| self.sessions.get_mut(&id)).filter(|session| session.connection == Some(connection))
        else {
            return;
        };
        if session.unacked && !(self.faults && rng.chance(3)) {
            session.unacked = false;
            let seq = session.next - 1;
            self.send(connection, &json!({"type": "ack", "seq": seq}));
        }
    }
}

fn broadcast(room: &str, entry: &Entry, seq: Option<u64>) -> Value {
    let mut frame = json!({"type": "broadcast", "roomId": room, "data": entry.data, "offset": entry.offset,
        "from": {"user": entry.user, "connection": entry.session.to_string()}, "ts": 1});
    if let Some(seq) = seq {
        frame["seq"] = seq.into();
    }
    frame
}
