//! A WebSocket client by tungstenite that speaks both dialects of the protocol, with selective receive.
//!
//! [`Client::expect`] takes the first frame of a type and keeps the others for later calls, so a test names what it is about and acks or
//! presence may come in between. Frames that tell of trouble (`error`, `nack`, `gap`, `reconnect`) fail a test that did not ask for them.

use super::{Deadline, PATIENCE};
use serde_json::{Value, json};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// Types that a test must ask for.
const TROUBLE: [&str; 4] = ["error", "nack", "gap", "reconnect"];

/// A connected client.
pub struct Client {
    socket: WebSocket<TcpStream>,
    inbox: VecDeque<Received>,
    pings: usize,
    next_seq: u64,
    acked: u64,
    closed: Option<(Option<u16>, String)>,
    /// The `welcome` of a `throng.v1` client; null for a plain one.
    pub welcome: Value,
}

struct Received {
    text: String,
    value: Value,
}

/// What one read came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The connection is over.
    Ended(End),
    /// Nothing came before the deadline.
    Silence,
}

/// How a connection ended, as the client saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The server's close frame, then its FIN. No code is 1005.
    Closed {
        /// The close code.
        code: Option<u16>,
        /// The close reason.
        reason: String,
    },
    /// FIN without a close frame.
    Eof,
    /// RST.
    Reset,
}

impl End {
    /// The code of the server's close frame.
    ///
    /// # Panics
    /// If it ended without one.
    pub fn code(&self) -> Option<u16> {
        match self {
            End::Closed { code, .. } => *code,
            End::Eof | End::Reset => panic!("ended without a close frame: {self:?}"),
        }
    }
}

impl Client {
    /// Upgrades at `path` (with its query), offering these subprotocols.
    pub fn open(address: SocketAddr, path: &str, subprotocol: Option<&str>) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
        Client::open_on(stream, address, path, subprotocol)
    }

    /// [`Client::open`] on a connected socket.
    pub fn open_on(stream: TcpStream, address: SocketAddr, path: &str, subprotocol: Option<&str>) -> Client {
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout can be set");
        let mut request = format!("ws://{address}{path}").into_client_request().expect("the test's URL is one");
        if let Some(subprotocol) = subprotocol {
            let value = subprotocol.parse().expect("the test's subprotocol is a header value");
            request.headers_mut().insert("Sec-WebSocket-Protocol", value);
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config)).expect("the upgrade is answered");
        let inbox = VecDeque::new();
        Client { socket, inbox, pings: 0, next_seq: 1, acked: 0, closed: None, welcome: Value::Null }
    }

    /// A client of the plain dialect.
    pub fn plain(address: SocketAddr, path: &str) -> Client {
        Client::open(address, path, None)
    }

    /// A client of `throng.v1` that has said who it is and has its `welcome`.
    pub fn connect(address: SocketAddr, user: &str) -> Client {
        Client::open(address, "/ws", Some("throng.v1")).introduced(user)
    }

    /// Sends `connect` and awaits `welcome`.
    pub fn introduced(mut self, user: &str) -> Client {
        self.send(&json!({"type": "connect", "user": user}));
        self.welcome = self.expect("welcome");
        self
    }

    // ---- sending ----

    /// Sends a text message as it is.
    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the server reads");
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).expect("the server reads");
    }

    /// Sends a frame of the protocol.
    pub fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string());
    }

    /// Sends a frame with the next `seq`, which it returns.
    pub fn command(&mut self, mut frame: Value) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        frame["seq"] = json!(seq);
        self.send(&frame);
        seq
    }

    /// Uses up a `seq` without sending anything: the test sends it itself.
    pub fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Uses up this many: see [`Client::take_seq`].
    pub fn take_seqs(&mut self, count: u64) {
        self.next_seq += count;
    }

    /// Joins and awaits `room_joined`, which it returns.
    pub fn join(&mut self, room: &str) -> Value {
        self.join_with(room, json!({}))
    }

    /// Joins with presence.
    pub fn join_present(&mut self, room: &str) -> Value {
        self.join_with(room, json!({"presence": true}))
    }

    /// Joins with further fields.
    pub fn join_with(&mut self, room: &str, fields: Value) -> Value {
        let mut frame = json!({"type": "join_room", "roomId": room});
        for (key, value) in fields.as_object().expect("fields are an object") {
            frame[key] = value.clone();
        }
        let seq = self.command(frame);
        let joined = self.expect("room_joined");
        assert_eq!(joined["roomId"], room, "{joined}");
        assert!(joined["seq"] == seq || self.welcome.is_null(), "room_joined repeats its seq: {joined}");
        joined
    }

    /// Leaves and awaits `room_left`.
    pub fn leave(&mut self, room: &str) {
        self.command(json!({"type": "leave_room", "roomId": room}));
        let left = self.expect("room_left");
        assert_eq!((&left["roomId"], &left["reason"]), (&json!(room), &json!("left")), "{left}");
    }

    /// Publishes with the next `seq`, which it returns.
    pub fn broadcast(&mut self, room: &str, data: Value) -> u64 {
        self.command(json!({"type": "broadcast", "roomId": room, "data": data}))
    }

    /// Publishes without `seq`: in `throng.v1` that is volatile.
    pub fn broadcast_volatile(&mut self, room: &str, data: Value) {
        self.send(&json!({"type": "broadcast", "roomId": room, "data": data}));
    }

    // ---- receiving ----

    /// The first frame of this type, waiting for it.
    ///
    /// # Panics
    /// If the connection ends or [`PATIENCE`] runs out first, or if trouble comes that was not asked for.
    pub fn expect(&mut self, kind: &str) -> Value {
        self.expect_that(kind, |_| true)
    }

    /// The first frame of this type for which `wanted` holds.
    pub fn expect_that(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.take(kind, wanted).value
    }

    /// The first frame of this type, as its text.
    pub fn expect_text(&mut self, kind: &str) -> String {
        self.take(kind, |_| true).text
    }

    /// The `data` of the next broadcast in a room.
    pub fn expect_data(&mut self, room: &str) -> Value {
        self.expect_broadcast(room)["data"].clone()
    }

    /// The next broadcast in a room.
    pub fn expect_broadcast(&mut self, room: &str) -> Value {
        self.expect_that("broadcast", |frame| frame["roomId"] == room)
    }

    /// An `error` with this code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let error = self.expect("error");
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].is_string(), "an error says what it means: {error}");
        assert!(error["retryable"].is_boolean() || self.welcome.is_null(), "an error says whether to try again: {error}");
        error
    }

    /// Waits until everything up to `seq` is acknowledged. Acks only grow, and cover nothing that was not sent.
    pub fn expect_ack(&mut self, seq: u64) {
        while self.acked < seq {
            let ack = self.expect("ack");
            let covered = ack["seq"].as_u64().unwrap_or_else(|| panic!("not an ack: {ack}"));
            assert!(covered >= self.acked, "acks go back from {} to {covered}", self.acked);
            assert!(covered < self.next_seq, "ack {covered} of what was never sent");
            self.acked = covered;
        }
    }

    /// [`Client::expect_ack`] where a `nack` may come first, which is kept.
    pub fn expect_ack_among_nacks(&mut self, seq: u64) {
        let deadline = Deadline::after(PATIENCE);
        while self.acked < seq {
            assert!(!deadline.passed(), "ack {seq} never came");
            if let Some(place) = self.inbox.iter().position(|frame| frame.value["type"] == "ack") {
                let ack = self.inbox.remove(place).expect("it was just there");
                self.acked = ack.value["seq"].as_u64().expect("an ack carries seq");
            } else if let Event::Text(text) = self.read(deadline, false) {
                self.keep(text);
            }
        }
    }

    /// Sends `ping` and waits for its `pong`: what this connection's own shard had to say before is then here.
    pub fn round_trip(&mut self) {
        let t = self.next_seq + 1_000_000;
        self.send(&json!({"type": "ping", "t": t}));
        let pong = self.expect("pong");
        assert_eq!(pong["t"], t, "{pong}");
    }

    /// [`Client::round_trip`] without a `t`, as an old client sends it.
    pub fn round_trip_plain(&mut self) {
        self.send_text(r#"{"type":"ping"}"#);
        self.expect("pong");
    }

    /// Frames of a type that have come and were not yet taken.
    pub fn waiting(&self, kind: &str) -> Vec<Value> {
        self.inbox.iter().filter(|frame| frame.value["type"] == kind).map(|frame| frame.value.clone()).collect()
    }

    /// Drops the frames of this type that have come.
    pub fn forget(&mut self, kind: &str) {
        self.inbox.retain(|frame| frame.value["type"] != kind);
    }

    /// Verifies that no frame of this type has come by now. Say with a [`Client::round_trip`] or a later frame when "now" is.
    pub fn expect_none(&self, kind: &str) {
        assert_eq!(self.waiting(kind), Vec::<Value>::new(), "no {kind} was due");
    }

    /// Pings of the server that were answered so far.
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// Reads, answering pings, until this many have come.
    pub fn answer_pings(&mut self, count: usize) {
        let deadline = Deadline::after(PATIENCE);
        while self.pings < count {
            match self.read(deadline, true) {
                Event::Silence if deadline.passed() => panic!("{} of {count} pings came", self.pings),
                Event::Silence => {}
                Event::Text(text) => self.keep(text),
                event @ (Event::Binary(_) | Event::Ended(_)) => panic!("while answering pings: {event:?}"),
            }
        }
    }

    /// Reads until the connection is over, dropping what still comes.
    pub fn expect_end(&mut self) -> End {
        let deadline = Deadline::after(PATIENCE);
        loop {
            match self.read(deadline, false) {
                Event::Ended(end) => return end,
                Event::Text(_) | Event::Binary(_) => {}
                Event::Silence => panic!("the server does not end the connection (close frame: {:?})", self.closed),
            }
        }
    }

    /// The next message, of whatever kind. Pings are answered on the way.
    pub fn next_event(&mut self) -> Event {
        self.read(Deadline::after(PATIENCE), false)
    }

    // ---- ending ----

    /// Sends a close frame and waits for the answer and the FIN.
    pub fn close(mut self, code: u16) -> End {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        self.socket.close(Some(frame)).expect("the server reads");
        self.expect_end()
    }

    /// Ends with a FIN and no close frame, as a crashed client does.
    pub fn end_of_stream(self) {
        self.socket.get_ref().shutdown(Shutdown::Write).expect("the socket is open");
        // Closing with unread bytes would make it a reset: read to the end.
        let mut this = self;
        this.closed = None;
        let _ = this.expect_end();
    }

    /// Ends with a RST.
    pub fn reset(self) {
        SockRef::from(self.socket.get_ref()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
    }

    /// Stops answering but keeps the socket, as an unplugged machine seems to: hold the result as long as that should last.
    #[must_use]
    pub fn vanish(self) -> TcpStream {
        self.stream().try_clone().expect("a socket can be duplicated")
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    // ---- inside ----

    fn take(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Received {
        let deadline = Deadline::after(PATIENCE);
        let mut seen = 0;
        loop {
            while seen < self.inbox.len() {
                let frame = &self.inbox[seen].value;
                if frame["type"] == kind && wanted(frame) {
                    return self.inbox.remove(seen).expect("it was just there");
                }
                let trouble = TROUBLE.iter().any(|name| frame["type"] == *name);
                assert!(!trouble || frame["type"] == kind, "waiting for {kind}: {frame}");
                seen += 1;
            }
            match self.read(deadline, false) {
                Event::Text(text) => self.keep(text),
                event @ (Event::Binary(_) | Event::Ended(_) | Event::Silence) => {
                    panic!("waiting for {kind}: {event:?}; here: {:?}", self.inbox.iter().map(|f| &f.text).collect::<Vec<_>>())
                }
            }
        }
    }

    fn keep(&mut self, text: String) {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
        assert!(value["type"].is_string(), "a frame without type: {text}");
        self.inbox.push_back(Received { text, value });
    }

    /// One message; with `stop_at_ping` also [`Event::Silence`] after each ping.
    fn read(&mut self, deadline: Deadline, stop_at_ping: bool) -> Event {
        loop {
            let Some(left) = deadline.left() else { return Event::Silence };
            self.socket.get_ref().set_read_timeout(Some(left)).expect("a read timeout can be set");
            match self.socket.read() {
                Ok(Message::Text(text)) => return Event::Text(text.to_string()),
                Ok(Message::Binary(bytes)) => return Event::Binary(bytes.to_vec()),
                Ok(Message::Ping(_)) => {
                    self.pings += 1;
                    // tungstenite has queued the pong; only a flush sends it.
                    let _ = self.socket.flush();
                    if stop_at_ping {
                        return Event::Silence;
                    }
                }
                Ok(Message::Close(frame)) => {
                    let frame = frame.map(|frame| (Some(u16::from(frame.code)), frame.reason.to_string()));
                    self.closed = Some(frame.unwrap_or((None, String::new())));
                }
                Ok(Message::Pong(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return Event::Ended(self.ended(End::Reset));
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Event::Ended(self.ended(End::Eof)),
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return Event::Ended(self.ended(End::Eof)),
                Err(error) => panic!("the server broke RFC 6455: {error}"),
            }
        }
    }

    /// A close frame that came before the end says more than how the socket ended.
    fn ended(&self, otherwise: End) -> End {
        match &self.closed {
            Some((code, reason)) => End::Closed { code: *code, reason: reason.clone() },
            None => otherwise,
        }
    }
}
