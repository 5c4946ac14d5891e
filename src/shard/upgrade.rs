//! From an accepted socket to an open connection, or to an HTTP answer.
//!
//! A connection that is not admitted is read as any other, so that its 503 reaches it: an answer that meets unread bytes is lost.

use super::Shard;
use super::arena::Index;
use super::connection::{Connection, Flags, State};
use super::ending::Goodbye;
use super::seam::Key;
use super::stats::Refusal;
use crate::close::CloseReason;
use crate::limits::{ADMISSIONS_PER_SECOND, SPREAD_MS_MAX, USER_ID_BYTES_MAX};
use crate::protocol::Dialect;
use crate::protocol::command::has_control;
use crate::time::Now;
use crate::web;
use crate::ws::{self, Head, Request, RequestError};
use std::net::IpAddr;

/// Where an upgrade leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Rooms,
    Echo,
}

impl Shard {
    /// A socket was accepted. `admitted` is false when the process holds `connections_max` already.
    ///
    /// # Panics
    /// If the slot is in use: a socket is accepted only after [`Action::Close`](super::Action::Close) of the slot's last.
    pub fn handle_accepted(&mut self, now: Now, key: Key, peer: Option<IpAddr>, admitted: bool) {
        // Its place: limits by address.
        let _ = peer;
        let tick = self.fair(now);
        let connection = self.connection_at(key.slot);
        assert!(connection.state == State::Free, "a slot is accepted on only after it was closed");
        *connection = Connection { generation: key.generation, state: State::Upgrading, last_in: tick, ..Connection::FREE };
        if !admitted {
            connection.flags.set(Flags::REFUSED);
        }
        self.stats.sockets_held += 1;
        self.arm(key.slot, now, self.limits.handshake_deadline_ms);
    }

    /// Reads on in an upgrade request. Returns how much of `bytes` it took once the connection is upgraded; `None` before, and if
    /// it ended.
    pub(crate) fn read_upgrade(&mut self, now: Now, slot: u32, bytes: &[u8]) -> Option<usize> {
        let stash = self.connections[slot as usize].stash;
        let earlier = if stash.is_some() { std::mem::take(&mut self.stashes[stash.at()].head) } else { Vec::new() };
        let mut whole = earlier;
        let before = whole.len();
        // The common case is a request in one piece: it is read where it lies.
        let head = if before == 0 {
            ws::http::read_head(bytes)
        } else {
            whole.extend_from_slice(bytes);
            ws::http::read_head(&whole)
        };
        match head {
            Head::Incomplete => {
                if before == 0 {
                    whole.extend_from_slice(bytes);
                }
                let stash = self.stash_of(slot);
                self.stashes[stash.at()].head = whole;
                self.recharge_input(slot);
                None
            }
            Head::Malformed(error) => {
                self.refuse_request(now, slot, error);
                None
            }
            Head::Complete { request, head_bytes } => {
                self.drop_input(slot);
                self.handle_request(now, slot, &request).then(|| head_bytes - before)
            }
        }
    }

    fn refuse_request(&mut self, now: Now, slot: u32, error: RequestError) {
        let refusal = match error {
            RequestError::BadRequest(_) => Refusal::BadRequest,
            RequestError::Method => Refusal::Method,
            RequestError::UpgradeRequired => Refusal::UpgradeRequired,
            RequestError::HeadTooLarge => Refusal::HeadTooLarge,
            RequestError::HttpVersion => Refusal::HttpVersion,
        };
        let body = format!("{}\n", error.message());
        self.refuse(now, slot, refusal, error.status(), error.headers(), &body);
    }

    /// Answers a whole request. True if the connection is upgraded now.
    fn handle_request(&mut self, now: Now, slot: u32, request: &Request<'_>) -> bool {
        if let Some(is_ready) = match request.path {
            "/healthz" => Some(true),
            "/readyz" => Some(self.ready && self.drain.is_none()),
            _ => None,
        } {
            self.answer_health(now, slot, request, is_ready);
            return false;
        }
        let endpoint = match request.path {
            "/" | "/ws" => Endpoint::Rooms,
            "/echo" if self.echo => Endpoint::Echo,
            web::PATH => {
                self.answer_client(now, slot, request);
                return false;
            }
            _ => {
                self.refuse(now, slot, Refusal::NotFound, 404, &[], "There is no such endpoint; the WebSocket is at /ws.\n");
                return false;
            }
        };
        let upgrade = match request.upgrade() {
            Ok(upgrade) => upgrade,
            Err(error) => {
                self.refuse_request(now, slot, error);
                return false;
            }
        };
        if !self.admit(now, slot) {
            return false;
        }
        let is_v1 = upgrade.offers(Dialect::V1_SUBPROTOCOL);
        if endpoint == Endpoint::Rooms && upgrade.offers_any() && !is_v1 {
            self.refuse(
                now,
                slot,
                Refusal::BadRequest,
                400,
                &[],
                "None of the subprotocols offered is known; offer throng.v1, or none.\n",
            );
            return false;
        }
        let user = match request.query_value("user") {
            Some(name) if name.is_empty() || name.len() > USER_ID_BYTES_MAX || has_control(&name) => {
                self.refuse(
                    now,
                    slot,
                    Refusal::BadRequest,
                    400,
                    &[],
                    "user must be 1 to 128 bytes of UTF-8 without control characters.\n",
                );
                return false;
            }
            user => user,
        };
        if endpoint == Endpoint::Rooms {
            let dialect = if is_v1 { Dialect::V1 } else { Dialect::Plain };
            if self.new_session(now, slot, user.as_deref(), dialect).is_none() {
                self.refuse_busy(now, slot, Refusal::Capacity);
                return false;
            }
        }
        let mut answer = std::mem::take(&mut self.json);
        answer.clear();
        let protocol = (is_v1 && endpoint == Endpoint::Rooms).then_some(Dialect::V1_SUBPROTOCOL);
        ws::handshake::write_upgrade(&mut answer, upgrade.key, protocol);
        self.send_bytes(slot, &answer);
        self.json = answer;
        self.open(now, slot, endpoint, is_v1);
        true
    }

    fn open(&mut self, now: Now, slot: u32, endpoint: Endpoint, is_v1: bool) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::UPGRADED);
        connection.flags.set(Flags::GREETING);
        self.stats.connections_active += 1;
        self.stats.connections_total += 1;
        if endpoint == Endpoint::Rooms && is_v1 {
            connection.state = State::Opening;
            self.arm(slot, now, self.limits.handshake_deadline_ms);
            return;
        }
        connection.state = State::Open;
        connection.flags.set(if endpoint == Endpoint::Echo { Flags::ECHO } else { Flags::PLAIN });
        self.arm_first_heartbeat(slot, now);
    }

    /// Whether a correct upgrade may go on; it is refused if not.
    fn admit(&mut self, now: Now, slot: u32) -> bool {
        let refusal = if self.connections[slot as usize].flags.has(Flags::REFUSED) {
            Refusal::Capacity
        } else if self.drain.is_some() {
            Refusal::Draining
        } else if self.is_short_of_memory() {
            Refusal::Memory
        } else {
            return true;
        };
        self.refuse_busy(now, slot, refusal);
        false
    }

    /// The window in which a client is to try again, from its second attempt on, if this server is lost (PROTOCOL §9): wide enough for
    /// all of the shard's clients at [`ADMISSIONS_PER_SECOND`]. They are counted twice, because a client keeps what it was told when it
    /// came, and while a server fills it counts half of them on average.
    pub(crate) fn spread_ms(&self) -> u64 {
        (2 * self.stats.connections_active * 1_000 / ADMISSIONS_PER_SECOND).min(SPREAD_MS_MAX)
    }

    /// 503, with the advice when to try again, spread at random so that the refused don't come back together.
    fn refuse_busy(&mut self, now: Now, slot: u32, refusal: Refusal) {
        let seconds = (1 + self.random.below(10)).to_string();
        self.refuse(now, slot, refusal, 503, &[("Retry-After", &seconds)], "The server takes no more connections now.\n");
    }

    fn answer_health(&mut self, now: Now, slot: u32, request: &Request<'_>, is_ready: bool) {
        let (status, body) = if is_ready { (200, "ok\n") } else { (503, "not ready\n") };
        self.answer_question(now, slot, request, status, &[], body);
    }

    /// The browser client, for pages that reach only this port. Whoever would get no connection gets no file.
    fn answer_client(&mut self, now: Now, slot: u32, request: &Request<'_>) {
        if !self.admit(now, slot) {
            return;
        }
        let client = web::client();
        let is_kept = request.header("if-none-match").is_some_and(|list| web::names(list, &client.etag));
        let (status, body) = if is_kept { (304, "") } else { (200, client.text.as_str()) };
        let headers = [
            ("Content-Type", web::CONTENT_TYPE),
            ("ETag", client.etag.as_str()),
            ("Cache-Control", web::CACHE_CONTROL),
            ("Access-Control-Allow-Origin", web::ALLOW_ORIGIN),
            ("X-Content-Type-Options", "nosniff"),
        ];
        self.answer_question(now, slot, request, status, &headers, body);
    }

    /// Answers what is no upgrade, and ends the connection.
    fn answer_question(&mut self, now: Now, slot: u32, request: &Request<'_>, status: u16, headers: &[(&str, &str)], body: &str) {
        if request.method != "GET" && request.method != "HEAD" {
            self.refuse(now, slot, Refusal::Method, 405, &[("Allow", "GET, HEAD")], "the method must be GET or HEAD\n");
            return;
        }
        self.answer_http(slot, status, headers, body, request.method == "GET");
        self.end(now, slot, CloseReason::HttpAnswered, Goodbye::Queued);
    }
}
