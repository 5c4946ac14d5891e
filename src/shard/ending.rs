//! The one close path. Whatever ends a connection (a close frame, EOF, RST, a protocol error, a timeout, an overflow, the
//! shutdown) comes through [`Shard::end`], which frees timers, queue, partial input, session and memberships together. What may
//! outlive it is the socket, for a goodbye, and the session's presence, for its grace.

use super::Shard;
use super::connection::{Connection, Flags, State};
use super::seam::{Action, Ended, Key};
use super::stats::Refusal;
use crate::close::CloseReason;
use crate::limits::CLOSE_LINGER_MS;
use crate::planted::{Bug, is_planted};
use crate::time::Now;
use crate::ws::Opcode;

/// What the peer still gets to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// Nothing: it is gone.
    None,
    /// Our close frame, in answer to its own; then the socket closes.
    Answer(Option<u16>),
    /// Our close frame; then its own is awaited, for a while.
    Say,
    /// Our close frame; nothing more of the peer is understood, so our direction is finished and its end of stream awaited.
    Cut,
    /// Our close frame behind what is queued already, which still goes out; then as `Say`.
    Last,
    /// Bytes that are queued already, as `Cut`.
    Queued,
}

impl Shard {
    /// Ends a connection.
    pub(crate) fn end(&mut self, now: Now, slot: u32, reason: CloseReason, goodbye: Goodbye) {
        match self.connections[slot as usize].state {
            State::Free => return,
            State::Goodbye => {
                // It has ended already; only the socket is left.
                if goodbye == Goodbye::None {
                    self.forget(slot);
                }
                return;
            }
            State::Moving if self.is_handed_over(slot) => return,
            State::Upgrading | State::Opening | State::Moving | State::Open => {}
        }
        let connection = &mut self.connections[slot as usize];
        connection.state = State::Goodbye;
        connection.reason = reason;
        let upgraded = connection.flags.has(Flags::UPGRADED);
        let session = std::mem::take(&mut connection.session);
        self.count_end(upgraded, reason);
        // What it said and what could not be done yet is not done any more.
        self.drop_held(slot);
        self.drop_move(slot);
        self.drop_resuming(slot);
        self.stop_feeding(slot);
        if session.is_some() && !(is_planted(Bug::ResetSkipsCleanup) && reason == CloseReason::Reset) {
            self.end_session(now, session, reason);
        }
        match goodbye {
            Goodbye::None => {
                self.forget(slot);
                return;
            }
            Goodbye::Answer(code) => {
                self.drop_queue(slot, true);
                self.drop_input(slot);
                self.connections[slot as usize].flags.set(Flags::CLOSE_WHEN_SENT);
                self.push_close(slot, code, "");
            }
            Goodbye::Say => {
                self.drop_queue(slot, true);
                let advice = self.advice(reason);
                self.push_close(slot, reason.code(), &advice);
            }
            Goodbye::Last => {
                let advice = self.advice(reason);
                self.push_close(slot, reason.code(), &advice);
            }
            Goodbye::Cut => {
                // What was queued before the offence still goes out: it was owed.
                self.drop_input(slot);
                self.connections[slot as usize].flags.set(Flags::DISCARD);
                self.push_close(slot, reason.code(), "");
            }
            Goodbye::Queued => {
                self.drop_input(slot);
                self.connections[slot as usize].flags.set(Flags::DISCARD);
            }
        }
        let connection = &mut self.connections[slot as usize];
        let paused = connection.flags.has(Flags::PAUSED);
        self.arm(slot, now, CLOSE_LINGER_MS);
        if paused {
            // Its answer and its end of stream are awaited now: read on.
            self.resume(slot);
        }
    }

    /// Ends a connection of the server's own accord.
    pub(crate) fn end_with_frame(&mut self, now: Now, slot: u32, reason: CloseReason) {
        self.end(now, slot, reason, Goodbye::Say);
    }

    fn count_end(&mut self, upgraded: bool, reason: CloseReason) {
        let is_error = match reason {
            CloseReason::Reset
            | CloseReason::Protocol
            | CloseReason::Unsupported
            | CloseReason::InvalidUtf8
            | CloseReason::TooLarge
            | CloseReason::HandshakeTimeout
            | CloseReason::BadRequest
            | CloseReason::BadProtocol => true,
            CloseReason::Clean
            | CloseReason::PeerCode
            | CloseReason::Abandoned
            | CloseReason::Hidden
            | CloseReason::Eof
            | CloseReason::HttpAnswered
            | CloseReason::Refused
            | CloseReason::BadToken
            | CloseReason::Forbidden
            | CloseReason::OverCapacity
            | CloseReason::RateLimited
            | CloseReason::SlowConsumer
            | CloseReason::MemoryPressure
            | CloseReason::TooMany
            | CloseReason::Drain
            | CloseReason::NoPong
            | CloseReason::TakenOver
            | CloseReason::StateInsufficient
            | CloseReason::TokenExpired => false,
        };
        self.stats.connection_errors += u64::from(is_error);
        if upgraded {
            self.stats.connections_active -= 1;
            self.stats.closes[reason as usize] += 1;
            self.stats.abnormal_closes += u64::from(reason.is_abnormal());
        }
    }

    /// The reason text of a close frame: compact JSON that says when to come back, for reasons that ask to back off.
    fn advice(&mut self, reason: CloseReason) -> String {
        match reason.retry() {
            crate::close::Retry::BackOff => format!("{{\"ra\":{}}}", 1_000 + self.random.below(4_000)),
            crate::close::Retry::Reconnect if reason == CloseReason::Drain => {
                format!("{{\"ra\":{}}}", 250 + self.random.below(2_000))
            }
            crate::close::Retry::Reconnect | crate::close::Retry::Stop => String::new(),
        }
    }

    fn push_close(&mut self, slot: u32, code: Option<u16>, reason: &str) {
        let mut payload = [0; 125];
        let mut length = 0;
        if let Some(code) = code {
            payload[..2].copy_from_slice(&code.to_be_bytes());
            payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
            length = 2 + reason.len();
        }
        let frame = self.message_frame(Opcode::Close, &payload[..length]);
        self.push_frame(slot, frame);
        self.release_frame(frame);
    }

    /// Forgets a connection and has its socket closed. The slot is used again after that.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.drop_queue(slot, false);
        self.drop_input(slot);
        self.wheel.cancel(slot);
        let connection = &mut self.connections[slot as usize];
        debug_assert!(connection.state != State::Free && connection.session.is_none());
        let key = Key { slot, generation: connection.generation };
        *connection = Connection { generation: key.generation, ..Connection::FREE };
        self.stats.sockets_held -= 1;
        self.actions.push_back(Action::Close(key));
    }

    /// The connection ended below: the peer's FIN, RST, or a broken socket.
    pub fn handle_closed(&mut self, now: Now, key: Key, ended: Ended) {
        if !self.is_current(key) {
            return;
        }
        let reason = match ended {
            Ended::Eof => CloseReason::Eof,
            Ended::Error => CloseReason::Reset,
        };
        self.end(now, key.slot, reason, Goodbye::None);
    }

    /// The peer's close frame came.
    pub(crate) fn handle_close_frame(&mut self, now: Now, slot: u32, code: Option<u16>) {
        if self.connections[slot as usize].state == State::Goodbye {
            // It answers our own: the socket has served.
            self.connections[slot as usize].flags.set(Flags::CLOSE_WHEN_SENT);
            self.forget_if_sent(slot);
            return;
        }
        let reason = match code {
            None | Some(1000 | 1001) => CloseReason::Clean,
            Some(4900) => CloseReason::Abandoned,
            Some(4901) => CloseReason::Hidden,
            Some(_) => CloseReason::PeerCode,
        };
        self.end(now, slot, reason, Goodbye::Answer(code));
    }

    fn forget_if_sent(&mut self, slot: u32) {
        if self.is_all_sent(slot) {
            self.forget(slot);
        }
    }

    /// Answers an upgrade request with an HTTP status and ends the connection.
    pub(crate) fn refuse(&mut self, now: Now, slot: u32, refusal: Refusal, status: u16, headers: &[(&str, &str)], body: &str) {
        self.stats.refusals[refusal as usize] += 1;
        self.answer_http(slot, status, headers, body, true);
        let reason = match refusal {
            Refusal::Capacity | Refusal::Draining | Refusal::Memory => CloseReason::Refused,
            Refusal::Timeout => CloseReason::HandshakeTimeout,
            Refusal::BadRequest
            | Refusal::NotFound
            | Refusal::Method
            | Refusal::UpgradeRequired
            | Refusal::HeadTooLarge
            | Refusal::HttpVersion => CloseReason::BadRequest,
        };
        self.end(now, slot, reason, Goodbye::Queued);
    }

    /// Sends a plain answer; without the body for HEAD, whose head is that of GET.
    pub(crate) fn answer_http(&mut self, slot: u32, status: u16, headers: &[(&str, &str)], body: &str, with_body: bool) {
        let mut bytes = std::mem::take(&mut self.json);
        bytes.clear();
        crate::ws::http::write_response(&mut bytes, status, headers, body);
        if !with_body {
            bytes.truncate(bytes.len() - body.len());
        }
        self.send_bytes(slot, &bytes);
        self.json = bytes;
    }
}
