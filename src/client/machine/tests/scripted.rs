//! The machine against a peer that says exactly what a test wants.

use crate::client::limits::{COMMANDS_MAX, EVENTS_MAX, STABLE_MS};
use crate::client::{
    Action, Cause, CommandId, Event, Identity, JoinOptions, Machine, PresenceChange, Recovery, Refused, SocketId, State,
};
use crate::time::Millis;
use crate::ws::handshake::{Head, read_head, write_upgrade};
use crate::ws::message::{Assembler, AssemblerPool, Event as Incoming, Step, read};
use crate::ws::{Opcode, frame};
use serde_json::{Value, json};

/// A machine and the other end of its socket.
struct Peer {
    machine: Machine,
    now: Millis,
    socket: SocketId,
    assembler: Option<Box<Assembler>>,
    pool: AssemblerPool,
}

impl Peer {
    fn new(identity: Identity) -> Peer {
        let machine = Machine::new(Identity { host: "peer".into(), path: "/ws".into(), ..identity }, 1, Millis(0));
        Peer { machine, now: Millis(0), socket: SocketId(0), assembler: None, pool: AssemblerPool::new() }
    }

    /// A machine that has its `welcome` and has been told of it.
    fn connected() -> Peer {
        let mut peer = Peer::new(Identity { user: Some("ada".into()), ..Identity::default() });
        peer.open();
        peer.welcome(&json!({}));
        peer.events();
        peer
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    /// Events but those about the state.
    fn news(&mut self) -> Vec<Event> {
        self.events().into_iter().filter(|event| !matches!(event, Event::State(_))).collect()
    }

    /// Takes the wish for a socket; the answer to the upgrade is accepted. Returns `connect`.
    fn open(&mut self) -> Value {
        let key = self.request();
        let mut answer = Vec::new();
        write_upgrade(&mut answer, &key, Some("throng.v1"));
        self.machine.handle_received(self.now, self.socket, &answer);
        self.said().remove(0)
    }

    /// Opens the socket that is wanted, and returns the key of the request.
    fn request(&mut self) -> String {
        let Some(Action::Open(socket)) = self.actions().pop() else { panic!("a socket is wanted") };
        self.socket = socket;
        self.assembler = None;
        self.machine.handle_opened(self.now, socket);
        let request = self.taken();
        let Head::Complete { request, .. } = read_head(&request) else { panic!("a request") };
        let upgrade = request.upgrade().expect("a correct one");
        assert!(upgrade.offers("throng.v1"));
        upgrade.key.to_owned()
    }

    fn taken(&mut self) -> Vec<u8> {
        let bytes = self.machine.transmit_bytes().to_vec();
        self.machine.handle_transmitted(self.now, bytes.len());
        bytes
    }

    /// What the machine has said since.
    fn said(&mut self) -> Vec<Value> {
        let mut bytes = self.taken();
        let (mut said, mut at) = (Vec::new(), 0);
        loop {
            match read(&mut self.assembler, &mut self.pool, &mut bytes[at..], 1 << 20) {
                Step::More { .. } => return said,
                Step::Failed(reason) => panic!("{reason:?}"),
                Step::Event { consumed, event, .. } => {
                    at += consumed;
                    said.push(match event {
                        Incoming::Text(text) => serde_json::from_str(text).expect("JSON is said"),
                        Incoming::Pong(payload) => json!({"pong": payload}),
                        Incoming::Close { code, .. } => json!({"close": code}),
                        Incoming::Ping(_) | Incoming::Binary(_) => panic!("{event:?}"),
                    });
                }
            }
        }
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut bytes = frame::header(opcode, payload.len()).as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        self.machine.handle_received(self.now, self.socket, &bytes);
    }

    fn say(&mut self, frame: Value) {
        self.frame(Opcode::Text, frame.to_string().as_bytes());
    }

    fn welcome(&mut self, fields: &Value) {
        let mut welcome = json!({"type": "welcome", "sessionId": "s1", "resumeToken": "t1", "resumed": false, "nextSeq": 1,
            "heartbeatMs": 12_000, "timeoutMs": 6_000, "limits": {"window": 4, "maxMessageBytes": 1_000}});
        for (key, value) in fields.as_object().expect("fields") {
            welcome[key] = value.clone();
        }
        self.say(welcome);
    }

    fn joined(&mut self, room: &str, seq: u64, offset: u64, fields: &Value) {
        let mut joined =
            json!({"type": "room_joined", "roomId": room, "seq": seq, "epoch": "e", "offset": offset, "recovered": false});
        for (key, value) in fields.as_object().expect("fields") {
            joined[key] = value.clone();
        }
        self.say(joined);
    }

    fn message(&mut self, room: &str, offset: u64) {
        self.say(json!({"type": "broadcast", "roomId": room, "data": offset, "offset": offset, "from": {"user": "bob", "connection": "b"}, "ts": 1}));
    }

    /// A machine that is in a room at offset 10.
    fn in_room(options: JoinOptions) -> Peer {
        let mut peer = Peer::connected();
        peer.machine.join(peer.now, "r", options).expect("a good room");
        assert_eq!(peer.said()[0]["type"], "join_room");
        peer.joined("r", 1, 10, &json!({"version": 1, "members": []}));
        peer.say(json!({"type": "ack", "seq": 1}));
        peer.events();
        peer
    }

    fn publish(&mut self, data: &str) -> CommandId {
        self.machine.publish(self.now, "r", data, None, false).expect("it is taken")
    }

    fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.frame(Opcode::Close, &payload);
    }

    /// Lets time pass up to the next attempt, and returns how long that was.
    fn wait(&mut self) -> u64 {
        let (State::Connecting { next_attempt, .. } | State::Resuming { next_attempt, .. }) = self.machine.state() else {
            panic!("{:?}", self.machine.state())
        };
        let due = next_attempt.expect("it waits");
        let waited = due.since(self.now);
        self.now = due;
        self.machine.handle_timeout(self.now);
        waited
    }

    fn offsets(&mut self) -> Vec<u64> {
        let offset = |event| if let Event::Message(message) = event { message.offset } else { None };
        self.events().into_iter().filter_map(offset).collect()
    }
}

#[test]
fn a_resume_takes_up_positions_and_sends_again_only_what_the_server_awaits() {
    let mut peer = Peer::in_room(JoinOptions { presence: true, ..JoinOptions::default() });
    let ids: Vec<CommandId> = (0..3).map(|n| peer.publish(&n.to_string())).collect();
    assert_eq!(peer.said().len(), 3);
    peer.message("r", 11);
    peer.machine.handle_ended(peer.now, peer.socket);
    assert!(matches!(peer.machine.state(), State::Resuming { attempt: 1, next_attempt: Some(_), cause: Some(Cause::Lost) }));
    peer.wait();
    let connect = peer.open();
    let resume = json!({"token": "t1", "acked": 1, "rooms": {"r": {"epoch": "e", "offset": 11, "version": 1}}});
    assert_eq!((&connect["resume"], &connect["user"], &connect["attempt"]), (&resume, &json!("ada"), &json!(1)));
    peer.events();
    // The server has had 2 and 3, and refused 3.
    let failed = json!([{"seq": 3, "code": "room_unavailable"}]);
    peer.welcome(&json!({"resumed": true, "nextSeq": 4, "resumeToken": "t2", "rooms": {"r": {"complete": true, "count": 1}}, "failed": failed}));
    let sent: Vec<u64> = peer.said().iter().map(|said| said["seq"].as_u64().expect("a command")).collect();
    assert_eq!(sent, [3, 4], "one of those it had, for the acknowledgement, and the one it awaits");
    peer.message("r", 12);
    peer.say(json!({"type": "ack", "seq": 4}));
    let events = peer.events();
    assert_eq!(events[0], Event::State(State::Connected { resumed: true }));
    assert_eq!(events[1], Event::Refused { command: ids[1], code: "room_unavailable".into() });
    assert!(matches!(&events[2], Event::Message(message) if message.offset == Some(12)));
    assert_eq!(events[3..], [Event::Acked(ids[0]), Event::Acked(ids[2])]);
}

/// Type and number of each command that was said.
fn commands(said: &[Value]) -> Vec<(&str, u64)> {
    said.iter().map(|said| (said["type"].as_str().expect("a type"), said["seq"].as_u64().unwrap_or(0))).collect()
}

#[test]
fn what_waits_for_a_room_that_a_resumed_session_is_not_in_any_more_follows_the_join() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.publish("1");
    peer.publish("2");
    assert_eq!(peer.said().len(), 2);
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.wait();
    peer.open();
    peer.events();
    // The server has had the first, and its grace is over.
    peer.welcome(&json!({"resumed": true, "nextSeq": 3, "resumeToken": "t2", "rooms": {}}));
    let said = peer.said();
    assert_eq!(commands(&said), [("broadcast", 2), ("leave_room", 3), ("join_room", 4), ("broadcast", 5)]);
    assert_eq!((&said[2]["since"]["offset"], &said[3]["data"]), (&json!(10), &json!(2)));
    peer.say(json!({"type": "room_left", "roomId": "r", "reason": "left", "seq": 3}));
    peer.joined("r", 4, 12, &json!({"recovered": true}));
    peer.say(json!({"type": "ack", "seq": 5}));
    let news = peer.news();
    assert!(matches!(&news[..], [Event::Joined { .. }, Event::Acked(_), Event::Acked(_)]), "{news:?}");
}

#[test]
fn what_was_asked_before_a_leave_follows_a_join_where_a_resumed_session_may_not_be_in_the_room_any_more() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.publish("1");
    peer.machine.leave(peer.now, "r").expect("it was joined");
    peer.machine.join(peer.now, "r", JoinOptions::default()).expect("it was left");
    peer.wait();
    peer.open();
    peer.events();
    peer.welcome(&json!({"resumed": true, "nextSeq": 2, "resumeToken": "t2", "rooms": {}}));
    assert_eq!(commands(&peer.said()), [("join_room", 2), ("broadcast", 3), ("leave_room", 4), ("join_room", 5)]);
    peer.joined("r", 2, 12, &json!({}));
    assert_eq!(peer.news(), [], "that membership is over");
    peer.joined("r", 5, 13, &json!({}));
    assert!(matches!(&peer.news()[..], [Event::Joined { offset: 13, .. }]));
}

#[test]
fn a_failed_resume_reports_as_unknown_what_the_recovery_does_not_show() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let shown = peer.publish("1");
    let lost = peer.publish("2");
    peer.said();
    peer.machine.handle_ended(peer.now, peer.socket);
    let unsent = peer.publish("3");
    peer.wait();
    peer.open();
    peer.welcome(&json!({"sessionId": "s2"}));
    let said = peer.said();
    assert_eq!((&said[0]["type"], &said[0]["seq"], &said[0]["since"]["offset"]), (&json!("join_room"), &json!(1), &json!(10)));
    assert_eq!((&said[1]["data"], &said[1]["seq"], said.len()), (&json!(3), &json!(2), 2), "what was sent is not sent again");
    peer.joined("r", 1, 12, &json!({"recovered": true}));
    peer.events();
    peer.say(json!({"type": "broadcast", "roomId": "r", "data": 1, "offset": 11, "from": {"user": "ada", "connection": "s1"}, "ts": 1, "seq": 2}));
    assert_eq!(peer.news(), [Event::Acked(shown)], "and no copy that nobody asked for");
    peer.message("r", 12);
    let news = peer.news();
    assert!(matches!(&news[0], Event::Message(_)));
    assert_eq!(news[1..], [Event::Unknown(lost)]);
    peer.say(json!({"type": "ack", "seq": 2}));
    assert_eq!(peer.news(), [Event::Acked(unsent)]);
}

#[test]
fn a_recovery_that_stalls_is_given_up() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let id = peer.publish("1");
    peer.said();
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.wait();
    peer.open();
    peer.welcome(&json!({"sessionId": "s2"}));
    peer.joined("r", 1, 99, &json!({"recovered": true}));
    peer.events();
    peer.now = peer.machine.poll_timeout().expect("something is due");
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.news(), [Event::Unknown(id)]);
}

#[test]
fn messages_that_come_again_are_passed_over() {
    let mut peer = Peer::in_room(JoinOptions::default());
    for offset in [11, 12, 11, 12, 13, 10, 15] {
        peer.message("r", offset);
    }
    assert_eq!(peer.offsets(), [11, 12, 13, 15], "holes are normal");
    assert_eq!(peer.machine.stats().duplicates, 3);
    assert_eq!(peer.machine.position("r").map(|position| position.offset), Some(15));
}

#[test]
fn a_gap_moves_the_position_and_is_told() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.say(json!({"type": "gap", "roomId": "r", "from": 11, "to": 20, "reason": "slow_consumer"}));
    assert!(matches!(&peer.news()[..], [Event::Gap { range: Some((11, 20)), position, .. }] if position.offset == 20));
    peer.message("r", 20);
    peer.message("r", 21);
    assert_eq!(peer.offsets(), [21]);
}

#[test]
fn what_an_earlier_membership_still_brings_is_not_of_the_new_one() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.machine.leave(peer.now, "r").expect("it was joined");
    peer.machine.join(peer.now, "r", JoinOptions::default()).expect("it was left");
    peer.message("r", 11);
    peer.say(json!({"type": "room_left", "roomId": "r", "reason": "left", "seq": 2}));
    assert_eq!(peer.news(), []);
    peer.joined("r", 3, 11, &json!({}));
    peer.message("r", 12);
    let news = peer.news();
    assert!(matches!(&news[0], Event::Joined { offset: 11, recovery: Recovery::NotNeeded, .. }) && news.len() == 2, "{news:?}");
    peer.say(json!({"type": "room_left", "roomId": "r", "reason": "kicked"}));
    assert!(matches!(&peer.news()[..], [Event::Left { reason, .. }] if &**reason == "kicked"));
    assert_eq!(peer.machine.publish(peer.now, "r", "1", None, false), Err(Refused::NotJoined));
}

#[test]
fn what_was_not_taken_yet_of_a_room_that_is_left_is_not_told_in_its_next_membership() {
    let mut peer = Peer::in_room(JoinOptions::default());
    for offset in 11..11 + 2 * EVENTS_MAX as u64 {
        peer.message("r", offset);
    }
    assert!(!peer.machine.wants_input());
    peer.machine.leave(peer.now, "r").expect("it was joined");
    assert!(peer.machine.wants_input());
    peer.machine.join(peer.now, "r", JoinOptions::default()).expect("it was left");
    assert_eq!(peer.news(), []);
    peer.joined("r", 3, 900, &json!({}));
    peer.message("r", 901);
    let news = peer.news();
    assert!(
        matches!(&news[..], [Event::Joined { offset: 900, .. }, Event::Message(message)] if message.offset == Some(901)),
        "{news:?}"
    );
}

#[test]
fn what_was_asked_before_a_leave_without_a_connection_is_sent_as_a_member_of_a_new_session() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.publish("1");
    peer.machine.leave(peer.now, "r").expect("it was joined");
    peer.machine.join(peer.now, "r", JoinOptions::default()).expect("it was left");
    peer.publish("2");
    peer.wait();
    peer.open();
    peer.welcome(&json!({"sessionId": "s2"}));
    let said: Vec<Value> = peer.said().iter().map(|said| said["type"].clone()).collect();
    assert_eq!(said, ["join_room", "broadcast", "leave_room", "join_room"], "the window holds four");
    peer.news();
    // Only the second membership is told.
    peer.joined("r", 1, 12, &json!({}));
    peer.message("r", 13);
    peer.say(json!({"type": "ack", "seq": 2}));
    assert!(matches!(&peer.news()[..], [Event::Acked(_)]));
    peer.say(json!({"type": "room_left", "roomId": "r", "reason": "left", "seq": 3}));
    peer.joined("r", 4, 20, &json!({}));
    let news = peer.news();
    assert!(matches!(&news[..], [Event::Joined { offset: 20, recovery: Recovery::NotNeeded, .. }]), "{news:?}");
}

#[test]
fn the_state_of_an_earlier_membership_is_not_sent_again_in_a_new_session() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let early = peer.machine.set_state(peer.now, "r", "1").expect("it is taken");
    peer.machine.leave(peer.now, "r").expect("it was joined");
    peer.machine.join(peer.now, "r", JoinOptions { state: Some("2".into()), ..JoinOptions::default() }).expect("it was left");
    let late = peer.machine.set_state(peer.now, "r", "3").expect("it is taken");
    assert_eq!(peer.said().len(), 4);
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.wait();
    peer.open();
    peer.welcome(&json!({"sessionId": "s2"}));
    let said: Vec<(Value, Value)> = peer.said().iter().map(|said| (said["type"].clone(), said["state"].clone())).collect();
    assert_eq!(said, [(json!("join_room"), json!(3)), (json!("set_state"), json!(3))]);
    assert_eq!(peer.news(), [Event::Unknown(early)]);
    peer.say(json!({"type": "ack", "seq": 2}));
    assert_eq!(peer.news(), [Event::Acked(late)]);
}

#[test]
fn what_was_asked_of_a_membership_that_the_server_ended_is_not_of_the_next_one_in_a_new_session() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let sent = peer.machine.set_state(peer.now, "r", "1").expect("it is taken");
    // The window is full: the last two are never sent.
    for _ in 0..3 {
        peer.publish("1");
    }
    let state = peer.machine.set_state(peer.now, "r", "2").expect("it is taken");
    let publication = peer.publish("2");
    assert_eq!(peer.said().len(), 4);
    peer.say(json!({"type": "room_left", "roomId": "r", "reason": "kicked"}));
    assert!(matches!(&peer.news()[..], [Event::Left { .. }]));
    peer.machine.join(peer.now, "r", JoinOptions { state: Some("3".into()), ..JoinOptions::default() }).expect("it was left");
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.wait();
    peer.open();
    peer.welcome(&json!({"sessionId": "s2"}));
    let said = peer.said();
    assert_eq!((commands(&said), &said[0]["state"]), (vec![("join_room", 1)], &json!(3)));
    let news = peer.news();
    assert_eq!(news.len(), 6, "{news:?}");
    assert!(news.contains(&Event::Unknown(sent)), "{news:?}");
    for command in [state, publication] {
        assert!(news.contains(&Event::Refused { command, code: "not_joined".into() }), "{news:?}");
    }
}

#[test]
fn a_refusal_for_now_holds_everything_back_and_only_that_one_is_sent_again() {
    let mut peer = Peer::in_room(JoinOptions::default());
    for n in ["0", "1"] {
        peer.publish(n);
    }
    peer.said();
    peer.say(json!({"type": "error", "code": "rate_limited", "message": "", "retryable": true, "retryAfterMs": 300, "seq": 2}));
    peer.publish("9");
    assert!(peer.said().is_empty());
    assert_eq!(peer.machine.poll_timeout(), Some(Millis(300)));
    peer.now = Millis(300);
    peer.machine.handle_timeout(peer.now);
    let seqs: Vec<Value> = peer.said().iter().map(|said| said["seq"].clone()).collect();
    assert_eq!(seqs, [2, 4]);
    peer.say(json!({"type": "nack", "expectedSeq": 2, "received": 4}));
    let seqs: Vec<Value> = peer.said().iter().map(|said| said["seq"].clone()).collect();
    assert_eq!(seqs, [2, 3, 4], "the server has dropped what it kept");
}

#[test]
fn the_window_and_the_queue_are_bounded() {
    let mut peer = Peer::in_room(JoinOptions::default());
    for _ in 0..COMMANDS_MAX {
        peer.publish("0");
    }
    assert_eq!(peer.machine.publish(peer.now, "r", "0", None, false), Err(Refused::QueueFull));
    assert_eq!(peer.said().len(), 4, "the server's window");
    peer.say(json!({"type": "ack", "seq": 3}));
    assert_eq!(peer.said().len(), 2);
    let large = format!("\"{}\"", "x".repeat(1_000));
    assert_eq!(peer.machine.publish(peer.now, "r", &large, None, false), Err(Refused::TooLarge));
}

#[test]
fn events_that_nobody_reads_stop_the_input_and_lose_nothing() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let last = 10 + 3 * EVENTS_MAX as u64;
    (11..=last).for_each(|offset| peer.message("r", offset));
    assert!(!peer.machine.wants_input());
    // Silence that comes from not reading is held against nobody.
    peer.now = Millis(600_000);
    peer.machine.handle_timeout(peer.now);
    assert!(matches!(peer.machine.state(), State::Connected { .. }));
    let mut offsets = Vec::new();
    while offsets.len() < 3 * EVENTS_MAX {
        offsets.extend(peer.offsets());
        peer.machine.handle_received(peer.now, peer.socket, &[]);
    }
    assert!(offsets.into_iter().eq(11..=last) && peer.machine.wants_input());
}

#[test]
fn a_long_outage_is_one_event() {
    let mut peer = Peer::connected();
    peer.machine.handle_ended(peer.now, peer.socket);
    for _ in 0..1_000 {
        peer.wait();
        let Some(Action::Open(socket)) = peer.actions().pop() else { panic!("a socket is wanted") };
        peer.machine.handle_ended(peer.now, socket);
    }
    assert_eq!(peer.events().len(), 1);
    assert_eq!(peer.machine.stats().attempts, 1_001);
}

#[test]
fn silence_is_asked_about_and_then_ends_the_socket_but_not_the_session() {
    let mut peer = Peer::connected();
    peer.now = Millis(11_999);
    peer.machine.handle_timeout(peer.now);
    assert!(peer.said().is_empty());
    peer.now = Millis(12_000);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.said(), [json!({"type": "ping"})]);
    peer.say(json!({"type": "pong"}));
    assert_eq!(peer.machine.poll_timeout(), Some(Millis(24_000)));
    peer.now = Millis(24_000);
    peer.machine.handle_timeout(peer.now);
    peer.said();
    // The process stood still: the server may well have answered, so it is asked once more.
    peer.now = Millis(90_000);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.said(), [json!({"type": "ping"})]);
    peer.now = Millis(96_000);
    peer.machine.handle_timeout(peer.now);
    let actions = peer.actions();
    let [Action::Drop(socket, last)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((*socket, last.len()), (peer.socket, 8), "a masked close frame with 4900");
    assert!(matches!(peer.machine.state(), State::Resuming { cause: Some(Cause::Silent), .. }));
    // Whatever the old socket still says is not listened to.
    peer.message("r", 1);
    peer.machine.handle_ended(peer.now, peer.socket);
    assert_eq!(peer.actions(), []);
}

#[test]
fn the_servers_pings_are_answered() {
    let mut peer = Peer::connected();
    peer.frame(Opcode::Ping, b"abc");
    assert_eq!(peer.said(), [json!({"pong": b"abc"})]);
}

#[test]
fn back_off_grows_until_a_connection_has_been_stable() {
    let mut peer = Peer::connected();
    for attempt in 1..20 {
        peer.machine.handle_ended(peer.now, peer.socket);
        assert!(matches!(peer.machine.state(), State::Resuming { attempt: told, .. } if told == attempt));
        assert!(peer.wait() <= (500u64 << (attempt - 1).min(20)).min(30_000));
        peer.open();
        peer.welcome(&json!({"resumed": true, "nextSeq": 1}));
        peer.now = peer.now.after(STABLE_MS - 1);
    }
    peer.now = peer.now.after(1);
    peer.machine.handle_ended(peer.now, peer.socket);
    assert!(matches!(peer.machine.state(), State::Resuming { attempt: 1, .. }));
    assert!(peer.wait() <= 500);
}

#[test]
fn advice_of_every_kind_is_waited_for() {
    let mut peer = Peer::connected();
    peer.close(4100, "{\"ra\":40000}");
    assert!(peer.wait() >= 40_000);
    peer.request();
    let refusal = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n";
    peer.machine.handle_received(peer.now, peer.socket, refusal);
    assert!(matches!(peer.machine.state(), State::Resuming { cause: Some(Cause::Refused(503)), .. }));
    assert!(peer.wait() >= 50_000);
    peer.open();
    peer.welcome(&json!({"resumed": true, "nextSeq": 1, "spreadMs": 200_000}));
    peer.say(json!({"type": "reconnect", "afterMs": 60_000, "reason": "drain"}));
    peer.close(4200, "");
    assert!(peer.wait() >= 60_000);
    peer.machine.handle_ended(peer.now, SocketId(peer.socket.0 + 1));
    let longest = (0..50).map(|_| {
        let waited = peer.wait();
        let Some(Action::Open(socket)) = peer.actions().pop() else { panic!("a socket is wanted") };
        peer.machine.handle_ended(peer.now, socket);
        waited
    });
    assert!((30_001..=200_000).contains(&longest.max().expect("there were some")), "the server's spread");
}

#[test]
fn a_final_code_ends_the_client_and_answers_everything() {
    for (code, sent, unsent) in [(4003, true, true), (1000, true, true), (4004, true, true)] {
        let mut peer = Peer::in_room(JoinOptions::default());
        let ids: Vec<CommandId> = (0..6).map(|_| peer.publish("1")).collect();
        peer.said();
        peer.close(code, "");
        let events = peer.events();
        assert_eq!(events.last(), Some(&Event::State(State::Closed(Cause::Closed(code)))));
        assert_eq!(sent, ids[..4].iter().all(|id| events.contains(&Event::Unknown(*id))), "{events:?}");
        let refused = |id: &CommandId| events.contains(&Event::Refused { command: *id, code: "closed".into() });
        assert_eq!(unsent, ids[4..].iter().all(refused), "{events:?}");
        assert!(peer.machine.is_closed() && peer.machine.poll_timeout().is_none());
        assert_eq!(peer.machine.publish(peer.now, "r", "1", None, false), Err(Refused::Closed));
    }
}

#[test]
fn a_session_that_was_taken_over_is_not_taken_back() {
    let mut peer = Peer::connected();
    peer.close(4202, "");
    assert!(matches!(peer.machine.state(), State::Connecting { .. }));
    peer.wait();
    assert_eq!(peer.open().get("resume"), None);
}

#[test]
fn a_bad_token_is_replaced_once() {
    let identity = || Identity { token: Some("old".into()), can_renew_token: true, ..Identity::default() };
    let mut peer = Peer::new(identity());
    assert_eq!(peer.open()["token"], "old");
    peer.close(4001, "");
    assert!(peer.actions().contains(&Action::Token));
    peer.wait();
    assert_eq!(peer.actions(), [], "there is no attempt without a token");
    peer.machine.handle_token(peer.now, Some("new".into()));
    assert_eq!(peer.open()["token"], "new");
    peer.close(4001, "");
    assert_eq!(peer.machine.state(), State::Closed(Cause::Closed(4001)));
    // After a welcome an expired one is another matter, however often.
    let mut peer = Peer::new(identity());
    for round in 0..3 {
        peer.open();
        peer.welcome(&json!({"tokenTtlMs": 1_000}));
        peer.close(4204, "");
        assert!(peer.actions().contains(&Action::Token), "{round}");
        peer.machine.handle_token(peer.now, Some(format!("new{round}")));
        peer.wait();
    }
    // Without a source of tokens it is the end.
    let mut peer = Peer::connected();
    peer.close(4204, "");
    assert!(peer.machine.is_closed());
}

#[test]
fn a_token_is_renewed_before_it_runs_out() {
    let mut peer = Peer::new(Identity { token: Some("old".into()), can_renew_token: true, ..Identity::default() });
    peer.open();
    peer.welcome(&json!({"tokenTtlMs": 10_000}));
    peer.actions();
    peer.now = Millis(8_000);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.actions(), [Action::Token]);
    peer.machine.handle_token(peer.now, Some("new".into()));
    assert_eq!(peer.said(), [json!({"type": "refresh", "token": "new"})]);
    peer.say(json!({"type": "refreshed", "tokenTtlMs": 10_000}));
    peer.now = Millis(16_000);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.actions(), [Action::Token]);
}

#[test]
fn a_message_that_is_too_large_fails_alone() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let small = peer.publish("1");
    let large = peer.publish(&format!("\"{}\"", "x".repeat(500)));
    peer.said();
    peer.close(1009, "");
    assert_eq!(peer.news(), [Event::Refused { command: large, code: "too_large".into() }]);
    peer.wait();
    assert_eq!(peer.open().get("resume"), None, "the session waits for a number that cannot come");
    peer.welcome(&json!({"sessionId": "s2"}));
    peer.joined("r", 1, 10, &json!({"recovered": true}));
    assert!(peer.news().contains(&Event::Unknown(small)));
}

#[test]
fn a_server_that_breaks_the_protocol_is_left_and_tried_again_slowly() {
    let broken: [&dyn Fn(&mut Peer); 5] = [
        &|peer| peer.frame(Opcode::Text, b"no json"),
        &|peer| peer.frame(Opcode::Text, &[0xff]),
        &|peer| peer.say(json!({"type": "ack", "seq": 7})),
        &|peer| peer.welcome(&json!({})),
        &|peer| peer.machine.handle_received(peer.now, peer.socket, &[0xf1, 0]),
    ];
    for (index, breaks) in broken.iter().enumerate() {
        let mut peer = Peer::connected();
        breaks(&mut peer);
        let State::Connecting { attempt, cause: Some(Cause::Violation(_)), .. } = peer.machine.state() else {
            panic!("{index}: {:?}", peer.machine.state())
        };
        assert!(attempt > 5, "{index}: as after many attempts");
    }
    let mut peer = Peer::new(Identity::default());
    peer.request();
    peer.machine.handle_received(peer.now, peer.socket, b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: wrong\r\n\r\n");
    assert!(matches!(peer.machine.state(), State::Connecting { cause: Some(Cause::Violation(1002)), .. }));
}

#[test]
fn two_sides_that_do_not_agree_on_the_numbers_begin_anew() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.publish("1");
    peer.said();
    peer.machine.handle_ended(peer.now, peer.socket);
    peer.wait();
    peer.open();
    peer.welcome(&json!({"resumed": true, "nextSeq": 9}));
    peer.wait();
    assert_eq!(peer.open().get("resume"), None);
}

#[test]
fn presence_is_followed_and_asked_for_where_it_was_missed() {
    let mut peer = Peer::in_room(JoinOptions { presence: true, ..JoinOptions::default() });
    let diff = |version: u64| {
        json!({"type": "presence_diff", "roomId": "r", "epoch": "p", "version": version,
            "joins": [{"user": "bob", "id": "b", "state": 1}], "leaves": [], "updates": []})
    };
    let state = |fields: Value| {
        let mut state = json!({"type": "presence_state", "roomId": "r", "epoch": "p", "version": 4,
            "members": [{"user": "ada", "connections": [{"id": "a"}]}]});
        fields.as_object().expect("fields").iter().for_each(|(key, value)| state[key] = value.clone());
        state
    };
    peer.say(state(json!({})));
    peer.say(diff(5));
    let news = peer.news();
    assert!(matches!(&news[0], Event::Presence { change: PresenceChange::Replaced, .. }));
    assert!(matches!(&news[1], Event::Presence { change: PresenceChange::Changed { joins, .. }, .. } if joins.len() == 1));
    peer.say(diff(7));
    let asked = peer.said().remove(0);
    assert_eq!((&asked["type"], asked.get("cursor")), (&json!("presence"), None));
    assert!(!peer.machine.presence("r").expect("it is kept").is_current());
    // The answer comes in pages; one to another question is passed over.
    peer.say(state(json!({"id": 999, "version": 50})));
    peer.say(state(json!({"id": asked["id"], "version": 8, "cursor": "next"})));
    let page = peer.said().remove(0);
    assert_eq!(page["cursor"], "next");
    peer.say(state(json!({"id": page["id"], "version": 8, "members": [{"user": "bob", "connections": [{"id": "b"}]}]})));
    let presence = peer.machine.presence("r").expect("it is kept");
    assert_eq!((presence.is_current(), presence.user_count()), (true, 2));
    // A question that is refused for now is asked again later.
    peer.say(diff(20));
    let asked = peer.said().remove(0);
    peer.say(
        json!({"type": "error", "code": "rate_limited", "message": "", "retryable": true, "retryAfterMs": 200, "id": asked["id"]}),
    );
    peer.now = Millis(200);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.said()[0]["type"], "presence");
}

#[test]
fn a_join_that_is_refused_is_told_and_forgotten() {
    let mut peer = Peer::connected();
    peer.machine.join(peer.now, "r", JoinOptions::default()).expect("a good room");
    let id = peer.publish("1");
    peer.say(json!({"type": "error", "code": "room_full", "message": "", "retryable": false, "seq": 1}));
    peer.say(json!({"type": "error", "code": "not_joined", "message": "", "retryable": false, "seq": 2}));
    peer.say(json!({"type": "ack", "seq": 2}));
    let news = peer.news();
    assert!(matches!(&news[0], Event::JoinRefused { code, .. } if &**code == "room_full"));
    assert_eq!(news[1..], [Event::Refused { command: id, code: "not_joined".into() }]);
    assert!(peer.machine.join(peer.now, "r", JoinOptions::default()).is_ok());
}

#[test]
fn a_volatile_message_is_for_an_open_connection_only() {
    let mut peer = Peer::in_room(JoinOptions::default());
    peer.machine.cast("r", "{\"x\":1}", None).expect("it is open");
    assert_eq!(peer.said(), [json!({"type": "broadcast", "roomId": "r", "data": {"x": 1}})]);
    peer.machine.handle_ended(peer.now, peer.socket);
    assert_eq!(peer.machine.cast("r", "1", None), Err(Refused::NotConnected));
    assert_eq!(peer.machine.cast("q", "1", None), Err(Refused::NotJoined));
}

#[test]
fn closing_says_so_and_waits_for_the_answer_no_longer_than_its_time() {
    let mut peer = Peer::in_room(JoinOptions::default());
    let id = peer.publish("1");
    peer.said();
    peer.machine.close(peer.now);
    assert_eq!(peer.said(), [json!({"close": 1000})]);
    assert_eq!(peer.news(), [Event::Unknown(id)]);
    assert!(!peer.machine.is_closed());
    peer.frame(Opcode::Text, b"whatever comes now");
    peer.now = peer.machine.poll_timeout().expect("it waits");
    peer.machine.handle_timeout(peer.now);
    assert!(peer.machine.is_closed());
    assert_eq!(peer.events(), [Event::State(State::Closed(Cause::Asked))]);
    assert!(matches!(&peer.actions()[..], [Action::Drop(_, last)] if last.is_empty()));
}
