//! A peer of the double: a WebSocket client that knows the protocol from its RFC and shares no code with the server.
//!
//! It checks every byte that it gets: an answer to its request, then whole unmasked frames; what it sent to `/echo` in order and
//! unchanged; of another member's publications each, in order, once.

use super::Seen;
use super::session::Session;
use crate::uring::double::{Machine, SocketId};
use std::collections::{BTreeMap, VecDeque};

/// The lines of an upgrade request behind its first.
pub(super) const REQUEST: &str = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// What RFC 6455 section 1.3 answers to that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x11, 0x82, 0x43, 0xf4];
/// Bytes that a peer has still to send above which it makes no more.
const PENDING_MAX: usize = 20_000;

pub(super) const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a peer is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sends messages to `/echo`.
    Echo,
    /// Publishes in a room.
    Room,
    /// Sends what is no request, or no frame.
    Garbage,
    /// Publishes in a room, and comes back to its session.
    Session,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: SocketId,
    pub(super) kind: Kind,
    pub(super) number: usize,
    /// Made, and not yet sent.
    pub(super) pending: Vec<u8>,
    /// Got, and not yet understood.
    pub(super) got: Vec<u8>,
    pub(super) upgraded: bool,
    /// Messages whose echo is due.
    expected: VecDeque<Vec<u8>>,
    made: u64,
    /// By member: the last publication that came from it.
    pub(super) last: BTreeMap<u64, u64>,
    /// It sends nothing more of its own.
    pub(super) silent: bool,
    /// It never reads again.
    deaf: bool,
    /// The server has said goodbye, or no.
    pub(super) dismissed: bool,
    /// What it knows of its session, if it is of that kind.
    pub(super) session: Option<Box<Session>>,
}

impl Peer {
    pub(super) fn connect(machine: &Machine, ring: usize, kind: Kind, number: usize) -> Peer {
        let path = if kind == Kind::Room { "/ws" } else { "/echo" };
        let mut peer = Peer {
            socket: machine.connect(ring),
            kind,
            number,
            pending: format!("GET {path} HTTP/1.1\r\n{REQUEST}").into_bytes(),
            got: Vec::new(),
            upgraded: false,
            expected: VecDeque::new(),
            made: 0,
            last: BTreeMap::new(),
            silent: false,
            deaf: false,
            dismissed: false,
            session: (kind == Kind::Session).then(|| Box::new(Session::new(number as u64))),
        };
        match kind {
            Kind::Echo => {}
            Kind::Session => peer.open_session(machine),
            Kind::Room => peer.frame(TEXT, br#"{"type":"join_room","roomId":"r"}"#, true),
            Kind::Garbage => {
                let at = machine.pick(peer.pending.len());
                peer.pending[at] = peer.pending[at].wrapping_add(1 + machine.pick(255) as u8);
            }
        }
        peer
    }

    /// Does one thing. There are `rings` that it can connect to.
    pub(super) fn act(&mut self, machine: &Machine, rings: usize, seen: &mut Seen) {
        match machine.pick(20) {
            18 | 19 if self.has_session() => self.come_back(machine, rings),
            0..=6 => {
                let count = 1 + machine.pick(self.pending.len().max(1));
                self.send(machine, count);
            }
            7..=10 => self.make(machine),
            11..=12 => {
                (0..6).for_each(|_| self.make(machine));
                self.send(machine, usize::MAX);
            }
            13..=17 => {
                let count = 1 + machine.pick(9_000);
                self.read(machine, count, seen);
            }
            18 => self.frame(PING, b"are you there", true),
            _ => self.end(machine),
        }
    }

    /// Does all that a well-behaved peer does when there is nothing to hinder it.
    pub(super) fn attend(&mut self, machine: &Machine, seen: &mut Seen) {
        self.send(machine, usize::MAX);
        self.read(machine, usize::MAX, seen);
        if self.dismissed || machine.has_ended(self.socket) {
            self.silent = true;
            machine.finish(self.socket);
        }
        self.session.iter().flat_map(|session| session.old()).for_each(|&old| machine.finish(old));
    }

    /// Whatever it sent has had its effect, unless the connection ended. Who has sent no whole request gives up: a drain would wait
    /// for it.
    pub(super) fn check_complete(&mut self, machine: &Machine, seen: &mut Seen) {
        let over = self.silent || self.dismissed || machine.has_ended(self.socket);
        assert!(machine.is_closed_where_over(self.socket), "peer {} has gone, and its connection is kept", self.number);
        seen.closed += u64::from(self.dismissed || machine.has_ended(self.socket) && !machine.is_broken(self.socket));
        if let Some(session) = &self.session {
            assert!(over || session.is_complete(), "peer {} lacks a welcome or acks: {session:?}", self.number);
            let kept = session.old().iter().find(|&&old| !machine.is_closed_where_over(old));
            assert_eq!(kept, None, "peer {} has come back, and an old connection is kept", self.number);
        }
        if !over && self.kind != Kind::Garbage {
            assert!(self.upgraded, "peer {} got no answer to its request", self.number);
            assert_eq!(self.expected.len(), 0, "peer {} lacks echoes", self.number);
        }
        if !self.upgraded {
            self.silent = true;
            machine.finish(self.socket);
        }
    }

    fn send(&mut self, machine: &Machine, count: usize) {
        let count = count.min(self.pending.len());
        if !self.silent {
            machine.write(self.socket, &self.pending[..count]);
            self.pending.drain(..count);
        }
    }

    fn make(&mut self, machine: &Machine) {
        if self.silent || self.pending.len() > PENDING_MAX {
            return;
        }
        if self.has_session() {
            return self.publish();
        }
        self.made += 1;
        if self.kind == Kind::Room {
            let text = format!(r#"{{"type":"broadcast","roomId":"r","data":[{},{}]}}"#, self.number, self.made);
            return self.frame(TEXT, text.as_bytes(), true);
        }
        let mut message = format!("message {} of peer {}: ", self.made, self.number).into_bytes();
        let length = [0, 10, 200, 1_500, 3_900][machine.pick(5)];
        message.extend((0..length).map(|index| b'a' + (index % 26) as u8));
        if machine.pick(4) == 1 {
            let cut = machine.pick(message.len() + 1);
            self.frame(TEXT, &message[..cut], false);
            self.frame(0, &message[cut..], true);
        } else {
            self.frame(TEXT, &message, true);
        }
        self.expected.push_back(message);
    }

    /// Ends the connection, or its own side of it, in one of the ways there are.
    fn end(&mut self, machine: &Machine) {
        match machine.pick(5) {
            0 => {
                self.frame(CLOSE, &1_000_u16.to_be_bytes(), true);
                self.send(machine, usize::MAX);
                self.silent = true;
            }
            1 | 2 => {
                self.silent = true;
                self.deaf = machine.pick(2) == 1;
                machine.finish(self.socket);
            }
            3 => {
                self.silent = true;
                let errno = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EPIPE, libc::EHOSTUNREACH][machine.pick(4)];
                machine.reset(self.socket, errno);
            }
            _ => {
                self.silent = true;
                self.kind = Kind::Garbage;
                self.pending.clear();
                let garbage: Vec<u8> = (0..machine.pick(40)).map(|_| machine.pick(256) as u8).collect();
                machine.write(self.socket, &garbage);
            }
        }
    }

    /// Makes a frame.
    pub(super) fn frame(&mut self, opcode: u8, payload: &[u8], last: bool) {
        if self.silent {
            return;
        }
        let out = &mut self.pending;
        out.push(if last { 0x80 } else { 0 } | opcode);
        match u16::try_from(payload.len()).expect("peers send less than 64 KiB") {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend(length.to_be_bytes());
            }
        }
        out.extend(MASK);
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    }

    fn read(&mut self, machine: &Machine, count: usize, seen: &mut Seen) {
        if self.deaf {
            return;
        }
        let bytes = machine.read(self.socket, count);
        self.got.extend(bytes);
        if !self.upgraded && !self.dismissed {
            self.take_answer();
        }
        while self.upgraded
            && let Some((opcode, payload)) = self.take_frame()
        {
            self.handle_frame(opcode, payload, seen);
        }
    }

    fn take_answer(&mut self) {
        let Some(end) = self.got.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        let head = String::from_utf8(self.got[..end].to_vec()).expect("an answer is text");
        if let Some(rest) = head.strip_prefix("HTTP/1.1 101 ") {
            assert!(
                rest.to_ascii_lowercase().contains(&format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase()))
                    || self.kind == Kind::Garbage
            );
            self.upgraded = true;
            self.got.drain(..end + 4);
        } else {
            assert!(head.starts_with("HTTP/1.1 "), "no answer to a request: {head:?}");
            self.dismissed = true;
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let &[first, second, ..] = self.got.as_slice() else { return None };
        assert_eq!(first & 0xf0, 0x80, "peer {} got a frame that begins with {first:#x}", self.number);
        let (length, start) = match second {
            0..=125 => (usize::from(second), 2),
            126 => (usize::from(u16::from_be_bytes([*self.got.get(2)?, *self.got.get(3)?])), 4),
            _ => panic!("peer {} got a frame whose length begins with {second:#x}", self.number),
        };
        let payload = self.got.get(start..start + length)?.to_vec();
        self.got.drain(..start + length);
        Some((first & 0xf, payload))
    }

    fn handle_frame(&mut self, opcode: u8, payload: Vec<u8>, seen: &mut Seen) {
        assert!(!self.dismissed, "peer {} got a frame after the close", self.number);
        match opcode {
            TEXT if self.has_session() => self.handle_session_message(&payload, seen),
            TEXT if self.kind == Kind::Room => self.handle_publication(&payload, seen),
            // What garbage makes of a message that was cut off is not known here; it may be a binary one.
            TEXT | BINARY if self.kind == Kind::Garbage => {}
            TEXT => {
                let is_due = self.expected.pop_front().is_some_and(|expected| expected == payload);
                let begin = String::from_utf8_lossy(&payload[..payload.len().min(24)]).into_owned();
                assert!(is_due, "peer {} got another echo than was due: {begin}…, {} bytes", self.number, payload.len());
                seen.echoes += 1;
            }
            PING => self.frame(PONG, &payload, true),
            PONG => {}
            CLOSE => self.dismissed = true,
            opcode => panic!("peer {} got a frame of kind {opcode}", self.number),
        }
    }

    fn handle_publication(&mut self, payload: &[u8], seen: &mut Seen) {
        let json: serde_json::Value = serde_json::from_slice(payload).expect("the server sends JSON");
        if json["type"] == "broadcast" {
            self.note_publication(&json, self.number as u64, seen);
        }
    }

    /// A publication has come to a peer whose own are known by `own`.
    pub(super) fn note_publication(&mut self, json: &serde_json::Value, own: u64, seen: &mut Seen) {
        let number = |index: usize| json["data"][index].as_u64().expect("peers publish two numbers");
        let (member, count) = (number(0), number(1));
        assert_ne!(member, own, "a publication came back to its sender");
        if let Some(last) = self.last.insert(member, count) {
            assert_eq!(count, last + 1, "peer {} got publication {count} of {member} after {last}", self.number);
        }
        seen.deliveries += 1;
    }
}
