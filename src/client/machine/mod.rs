//! The client's state machine: when to connect, what to send, what to make of what comes. No socket, no clock, no entropy.
//!
//! Whoever drives it does, after each event of the world:
//! 1. `handle_*` with what happened and the time. What concerns a socket that is not the current one is ignored.
//! 2. [`poll_action`](Machine::poll_action) until it yields nothing, then [`transmit_bytes`](Machine::transmit_bytes): write them,
//!    and say with [`handle_transmitted`](Machine::handle_transmitted) how many were taken.
//! 3. [`poll_event`](Machine::poll_event) for the application. While [`wants_input`](Machine::wants_input) is false, read nothing;
//!    when it turns true again, call [`handle_received`](Machine::handle_received), without bytes if there are none.
//! 4. Wait, no longer than [`poll_timeout`](Machine::poll_timeout), then [`handle_timeout`](Machine::handle_timeout).
//!
//! ```text
//!            ┌────────────── wait (back-off) ◄──────────────┐
//!            ▼                                              │ lost, refused, silent
//!   Idle ─► Opening ─► Upgrading ─► Welcoming ─► Open ──────┤
//!            socket     101          welcome                ▼ the verdict is final, or close()
//!                                                Closing ─► Closed
//! ```
//!
//! Invariants: equal seeds, calls and times give equal outputs; every queue has a bound of [`limits`](super::limits), whatever the
//! server or the application does; what was asked for ends as exactly one of acknowledged, refused or unknown.

mod commands;
mod frames;
mod link;
mod session;

use super::backoff::Backoff;
use super::encode;
use super::event::{Cause, Event, State};
use super::inbound::{Inbound, Violation};
use super::limits::{EVENT_BYTES_MAX, EVENTS_MAX, TRANSMIT_BYTES_MAX};
use super::outbox::{Kind, Outbox};
use super::random::Random;
use super::room::Room;
use crate::limits::CLOSE_LINGER_MS;
use crate::protocol::Dialect;
use crate::time::Millis;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use crate::ws::handshake::write_request;
use link::Answer;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// The client gives up a socket that it no longer trusts; its session stays (PROTOCOL §7).
const ABANDONED: u16 = 4900;

/// Who a client is.
#[derive(Clone, Default)]
pub struct Identity {
    /// Value of the `Host` header.
    pub host: String,
    /// Target of the request: path and query.
    pub path: String,
    /// The user, where no token says it.
    pub user: Option<String>,
    /// The credentials. They stay in memory.
    pub token: Option<String>,
    /// Whether another token can be had: [`Action::Token`] asks for it. Without it, a refused or expired token ends the client.
    pub can_renew_token: bool,
}

impl fmt::Debug for Identity {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("host", &self.host)
            .field("path", &self.path)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// One of a client's successive sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketId(pub u64);

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a socket to the server, then `handle_opened` or `handle_ended`.
    Open(SocketId),
    /// Write these last bytes as far as they are taken at once, and close the socket. It is forgotten: nothing need be said of it.
    Drop(SocketId, Vec<u8>),
    /// Get a token, then `handle_token`.
    Token,
}

/// What a client has lived through. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts to connect.
    pub attempts: u64,
    /// Connections that got their `welcome`.
    pub welcomes: u64,
    /// Those on which the session went on.
    pub resumes: u64,
    /// Messages handed out.
    pub messages: u64,
    /// Messages that came again and were passed over.
    pub duplicates: u64,
    /// Commands that were sent, each time counted.
    pub commands_sent: u64,
}

/// Where the machine is with its socket.
#[derive(Debug, PartialEq, Eq)]
enum Link {
    Idle,
    Opening,
    Upgrading { key: String },
    Welcoming,
    Open,
    Closing,
    Closed,
}

/// A session, as far as the client can take it up again.
struct Session {
    id: Arc<str>,
    /// None if it cannot be resumed.
    token: Option<Box<str>>,
}

/// What the server told of its bounds.
#[derive(Debug)]
struct Told {
    heartbeat_ms: u64,
    timeout_ms: u64,
    window: u64,
    command_bytes_max: usize,
}

/// See the module.
pub struct Machine {
    identity: Identity,
    link: Link,
    socket: SocketId,
    session: Option<Session>,
    /// The session went on at the last `welcome`.
    is_resumed: bool,
    told: Told,
    backoff: Backoff,
    random: Random,

    /// When the attempt at hand, or the wait for the answer to our close, is over.
    deadline: Millis,
    /// When the next attempt begins. Invariant: `None` unless the link is idle.
    next_attempt: Option<Millis>,
    /// The earliest next attempt that the server asked for in `reconnect`, from the loss on, in ms.
    advice_ms: u64,
    opened_at: Millis,
    last_input: Millis,
    /// A question for a sign of life is out, and this is when its time is over.
    ping_due: Option<Millis>,
    /// Commands wait until then, because one was refused for now.
    hold_until: Option<Millis>,
    /// A recovery that has not moved on until then is given up.
    recovery_due: Option<Millis>,
    /// A question about presence that was refused for now is asked again.
    questions_due: Option<Millis>,
    renew_token_at: Option<Millis>,
    needs_token: bool,
    token_asked: bool,
    /// The last token was refused, and another was had for it.
    token_retried: bool,
    last_cause: Option<Cause>,

    inbound: Inbound,
    out: Vec<u8>,
    out_at: usize,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    event_bytes: usize,

    outbox: Outbox,
    rooms: BTreeMap<Arc<str>, Room>,
    next_command: u64,
    next_question: u64,
    stats: Stats,
}

impl Machine {
    /// A client that begins its first attempt at once. Equal seeds draw equal jitter, masks and keys; clients of one program need
    /// different ones.
    ///
    /// # Panics
    /// If host or path hold a line end, or the path does not begin with `/`: they would be another request.
    pub fn new(identity: Identity, seed: u64, now: Millis) -> Machine {
        let is_clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(
            is_clean(&identity.host) && is_clean(&identity.path) && identity.path.starts_with('/'),
            "host or path is not clean"
        );
        let mut random = Random::new(seed);
        let mut machine = Machine {
            identity,
            link: Link::Idle,
            socket: SocketId(0),
            session: None,
            is_resumed: false,
            told: Told::default(),
            backoff: Backoff::new(random.next()),
            random,
            deadline: now,
            next_attempt: None,
            advice_ms: 0,
            opened_at: now,
            last_input: now,
            ping_due: None,
            hold_until: None,
            recovery_due: None,
            questions_due: None,
            renew_token_at: None,
            needs_token: false,
            token_asked: false,
            token_retried: false,
            last_cause: None,
            inbound: Inbound::default(),
            out: Vec::new(),
            out_at: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            outbox: Outbox::default(),
            rooms: BTreeMap::new(),
            next_command: 1,
            next_question: 1,
            stats: Stats::default(),
        };
        machine.begin_attempt(now);
        machine
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        let (attempt, next_attempt, cause) = (self.backoff.attempt(), self.next_attempt, self.last_cause);
        match self.link {
            Link::Open => State::Connected { resumed: self.is_resumed },
            Link::Closing => State::Closed(Cause::Asked),
            Link::Closed => State::Closed(cause.unwrap_or(Cause::Asked)),
            Link::Idle | Link::Opening | Link::Upgrading { .. } | Link::Welcoming if self.can_resume() => {
                State::Resuming { attempt, next_attempt, cause }
            }
            Link::Idle | Link::Opening | Link::Upgrading { .. } | Link::Welcoming => {
                State::Connecting { attempt, next_attempt, cause }
            }
        }
    }

    /// What the client has lived through.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    // ---- what happens ----

    /// The socket is open.
    pub fn handle_opened(&mut self, now: Millis, socket: SocketId) {
        if socket != self.socket || self.link != Link::Opening {
            return;
        }
        let key = self.random.handshake_key();
        let (host, path) = (&self.identity.host, &self.identity.path);
        write_request(&mut self.out, host, path, &key, Some(Dialect::V1_SUBPROTOCOL), &[]);
        self.link = Link::Upgrading { key };
        self.last_input = now;
    }

    /// Bytes came. All of them are taken.
    pub fn handle_received(&mut self, now: Millis, socket: SocketId, bytes: &[u8]) {
        if socket != self.socket || matches!(self.link, Link::Idle | Link::Opening | Link::Closed) {
            return;
        }
        if !bytes.is_empty() {
            self.inbound.push(bytes);
            self.last_input = now;
            self.ping_due = None;
        }
        if let Link::Upgrading { key } = &self.link {
            let judged = self.inbound.read_head(|response| Answer::of(response, key));
            match judged {
                Ok(None) => return,
                Ok(Some(Answer::Accepted)) => self.say_connect(),
                Ok(Some(Answer::Refused { status, advice_ms })) => return self.lose(now, Cause::Refused(status), advice_ms, None),
                Ok(Some(Answer::Broken)) => return self.lose(now, Cause::Violation(1002), 0, None),
                Err(Violation(code)) => return self.lose(now, Cause::Violation(code), 0, None),
            }
        }
        self.read_frames(now);
        self.pump(now);
    }

    /// The socket ended, or could not be opened.
    pub fn handle_ended(&mut self, now: Millis, socket: SocketId) {
        if socket != self.socket {
            return;
        }
        match self.link {
            Link::Idle | Link::Closed => {}
            Link::Closing => self.finish(Cause::Asked),
            Link::Opening | Link::Upgrading { .. } | Link::Welcoming | Link::Open => self.lose(now, Cause::Lost, 0, None),
        }
    }

    /// The socket took this many of [`transmit_bytes`](Machine::transmit_bytes).
    ///
    /// # Panics
    /// If that is more than there were.
    pub fn handle_transmitted(&mut self, now: Millis, count: usize) {
        self.out_at += count;
        assert!(self.out_at <= self.out.len(), "more bytes were taken than offered");
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
            self.out.shrink_to(TRANSMIT_BYTES_MAX / 16);
        } else if self.out_at > TRANSMIT_BYTES_MAX {
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
        self.pump(now);
    }

    /// A token was got ([`Action::Token`]), or could not be had now. One that was not asked for is used from now on, too.
    pub fn handle_token(&mut self, now: Millis, token: Option<String>) {
        self.token_asked = false;
        match token {
            Some(token) => {
                self.needs_token = false;
                if self.link == Link::Open {
                    self.say(&encode::refresh(&token));
                }
                self.identity.token = Some(token);
                if self.link == Link::Idle && self.next_attempt.is_none() {
                    self.begin_attempt(now);
                }
            }
            None if self.link == Link::Idle => self.schedule(now, 0),
            // The old one still holds: ask again when it has run out.
            None => {}
        }
    }

    /// Time has passed. Does what is due; is harmless at any time.
    pub fn handle_timeout(&mut self, now: Millis) {
        let is_due = |due: Option<Millis>| due.is_some_and(|due| now >= due);
        match self.link {
            Link::Idle if is_due(self.next_attempt) => self.begin_attempt(now),
            Link::Opening | Link::Upgrading { .. } | Link::Welcoming if now >= self.deadline => {
                self.lose(now, Cause::Silent, 0, Some(ABANDONED));
            }
            Link::Closing if now >= self.deadline => self.finish(Cause::Asked),
            Link::Open => {
                if is_due(self.recovery_due) {
                    self.recovery_due = None;
                    self.give_up_recovery(None);
                }
                if is_due(self.questions_due) {
                    self.questions_due = None;
                    self.ask_again();
                }
                if is_due(self.renew_token_at) {
                    self.renew_token_at = None;
                    self.ask_token();
                }
                self.check_life(now);
                self.pump(now);
            }
            Link::Idle | Link::Opening | Link::Upgrading { .. } | Link::Welcoming | Link::Closing | Link::Closed => {}
        }
    }

    // ---- what is wanted ----

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.event_bytes -= event.bytes();
        if self.events.is_empty() && self.events.capacity() > 2 * EVENTS_MAX {
            self.events = VecDeque::new();
        }
        Some(event)
    }

    /// The bytes that wait for the current socket.
    pub fn transmit_bytes(&self) -> &[u8] {
        &self.out[self.out_at..]
    }

    /// Whether input may be handed over: events that nobody takes hold it back, so that the server keeps what is late.
    pub fn wants_input(&self) -> bool {
        self.link != Link::Open || (self.events.len() < EVENTS_MAX && self.event_bytes < EVENT_BYTES_MAX)
    }

    /// When [`handle_timeout`](Machine::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Millis> {
        match self.link {
            Link::Idle => self.next_attempt,
            Link::Opening | Link::Upgrading { .. } | Link::Welcoming | Link::Closing => Some(self.deadline),
            Link::Open => {
                let life = self.ping_due.unwrap_or(self.last_input.after(self.told.heartbeat_ms));
                let others = [self.hold_until, self.recovery_due, self.questions_due, self.renew_token_at];
                others.into_iter().flatten().chain([life]).min()
            }
            Link::Closed => None,
        }
    }

    // ---- what is said ----

    /// Encodes what may be sent.
    fn pump(&mut self, now: Millis) {
        if self.link != Link::Open || self.hold_until.is_some_and(|until| now < until) {
            return;
        }
        self.hold_until = None;
        while self.out.len() - self.out_at < TRANSMIT_BYTES_MAX {
            let Some((seq, is_first, entry)) = self.outbox.next_to_send(self.told.window) else { break };
            let wants_echo = entry.kind == Kind::Publish { echo: true };
            if is_first
                && wants_echo
                && let Some(room) = self.rooms.get_mut(&entry.room)
            {
                room.owe_echo(seq);
            }
            let command = encode::number(&entry.body, seq);
            self.stats.commands_sent += 1;
            self.say(&command);
        }
    }

    /// Appends a text message.
    fn say(&mut self, text: &[u8]) {
        let mask = self.random.mask();
        write_masked(&mut self.out, Opcode::Text, text, mask);
    }

    fn tell(&mut self, event: Event) {
        self.event_bytes += event.bytes();
        self.events.push_back(event);
    }

    /// Tells the state. One that nobody has taken yet is replaced, so that a long outage does not become a long queue.
    fn tell_state(&mut self) {
        let state = Event::State(self.state());
        match self.events.back_mut() {
            Some(last @ Event::State(_)) => *last = state,
            _ => self.tell(state),
        }
    }

    /// Ends it for good: everything that was asked for gets its answer, and nothing is kept.
    fn finish(&mut self, cause: Cause) {
        self.drop_socket(None);
        self.link = Link::Closed;
        self.last_cause = Some(cause);
        self.next_attempt = None;
        self.settle_all();
        self.rooms.clear();
        self.session = None;
        self.identity.token = None;
        self.tell_state();
    }

    /// Closes the client. The session ends at the server, and whatever was not acknowledged is told as unknown or refused.
    pub fn close(&mut self, now: Millis) {
        match self.link {
            Link::Open => {
                let mask = self.random.mask();
                write_masked(&mut self.out, Opcode::Close, &1000u16.to_be_bytes(), mask);
                self.link = Link::Closing;
                self.deadline = now.after(CLOSE_LINGER_MS);
                self.last_cause = Some(Cause::Asked);
                self.settle_all();
                self.rooms.clear();
            }
            Link::Closing | Link::Closed => {}
            Link::Idle | Link::Opening | Link::Upgrading { .. } | Link::Welcoming => self.finish(Cause::Asked),
        }
    }

    /// Whether the client is over: nothing is sent or opened any more.
    pub fn is_closed(&self) -> bool {
        self.link == Link::Closed
    }
}

impl fmt::Debug for Machine {
    /// Without tokens and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("state", &self.state()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
