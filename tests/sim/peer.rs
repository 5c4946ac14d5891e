//! A client: what it has asked for, what it was told, and what it may be blamed for. One a connection; a seat's next connection is
//! another peer, as there is no resume yet.

use crate::plan::{End, Fault, Op, Reading};
use crate::socket::HELD_BYTES_MAX;
use crate::watch::View;
use crate::world::World;
use std::fmt::Write;
use throng::shard::Ended;
use throng::time::Millis;
use throng::ws::Opcode;
use throng::ws::frame::write_masked;

/// Different users.
pub(crate) const USERS: u64 = 20;
/// What a publication's frame holds beside its data, at most: names, numbers, and a room's id.
pub(crate) const PUBLICATION_NAME_BYTES: usize = 600;
/// Commands that a client has unacknowledged at most, so that a gap does not fill the reorder buffer by itself.
const UNACKED_MAX: u64 = 40;
/// Members that a client asks for in one question.
const PAGE_MEMBERS: usize = 5;
/// A key of RFC 6455's own example, and what it is answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    V1,
    /// Without a subprotocol, with `seq`.
    Numbered,
    /// Without a subprotocol and without `seq`.
    Loose,
}

/// What a command meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// `since`: the position that it said it had.
    Join {
        room: usize,
        state: Option<u32>,
        since: Option<u64>,
    },
    Leave {
        room: usize,
    },
    SetState {
        room: usize,
        state: u32,
    },
    Publish {
        room: usize,
        number: u32,
    },
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) text: String,
    pub(crate) meaning: Meaning,
    /// An `error` with its number came, or it was given up.
    pub(crate) refused: bool,
    /// Its `room_joined` or `room_left` came.
    pub(crate) answered: bool,
}

/// A publication with an offset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Publication {
    pub(crate) room: usize,
    pub(crate) echo: bool,
    /// Of its `data`.
    pub(crate) digest: u64,
    /// Bytes that it takes in a history, at most.
    pub(crate) size: u32,
    /// Which of its author's memberships published it, where that is counted.
    pub(crate) membership: u64,
    /// The session that published it, once it was shown.
    pub(crate) session: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) refused: bool,
}

/// A membership as its client sees it.
#[derive(Debug)]
pub(crate) struct Member {
    /// The last offset that is accounted for.
    pub(crate) position: u64,
    pub(crate) since: Millis,
    /// The last volatile publication from each session.
    pub(crate) volatile: Vec<(u32, u32)>,
    pub(crate) view: Option<View>,
}

/// Where the commands that were decided have brought a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stand {
    pub(crate) joined: bool,
    pub(crate) state: Option<u32>,
}

/// When a peer went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) at: Millis,
    /// The world's disturbance until then.
    pub(crate) disturbance_ms: u64,
}

/// A frame that is yet to be sent.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) at: Millis,
    pub(crate) opcode: Opcode,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    /// It is no client of its own, but a connection of this client machine.
    pub(crate) client: Option<usize>,
    pub(crate) kind: Kind,
    pub(crate) user: u32,
    /// Known from its welcome, or from what others are told of it.
    pub(crate) session: Option<u32>,
    pub(crate) is_welcome: bool,
    /// The number of the first command.
    pub(crate) first_seq: u64,
    /// All up to it are acknowledged.
    pub(crate) acked: u64,
    pub(crate) commands: Vec<Command>,
    pub(crate) publications: Vec<Publication>,
    pub(crate) volatiles: u32,
    pub(crate) questions: u32,
    pub(crate) members: Vec<Option<Member>>,
    /// By room: what the decided commands came to (`throng.v1`).
    pub(crate) stands: Vec<Stand>,
    /// By room: the last offset that the seat's peer before this one had accounted for.
    pub(crate) past: Vec<Option<u64>>,
    /// By room: it last asked to be in.
    pub(crate) wants: Vec<bool>,
    /// Bytes that it reads in a second; `None`: all.
    pub(crate) read_rate: Option<u32>,
    pub(crate) read_credit: u64,
    pub(crate) is_upgraded: bool,
    /// Why the server may close it.
    pub(crate) may_close: Vec<u16>,
    /// It may be refused before the upgrade, or cut without a close frame.
    pub(crate) may_cut: bool,
    /// Errors without a number may come.
    pub(crate) may_err: bool,
    /// It has ended, or was told to.
    pub(crate) is_ended: bool,
    pub(crate) gone: Option<Gone>,
    pub(crate) heard_code: Option<u16>,
    pub(crate) late: Option<Late>,
    /// Pings of its own that it sent late, and that are not answered.
    pub(crate) unanswered: i32,
    /// Nothing more comes of it.
    pub(crate) is_done: bool,
}

impl Peer {
    pub(crate) fn seq_of(&self, index: usize) -> u64 {
        self.first_seq + index as u64
    }
    /// The number after the last that was given.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq_of(self.commands.len())
    }
    /// The command of a number.
    pub(crate) fn command_mut(&mut self, seq: u64) -> Option<&mut Command> {
        let first = self.first_seq;
        self.commands.get_mut(seq.checked_sub(first)? as usize)
    }
    pub(crate) fn allow(&mut self, codes: &[u16]) {
        self.may_close.extend_from_slice(codes);
    }
}

/// A digest of a publication's data.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut sum = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for byte in chunks.remainder() {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    sum
}

impl World<'_> {
    // ---- coming ---------------------------------------------------------------------------------------------------------

    /// Who sits in a seat, connected if nobody does; `None` if there is no place for a connection.
    pub(crate) fn sit(&mut self, seat: usize) -> Option<usize> {
        if let Some(id) = self.seats[seat].filter(|id| !self.peers[*id].is_ended) {
            return Some(id);
        }
        let only_v1 = self.shape.has(Fault::SmallBounds) || self.shape.has(Fault::MemoryBudget);
        let kind = match self.rng.below(5) {
            _ if only_v1 => Kind::V1,
            0 => Kind::Numbered,
            1 => Kind::Loose,
            _ => Kind::V1,
        };
        let shard = self.rng.index(self.drivers.len());
        let id = self.connect(kind, shard)?;
        if let Some(before) = self.seats[seat].replace(id) {
            let before = &self.peers[before];
            let position =
                |(member, past): (&Option<Member>, &Option<u64>)| member.as_ref().map(|member| member.position).or(*past);
            let past = before.members.iter().zip(&before.past).map(position).collect();
            self.peers[id].past = past;
        }
        Some(id)
    }

    /// Connects a client to a shard and has it say its first words.
    pub(crate) fn connect(&mut self, kind: Kind, shard: usize) -> Option<usize> {
        let id = self.open_socket(shard)?;
        let user = self.rng.below(USERS) as u32;
        let first_seq = if kind == Kind::Numbered { 1 + self.rng.below(1_000) } else { 1 };
        let rooms = self.rooms.len();
        let peer = &mut self.peers[id];
        (peer.kind, peer.user, peer.first_seq, peer.acked) = (kind, user, first_seq, first_seq - 1);
        peer.members.resize_with(rooms, || None);
        peer.stands.resize(rooms, Stand::default());
        peer.wants.resize(rooms, false);
        peer.past.resize(rooms, None);
        let (path, protocol) = match kind {
            Kind::V1 => ("/ws".to_owned(), "Sec-WebSocket-Protocol: throng.v1\r\n"),
            Kind::Numbered | Kind::Loose => (format!("/?user=user-{user}"), ""),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{protocol}\r\n"
        );
        self.sockets[id].to_server.push(request.as_bytes());
        trace!(self, "peer {id}: {kind:?} user-{user} at shard {shard}, {:?}", self.sockets[id].key);
        if kind == Kind::V1 {
            self.send_text(id, &format!(r#"{{"type":"connect","user":"user-{user}"}}"#));
        }
        Some(id)
    }

    // ---- speaking -------------------------------------------------------------------------------------------------------

    /// Sends a text message, in fragments where the world has them.
    pub(crate) fn send_text(&mut self, id: usize, text: &str) {
        trace!(self, "peer {id} -> {text}");
        let mask = (self.rng.next() as u32).to_le_bytes();
        if !self.can_speak(id) {
            return;
        }
        if self.calm || !self.shape.has(Fault::Fragments) || text.len() < 4 || !self.rng.chance(8) {
            write_masked(self.sockets[id].to_server.tail(), Opcode::Text, text.as_bytes(), mask);
            return;
        }
        self.seen[Fault::Fragments as usize] += 1;
        let pieces = 2 + self.rng.index(3);
        let mut rest = text.as_bytes();
        for piece in 0..pieces {
            let is_last = piece + 1 == pieces;
            let length = if is_last { rest.len() } else { self.rng.index(rest.len() + 1) };
            let opcode = if piece == 0 { Opcode::Text } else { Opcode::Continuation };
            let tail = self.sockets[id].to_server.tail();
            let start = tail.len();
            write_masked(tail, opcode, &rest[..length], mask);
            if !is_last {
                tail[start] &= 0x7f;
            }
            rest = &rest[length..];
            if !is_last && self.rng.chance(3) {
                write_masked(self.sockets[id].to_server.tail(), Opcode::Ping, b"between", mask);
            }
        }
    }

    fn can_speak(&self, id: usize) -> bool {
        let socket = &self.sockets[id];
        socket.end.is_none() && !socket.vanished && !socket.said_close
    }

    /// Sends a frame that is not a text message.
    pub(crate) fn send_frame(&mut self, id: usize, opcode: Opcode, payload: &[u8]) {
        if self.can_speak(id) {
            let mask = (self.rng.next() as u32).to_le_bytes();
            write_masked(self.sockets[id].to_server.tail(), opcode, payload, mask);
            self.sockets[id].said_close |= opcode == Opcode::Close;
        }
    }

    /// Notes a command and returns its text, which is sent later or never.
    fn command(&mut self, id: usize, body: &str, meaning: Meaning) -> String {
        let peer = &mut self.peers[id];
        let text = match peer.kind {
            Kind::Loose => format!("{{{body}}}"),
            Kind::V1 | Kind::Numbered => format!("{{{body},\"seq\":{}}}", peer.next_seq()),
        };
        match meaning {
            Meaning::Join { room, .. } => peer.wants[room] = true,
            Meaning::Leave { room } => peer.wants[room] = false,
            Meaning::SetState { .. } | Meaning::Publish { .. } | Meaning::Other => {}
        }
        peer.commands.push(Command { text: text.clone(), meaning, refused: false, answered: false });
        text
    }

    pub(crate) fn join(&mut self, id: usize, room: usize, watches: bool, state: Option<u32>) {
        let extra = state.map_or(String::new(), |state| format!(r#","state":{state}"#));
        let presence = if watches { r#","presence":true"# } else { "" };
        let (position, since) = self.position_to_tell(id, room);
        let body = format!(r#""type":"join_room","roomId":"{}"{presence}{extra}{position}"#, self.rooms[room].raw);
        let text = self.command(id, &body, Meaning::Join { room, state, since });
        self.send_text(id, &text);
    }

    /// What a join says of where its client stands: as JSON, and the offset.
    fn position_to_tell(&mut self, id: usize, room: usize) -> (String, Option<u64>) {
        let peer = &self.peers[id];
        let past = peer.past[room].filter(|_| peer.kind != Kind::Loose && peer.members[room].is_none());
        match (past, &self.rooms[room].epoch) {
            (Some(offset), Some(epoch)) if self.rng.chance(2) => {
                let epoch = String::from_utf8_lossy(epoch);
                (format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#), Some(offset))
            }
            _ => (String::new(), None),
        }
    }

    fn publication(&mut self, id: usize, room: usize, bytes: u16, echo: bool) -> String {
        let number = self.peers[id].publications.len() as u32;
        let data = data(id, number, bytes);
        let size = (data.len() + PUBLICATION_NAME_BYTES) as u32;
        let publication = Publication { room, echo, digest: digest(data.as_bytes()), size, ..Publication::default() };
        self.peers[id].publications.push(publication);
        let flag = if echo { r#","echo":true"# } else { "" };
        let body = format!(r#""type":"broadcast","roomId":"{}","data":{data}{flag}"#, self.rooms[room].raw);
        self.command(id, &body, Meaning::Publish { room, number })
    }

    /// Sends everything from a number on that was not acknowledged.
    pub(crate) fn send_again(&mut self, id: usize, from: u64) {
        let peer = &self.peers[id];
        let start = from.saturating_sub(peer.first_seq) as usize;
        for index in start..peer.commands.len() {
            let text = std::mem::take(&mut self.peers[id].commands[index].text);
            self.send_text(id, &text);
            self.peers[id].commands[index].text = text;
        }
    }

    // ---- acting ---------------------------------------------------------------------------------------------------------

    /// Does what a step says of a peer.
    pub(crate) fn act_as(&mut self, id: usize, op: Op) {
        match op {
            Op::Join { room, watches, state } => {
                let state = state.then(|| self.rng.below(1_000) as u32);
                self.speak(id, |world| world.join(id, usize::from(room), watches, state));
            }
            Op::Leave { room } => self.speak(id, |world| {
                let room = world.likely_room(id, room);
                let body = format!(r#""type":"leave_room","roomId":"{}""#, world.rooms[room].raw);
                let text = world.command(id, &body, Meaning::Leave { room });
                world.send_text(id, &text);
            }),
            Op::Publish { room, bytes, echo } => self.speak(id, |world| {
                let room = world.likely_room(id, room);
                let text = world.publication(id, room, bytes, echo);
                world.send_text(id, &text);
            }),
            Op::Burst { room, count, lose } => self.speak(id, |world| world.burst(id, room, count, lose)),
            Op::Volatile { room } if self.peers[id].kind == Kind::V1 => {
                let room = self.likely_room(id, room);
                let number = self.peers[id].volatiles;
                self.peers[id].volatiles += 1;
                let raw = &self.rooms[room].raw;
                let text = format!(r#"{{"type":"broadcast","roomId":"{raw}","data":{{"a":{id},"v":{number}}}}}"#);
                self.send_text(id, &text);
            }
            Op::SetState { room } => self.speak(id, |world| {
                let room = world.likely_room(id, room);
                let state = world.rng.below(1_000) as u32;
                let body = format!(r#""type":"set_state","roomId":"{}","state":{state}"#, world.rooms[room].raw);
                let text = world.command(id, &body, Meaning::SetState { room, state });
                world.send_text(id, &text);
            }),
            Op::Ask { room } if self.peers[id].kind != Kind::Numbered => {
                let room = self.likely_room(id, room);
                self.ask(id, room);
            }
            Op::Volatile { .. } | Op::Ask { .. } | Op::Ping => self.speak(id, |world| {
                let text = world.command(id, r#""type":"ping","t":7"#, Meaning::Other);
                world.send_text(id, &text);
            }),
            Op::Repeat => self.repeat(id),
            Op::GarbageFrame => self.garbage_frame(id),
            Op::GarbageJson => self.garbage_json(id),
            Op::End(end) => self.end(id, end),
            Op::Read(reading) => self.read_as(id, reading),
            Op::GarbageRequest
            | Op::Stall { .. }
            | Op::DelayLane { .. }
            | Op::WallJump
            | Op::Suspend { .. }
            | Op::Drain
            | Op::Cut(_)
            | Op::Doze { .. }
            | Op::Rejoin { .. }
            | Op::CloseClient => {}
        }
    }

    /// Says something numbered, unless too much is unacknowledged.
    fn speak(&mut self, id: usize, what: impl FnOnce(&mut Self)) {
        let peer = &self.peers[id];
        if peer.kind != Kind::V1 || peer.next_seq() - 1 - peer.acked <= UNACKED_MAX {
            what(self);
        }
    }

    /// A room that the peer probably is in: most of what clients say is about one.
    fn likely_room(&mut self, id: usize, room: u8) -> usize {
        let (room, rooms) = (usize::from(room), self.rooms.len());
        if self.rng.chance(16) {
            return room;
        }
        let wants = &self.peers[id].wants;
        (0..rooms).map(|step| (room + step) % rooms).find(|room| wants[*room]).unwrap_or(room)
    }

    /// Asks who is in a room, page by page.
    pub(crate) fn ask(&mut self, id: usize, room: usize) {
        self.peers[id].questions += 1;
        let number = self.peers[id].questions;
        if let Some(view) = self.peers[id].members[room].as_mut().and_then(|member| member.view.as_mut()) {
            // Half of a list is none.
            view.stale |= view.cursor.take().is_some();
            view.question = Some(number);
        }
        self.ask_for_page(id, room, number, "");
    }

    pub(crate) fn ask_for_page(&mut self, id: usize, room: usize, number: u32, cursor: &str) {
        let raw = &self.rooms[room].raw;
        let text = format!(r#"{{"type":"presence","roomId":"{raw}","id":"q{number}","limit":{PAGE_MEMBERS}{cursor}}}"#);
        self.send_text(id, &text);
    }

    fn burst(&mut self, id: usize, room: u8, count: u8, lose: bool) {
        let room = self.likely_room(id, room);
        // The first number of a plain client begins its numbering: it comes first.
        let is_first = self.peers[id].kind == Kind::Numbered && self.peers[id].commands.is_empty();
        if is_first {
            let text = self.command(id, r#""type":"ping""#, Meaning::Other);
            self.send_text(id, &text);
        }
        let mut texts = Vec::new();
        let mut room = room;
        if self.rng.chance(3) {
            // What follows has to wait for the answer.
            room = self.rng.index(self.rooms.len());
            let body = format!(r#""type":"join_room","roomId":"{}""#, self.rooms[room].raw);
            texts.push(self.command(id, &body, Meaning::Join { room, state: None, since: None }));
        }
        texts.extend((0..count).map(|_| self.publication(id, room, 8, false)));
        let kind = self.peers[id].kind;
        if kind != Kind::Loose {
            self.rng.shuffle(&mut texts);
            self.seen[Fault::ReorderedSeq as usize] += 1;
        }
        if lose && kind != Kind::Loose {
            // A plain client does not send again: its missing numbers are given up in time.
            self.seen[Fault::LostSeq as usize] += 1;
            self.peers[id].allow(&[4203]);
            texts.retain(|_| self.rng.below(3) > 0);
            if kind == Kind::Numbered {
                // It says something more at about the time when the server gives them up.
                let at = self.now.mono.after(self.shape.limits.reorder_age_ms + self.rng.below(6));
                self.peers[id].late = Some(Late { at, opcode: Opcode::Text, payload: br#"{"type":"ping","t":"late"}"#.to_vec() });
            }
        }
        for text in texts {
            self.send_text(id, &text);
        }
    }

    fn repeat(&mut self, id: usize) {
        let peer = &self.peers[id];
        if peer.kind == Kind::Loose || peer.commands.is_empty() {
            return;
        }
        // Half of them from among the last few.
        let count = peer.commands.len();
        let from = if self.rng.chance(2) { count.saturating_sub(8) } else { 0 };
        let text = self.peers[id].commands[from + self.rng.index(count - from)].text.clone();
        self.seen[Fault::DuplicateSeq as usize] += 1;
        self.send_text(id, &text);
    }

    fn garbage_frame(&mut self, id: usize) {
        if !self.can_speak(id) {
            return;
        }
        self.seen[Fault::GarbageFrame as usize] += 1;
        self.peers[id].allow(&[1002, 1003, 1007, 1009, 4004]);
        self.peers[id].may_cut = true;
        self.peers[id].may_err = true;
        let mut bytes = Vec::new();
        match self.rng.below(10) {
            0 => bytes.extend_from_slice(&[0xff; 9]),
            // Not masked.
            1 => bytes.extend_from_slice(&[0x81, 0x02, b'{', b'}']),
            // A reserved opcode, a reserved bit, a continuation of nothing.
            2 => bytes.extend_from_slice(&[0x83, 0x80, 1, 2, 3, 4]),
            3 => bytes.extend_from_slice(&[0xc1, 0x80, 1, 2, 3, 4]),
            4 => bytes.extend_from_slice(&[0x80, 0x80, 1, 2, 3, 4]),
            // A fragmented ping, a long ping.
            5 => bytes.extend_from_slice(&[0x09, 0x80, 1, 2, 3, 4]),
            6 => write_masked(&mut bytes, Opcode::Ping, &[7; 130], [0; 4]),
            // Not UTF-8.
            7 => write_masked(&mut bytes, Opcode::Text, b"{\"type\":\"\xff\"}", [9; 4]),
            // Too large, as claimed and in fact.
            8 => bytes.extend_from_slice(&[0x81, 0xff, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]),
            _ => write_masked(&mut bytes, Opcode::Text, &[b' '; 5_000], [9; 4]),
        }
        trace!(self, "peer {id} -> garbage {bytes:02x?}");
        self.sockets[id].to_server.push(&bytes);
        self.leave_off(id);
    }

    fn garbage_json(&mut self, id: usize) {
        self.seen[Fault::GarbageJson as usize] += 1;
        let texts = [
            "",
            "{",
            "[1,2,3]",
            "{\"type\":\"join_room\",\"roomId\":7}",
            "{\"type\":\"nothing that exists\"}",
            "{\"type\":\"broadcast\",\"roomId\":\"\",\"data\":1}",
            "{\"type\":\"join_room\",\"type\":\"leave_room\"}",
            "{\"type\":\"ping\",\"seq\":-1}",
            "{\"type\":\"ping\",\"seq\":0}",
            "{\"type\":\"ping\",\"seq\":1e3}",
            "{\"type\":\"broadcast\",\"roomId\":\"doc-abc123\",\"data\":{]}",
            "{\"type\":\"connect\",\"user\":\"again\"}",
        ];
        self.peers[id].may_err = true;
        // Before `connect` it is the end.
        if !self.peers[id].is_welcome {
            self.peers[id].allow(&[4004]);
        }
        if self.rng.chance(6) {
            self.send_frame(id, Opcode::Binary, b"\x00\xff");
        } else {
            let text = self.rng.pick(&texts);
            self.send_text(id, text);
        }
    }

    /// The client sends nothing more of its own; the server has to end it.
    fn leave_off(&mut self, id: usize) {
        self.gone(id);
        self.sockets[id].said_close = true;
    }

    pub(crate) fn end(&mut self, id: usize, end: End) {
        trace!(self, "peer {id} ends: {end:?}");
        match end {
            End::Close(code) => {
                self.seen[Fault::CloseFrame as usize] += 1;
                let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
                self.send_frame(id, Opcode::Close, &payload);
                self.peers[id].allow(&[code.unwrap_or(1005), 1000]);
            }
            End::HalfClose => {
                self.seen[Fault::HalfClose as usize] += 1;
                self.sockets[id].end.get_or_insert(Ended::Eof);
            }
            End::Reset => {
                self.seen[Fault::Reset as usize] += 1;
                self.sockets[id].end = Some(Ended::Error);
            }
            End::Vanish => {
                self.seen[Fault::SilentDeath as usize] += 1;
                self.sockets[id].vanished = true;
                self.sockets[id].to_server.clear();
            }
        }
        self.peers[id].may_cut = true;
        self.gone(id);
    }

    pub(crate) fn read_as(&mut self, id: usize, reading: Reading) {
        let rate = 500 + self.rng.below(4_000) as u32;
        let held = 2_000 + self.rng.index(8_000);
        let peer = &mut self.peers[id];
        let socket = &mut self.sockets[id];
        socket.held_bytes_max = HELD_BYTES_MAX;
        peer.read_rate = None;
        match reading {
            Reading::Fast => return,
            Reading::Slow => {
                self.seen[Fault::SlowReader as usize] += 1;
                peer.read_rate = Some(rate);
                socket.held_bytes_max = held;
            }
            Reading::Never => {
                self.seen[Fault::NeverReader as usize] += 1;
                peer.read_rate = Some(0);
                socket.held_bytes_max = held;
                peer.allow(&[4201]);
            }
            Reading::Narrow => socket.held_bytes_max = 200 + held / 10,
        }
        peer.allow(&[4102]);
        peer.may_cut = true;
    }
}

/// The data of a publication: who wrote it, its number, and something to carry.
pub(crate) fn data(author: usize, number: u32, bytes: u16) -> String {
    let mut data = String::with_capacity(usize::from(bytes) + 40);
    let _ = write!(data, r#"{{"a":{author},"n":{number},"p":""#);
    for place in 0..bytes {
        data.push(char::from(b'a' + ((place ^ number as u16) % 26) as u8));
    }
    data.push_str("\"}");
    data
}
