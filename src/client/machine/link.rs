//! The life of a connection: from the attempt to the loss, and what its loss asks for.
//!
//! Decides when the next attempt begins and whether there is one. What becomes of the session is not known here.

use super::super::event::Cause;
use super::super::inbound::{Inbound, Incoming, Violation};
use super::super::limits::{ADVICE_MS_MAX, ATTEMPT_MS, STABLE_MS, STALL_MS, TRANSMIT_BYTES_MAX};
use super::super::verdict::verdict;
use super::super::{encode, message};
use super::{ABANDONED, Action, Link, Machine, SocketId};
use crate::planted::{Bug, is_planted};
use crate::protocol::Dialect;
use crate::time::Millis;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use crate::ws::handshake::Response;

impl Machine {
    pub(super) fn begin_attempt(&mut self, now: Millis) {
        self.next_attempt = None;
        if self.needs_token {
            self.ask_token();
            return;
        }
        self.socket = SocketId(self.socket.0 + 1);
        self.link = Link::Opening;
        self.deadline = now.after(ATTEMPT_MS);
        self.stats.attempts += 1;
        self.actions.push_back(Action::Open(self.socket));
        self.tell_state();
    }

    pub(super) fn ask_token(&mut self) {
        if !self.token_asked {
            self.token_asked = true;
            self.actions.push_back(Action::Token);
        }
    }

    pub(super) fn read_frames(&mut self, now: Millis) {
        let socket = self.socket;
        // Taken out, so that a frame may borrow from it while the rest of the machine changes.
        let mut inbound = std::mem::take(&mut self.inbound);
        while self.wants_input() {
            match inbound.next() {
                Ok(None) => break,
                Ok(Some(incoming)) => self.handle_incoming(now, incoming),
                Err(Violation(code)) => self.lose(now, Cause::Violation(code), 0, Some(code)),
            }
            if self.socket != socket || matches!(self.link, Link::Idle | Link::Closed) {
                return; // what is left is of a connection that is over
            }
        }
        self.inbound = inbound;
    }

    pub(super) fn handle_incoming(&mut self, now: Millis, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Close { code, reason } => {
                let code = code.unwrap_or(1005);
                if self.link == Link::Closing {
                    return self.finish(Cause::Asked);
                }
                let advice_ms = message::close_advice(reason).unwrap_or(0);
                self.lose(now, Cause::Closed(code), advice_ms, Some(1000));
            }
            Incoming::Ping(payload) => {
                // A server that pings faster than its socket takes the answers gets fewer of them.
                if self.out.len() < 2 * TRANSMIT_BYTES_MAX {
                    let mask = self.random.mask();
                    write_masked(&mut self.out, Opcode::Pong, payload, mask);
                }
            }
            Incoming::Pong | Incoming::Binary => {}
            Incoming::Text(_) if self.link == Link::Closing => {}
            Incoming::Text(text) => match message::decode(text) {
                Some(frame) => self.handle_frame(now, frame),
                None => self.lose(now, Cause::Violation(1002), 0, Some(1002)),
            },
        }
    }

    /// The connection is over: with `goodbye`, this side says a close frame with that code.
    pub(super) fn lose(&mut self, now: Millis, cause: Cause, advice_ms: u64, goodbye: Option<u16>) {
        if self.link == Link::Closing {
            return self.finish(Cause::Asked); // whatever went wrong after our close frame
        }
        if self.link == Link::Open && now.since(self.opened_at) >= STABLE_MS && !is_planted(Bug::ClientBackoffNotReset) {
            self.backoff.reset();
        }
        self.drop_socket(goodbye);
        self.link = Link::Idle;
        self.last_cause = Some(cause);
        for room in self.rooms.values_mut() {
            room.presence.interrupt();
            room.question = None;
        }
        let verdict = verdict(cause);
        if verdict.stop || (verdict.once && self.token_retried) || (verdict.new_token && !self.identity.can_renew_token) {
            return self.finish(cause);
        }
        if verdict.too_large {
            self.refuse_largest();
        }
        if verdict.fresh_session
            && let Some(session) = &mut self.session
        {
            session.token = None;
        }
        if verdict.new_token {
            self.needs_token = true;
            self.token_retried |= verdict.once;
            self.ask_token();
        }
        if verdict.at_cap {
            self.backoff.raise_to_cap();
        }
        let advised = std::mem::take(&mut self.advice_ms);
        let advice_ms = if is_planted(Bug::ClientIgnoresAdvice) { 0 } else { advice_ms.max(advised) };
        self.schedule(now, advice_ms);
    }

    pub(super) fn schedule(&mut self, now: Millis, advice_ms: u64) {
        self.next_attempt = Some(now.after(self.backoff.delay(advice_ms)));
        self.tell_state();
    }

    /// Lets go of the socket and all that belongs to the connection.
    pub(super) fn drop_socket(&mut self, goodbye: Option<u16>) {
        let mut last = std::mem::take(&mut self.out).split_off(self.out_at);
        self.out_at = 0;
        if let Some(code) = goodbye
            && matches!(self.link, Link::Welcoming | Link::Open | Link::Closing)
        {
            let mask = self.random.mask();
            write_masked(&mut last, Opcode::Close, &code.to_be_bytes(), mask);
        } else {
            last.clear();
        }
        if !matches!(self.link, Link::Idle | Link::Closed) {
            self.actions.push_back(Action::Drop(self.socket, last));
        }
        self.inbound = Inbound::default();
        (self.ping_due, self.hold_until, self.recovery_due) = (None, None, None);
        (self.questions_due, self.renew_token_at) = (None, None);
    }

    /// Silence for a heartbeat is answered with a question, and silence after it ends the connection. Silence that this process
    /// caused, by reading nothing or by standing still, is held against nobody.
    pub(super) fn check_life(&mut self, now: Millis) {
        if !self.wants_input() {
            (self.last_input, self.ping_due) = (now, None);
            return;
        }
        match self.ping_due {
            None if now < self.last_input.after(self.told.heartbeat_ms) => {}
            Some(due) if now < due => {}
            Some(due) if now.since(due) < STALL_MS && !is_planted(Bug::ClientTrustsSilence) => {
                self.lose(now, Cause::Silent, 0, Some(ABANDONED))
            }
            None | Some(_) => {
                self.say(encode::ping());
                self.ping_due = Some(now.after(self.told.timeout_ms));
            }
        }
    }
}

/// What the answer to the upgrade means.
pub(super) enum Answer {
    Accepted,
    Refused { status: u16, advice_ms: u64 },
    Broken,
}

impl Answer {
    pub(super) fn of(response: &Response<'_>, key: &str) -> Answer {
        if response.accepts(key, Some(Dialect::V1_SUBPROTOCOL)) && response.header("sec-websocket-protocol").is_some() {
            return Answer::Accepted;
        }
        if response.status == 101 {
            return Answer::Broken;
        }
        // Seconds; the other form of the header, a date, needs a clock that agrees with the server's.
        let seconds = response.header("retry-after").and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        Answer::Refused { status: response.status, advice_ms: seconds.saturating_mul(1_000).min(ADVICE_MS_MAX) }
    }
}
