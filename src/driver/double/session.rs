//! A peer of the double whose session goes on over new connections, to whichever shard.
//!
//! It speaks `throng.v1`, publishes numbered messages in a room, and comes back after its connection has ended, or has not. It sends
//! again what was not acknowledged, often behind its `connect` in one go. It knows that the server keeps sessions for longer than a
//! run lasts: so its session always goes on, each of its commands takes effect, once and in order, and of the others' publications
//! it misses none but those that it was told of.
//!
//! One thing may cost it the session: a message behind its `connect` confirms a token that it has not read yet, and if it leaves the
//! connection then, at once or after another one has gone on, the token that it has does not hold any more.

use super::Seen;
use super::peer::{Kind, Peer, REQUEST, TEXT};
use crate::uring::double::{Machine, SocketId};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Commands that are not acknowledged above which it makes no more; fewer than a session's window.
const UNACKED_MAX: usize = 40;
/// Times that a peer comes back; fewer than tokens of a session hold.
const COMEBACKS_MAX: usize = 12;

/// What such a peer knows of its session.
#[derive(Debug)]
pub(super) struct Session {
    /// What its publications are known by. It has another one with each session.
    name: u64,
    published: u64,
    token: Option<String>,
    id: Value,
    /// Whether its present connection has shown a token.
    asked: bool,
    /// Whether it has sent anything behind that.
    pipelined: bool,
    /// Whether its token may hold no more.
    uncertain: bool,
    welcomed: bool,
    next_seq: u64,
    acked: u64,
    /// Commands that are not acknowledged, by number.
    unacked: VecDeque<(u64, String)>,
    /// Where it stands in the room: epoch and offset.
    position: Option<(Value, u64)>,
    /// Connections that it has had.
    old: Vec<SocketId>,
}

impl Session {
    /// One that has yet to begin. Its first command is a join.
    pub(super) fn new(name: u64) -> Session {
        let join = r#"{"type":"join_room","roomId":"r","seq":1}"#.to_owned();
        Session {
            name,
            published: 0,
            token: None,
            id: Value::Null,
            asked: false,
            pipelined: false,
            uncertain: false,
            welcomed: false,
            next_seq: 2,
            acked: 0,
            unacked: VecDeque::from([(1, join)]),
            position: None,
            old: Vec::new(),
        }
    }

    /// Whether there is nothing that it still waits for.
    pub(super) fn is_complete(&self) -> bool {
        self.welcomed && self.unacked.is_empty()
    }

    /// Keeps what it needs to come back.
    fn keep(&mut self, welcome: &Value) {
        self.id = welcome["sessionId"].clone();
        self.token = welcome["resumeToken"].as_str().map(str::to_owned);
    }

    /// Begins another, of whose past the server knows nothing.
    fn begin_again(&mut self, number: usize) {
        let old = std::mem::take(&mut self.old);
        // Past all names of this and of other peers.
        let name = number as u64 + 100 * (1 + self.name / 100);
        *self = Session { old, ..Session::new(name) };
    }

    /// Connections that it has had before its present one.
    pub(super) fn old(&self) -> &[SocketId] {
        &self.old
    }
}

impl Peer {
    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is a peer with a session")
    }

    /// Makes its upgrade request and what follows it.
    pub(super) fn open_session(&mut self, machine: &Machine) {
        self.pending = format!("GET /ws HTTP/1.1\r\nSec-WebSocket-Protocol: throng.v1\r\n{REQUEST}").into_bytes();
        let session = self.session();
        session.asked = session.token.is_some();
        let mut connect = json!({"type": "connect"});
        if let Some(token) = &session.token {
            let rooms =
                session.position.as_ref().map_or(json!({}), |(epoch, offset)| json!({"r": {"epoch": epoch, "offset": offset}}));
            connect["resume"] = json!({"token": token, "acked": session.acked, "rooms": rooms});
        }
        self.frame(TEXT, connect.to_string().as_bytes(), true);
        let session = self.session();
        session.pipelined = session.asked && !session.uncertain && machine.pick(2) == 0;
        if session.pipelined || !session.asked {
            self.send_again(0);
        }
    }

    /// Makes the commands from this number on again, as far as they are not acknowledged.
    fn send_again(&mut self, from: u64) {
        let unacked: Vec<String> =
            self.session().unacked.iter().filter(|(seq, _)| *seq >= from).map(|(_, text)| text.clone()).collect();
        unacked.iter().for_each(|text| self.frame(TEXT, text.as_bytes(), true));
    }

    /// Makes a publication. It is sent with the welcome, if that has not come.
    pub(super) fn publish(&mut self) {
        let session = self.session();
        if session.unacked.len() >= UNACKED_MAX || !session.welcomed {
            return;
        }
        session.published += 1;
        let seq = session.next_seq;
        session.next_seq += 1;
        let data = [session.name, session.published];
        let text = json!({"type": "broadcast", "roomId": "r", "data": data, "seq": seq}).to_string();
        session.unacked.push_back((seq, text.clone()));
        self.frame(TEXT, text.as_bytes(), true);
    }

    /// Opens a new connection. The old one ends in one of the ways there are, or is left open.
    pub(super) fn come_back(&mut self, machine: &Machine, rings: usize) {
        // Who gives up before its welcome finds out little: it is rarer.
        let is_hasty = !self.session().welcomed && !self.dismissed && machine.pick(4) > 0;
        if is_hasty || self.session().old.len() == COMEBACKS_MAX {
            return;
        }
        match machine.pick(4) {
            0 => machine.finish(self.socket),
            1 => machine.reset(self.socket, libc::ECONNRESET),
            _ => {}
        }
        let (socket, number) = (self.socket, self.number);
        let session = self.session();
        session.old.push(socket);
        session.uncertain |= session.pipelined && !session.welcomed;
        if session.token.is_none() {
            // What became of a session of which it knows nothing it can't tell.
            session.begin_again(number);
        }
        session.welcomed = false;
        if session.position.is_none() {
            self.last.clear();
        }
        self.socket = machine.connect(machine.pick(rings));
        self.got.clear();
        (self.upgraded, self.dismissed, self.silent) = (false, false, false);
        self.open_session(machine);
    }

    pub(super) fn handle_session_message(&mut self, payload: &[u8], seen: &mut Seen) {
        let json: Value = serde_json::from_slice(payload).expect("the server sends JSON");
        match json["type"].as_str().expect("a message has a type") {
            "welcome" => self.handle_welcome(&json, seen),
            "ack" => {
                let acked = json["seq"].as_u64().expect("an ack has a number");
                let session = self.session();
                assert!(acked < session.next_seq, "an ack of what was not sent: {json}");
                session.acked = session.acked.max(acked);
                session.unacked.retain(|(seq, _)| *seq > acked);
            }
            "room_joined" => {
                let position = (json["epoch"].clone(), json["offset"].as_u64().expect("a room has an offset"));
                self.session().position.get_or_insert(position);
            }
            "broadcast" => {
                let offset = json["offset"].as_u64().expect("what is published has an offset");
                if let Some(position) = &mut self.session().position {
                    assert!(offset > position.1, "publication {offset} after {}", position.1);
                    position.1 = offset;
                }
                let own = self.session().name;
                self.note_publication(&json, own, seen);
            }
            "gap" => self.last.clear(),
            "error" | "nack" => panic!("peer {} has done nothing wrong: {json}", self.number),
            _ => {}
        }
    }

    fn handle_welcome(&mut self, json: &Value, seen: &mut Seen) {
        let number = self.number;
        let session = self.session();
        assert!(!session.welcomed, "peer {number} is welcomed twice");
        if json["resumed"] == false && session.uncertain {
            session.begin_again(number);
            session.welcomed = true;
            session.keep(json);
            self.last.clear();
            return self.send_again(0);
        }
        // It stays uncertain: what it left behind may arrive only now, and take the session away from this connection.
        session.welcomed = true;
        assert_eq!(json["resumed"], session.asked, "peer {number}: whether its session goes on");
        let next = json["nextSeq"].as_u64().expect("a welcome has a number");
        assert!(session.acked < next && next <= session.next_seq, "peer {number} is at {}: {json}", session.next_seq);
        if session.asked {
            assert_eq!(json["sessionId"], session.id, "another session goes on");
            seen.resumed += 1;
            let room = &json["rooms"]["r"];
            assert!(session.position.is_none() || room.is_object(), "peer {number} is no member any more: {json}");
            if !room["gap"].is_null() {
                self.last.clear();
            }
        }
        let session = self.session();
        session.keep(json);
        if session.asked && !session.pipelined {
            self.send_again(next);
        }
    }

    /// Whether it is a peer with a session.
    pub(super) fn has_session(&self) -> bool {
        self.kind == Kind::Session
    }
}
