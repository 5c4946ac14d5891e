//! What clients are told, held against the model as it comes: order, exactly-once, membership, acknowledgements, presence.

use crate::client::FIRST_CLIENT;
use crate::json::{Object, number};
use crate::peer::{ACCEPT, Kind, Late, Meaning, Member, Publication, digest};
use crate::plan::Fault;
use crate::room::Entry;
use crate::socket::{CLOSE, PING, Pipe, TEXT, read_frame};
use crate::watch::View;
use crate::world::World;
use throng::time::{Millis, TICK_MS};
use throng::ws::Opcode;

/// One frame in so many is given to a JSON parser that others wrote.
const PARSE_ONE_IN: u64 = 64;
/// How long before the last moment a late answer comes at most, in ms.
const LATE_SPREAD_MS: u64 = 100;
/// Publications from which on a history is not overtaken while somebody who reads is fed from it.
pub(crate) const SMALL_HISTORY: usize = 64;
/// Broadcasts of which the canary swallows one.
const CANARY_EVERY: u64 = 64;

/// A publication that a reader is shown.
pub(crate) struct Heard {
    pub(crate) reader: usize,
    pub(crate) room: usize,
    pub(crate) author: usize,
    pub(crate) offset: u64,
    pub(crate) session: u32,
}

impl World<'_> {
    /// Takes apart what a client has read.
    pub(crate) fn hear(&mut self, id: usize, received: &mut Pipe) {
        if !self.sockets[id].answered && !self.hear_answer(id, received) {
            return;
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
                TEXT => self.hear_text(id, payload),
                CLOSE => self.hear_close(id, payload),
                PING => {
                    let copy = payload.to_vec();
                    self.hear_ping(id, copy);
                }
                _ => {}
            }
            received.consume(frame.end);
        }
    }

    /// The HTTP answer. Whether frames follow.
    pub(crate) fn hear_answer(&mut self, id: usize, received: &mut Pipe) -> bool {
        let Some(end) = received.front().windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
        self.sockets[id].answered = true;
        let head = &received.front()[..end];
        let status = head.get(9..12).unwrap_or(&[]);
        if status == b"101" {
            // A machine has a key of its own, and holds the answer to it.
            let accepts = self.peers[id].client.is_some() || head.windows(ACCEPT.len()).any(|bytes| bytes == ACCEPT);
            check!(accepts, "upgrade", "peer {id}: {:?}", String::from_utf8_lossy(head));
            self.peers[id].is_upgraded = true;
            received.consume(end + 4);
            return true;
        }
        let peer = &mut self.peers[id];
        check!(peer.may_cut, "refused", "peer {id} got {:?}", String::from_utf8_lossy(head));
        let busy = status == b"503";
        check!(!busy || head.windows(12).any(|bytes| bytes == b"Retry-After:") || peer.is_ended, "refused", "503 without advice");
        self.gone(id);
        self.forget_unread(id);
        self.sockets[id].vanished = true;
        false
    }

    fn hear_close(&mut self, id: usize, payload: &[u8]) {
        let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
        trace!(self, "peer {id} <- close {code}");
        self.hold_close(id, code);
        self.sockets[id].heard_close = true;
        self.send_frame(id, Opcode::Close, &payload[..payload.len().min(2)]);
    }

    /// Holds the end of a connection to what its client has done.
    pub(crate) fn hold_close(&mut self, id: usize, code: u16) {
        let peer = &mut self.peers[id];
        let drained = code == 4200 && self.drain_by.is_some();
        check!(peer.may_close.contains(&code) || drained, "innocent closed", "peer {id} ({:?}) was closed with {code}", peer.kind);
        peer.heard_code = Some(code);
        self.gone(id);
    }

    /// The socket was closed: was that in order?
    pub(crate) fn see_end(&mut self, id: usize) {
        let peer = &mut self.peers[id];
        let explained = peer.may_cut || peer.heard_code.is_some() || (peer.is_ended && !peer.is_upgraded);
        check!(explained, "innocent cut", "peer {id} ({:?}) lost its connection without a word", peer.kind);
        self.gone(id);
    }

    fn hear_text(&mut self, id: usize, payload: &[u8]) {
        trace!(self, "peer {id} <- {}", String::from_utf8_lossy(payload));
        if self.rng.chance(PARSE_ONE_IN) {
            let parsed = serde_json::from_slice::<serde_json::Value>(payload);
            check!(parsed.is_ok_and(|value| value.is_object()), "JSON", "{:?}", String::from_utf8_lossy(payload));
        }
        let Some(message) = Object::parse(payload) else { fail!("JSON", "{:?}", String::from_utf8_lossy(payload)) };
        let room = match message.has("roomId") {
            true => {
                let raw = message.text("roomId");
                let room = self.rooms.iter().position(|room| room.raw.as_bytes() == raw);
                Some(room.unwrap_or_else(|| fail!("room id", "nobody has joined {:?}", String::from_utf8_lossy(raw))))
            }
            false => None,
        };
        let is_v1 = self.peers[id].kind == Kind::V1;
        match (message.text("type"), room) {
            (b"broadcast", Some(room)) => self.hear_broadcast(id, room, &message),
            (b"room_joined", Some(room)) => self.hear_joined(id, room, &message),
            (b"gap", Some(room)) if is_v1 => self.hear_gap(id, room, &message),
            (b"room_left", Some(room)) => self.hear_left(id, room, &message),
            (b"presence_diff" | b"presence_state", Some(room)) => self.hear_presence(id, room, &message),
            (b"ack", None) if is_v1 => self.hear_ack(id, &message),
            (b"nack", None) if is_v1 => {
                let expected = message.number("expectedSeq").unwrap_or(0);
                let peer = &self.peers[id];
                check!(expected > peer.acked && expected < peer.next_seq(), "nack", "peer {id} is asked for {expected}");
                self.send_again(id, expected);
            }
            (b"error", _) => self.hear_error(id, &message),
            (b"pong", None) => self.peers[id].unanswered -= i32::from(message.text("t") == b"late"),
            (b"welcome", None) if is_v1 => {
                let session = self.sessions.number(message.text("sessionId"));
                let known = self.peers[id].session.replace(session);
                let is_new = !std::mem::replace(&mut self.peers[id].is_welcome, true) && known.is_none_or(|known| known == session);
                check!(is_new && self.sessions.belongs(session, id), "welcome", "peer {id} is welcome twice, or as another");
                check!(message.number("nextSeq") == Some(1), "welcome", "the first number is not 1");
            }
            (kind, _) => fail!("unexpected", "peer {id} got a {:?}", String::from_utf8_lossy(kind)),
        }
    }

    /// Answers a ping at once, or as late as a client may that is not to be taken for dead.
    fn hear_ping(&mut self, id: usize, payload: Vec<u8>) {
        let limits = &self.shape.limits;
        let is_in_room = self.peers[id].members.iter().any(Option::is_some);
        let due = self.sockets[id].last_fed.after(limits.heartbeat_ms);
        let is_prompt = self.now.mono.since(due) < LATE_SPREAD_MS && due <= self.now.mono;
        if self.calm || !self.shape.has(Fault::LateAnswer) || !is_in_room || !is_prompt || self.rng.chance(2) {
            return self.send_frame(id, Opcode::Pong, &payload);
        }
        self.seen[Fault::LateAnswer as usize] += 1;
        // The server reckons in ticks, from the beginning of the one in which it last heard something.
        let before = TICK_MS + self.rng.below(LATE_SPREAD_MS);
        let at = Millis(due.0 + limits.timeout_ms - before);
        self.peers[id].late = Some(Late { at, opcode: Opcode::Pong, payload });
    }

    /// A page can't be had, because it began with somebody who has gone: the list is to be asked for anew.
    fn begin_list_anew(&mut self, id: usize, question: Option<u64>) {
        for view in self.peers[id].members.iter_mut().flatten().filter_map(|member| member.view.as_mut()) {
            if view.question.map(u64::from) == question {
                (view.cursor, view.question, view.stale) = (None, None, true);
            }
        }
    }

    // ---- publications ---------------------------------------------------------------------------------------------------

    fn hear_broadcast(&mut self, id: usize, room: usize, message: &Object<'_>) {
        self.broadcasts += 1;
        if self.swallows() {
            return;
        }
        let raw = message.get("data").unwrap_or(&[]);
        let (data, from) = (Object::parse(raw), message.get("from").and_then(Object::parse));
        let (Some(data), Some(from)) = (data, from) else { fail!("broadcast", "peer {id}: no data, or from nobody") };
        let author = self.author(id, &data, from.text("connection"));
        let Some(offset) = message.number("offset") else {
            return self.hear_volatile(id, room, author, from.text("connection"), &data);
        };
        self.pass_over(id, room, offset);
        let session = self.sessions.number(from.text("connection"));
        self.enter(&Heard { reader: id, room, author, offset, session }, &data, raw);
    }

    /// Whether the canary keeps a broadcast from being heard.
    pub(crate) fn swallows(&self) -> bool {
        self.canary && self.broadcasts.is_multiple_of(CANARY_EVERY)
    }

    /// Who wrote what a reader is shown, and from which session.
    pub(crate) fn author(&mut self, reader: usize, data: &Object<'_>, session: &[u8]) -> usize {
        let author = data.number("a").map_or(usize::MAX, |author| author as usize);
        let is_known = author < self.peers.len() || (FIRST_CLIENT..FIRST_CLIENT + self.clients.len()).contains(&author);
        check!(is_known, "broadcast", "{reader}: nobody is {author}");
        let session = self.sessions.number(session);
        check!(self.sessions.belongs(session, author), "author", "{author} is not from session {session}");
        if let Some(peer) = self.peers.get_mut(author) {
            let known = *peer.session.get_or_insert(session);
            check!(known == session, "author", "peer {author} has two sessions");
        }
        author
    }

    /// A publication with an offset, by its author and number.
    pub(crate) fn written(&mut self, author: usize, number: usize) -> Option<&mut Publication> {
        match author.checked_sub(FIRST_CLIENT) {
            Some(client) => self.clients.get_mut(client)?.publications.get_mut(number),
            None => self.peers.get_mut(author)?.publications.get_mut(number),
        }
    }

    /// Whether a session is none of a reader any more: what was published in it comes to the reader as anybody else's.
    fn is_lost(&self, reader: usize, session: u32) -> bool {
        reader.checked_sub(FIRST_CLIENT).is_some_and(|client| self.clients[client].session != Some(session))
    }

    /// Enters what a reader was shown into the room's log, and holds it to what is known of it.
    pub(crate) fn enter(&mut self, heard: &Heard, data: &Object<'_>, raw: &[u8]) {
        let Heard { reader, room, author, offset, session } = *heard;
        let number = data.number("n").unwrap_or(u64::MAX) as usize;
        let Some(publication) = self.written(author, number) else { fail!("broadcast", "{author} never wrote number {number}") };
        let first = *publication.offset.get_or_insert(offset);
        let from = *publication.session.get_or_insert(session);
        let publication = *publication;
        check!(first == offset, "exactly once", "{author}'s {number} is at {first} and at {offset}");
        check!(from == session, "author", "{author}'s {number} is from session {from} and from {session}");
        check!(!publication.refused, "exactly once", "{author}'s {number} was refused, and is at {offset}");
        check!(publication.digest == digest(raw), "data", "{reader}: {:?} is not what was written", String::from_utf8_lossy(raw));
        check!(publication.room == room, "broadcast", "{author} wrote {number} in another room");
        let is_unsigned = |client: usize| self.clients[client].unsigned.contains(&(room, offset));
        let is_lost = self.is_lost(reader, session) && reader.checked_sub(FIRST_CLIENT).is_some_and(is_unsigned);
        check!(author != reader || publication.echo || is_lost, "own copy", "{reader} got its own {number} without asking");
        let known = Entry::Seen { author, number: number as u32 };
        let entry = self.rooms[room].entry(offset);
        let agrees = match *entry {
            Entry::Unknown => true,
            Entry::Own(other) => other == author && (!publication.echo || author >= FIRST_CLIENT),
            seen @ Entry::Seen { .. } => seen == known,
        };
        check!(agrees, "same order", "{reader}: offset {offset} is {known:?}, and was {entry:?}");
        *entry = known;
    }

    /// Moves a member's position up to an offset: what it was not shown must be its own.
    pub(crate) fn pass_over(&mut self, id: usize, room: usize, offset: u64) {
        let Some(member) = self.peers[id].members[room].as_mut() else {
            fail!("non-member", "peer {id} got offset {offset} of room {room}, in which it is not")
        };
        let before = std::mem::replace(&mut member.position, offset);
        check!(offset > before, "order", "peer {id}: offset {offset} of room {room} after {before}");
        for skipped in before + 1..offset {
            self.must_be_own(id, room, skipped);
        }
    }

    /// An offset that a member was not shown.
    pub(crate) fn must_be_own(&mut self, id: usize, room: usize, offset: u64) {
        let entry = self.rooms[room].entry(offset);
        match *entry {
            Entry::Unknown => *entry = Entry::Own(id),
            Entry::Own(other) => {
                check!(other == id, "lost", "offset {offset} of room {room} was shown neither to {other} nor to {id}")
            }
            Entry::Seen { author, number } => {
                // A copy is owed to the membership that published, not to the next one.
                let client = id.checked_sub(FIRST_CLIENT).and_then(|client| self.clients[client].views[room].as_ref());
                let membership = client.map_or(0, |view| view.membership);
                let publication = self.written(author, number as usize);
                let is_owed = publication.is_some_and(|publication| publication.echo && publication.membership == membership);
                check!(author == id && !is_owed, "lost", "{id} was not shown offset {offset} of room {room}, {author}'s {number}");
            }
        }
    }

    fn hear_volatile(&mut self, id: usize, room: usize, author: usize, session: &[u8], data: &Object<'_>) {
        let session = self.sessions.number(session);
        let number = self.volatile_number(id, author, session, data);
        let Some(member) = self.peers[id].members[room].as_mut() else {
            fail!("non-member", "peer {id} got a volatile publication of room {room}, in which it is not")
        };
        match member.volatile.iter_mut().find(|(other, _)| *other == session) {
            Some((_, last)) => {
                check!(number > *last, "volatile order", "peer {id}: {author}'s volatile {number} after {last}");
                *last = number;
            }
            None => member.volatile.push((session, number)),
        }
    }

    /// The number of a volatile publication that a reader is shown.
    pub(crate) fn volatile_number(&mut self, reader: usize, author: usize, session: u32, data: &Object<'_>) -> u32 {
        let number = data.number("v").unwrap_or(u64::MAX);
        let count = match author.checked_sub(FIRST_CLIENT) {
            Some(client) => self.clients[client].casts,
            None => self.peers[author].volatiles,
        };
        check!(number < u64::from(count), "volatile", "{author} never wrote {number}");
        check!(author != reader || self.is_lost(reader, session), "own copy", "{reader} got its own volatile {number}");
        number as u32
    }

    // ---- membership -----------------------------------------------------------------------------------------------------

    fn hear_joined(&mut self, id: usize, room: usize, message: &Object<'_>) {
        check!(self.rooms[room].hold_epoch(message.text("epoch")), "epoch", "room {room} has another epoch");
        let Some(offset) = message.number("offset") else { fail!("room_joined", "no offset") };
        self.answered(id, message, |meaning| matches!(meaning, Meaning::Join { room: other, .. } if other == room));
        let now = self.now.mono;
        if self.peers[id].members[room].is_none() {
            let position = self.position_joined(id, room, message, offset);
            let member = Member { position, since: now, volatile: Vec::new(), view: None };
            self.peers[id].members[room] = Some(member);
        } else {
            // Once more: the head is told, and publications up to it may still be on their way.
            let position = self.peers[id].members[room].as_ref().map_or(0, |member| member.position);
            check!(offset >= position, "order", "peer {id}: the head {offset} of room {room} is behind {position}");
        }
        let mut view = None;
        if message.has("version") {
            let new = view.insert(View::default());
            if let Err(what) = new.snapshot(message, &mut self.sessions) {
                fail!("presence", "peer {id}, room {room}: {what}");
            }
        }
        if let Some(member) = self.peers[id].members[room].as_mut() {
            member.view = view;
        }
    }

    /// Where a new member stands: at the head, or where it said that it stood, if all that followed is to come.
    fn position_joined(&mut self, id: usize, room: usize, message: &Object<'_>, head: u64) -> u64 {
        let command = message.number("seq").and_then(|seq| self.peers[id].command_mut(seq));
        let since = match command.map(|command| command.meaning) {
            Some(Meaning::Join { since, .. }) => since,
            _ => None,
        };
        let recovered = message.get("recovered") == Some(b"true");
        check!(recovered || since.is_some() == message.has("gap"), "recovered", "peer {id} is not told what became of {since:?}");
        let Some(since) = since else {
            check!(!recovered, "recovered", "peer {id} recovers without having asked");
            return head;
        };
        check!(since <= head, "numbering", "peer {id} stood at {since}, and the head is {head}");
        let may_be = recovered || self.is_gap_allowed(room, since, head);
        check!(may_be, "needless gap", "peer {id} stood at {since} of room {room}, whose head is {head}");
        match recovered {
            true => {
                self.recoveries += u64::from(since < head);
                if self.shape.limits.history_publications_max < SMALL_HISTORY {
                    // Others may publish more in the meantime than is kept.
                    self.peers[id].allow(&[4102]);
                }
                since
            }
            false => head,
        }
    }

    /// A history has overtaken a member: that is for those only who read too slowly, or where memory is short.
    fn hear_gap(&mut self, id: usize, room: usize, message: &Object<'_>) {
        let (Some(from), Some(to)) = (message.number("from"), message.number("to")) else { fail!("gap", "without its range") };
        let peer = &self.peers[id];
        check!(peer.may_close.contains(&4102), "innocent gap", "peer {id} lost {from} to {to} of room {room}");
        let position = peer.members[room].as_ref().map_or(u64::MAX, |member| member.position);
        check!(position < from && from <= to, "gap", "peer {id} lost {from} to {to} of room {room}, and stood at {position}");
        self.pass_over(id, room, from);
        if let Some(member) = self.peers[id].members[room].as_mut() {
            member.position = to;
        }
        self.gaps += 1;
    }

    fn hear_left(&mut self, id: usize, room: usize, message: &Object<'_>) {
        check!(message.text("reason") == b"left", "room_left", "peer {id} left for a reason of its own");
        self.answered(id, message, |meaning| matches!(meaning, Meaning::Leave { room: other } if other == room));
        check!(self.peers[id].members[room].take().is_some(), "room_left", "peer {id} left room {room}, in which it was not");
    }

    /// Notes that the command with the message's number was answered.
    fn answered(&mut self, id: usize, message: &Object<'_>, is_meant: impl Fn(Meaning) -> bool) {
        let Some(seq) = message.number("seq") else {
            check!(self.peers[id].kind == Kind::Loose, "answer", "peer {id} got an answer without a number");
            return;
        };
        let acked = self.peers[id].acked;
        let is_v1 = self.peers[id].kind == Kind::V1;
        let Some(command) = self.peers[id].command_mut(seq) else { fail!("answer", "peer {id} never sent {seq}") };
        check!(is_meant(command.meaning), "answer", "peer {id}: {:?} was answered as another", command.meaning);
        check!(!command.answered && !command.refused, "exactly once", "peer {id}: {seq} was answered twice");
        check!(!is_v1 || seq > acked, "answer before ack", "peer {id}: {seq} was answered after the ack {acked}");
        command.answered = true;
    }

    fn hear_presence(&mut self, id: usize, room: usize, message: &Object<'_>) {
        let Some(member) = self.peers[id].members[room].as_mut() else {
            fail!("non-member", "peer {id} is told who is in room {room}, in which it is not")
        };
        let is_diff = message.text("type") == b"presence_diff";
        // Who asks without watching is answered all the same.
        let Some(view) = member.view.as_mut() else {
            check!(!is_diff, "presence", "peer {id} is told of changes in room {room} without asking");
            return;
        };
        let sessions = &mut self.sessions;
        if is_diff {
            if let Err(what) = view.diff(message, sessions) {
                fail!("presence", "peer {id}, room {room}: {what}");
            }
            return;
        }
        let question = view.question;
        let is_asked = message.text("id").strip_prefix(b"q").and_then(number).map(|asked| asked as u32);
        if question.is_none() || is_asked != question {
            // The answer to an earlier question, after which everything was told again.
            return;
        }
        let heard = match view.cursor.is_some() {
            true => view.page(message, sessions),
            false => view.snapshot(message, sessions),
        };
        if let Err(what) = heard {
            fail!("presence", "peer {id}, room {room}: {what}");
        }
        let cursor = view.cursor.clone();
        view.question = question.filter(|_| cursor.is_some());
        if let (Some(number), Some(cursor)) = (view.question, cursor) {
            self.ask_for_page(id, room, number, &format!(r#","cursor":"{cursor}""#));
        }
    }

    // ---- commands -------------------------------------------------------------------------------------------------------

    fn hear_error(&mut self, id: usize, message: &Object<'_>) {
        let code = message.text("code");
        let kind = self.peers[id].kind;
        let said = || String::from_utf8_lossy(code).into_owned();
        if code == b"seq_skipped" {
            check!(kind != Kind::V1, "error", "a numbered session skips");
            let range = message.get("missing").and_then(Object::parse);
            let Some((from, to)) = range.and_then(|range| Some((range.number("from")?, range.number("to")?))) else {
                fail!("error", "seq_skipped without the missing numbers")
            };
            for seq in from..=to {
                if let Some(command) = self.peers[id].command_mut(seq) {
                    command.refused = true;
                }
            }
            return;
        }
        if code == b"seq_duplicate" {
            check!(kind == Kind::Numbered, "error", "peer {id} got seq_duplicate");
            return;
        }
        let may_err = self.peers[id].may_err;
        let Some(seq) = message.number("seq").filter(|seq| *seq >= self.peers[id].first_seq) else {
            // A question or a volatile publication in a room that it is not in, a page after one who has left, or what it brought
            // upon itself.
            let expected = may_err || matches!(code, b"not_joined" | b"room_unavailable" | b"bad_cursor");
            if code == b"bad_cursor" {
                self.begin_list_anew(id, message.text("id").strip_prefix(b"q").and_then(number));
            }
            check!(expected, "error", "peer {id} got {}", said());
            return;
        };
        let bounded = self.shape.has(Fault::SmallBounds) || self.shape.has(Fault::MemoryBudget);
        let acked = self.peers[id].acked;
        let Some(command) = self.peers[id].command_mut(seq) else {
            check!(may_err, "error", "peer {id} never sent {seq}");
            return;
        };
        check!(kind != Kind::V1 || seq > acked, "error before ack", "peer {id}: the error of {seq} comes after the ack {acked}");
        check!(!command.refused && !command.answered, "exactly once", "peer {id}: {seq} is decided twice: {}", said());
        let is_final = match command.meaning {
            Meaning::Join { .. } => bounded && matches!(code, b"too_many_rooms" | b"room_full" | b"room_unavailable"),
            Meaning::Leave { .. } | Meaning::Publish { .. } => code == b"not_joined",
            Meaning::SetState { .. } => code == b"not_joined" || bounded && code == b"room_unavailable",
            Meaning::Other => false,
        };
        check!(is_final, "error", "peer {id}: {:?} was refused with {}", command.meaning, said());
        command.refused = true;
        if let Meaning::Publish { number, .. } = command.meaning {
            let publication = &mut self.peers[id].publications[number as usize];
            publication.refused = true;
            check!(publication.offset.is_none(), "exactly once", "peer {id}: {number} was refused and took effect");
        }
    }

    fn hear_ack(&mut self, id: usize, message: &Object<'_>) {
        let seq = message.number("seq").unwrap_or(0);
        let peer = &mut self.peers[id];
        check!(seq >= peer.acked && seq < peer.next_seq(), "ack", "peer {id}: ack {seq} after {}", peer.acked);
        for decided in peer.acked + 1..=seq {
            let Some(command) = peer.commands.get((decided - 1) as usize) else { break };
            let (meaning, refused, answered) = (command.meaning, command.refused, command.answered);
            let wrong = match meaning {
                Meaning::Join { room, state, .. } => {
                    let stand = &mut peer.stands[room];
                    if !refused {
                        stand.joined = true;
                        stand.state = state.or(stand.state);
                    }
                    !refused && !answered
                }
                Meaning::Leave { room } => {
                    let stand = std::mem::take(&mut peer.stands[room]);
                    stand.joined == refused || (!refused && !answered)
                }
                Meaning::SetState { room, state } => {
                    let stand = &mut peer.stands[room];
                    let joined = stand.joined;
                    if joined && !refused {
                        stand.state = Some(state);
                    }
                    !joined && !refused
                }
                Meaning::Publish { room, .. } => peer.stands[room].joined == refused,
                Meaning::Other => false,
            };
            check!(!wrong, "decided", "peer {id}: {decided}, {meaning:?}, is decided with refused {refused}, answered {answered}");
        }
        peer.acked = seq;
    }
}
