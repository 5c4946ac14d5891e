//! What hostile clients do: every kind of action, and the script that it comes to.
//!
//! A script is made from a source of random numbers and nothing else that changes, so that a seed makes it again. A kind names what
//! the server must be seen to have answered it with, so that one which no longer bites is noticed.

mod frames;
mod http;
mod messages;

use super::peer::{Script, Step};
use crate::capacity::clock::{MILLISECOND, Nanos, SECOND};
use crate::capacity::random::Random;
use crate::ws::Opcode;
use crate::ws::frame::write_masked;
use std::collections::VecDeque;

/// Pieces into which a send is cut, where it is cut.
const PIECES_MAX: u64 = 6;

/// Actions of a kind after which every one of its varieties has come: a trace that comes of one in twelve is then missing in one run of
/// millions.
pub(super) const OFTEN: u64 = 200;

/// Where they act.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    /// Rooms of the well-behaved.
    pub(super) witness_rooms: Vec<String>,
    /// Rooms of the hostile: few, so that what rooms leave behind is bounded.
    pub(super) hostile_rooms: Vec<String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = ($word:literal, $script:path, [$($mark:ident $label:literal),*]),)*) => {
        /// A kind of action.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind { $($(#[$doc])* $name,)* }
        impl Kind {
            /// Every kind, in discriminant order.
            pub(super) const ALL: &'static [Kind] = &[$(Kind::$name,)*];
            /// What it is called in a report.
            pub(super) fn name(self) -> &'static str { match self { $(Kind::$name => $word,)* } }
            /// What the server's metrics must show once it has been done [often](OFTEN).
            pub(super) fn marks(self) -> &'static [Mark] { match self { $(Kind::$name => &[$(Mark::$mark($label)),*],)* } }
            fn script(self) -> fn(&mut Pen<'_>) { match self { $(Kind::$name => $script,)* } }
        }
    };
}

/// A trace that an action leaves in the server's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Closes with this reason.
    Close(&'static str),
    /// Closes with this reason, after a time of silence: not to be expected of a short run.
    LateClose(&'static str),
    /// Refusals with this reason.
    Refusal(&'static str),
    /// The same, after a time of silence.
    LateRefusal(&'static str),
    /// A counter.
    Counter(&'static str),
}

kinds! {
    /// Connects and sends nothing.
    Silent = ("silent", http::silent, [LateRefusal "timeout"]),
    /// Sends a part of a request.
    HalfRequest = ("half_request", http::half_request, []),
    /// Sends bytes that are no request.
    GarbageBytes = ("garbage_bytes", http::garbage_bytes, [Refusal "bad_request"]),
    /// Sends a request byte by byte.
    RequestDrip = ("request_drip", http::request_drip, []),
    /// Sends more head than is read.
    HugeHead = ("huge_head", http::huge_head, [Refusal "head_too_large"]),
    /// Sends a request that is none of WebSocket's.
    BadRequest = ("bad_request", http::bad_request, [Refusal "method", Refusal "not_found", Refusal "upgrade_required", Refusal "http_version"]),
    /// Asks for the health, and more behind it.
    HealthQuestion = ("health_question", http::health_question, []),
    /// Connects and breaks off.
    ConnectReset = ("connect_reset", http::connect_reset, []),
    /// Sends request and messages together and breaks off.
    UpgradeReset = ("upgrade_reset", http::upgrade_reset, []),
    /// Connects, joins, drops and comes back, again and again.
    ReconnectAtOnce = ("reconnect_at_once", http::reconnect_at_once, []),
    /// Sends bytes that are no frames.
    GarbageFrames = ("garbage_frames", frames::garbage, [Close "protocol"]),
    /// Sends frames that are not masked.
    BadMask = ("bad_mask", frames::bad_mask, [Close "protocol"]),
    /// Sends reserved bits and opcodes.
    Reserved = ("reserved_bits", frames::reserved, [Close "protocol"]),
    /// Sends text that is not UTF-8.
    InvalidUtf8 = ("invalid_utf8", frames::invalid_utf8, [Close "invalid_utf8"]),
    /// Sends fragments by the thousand, and where none may be.
    FragmentAbuse = ("fragment_abuse", frames::fragment_abuse, [Close "protocol"]),
    /// Claims lengths that it doesn't send, or that are too large.
    HugeLength = ("huge_length", frames::huge_length, [Close "too_large"]),
    /// Sends a part of a frame.
    HalfFrame = ("half_frame", frames::half_frame, []),
    /// Sends pings and pongs by the hundred.
    PingFlood = ("ping_flood", frames::ping_flood, [Counter "throng_pongs_received_total"]),
    /// Sends binary messages.
    Binary = ("binary", frames::binary, []),
    /// Closes with codes that may and may not be sent, and goes on sending.
    OddClose = ("odd_close", frames::odd_close, [Close "clean", Close "peer_code", Close "abandoned", Close "hidden"]),
    /// Finishes its direction and reads on.
    HalfClose = ("half_close", frames::half_close, [Close "eof"]),
    /// Breaks off as a member of rooms.
    ResetInRoom = ("reset_in_room", frames::reset_in_room, [Close "reset"]),
    /// Answers no ping.
    NoPong = ("no_pong", frames::no_pong, [LateClose "no_pong"]),
    /// Sends messages that are no JSON.
    GarbageJson = ("garbage_json", messages::garbage_json, [Counter "throng_errors_sent_total"]),
    /// Sends JSON that is nested deeply.
    DeepNesting = ("deep_nesting", messages::deep_nesting, []),
    /// Sends ids, users and keys that are too long.
    HugeIds = ("huge_ids", messages::huge_ids, []),
    /// Sends messages of types that there are not.
    UnknownTypes = ("unknown_types", messages::unknown_types, []),
    /// Begins with something else than `connect`, or not at all.
    NoConnect = ("no_connect", messages::no_connect, [Close "bad_protocol"]),
    /// Sends numbers twice, too early and not at all.
    SeqGames = ("seq_games", messages::seq_games, [Counter "throng_duplicates_total", Counter "throng_reordered_total", Counter "throng_nacks_sent_total"]),
    /// Joins and leaves as fast as it can.
    JoinLeaveStorm = ("join_leave_storm", messages::join_leave_storm, []),
    /// Changes states and asks for presence with whatever cursors.
    StateChurn = ("state_churn", messages::state_churn, []),
    /// Publishes more than its window allows.
    PublishFlood = ("publish_flood", messages::publish_flood, []),
    /// Asks for much and reads nothing.
    NeverRead = ("never_read", messages::never_read, [LateClose "slow_consumer"]),
    /// Asks for much and reads little.
    SlowRead = ("slow_read", messages::slow_read, []),
    /// Has a sound conversation, byte by byte.
    TinyWrites = ("tiny_writes", messages::tiny_writes, []),
}

/// The script of one action. `request` is the upgrade request that its connection expects the answer of.
pub(super) fn script(kind: Kind, stage: &Stage, random: Random, request: Vec<u8>, is_v1: bool, user: String) -> Script {
    let mut pen = Pen { random, stage, request, is_v1, user, seq: 0, steps: VecDeque::new(), small_buffer: false };
    (kind.script())(&mut pen);
    if pen.random.once_in(2) {
        pen.join_sends();
    }
    if pen.random.once_in(4) {
        pen.cut_sends();
    }
    Script { steps: pen.steps, small_buffer: pen.small_buffer }
}

/// What scripts are written with.
struct Pen<'a> {
    random: Random,
    stage: &'a Stage,
    request: Vec<u8>,
    is_v1: bool,
    user: String,
    seq: u64,
    steps: VecDeque<Step>,
    small_buffer: bool,
}

impl Pen<'_> {
    fn step(&mut self, step: Step) {
        self.steps.push_back(step);
    }

    fn done(&mut self) {
        self.step(Step::Done);
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.step(Step::Send(bytes));
    }

    /// Stays, reading and answering, for this long unless the server ends it.
    fn rest(&mut self, low: Nanos, high: Nanos) {
        let time = self.random.between(low, high);
        self.step(Step::Rest(time));
    }

    /// Leaves the server a moment to end the connection.
    fn moment(&mut self) {
        self.rest(100 * MILLISECOND, 2 * SECOND);
    }

    /// Ends in one of the ways in which clients end.
    fn end_somehow(&mut self) {
        match self.random.below(5) {
            0 => self.step(Step::Reset),
            1 => {
                self.step(Step::Finish);
                self.moment();
            }
            2 | 3 => {
                let code = self.random.pick(&[1000u16, 1001, 4900, 4901, 3999]);
                self.frame(Opcode::Close, &code.to_be_bytes());
                self.moment();
            }
            _ => {}
        }
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let bytes = self.masked(opcode, payload);
        self.send(bytes);
    }

    fn masked(&mut self, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mask = (self.random.next() as u32).to_le_bytes();
        let mut bytes = Vec::new();
        write_masked(&mut bytes, opcode, payload, mask);
        bytes
    }

    /// A masked frame with any first byte.
    fn odd_frame(&mut self, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.masked(Opcode::Text, payload);
        bytes[0] = first;
        bytes
    }

    fn text(&mut self, text: &str) {
        self.frame(Opcode::Text, text.as_bytes());
    }

    /// The upgrade, and awaits it.
    fn upgrade(&mut self) {
        let request = self.request.clone();
        self.send(request);
        self.step(Step::AwaitUpgrade);
        self.seq = 0;
    }

    /// The upgrade, and what opens a session.
    fn open(&mut self) {
        self.upgrade();
        if self.is_v1 {
            let connect = self.connect();
            self.text(&connect);
        }
    }

    fn connect(&self) -> String {
        format!(r#"{{"type":"connect","user":"{}"}}"#, self.user)
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn hostile_room(&mut self) -> String {
        let room = self.random.below(self.stage.hostile_rooms.len() as u64) as usize;
        self.stage.hostile_rooms[room].clone()
    }

    fn witness_room(&mut self) -> String {
        let room = self.random.below(self.stage.witness_rooms.len() as u64) as usize;
        self.stage.witness_rooms[room].clone()
    }

    fn any_room(&mut self) -> String {
        if self.random.once_in(3) { self.witness_room() } else { self.hostile_room() }
    }

    fn join(&mut self, room: &str) -> String {
        let seq = self.next_seq();
        let presence = self.random.once_in(2);
        let state = if self.random.once_in(3) { format!(r#","state":{{"s":{}}}"#, self.random.below(100)) } else { String::new() };
        format!(r#"{{"type":"join_room","roomId":"{room}","presence":{presence}{state},"seq":{seq}}}"#)
    }

    fn leave(&mut self, room: &str) -> String {
        let seq = self.next_seq();
        format!(r#"{{"type":"leave_room","roomId":"{room}","seq":{seq}}}"#)
    }

    fn publish(&mut self, room: &str, bytes: usize) -> String {
        let seq = self.next_seq();
        let echo = self.random.once_in(2);
        format!(r#"{{"type":"broadcast","roomId":"{room}","data":"{}","echo":{echo},"seq":{seq}}}"#, "h".repeat(bytes))
    }

    /// A session that is in a witness's room and in one of the hostile.
    fn member(&mut self) {
        self.open();
        for room in [self.witness_room(), self.hostile_room()] {
            let join = self.join(&room);
            self.text(&join);
        }
    }

    /// Sends that follow each other become one.
    fn join_sends(&mut self) {
        let mut joined: VecDeque<Step> = VecDeque::new();
        for step in std::mem::take(&mut self.steps) {
            match (joined.back_mut(), step) {
                (Some(Step::Send(before)), Step::Send(bytes)) => before.extend(bytes),
                (_, step) => joined.push_back(step),
            }
        }
        self.steps = joined;
    }

    /// Sends come in pieces, with a sweep between each two.
    fn cut_sends(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            let Step::Send(bytes) = step else {
                self.steps.push_back(step);
                continue;
            };
            let mut rest = bytes.as_slice();
            for _ in 0..self.random.below(PIECES_MAX) {
                let (piece, behind) = rest.split_at(self.random.below(rest.len() as u64 + 1) as usize);
                self.steps.push_back(Step::Send(piece.to_vec()));
                self.steps.push_back(Step::Rest(MILLISECOND));
                rest = behind;
            }
            self.steps.push_back(Step::Send(rest.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        Stage { witness_rooms: vec!["w0".into(), "w1".into()], hostile_rooms: vec!["h0".into(), "h1".into()] }
    }

    fn make(kind: Kind, seed: u64) -> Script {
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Version: 13\r\n\r\n".to_vec();
        script(kind, &stage(), Random::new(seed), request, seed.is_multiple_of(2), "u".into())
    }

    #[test]
    fn a_seed_makes_the_same_script_again_and_another_another() {
        for kind in Kind::ALL {
            assert_eq!(make(*kind, 3).steps, make(*kind, 3).steps, "{kind:?}");
        }
        let varied = Kind::ALL.iter().filter(|kind| (0..20).any(|seed| make(**kind, seed).steps != make(**kind, 20).steps));
        // Nothing is to be varied in connecting and breaking off.
        assert!(varied.count() >= Kind::ALL.len() - 1);
    }

    #[test]
    fn every_script_comes_to_its_point_once() {
        for kind in Kind::ALL {
            for seed in 0..200 {
                let steps = make(*kind, seed).steps;
                assert_eq!(steps.iter().filter(|step| **step == Step::Done).count(), 1, "{kind:?} {seed}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_no_script_pretends_to_be_a_witness() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert!(Kind::ALL[..index].iter().all(|other| other.name() != kind.name()));
            for seed in 0..50 {
                for step in make(*kind, seed).steps {
                    let (Step::Send(bytes) | Step::Drip(bytes)) = step else { continue };
                    assert_eq!(crate::capacity::message::read_data(&bytes), None, "{kind:?} {seed}");
                }
            }
        }
    }

    #[test]
    fn cut_and_joined_sends_are_the_same_bytes() {
        let bytes = |script: &Script| {
            let parts = script.steps.iter().filter_map(|step| match step {
                Step::Send(bytes) => Some(bytes.clone()),
                Step::Drip(_)
                | Step::AwaitUpgrade
                | Step::Rest(_)
                | Step::Read(_)
                | Step::Mute
                | Step::Done
                | Step::Finish
                | Step::Reset
                | Step::Again => None,
            });
            parts.collect::<Vec<_>>().concat()
        };
        let stage = stage();
        let mut pen = Pen {
            random: Random::new(1),
            stage: &stage,
            request: b"GET".to_vec(),
            is_v1: true,
            user: "u".into(),
            seq: 0,
            steps: VecDeque::new(),
            small_buffer: false,
        };
        pen.member();
        let whole = bytes(&Script { steps: pen.steps.clone(), small_buffer: false });
        pen.cut_sends();
        assert_eq!(bytes(&Script { steps: pen.steps.clone(), small_buffer: false }), whole);
        pen.join_sends();
        assert_eq!(bytes(&Script { steps: pen.steps.clone(), small_buffer: false }), whole);
    }
}
