//! What the server says to a client machine, read beside it: as much as is needed to know whose a session is, and that the server
//! does right by the connection. What the machine makes of it is not known here.

use crate::client::FIRST_CLIENT;
use crate::json::{Object, number};
use crate::plan::Fault;
use crate::socket::{CLOSE, Pipe, TEXT, read_frame};
use crate::world::World;
use throng::client::State;

/// How a `welcome` begins.
const WELCOME: &[u8] = br#"{"type":"welcome""#;
/// How a `broadcast` begins.
const BROADCAST: &[u8] = br#"{"type":"broadcast""#;
/// How a `reconnect` begins.
const RECONNECT: &[u8] = br#"{"type":"reconnect""#;
/// By how much the server may be early in giving up a session, in ms: it counts in ticks.
const TTL_SLACK_MS: u64 = 1_000;

/// What an answer to the upgrade advises, in ms.
fn retry_after_ms(head: &[u8]) -> u64 {
    const NAME: &[u8] = b"Retry-After: ";
    let place = head.windows(NAME.len()).position(|bytes| bytes == NAME);
    let value = place.map_or(&[][..], |place| &head[place + NAME.len()..]);
    let digits = value.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(0);
    1_000 * number(&value[..digits]).unwrap_or(0)
}

impl World<'_> {
    /// Reads what a client's socket has just yielded.
    pub(crate) fn tap(&mut self, id: usize, client: usize, bytes: &[u8]) {
        let mut received = std::mem::take(&mut self.sockets[id].received);
        received.push(bytes);
        self.tap_all(id, client, &mut received);
        self.sockets[id].received = received;
    }

    fn tap_all(&mut self, id: usize, client: usize, received: &mut Pipe) {
        if !self.sockets[id].answered {
            self.clients[client].delays.advise(retry_after_ms(received.front()));
            if !self.hear_answer(id, received) {
                return;
            }
        }
        loop {
            let frame = match read_frame(received.front()) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(what) => fail!("frames", "peer {id}: {what}"),
            };
            check!(!self.sockets[id].heard_close, "after close", "peer {id} got {frame:?} after the close frame");
            self.frames += 1;
            let payload = &received.front()[frame.start..frame.end];
            match frame.opcode {
                TEXT => {
                    trace!(self, "peer {id} <- {}", String::from_utf8_lossy(payload));
                    if payload.starts_with(WELCOME) {
                        self.tap_welcome(id, client, payload);
                    } else if self.clients[client].sessions_lost > 0 && payload.starts_with(BROADCAST) {
                        self.tap_broadcast(client, payload);
                    } else if payload.starts_with(RECONNECT) {
                        let after_ms = Object::parse(payload).and_then(|message| message.number("afterMs"));
                        self.clients[client].delays.announce(after_ms.unwrap_or(0));
                    }
                }
                CLOSE => {
                    let advice = payload.get(2..).and_then(Object::parse).and_then(|reason| reason.number("ra"));
                    self.clients[client].delays.advise(advice.unwrap_or(0));
                    self.tap_close(id, payload);
                }
                _ => {}
            }
            received.consume(frame.end);
        }
    }

    fn tap_welcome(&mut self, id: usize, client: usize, payload: &[u8]) {
        let Some(welcome) = Object::parse(payload) else { fail!("JSON", "{:?}", String::from_utf8_lossy(payload)) };
        check!(!std::mem::replace(&mut self.peers[id].is_welcome, true), "welcome", "peer {id} is welcome twice");
        let session = self.sessions.number(welcome.text("sessionId"));
        let is_resumed = welcome.get("resumed") == Some(b"true");
        self.peers[id].session = Some(session);
        let away_since = self.clients[client].away_since.take();
        let ttl_ms = std::mem::replace(&mut self.clients[client].resume_ttl_ms, welcome.number("resumeTtlMs"));
        let before = self.clients[client].session.replace(session);
        if is_resumed {
            check!(before == Some(session), "resume", "client {client} had session {before:?}, and goes on with {session}");
            self.sessions.set_gone(session, None);
            self.tally.resumed += 1;
            return;
        }
        // A machine that says that it resumes has said the token of its last welcome.
        let resumes = matches!(self.clients[client].machine.state(), State::Resuming { .. });
        let away_ms = away_since.map_or(u64::MAX, |since| self.now.mono.since(since));
        let is_kept = resumes && ttl_ms.is_some_and(|ttl_ms| away_ms + TTL_SLACK_MS < ttl_ms);
        let may_lose = self.shape.has(Fault::MemoryBudget) || self.drain_by.is_some();
        check!(
            !is_kept || may_lose,
            "needless loss",
            "client {client} was away for {away_ms} ms of {ttl_ms:?}, and has lost {before:?}"
        );
        let is_new = self.sessions.owner(session).is_none() && self.sessions.belongs(session, FIRST_CLIENT + client);
        check!(is_new, "welcome", "client {client} is given session {session}, which somebody else had");
        check!(welcome.number("nextSeq") == Some(1), "welcome", "the first number is not 1");
        if let Some(before) = before {
            self.clients[client].sessions_lost += 1;
            self.tally.lost += 1;
            let gone = self.gone_now();
            if self.sessions.gone(before).is_none() {
                self.sessions.set_gone(before, Some(gone));
            }
        }
    }

    /// Notes what a client can't know to be its own.
    fn tap_broadcast(&mut self, client: usize, payload: &[u8]) {
        let Some(message) = Object::parse(payload) else { fail!("JSON", "{:?}", String::from_utf8_lossy(payload)) };
        let author = message.get("data").and_then(Object::parse).and_then(|data| data.number("a"));
        if author != Some((FIRST_CLIENT + client) as u64) || message.has("seq") {
            return;
        }
        let room = self.rooms.iter().position(|room| room.raw.as_bytes() == message.text("roomId"));
        if let (Some(room), Some(offset)) = (room, message.number("offset")) {
            self.clients[client].unsigned.insert((room, offset));
        }
    }

    fn tap_close(&mut self, id: usize, payload: &[u8]) {
        let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
        trace!(self, "peer {id} <- close {code}");
        self.hold_close(id, code);
        self.sockets[id].heard_close = true;
    }
}
